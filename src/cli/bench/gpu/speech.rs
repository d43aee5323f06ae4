//! Speech models: whether a GPU computes what the CPU does, and how much faster than real time recordings are heard.
//!
//! A window's text is of [`TOKENS`] tokens, whatever is heard: random weights say nothing that ends by itself, and a text
//! of them is never believed. So it is greedy, never tried again and without times; all else is what a request takes:
//! the file is decoded, its log-mel computed, windows encoded, and the texts of all of them written together.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use serde::Serialize;

use super::{Checked, Part, Run, best_of, chat, on_its_thread};
use crate::cli::bench::{asr, rounded};
use crate::device;
use crate::model::apart::Apart;
use crate::model::asr::whisper::agree::{Agreement, agree};
use crate::model::weights::synthetic_whisper::{BASE, LARGE_V3_TURBO, Shape, TINY};
use crate::service::{Options, Service};
use crate::types::asr::{Decoding, Request, SAMPLE_RATE, Task};
use crate::types::model::Precision;

/// Tokens of a window's text: about what 30 s of speech come to.
pub(super) const TOKENS: usize = 100;
/// Seconds of a window.
pub(super) const WINDOW: usize = 30;
/// Recordings of one window that are uploaded together. What a server does not hear side by side waits.
const WINDOWS: [usize; 3] = [1, 8, 24];

/// How far a GPU may be from the CPU, at worst and typically, in standard deviations. A GPU rounds what products and
/// attention are given to halves, by 4.9e-4 at most, and sums in f32 as the CPU does; the files hold halves, so no weight
/// is rounded. Rounding so on a CPU moves the output of such an encoder by 0.0016 and 0.00035: six times that.
const ENCODER: (f64, f64) = (0.01, 0.002);
/// Likewise of logits, and of alignments by the largest weight. Keys and values are kept in halves too, of values that
/// differ already: chat models of halves, in as many layers, were 0.009 and 0.002 away. Five times that.
const DECODER: (f64, f64) = (0.05, 0.01);

#[derive(Serialize)]
struct Speed {
    case: &'static str,
    model: &'static str,
    /// Recordings of 30 s that are uploaded together.
    size: usize,
    /// Of each one's text, greedy and never tried again.
    tokens: usize,
    /// Seconds of audio by seconds that they took.
    rtfx: f64,
    /// Milliseconds until all are transcribed, and until they are where texts are of one token: reading, encoding, the
    /// windows' keys and values, and the prompts.
    ms: f64,
    heard_ms: f64,
}

/// Compares a tiny model, its decoder in every precision.
pub(super) fn check(run: &mut Run) -> anyhow::Result<()> {
    for precision in Precision::ALL {
        let name = format!("{}:{}", TINY.name, precision.as_str());
        let found = compared(run, precision);
        let Some(found) = run.attempt(Part::Speech, &name, None, found)? else { continue };
        // Of whole numbers the activations are rounded too, as they are of a quantised chat model.
        let allowed = match precision {
            Precision::Int8 => (chat::WORST, chat::TYPICAL),
            Precision::F32 | Precision::F16 | Precision::Bf16 => DECODER,
        };
        let Agreement { encoder, logits, alignment } = found;
        let parts = [
            (format!("{name}, encoder"), encoder, ENCODER, "standard deviations"),
            (name.clone(), logits, allowed, "standard deviations"),
            (format!("{name}, alignment"), alignment, allowed, "of the largest"),
        ];
        for (name, Apart { worst, typical }, allowed, unit) in parts {
            let ok = worst <= allowed.0 && typical <= allowed.1;
            let checked = Checked::new(name, (worst, allowed.0), (typical, allowed.1), ok);
            run.checked(&checked, &checked, unit)?;
        }
    }
    Ok(())
}

fn compared(run: &mut Run, precision: Precision) -> anyhow::Result<Agreement> {
    let model = run.shelf.whisper(&TINY)?;
    on_its_thread(&run.info, |gpu| Ok(agree(&model.path, precision, &device::open(&device::cpu())?, gpu)?))
}

/// Times models of real sizes; the largest stays on the shelf.
pub(super) fn time(run: &mut Run) -> anyhow::Result<()> {
    for shape in [&BASE, &LARGE_V3_TURBO] {
        let done = time_one(run, shape);
        run.attempt(Part::Speech, shape.name, None, done)?;
    }
    run.shelf.forget(BASE.name);
    Ok(())
}

fn time_one(run: &mut Run, shape: &'static Shape) -> anyhow::Result<()> {
    let model = run.shelf.whisper(shape)?;
    let file = run.shelf.path("window.wav");
    record(&file, WINDOW)?;
    let (runtime, engine) = run.start(vec![model.clone()])?;
    let service = Service::new(engine.clone(), Options::default());
    for size in WINDOWS {
        let timed = runtime.block_on(async {
            // Takes the memory of as many windows, too.
            let heard = best_of(|_| transcribe(&service, shape.name, &file, size, 1)).await?;
            Ok((heard, best_of(|_| transcribe(&service, shape.name, &file, size, TOKENS)).await?))
        });
        let windows = format!("{size} windows");
        let Some((heard, all)) = run.attempt(Part::Speech, shape.name, Some(&windows), timed)? else {
            continue;
        };
        let rtfx = (size * WINDOW) as f64 / all.as_secs_f64();
        let ms = |time: Duration| rounded(time.as_secs_f64() * 1e3, 1);
        let line = Speed {
            case: "speech",
            model: shape.name,
            size,
            tokens: TOKENS,
            rtfx: rounded(rtfx, 1),
            ms: ms(all),
            heard_ms: ms(heard),
        };
        let name = format!("{}: {windows} in {} ms, heard in {}", shape.name, line.ms, line.heard_ms);
        run.report.case(&line, &name, rtfx, "times real time")?;
    }
    run.memory(shape.name, (&runtime, &engine))
}

/// What is asked for: a text of so many tokens a window.
pub(super) fn request(model: &str, tokens: usize) -> Request {
    let mut request = Request::new(model, Task::Transcribe);
    request.language = Some("en".to_owned());
    request.decoding = Decoding {
        beam_size: 1,
        best_of: 1,
        temperatures: vec![0.0],
        compression_ratio: None,
        logprob: None,
        no_speech: None,
        condition_on_previous: false,
        without_timestamps: true,
        max_new_tokens: Some(tokens),
        ..Decoding::default()
    };
    request
}

/// Uploads a recording of one window so many times at once, until all are transcribed.
async fn transcribe(
    service: &Service,
    model: &str,
    file: &Path,
    windows: usize,
    tokens: usize,
) -> anyhow::Result<Duration> {
    let one = async || {
        let transcript = asr::upload(service, request(model, tokens), file).await?.collect().await?;
        let said = transcript.usage.completion_tokens as usize;
        ensure!(said == tokens, "a text is of {said} tokens and not of {tokens}");
        Ok(())
    };
    let begun = Instant::now();
    try_join_all((0..windows).map(|_| one())).await?;
    Ok(begun.elapsed())
}

/// Writes noise that swells and fades four times a second, as syllables do: 16 bits, one channel, so many seconds.
pub(super) fn record(file: &Path, seconds: usize) -> anyhow::Result<()> {
    let rate = SAMPLE_RATE;
    let mut state = 1u32;
    let sample = |i: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = f64::from(state >> 8) / f64::from(1 << 23) - 1.0;
        let swell = (std::f64::consts::TAU * 4.0 * i as f64 / f64::from(rate)).sin();
        (8000.0 * noise * (0.55 + 0.45 * swell)) as i16
    };
    let data: Vec<u8> = (0..seconds * rate as usize).map(sample).flat_map(i16::to_le_bytes).collect();
    let length = u32::try_from(data.len())?;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + length).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(rate.to_le_bytes());
    wav.extend((2 * rate).to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend(length.to_le_bytes());
    wav.extend(data);
    Ok(std::fs::write(file, wav)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::gpu::shelf::Shelf;
    use crate::engine::{self, Engine};

    #[test]
    fn every_window_is_heard_and_its_text_has_its_tokens() {
        let mut shelf = Shelf::new().unwrap();
        let model = shelf.whisper(&TINY).unwrap();
        let file = shelf.path("window.wav");
        record(&file, WINDOW).unwrap();
        let options = engine::Options { device: device::Choice::Cpu, ..engine::Options::default() };
        let service = Service::new(Engine::start(vec![model.clone()], options).unwrap(), Options::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (windows, tokens) in [(1, 1), (2, 7)] {
                transcribe(&service, &model.id, &file, windows, tokens).await.unwrap();
            }
            let heard = asr::upload(&service, request(&model.id, 5), &file).await.unwrap();
            let heard = heard.collect().await.unwrap();
            assert_eq!((heard.duration, heard.usage.completion_tokens), (30.0, 5));
        });
    }
}
