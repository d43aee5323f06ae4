//! XLM-RoBERTa of random weights against the reference implementation.

use candle_core::Device;

use crate::model::embed::testing::{Golden, agrees, golden, installed, read};
use crate::model::embed::{EmbedTokenizer, load};
use crate::types::embed::Prompt;
use crate::types::model::{Format, Kind};

#[test]
fn xlm_roberta_agrees_with_sentence_transformers() {
    agrees(&golden("xlm-roberta"), Format::Safetensors, "xlm-roberta/golden.json", 1e-4);
}

#[test]
fn a_checkpoint_of_pytorch_gives_the_same() {
    let file = golden("xlm-roberta/pytorch_model.bin");
    agrees(&file, Format::Torch, "xlm-roberta/golden.json", 1e-4);
}

#[test]
fn a_prompt_of_the_folder_is_what_the_reference_puts_before() {
    let loaded =
        load(&installed(&golden("xlm-roberta"), Format::Safetensors, Kind::Embed), &Device::Cpu).unwrap();
    let rows: Vec<Golden> = read("xlm-roberta/golden.json");
    let words = loaded.front.prompts.of(&Prompt::Query).unwrap();
    assert_eq!(words, "query: ");
    let with = rows.iter().find(|row| row.text == format!("{words}{}", rows[0].text)).unwrap();
    assert_ne!(with.vector, rows[0].vector);
}

/// What the reference does with a padding token in a text: it has the padding's position and is not counted.
#[test]
fn positions_begin_behind_the_padding_token() {
    let model = super::BertModel::load(&golden("xlm-roberta"), &Device::Cpu).unwrap();
    let rows = super::Ragged::new([&[0, 5, 1, 6, 2][..], &[0, 2]].into_iter());
    assert_eq!(model.config().places(&rows), [2, 3, 1, 4, 5, 2, 3]);
    assert_eq!((model.config().longest_row(), model.max_tokens()), (64, 64));
}

/// Its tokens never span white space, so that a long text is read in pieces.
#[test]
fn long_texts_are_cut_like_short_ones() {
    let tokenizer = EmbedTokenizer::load(&golden("xlm-roberta"), 64, 122).unwrap();
    let word = "the quick brown fox\tjumps ";
    let short = tokenizer.encode(&word.repeat(20)).unwrap();
    assert_eq!((short.len(), short[0], short[63]), (64, 0, 2));
    assert_eq!(tokenizer.encode(&word.repeat(500_000)).unwrap(), short);
}
