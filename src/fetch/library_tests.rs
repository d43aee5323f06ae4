use std::collections::BTreeMap;

use super::*;
use crate::fetch::state::VERSION;

fn row(home: &Path, name: &str, created: u64) -> Row {
    fs::write(home.join(name), name).unwrap();
    Row {
        origin: Origin::Imported,
        path: home.to_path_buf(),
        kind: "asr".into(),
        architecture: "whisper".into(),
        format: "ctranslate2".into(),
        aliases: vec!["whisper-1".into(), format!("{name}-alias")],
        licence: "MIT".into(),
        owner: "me".into(),
        created,
        source: "here".into(),
        files: vec![FileRow::of(home, name, None).unwrap()],
    }
}

#[test]
fn a_shared_alias_means_the_model_installed_first() {
    let dir = tempfile::tempdir().unwrap();
    let home = fs::canonicalize(dir.path()).unwrap();
    let models = [("a", row(&home, "a", 20)), ("b", row(&home, "b", 10)), ("c", row(&home, "c", 5))];
    let models: BTreeMap<String, Row> = models.into_iter().map(|(id, r)| (id.to_owned(), r)).collect();
    State { version: VERSION, models }.save(&home).unwrap();
    let library = Library::open(&home).unwrap();
    assert_eq!(library.resolve("whisper-1").unwrap(), "c");
    // What is damaged answers to nothing.
    fs::write(home.join("c"), "longer").unwrap();
    assert_eq!(library.resolve("whisper-1").unwrap(), "b");
    let installed = library.installed().unwrap();
    let names: Vec<_> = installed.iter().map(|m| (m.id.as_str(), m.aliases.join(","))).collect();
    assert_eq!(names, [("a", "a-alias".to_owned()), ("b", "whisper-1,b-alias".to_owned())]);
    // An alias of a damaged model still finds it, to be verified or removed.
    assert_eq!(library.resolve("c-alias").unwrap(), "c");
    let error = library.resolve("whisper-basse").unwrap_err();
    assert!(error.to_string().contains("did you mean \"whisper-base\"?"), "{error}");
}
