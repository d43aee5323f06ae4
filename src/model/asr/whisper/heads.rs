//! The decoder's heads that follow the speech in time, of the published models (openai/whisper `__init__.py`, where
//! they are packed as bitmaps). Files of OpenAI's and whisper.cpp's do not hold them.

use super::config::Config;

type Heads = &'static [(usize, usize)];

/// The heads of a published model, told by its sizes. The first two large models have the same: the first is told by
/// the name of its file.
pub(super) fn published(config: &Config, file: &str) -> Option<Heads> {
    let english = config.vocab == 51_864;
    let sizes = (config.width, config.heads, config.encoder_layers, config.decoder_layers, config.mels);
    Some(match (sizes, english) {
        ((384, 6, 4, 4, 80), true) => TINY_EN,
        ((384, 6, 4, 4, 80), false) => TINY,
        ((512, 8, 6, 6, 80), true) => BASE_EN,
        ((512, 8, 6, 6, 80), false) => BASE,
        ((768, 12, 12, 12, 80), true) => SMALL_EN,
        ((768, 12, 12, 12, 80), false) => SMALL,
        ((1024, 16, 24, 24, 80), true) => MEDIUM_EN,
        ((1024, 16, 24, 24, 80), false) => MEDIUM,
        ((1280, 20, 32, 32, 80), false) if file.contains("v1") => LARGE_V1,
        ((1280, 20, 32, 32, 80), false) => LARGE_V2,
        ((1280, 20, 32, 32, 128), false) => LARGE_V3,
        ((1280, 20, 32, 4, 128), false) => TURBO,
        _ => return None,
    })
}

const TINY_EN: Heads = &[(1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)];
const TINY: Heads = &[(2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)];
const BASE_EN: Heads = &[(3, 3), (4, 7), (5, 1), (5, 5), (5, 7)];
const BASE: Heads = &[(3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)];
const SMALL_EN: Heads = &[
    (6, 6),
    (7, 0),
    (7, 3),
    (7, 8),
    (8, 2),
    (8, 5),
    (8, 7),
    (9, 0),
    (9, 4),
    (9, 8),
    (9, 10),
    (10, 0),
    (10, 1),
    (10, 2),
    (10, 3),
    (10, 6),
    (10, 11),
    (11, 2),
    (11, 4),
];
const SMALL: Heads = &[(5, 3), (5, 9), (8, 0), (8, 4), (8, 7), (8, 8), (9, 0), (9, 7), (9, 9), (10, 5)];
const MEDIUM_EN: Heads = &[
    (11, 4),
    (14, 1),
    (14, 12),
    (14, 14),
    (15, 4),
    (16, 0),
    (16, 4),
    (16, 9),
    (17, 12),
    (17, 14),
    (18, 7),
    (18, 10),
    (18, 15),
    (20, 0),
    (20, 3),
    (20, 9),
    (20, 14),
    (21, 12),
];
const MEDIUM: Heads = &[(13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)];
const LARGE_V1: Heads =
    &[(9, 19), (11, 2), (11, 4), (11, 17), (22, 7), (22, 11), (22, 17), (23, 2), (23, 15)];
const LARGE_V2: Heads = &[
    (10, 12),
    (13, 17),
    (16, 11),
    (16, 12),
    (16, 13),
    (17, 15),
    (17, 16),
    (18, 4),
    (18, 11),
    (18, 19),
    (19, 11),
    (21, 2),
    (21, 3),
    (22, 3),
    (22, 9),
    (22, 12),
    (23, 5),
    (23, 7),
    (23, 13),
    (25, 5),
    (26, 1),
    (26, 12),
    (27, 15),
];
const LARGE_V3: Heads =
    &[(7, 0), (10, 17), (12, 18), (13, 12), (16, 1), (17, 14), (19, 11), (21, 4), (24, 1), (25, 6)];
const TURBO: Heads = &[(2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_of_the_model_that_they_are_for() {
        for (sizes, vocab) in [
            ([384, 6, 4, 4, 80], 51_865),
            ([512, 8, 6, 6, 80], 51_864),
            ([1280, 20, 32, 32, 80], 51_865),
            ([1280, 20, 32, 32, 128], 51_866),
            ([1280, 20, 32, 4, 128], 51_866),
        ] {
            let [width, heads, encoder_layers, decoder_layers, mels] = sizes;
            let ffn = 4 * width;
            let (audio_context, text_context, alignment_heads) = (1500, 448, Vec::new());
            let config = Config {
                mels,
                width,
                ffn,
                heads,
                encoder_layers,
                decoder_layers,
                vocab,
                audio_context,
                text_context,
                alignment_heads,
            };
            for name in ["large-v1.pt", "large.pt"] {
                let known = published(&config, name).unwrap();
                assert!(known.is_sorted() && known.iter().all(|&(l, h)| l < decoder_layers && h < heads));
            }
            assert_eq!(published(&Config { decoder_layers: 2, ..config }, "distilled.pt"), None);
        }
    }
}
