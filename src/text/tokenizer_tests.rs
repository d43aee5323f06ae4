use proptest::prelude::*;

use super::*;

/// `a`..`c`, the space and joins of them, with scores that favour some.
fn spm(prefix: bool) -> Tokenizer {
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "a",
        "b",
        "c",
        "\u{2581}",
        "ab",
        "bc",
        "\u{2581}a",
        "abc",
        "\u{2581}\u{2581}",
    ];
    let mut all: Vec<String> = tokens.iter().map(|&t| t.to_owned()).collect();
    all.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    let kinds: Vec<i32> =
        (0..all.len()).map(|i| [2, 3, 3].get(i).copied().unwrap_or(if i < 12 { 1 } else { 6 })).collect();
    let mut scores = vec![0.0; all.len()];
    scores[3..12].copy_from_slice(&[-9.0, -9.0, -9.0, -9.0, -3.0, -2.0, -4.0, -1.0, -5.0]);
    let mut spec = TokenizerSpec::empty(Family::Spm);
    spec.tokens = all.iter().map(String::as_str).collect();
    (spec.kinds, spec.scores) = (&kinds, &scores);
    (spec.bos, spec.eos, spec.add_space_prefix) = (Some(1), Some(2), Some(prefix));
    Tokenizer::new(&spec).unwrap()
}

#[test]
fn the_best_score_joins_first() {
    let t = spm(false);
    // "bc" (-2) before "ab" (-3), so "abc" is only reached through "a" + "bc".
    assert_eq!(t.encode("abc", Special::AsText, false), [10]);
    assert_eq!(t.encode("ab", Special::AsText, true), [1, 7]);
    assert_eq!(t.encode(" a", Special::AsText, false), [9]);
    assert_eq!(t.encode("aé", Special::AsText, false), [3, 12 + 0xc3, 12 + 0xa9]);
    assert_eq!(spm(true).encode("a</s>a", Special::Parse, false), [9, 2, 9]);
    assert_eq!(spm(true).decode(&[9, 7]), "aab");
}

#[test]
fn bos_is_not_doubled() {
    let t = spm(false);
    assert_eq!(t.encode("<s>a", Special::Parse, true), [1, 3]);
    assert_eq!(t.encode("a", Special::Parse, true), [1, 3]);
}

proptest! {
    /// Cutting words apart before merging them must not change what they become.
    #[test]
    fn cutting_changes_nothing(text in "[abc  é]{0,40}") {
        let cut = spm(false);
        let mut whole = spm(false);
        let Model::Spm(model) = &mut whole.model else { unreachable!() };
        prop_assert!(model.cuttable);
        model.cuttable = false;
        let ids = cut.encode(&text, Special::AsText, false);
        prop_assert_eq!(&ids, &whole.encode(&text, Special::AsText, false));
        prop_assert_eq!(cut.decode(&ids), text);
    }

    #[test]
    fn a_limit_is_kept(text in "[abc ]{0,40}", limit in 0usize..20) {
        let t = spm(true);
        let all = t.encode(&text, Special::AsText, true);
        match t.encode_bounded(&text, Special::AsText, true, limit) {
            Ok(ids) => prop_assert!(ids == all && ids.len() <= limit),
            Err(Error::TooLong { at_least, .. }) => prop_assert!(at_least > limit && all.len() > limit),
            Err(e) => prop_assert!(false, "{e}"),
        }
    }
}

#[test]
fn lying_specs_are_refused() {
    let mut spec = TokenizerSpec::empty(Family::Bpe);
    assert!(Tokenizer::new(&spec).is_err(), "no tokens");
    spec.tokens = vec!["a", "b"];
    spec.kinds = &[1];
    assert!(Tokenizer::new(&spec).is_err(), "fewer kinds than tokens");
    spec.kinds = &[];
    spec.bos = Some(2);
    assert!(Tokenizer::new(&spec).is_err(), "bos past the end");
    spec.bos = None;
    spec.merges = vec!["ab"];
    assert!(Tokenizer::new(&spec).is_err(), "a merge of one token");
    spec.merges = vec!["a b"];
    spec.pre = Some("from the future");
    assert!(matches!(Tokenizer::new(&spec), Err(Error::PreTokenizer(_))));
}

#[test]
fn broken_bytes_are_shown_as_such() {
    let t = spm(false);
    let byte = |b: u32| 12 + b;
    assert_eq!(t.decode(&[3, byte(0xe2), byte(0x82), byte(0xac)]), "a€");
    assert_eq!(t.decode(&[byte(0xe2), byte(0x82), 3]), "\u{fffd}a");
    assert_eq!(t.decode(&[byte(0xff), byte(0xe2)]), "\u{fffd}\u{fffd}");
    assert_eq!(t.decode(&[1, 99_999]), "");
}
