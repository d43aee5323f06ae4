//! Word error rates against what was said, beside faster-whisper's (`tests/golden/asr/errors.json`).
//!
//! Texts are compared after Whisper's basic normaliser (Radford et al. 2022, appendix C: lower case; marks, symbols
//! and punctuation are spaces) without its Unicode composition, which these texts do not need. Chinese and Japanese
//! are counted by letters.

use std::collections::BTreeMap;

use regex::Regex;
use strsim::generic_levenshtein;

use super::*;

#[derive(Deserialize)]
struct Golden {
    said: String,
    greedy: String,
    beam: String,
}

struct Normal(Regex);

impl Normal {
    fn units(&self, language: &str, text: &str) -> Vec<String> {
        let lower = text.to_lowercase();
        let plain = self.0.replace_all(&lower, " ");
        match language {
            "ja" | "zh" => plain.chars().filter(|c| !c.is_whitespace()).map(String::from).collect(),
            _ => plain.split_whitespace().map(String::from).collect(),
        }
    }
}

/// Of one language, greedy and with a beam of 5: units said, ours that are wrong, theirs.
#[derive(Default)]
struct Errors {
    said: usize,
    ours: [usize; 2],
    theirs: [usize; 2],
}

#[test]
fn no_more_words_are_wrong_than_faster_whispers() {
    let Some(folder) = test_model("whisper-base") else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read(root.join("tests/golden/asr/errors.json")).unwrap();
    let golden: BTreeMap<String, Golden> = serde_json::from_slice(&golden).unwrap();
    let normal = Normal(Regex::new(r"[\p{M}\p{S}\p{P}]").unwrap());
    let mut ears = Ears::load(&folder);
    let mut languages: BTreeMap<&str, Errors> = BTreeMap::new();
    for (key, golden) in &golden {
        let own = root.join("tests/data/audio").join(key);
        let Some(path) = own.is_file().then_some(own).or_else(|| clip(key)) else { continue };
        let (mel, _) =
            audio::log_mel(File::open(path).unwrap(), Some(key), &audio::Limits::default(), 80).unwrap();
        let language = key.strip_prefix("spoken-").unwrap_or(key).get(..2).unwrap();
        let said = normal.units(language, &golden.said);
        let errors = languages.entry(language).or_default();
        errors.said += said.len();
        for (at, theirs) in [&golden.greedy, &golden.beam].into_iter().enumerate() {
            let mut decoding = if at == 0 { options().decoding } else { Decoding::default() };
            decoding.temperatures = vec![0.0];
            let (_, segments) = ears.transcribe(&mel, &Cut::Whole, Options { decoding, ..options() });
            let ours: String = segments.iter().map(|s| s.text.as_str()).collect();
            errors.ours[at] += generic_levenshtein(&said, &normal.units(language, &ours));
            errors.theirs[at] += generic_levenshtein(&said, &normal.units(language, theirs));
            if &ours != theirs {
                println!("{key}\n  ours   {ours}\n  theirs {theirs}");
            }
        }
    }
    println!("     said, wrong: ours and theirs, greedy; ours and theirs, beam 5");
    for (language, Errors { said, ours, theirs }) in &languages {
        println!("{language}: {said}, {} and {}; {} and {}", ours[0], theirs[0], ours[1], theirs[1]);
    }
    for (language, Errors { ours, theirs, .. }) in &languages {
        assert!(
            ours[0] <= theirs[0] && ours[1] <= theirs[1],
            "{language}: {ours:?} wrong, {theirs:?} theirs"
        );
    }
}
