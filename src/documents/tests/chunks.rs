//! Chunks are whole, in order, no longer than asked, and say where they are from.

use proptest::prelude::*;

use super::super::{Block, Chunk, Document, Kind, Part, Size, What, chunk};
use super::read_fixture;

/// A model with a token a word, and two around each text.
fn by_word(text: &str) -> usize {
    text.split_whitespace().count() + 2
}

/// A model with a token for three bytes, so that the sum of parts is more than the whole.
fn by_bytes(text: &str) -> usize {
    text.len().div_ceil(3)
}

/// A model for which the whole is more than the sum of its parts: gaps count twice.
fn by_gaps(text: &str) -> usize {
    text.split_whitespace().count() + 3 * text.matches('\n').count() + 1
}

fn block(what: What, text: &str) -> Block {
    Block { what, page: None, text: text.to_owned() }
}

fn document(blocks: Vec<Block>) -> Document {
    Document { kind: Kind::Text, title: None, blocks, pages: None, parts: Vec::new() }
}

fn cut(blocks: Vec<Block>, tokens: usize, overlap: usize) -> Vec<Chunk> {
    chunk(&document(blocks), &Size { tokens, overlap }, &by_word)
}

fn texts(chunks: &[Chunk]) -> Vec<&str> {
    chunks.iter().map(|chunk| chunk.text.as_str()).collect()
}

#[test]
fn sentences_stay_whole_and_are_repeated() {
    let text = "One two three. Four five six. Seven eight nine. Ten eleven twelve.";
    let chunks = cut(vec![block(What::Paragraph, text)], 10, 4);
    assert_eq!(
        texts(&chunks),
        [
            "One two three. Four five six.",
            "Four five six. Seven eight nine.",
            "Seven eight nine. Ten eleven twelve."
        ]
    );
    let chunks = cut(vec![block(What::Paragraph, text)], 10, 0);
    assert_eq!(texts(&chunks), ["One two three. Four five six.", "Seven eight nine. Ten eleven twelve."]);
}

#[test]
fn a_long_sentence_is_cut_at_commas_then_words() {
    let text = "a b c d e f, g h i j k l m n o p q r s t u v.";
    let chunks = cut(vec![block(What::Paragraph, text)], 10, 0);
    assert_eq!(texts(&chunks), ["a b c d e f,", "g h i j k l m n", "o p q r s t u v."]);
    let word = "x".repeat(100);
    let chunks =
        chunk(&document(vec![block(What::Paragraph, &word)]), &Size { tokens: 10, overlap: 3 }, &by_bytes);
    assert_eq!(chunks.iter().map(|chunk| chunk.text.as_str()).collect::<String>(), word);
}

#[test]
fn headings_are_borders_and_paths() {
    let long = "one two three four five six seven eight nine ten eleven twelve.";
    let chunks = cut(
        vec![
            block(What::Heading(1), "Top"),
            block(What::Heading(2), "First"),
            block(What::Paragraph, long),
            block(What::Heading(3), "Deep"),
            block(What::Paragraph, long),
            block(What::Heading(2), "Second"),
            block(What::Paragraph, long),
        ],
        20,
        5,
    );
    let found: Vec<(String, Vec<String>)> =
        chunks.iter().map(|chunk| (chunk.text.replace("\n\n", "/"), chunk.headings.clone())).collect();
    let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        found,
        [
            (format!("Top/First/{long}"), path(&[])),
            (format!("Deep/{long}"), path(&["Top", "First"])),
            (format!("Second/{long}"), path(&["Top"])),
        ]
    );
    assert_eq!(chunks.iter().map(|chunk| chunk.number).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn tiny_sections_join_under_one_parent() {
    let mut blocks = Vec::new();
    for (top, sections) in [("A", 3), ("B", 2)] {
        blocks.push(block(What::Heading(1), top));
        for at in 0..sections {
            blocks.push(block(What::Heading(2), &format!("{top}{at}")));
            blocks.push(block(What::Paragraph, "few words."));
        }
    }
    let chunks = cut(blocks.clone(), 40, 0);
    assert_eq!(chunks.len(), 2, "{chunks:?}");
    assert!(chunks[0].text.starts_with("A\n\nA0") && chunks[1].text.starts_with("B\n\nB0"), "{chunks:?}");
    // Sections that are not tiny stay apart, though both would fit.
    assert_eq!(cut(blocks, 15, 0).len(), 5);
}

#[test]
fn tables_repeat_their_head() {
    let table = "Name | Age\nAnn | 1\nBob | 2\nCyd | 3";
    let chunks = cut(vec![block(What::Paragraph, "Before."), block(What::Table, table)], 14, 5);
    assert_eq!(texts(&chunks), ["Before.\n\nName | Age\nAnn | 1", "Name | Age\nBob | 2\nCyd | 3"]);
}

#[test]
fn items_code_and_pages() {
    let mut blocks = vec![
        block(What::Item, "1. one"),
        block(What::Item, "2. two"),
        block(What::Code, "fn x() {\n\n    y();\n}"),
        block(What::Paragraph, "last words here."),
    ];
    blocks[3].page = Some(7);
    let chunks = cut(blocks.clone(), 100, 10);
    assert_eq!(texts(&chunks), ["1. one\n2. two\n\nfn x() {\n\n    y();\n}\n\nlast words here."]);
    blocks.remove(2);
    let chunks = cut(blocks, 9, 0);
    assert_eq!(chunks.iter().map(|chunk| chunk.page).collect::<Vec<_>>(), [None, Some(7)]);
}

#[test]
fn attachments_are_cut_too() {
    let mut mail = document(vec![block(What::Paragraph, "Hello.")]);
    let inner = document(vec![block(What::Heading(1), "Sheet"), block(What::Paragraph, "Text.")]);
    mail.parts.push(Part { name: "a.txt".to_owned(), document: Ok(inner) });
    let chunks = chunk(&mail, &Size { tokens: 100, overlap: 0 }, &by_word);
    assert_eq!(texts(&chunks), ["Hello.", "Sheet\n\nText."]);
    assert_eq!((chunks[1].headings.clone(), chunks[1].number), (vec!["a.txt".to_owned()], 1));
}

#[test]
fn each_text_is_measured_a_few_times_only() {
    let text = "Some words of a sentence that ends. ".repeat(20_000);
    let measured = std::cell::Cell::new(0);
    let measure = |text: &str| {
        measured.set(measured.get() + text.len());
        by_word(text)
    };
    let chunks =
        chunk(&document(vec![block(What::Paragraph, &text)]), &Size { tokens: 200, overlap: 20 }, &measure);
    assert!(chunks.len() > 500);
    assert!(measured.get() < 5 * text.len(), "{} of {}", measured.get(), text.len());
    // A text without blanks, too.
    let text = "word,".repeat(50_000);
    measured.set(0);
    chunk(
        &document(vec![block(What::Paragraph, &text)]),
        &Size { tokens: 200, overlap: 20 },
        &|text: &str| {
            measured.set(measured.get() + text.len());
            by_bytes(text)
        },
    );
    assert!(measured.get() < 40 * text.len(), "{} of {}", measured.get(), text.len());
}

#[test]
fn fixtures_are_cut_without_loss() {
    for name in ["report.pdf", "manual.docx", "rules.odt", "stock.xlsx", "page.html", "notes.md", "mail.eml"]
    {
        let document = read_fixture(name).unwrap();
        for tokens in [8, 20, 200] {
            check(&document, tokens, tokens / 4, &by_word);
        }
    }
}

/// What is true of all chunks.
fn check(document: &Document, tokens: usize, overlap: usize, measure: &dyn Fn(&str) -> usize) {
    let chunks = chunk(document, &Size { tokens, overlap }, measure);
    for (at, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk.number, at);
        assert!(!chunk.text.trim().is_empty());
        assert!(measure(&chunk.text) <= tokens, "{} > {tokens}: {:?}", measure(&chunk.text), chunk.text);
    }
    let whole = letters_of(document);
    let mut at = 0;
    for chunk in &chunks {
        // Each chunk goes on where the last one ended, but for what it repeats.
        let letters: Vec<char> = chunk.text.chars().filter(|c| !c.is_whitespace()).collect();
        at = place(&whole, &letters, at)
            .unwrap_or_else(|| panic!("{:?} is not after letter {at}", chunk.text));
    }
    assert_eq!(at, whole.len(), "the end is lost");
}

fn letters_of(document: &Document) -> Vec<char> {
    let mut letters: Vec<char> =
        document.blocks.iter().flat_map(|block| block.text.chars()).filter(|c| !c.is_whitespace()).collect();
    for part in &document.parts {
        if let Ok(inner) = &part.document {
            letters.extend(letters_of(inner));
        }
    }
    letters
}

/// Where the document goes on after these letters, which must cover all from `at` on: they may begin with some that
/// are repeated.
fn place(whole: &[char], letters: &[char], at: usize) -> Option<usize> {
    (0..letters.len()).find_map(|repeated| {
        let new = &letters[repeated..];
        (whole.get(at..at + new.len())? == new).then_some(at + new.len())
    })
}

fn any_blocks() -> impl Strategy<Value = Vec<Block>> {
    let word = prop_oneof![8 => "[a-zA-Zäß]{1,9}[,;.!?]?", 1 => "[0-9]{1,4}\\.?", 1 => "(今日|。|！|は、){1,3}", 1 => "z\\. B\\."];
    let text = prop::collection::vec((word, prop_oneof![9 => Just(" "), 1 => Just("\n")]), 1..60).prop_map(
        |words| {
            words
                .into_iter()
                .flat_map(|(word, gap)| [word, gap.to_owned()])
                .collect::<String>()
                .trim()
                .to_owned()
        },
    );
    let what = prop_oneof![
        2 => (1_u8..=6).prop_map(What::Heading),
        6 => Just(What::Paragraph),
        2 => Just(What::Item),
        1 => Just(What::Table),
        1 => Just(What::Code),
    ];
    prop::collection::vec((what, text), 0..12).prop_map(|blocks| {
        // Words are told apart, so that where a chunk is from can be seen.
        let mut number = 0;
        let mut tell = |word: &str| {
            number += 1;
            format!("{number}{word}")
        };
        let mut blocks: Vec<Block> = blocks.into_iter().map(|(what, text)| block(what, &text)).collect();
        for block in &mut blocks {
            let lines: Vec<String> = block
                .text
                .lines()
                .map(|line| line.split(' ').map(&mut tell).collect::<Vec<_>>().join(" "))
                .collect();
            block.text = lines.join("\n");
        }
        blocks
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_too_long(blocks in any_blocks(), tokens in 12_usize..80, overlap in 0_usize..40) {
        let document = document(blocks);
        check(&document, tokens, overlap, &by_word);
        check(&document, tokens + 20, overlap, &by_gaps);
    }

    #[test]
    fn no_letter_is_lost(blocks in any_blocks(), tokens in 8_usize..60) {
        let document = document(blocks);
        let chunks = chunk(&document, &Size { tokens, overlap: 0 }, &by_bytes);
        for chunk in &chunks {
            prop_assert!(by_bytes(&chunk.text) <= tokens, "{:?}", chunk.text);
        }
        // Heads of tables are there again.
        if document.blocks.iter().all(|block| block.what != What::Table) {
            let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let all: String = chunks.iter().map(|chunk| bare(&chunk.text)).collect();
            let whole: String = document.blocks.iter().map(|block| bare(&block.text)).collect();
            prop_assert_eq!(all, whole);
        }
    }

    #[test]
    fn repeats_are_short(blocks in any_blocks(), tokens in 12_usize..80, overlap in 0_usize..40) {
        let mut blocks = blocks;
        blocks.retain(|block| block.what != What::Table);
        let chunks = chunk(&document(blocks), &Size { tokens, overlap }, &by_word);
        for pair in chunks.windows(2) {
            let [before, after] = pair else { continue };
            let last: Vec<&str> = before.text.split_whitespace().collect();
            let first: Vec<&str> = after.text.split_whitespace().collect();
            let same = (0..=last.len().min(first.len())).rev().find(|n| last[last.len() - n..] == first[..*n]).unwrap();
            prop_assert!(same <= overlap, "{same} of {overlap}: {:?} {:?}", before.text, after.text);
            prop_assert!(same < last.len() && same < first.len());
        }
    }
}
