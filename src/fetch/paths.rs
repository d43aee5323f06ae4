//! Names that come from outside and end up as paths.

use std::path::{Path, PathBuf};

/// Longest id, alias or file name component taken.
pub const MAX_NAME: usize = 128;
/// Most components of a file's path inside a model.
const MAX_DEPTH: usize = 8;

/// Is `id` fit to be a model's id, and so a folder name on every system: lower-case letters, digits, `.`,
/// `-`, `_`, starting with a letter or digit, at most [`MAX_NAME`] bytes?
pub fn is_id(id: &str) -> bool {
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
    id.len() <= MAX_NAME
        && id.bytes().all(rest)
        && id.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
        && !id.ends_with('.')
}

/// Is `alias` fit for requests and tables: printable ASCII without space, at most [`MAX_NAME`] bytes?
pub fn is_alias(alias: &str) -> bool {
    !alias.is_empty() && alias.len() <= MAX_NAME && alias.bytes().all(|c| c.is_ascii_graphic())
}

/// The nearest fit id to any text, for a name taken from a file: `My Model.Q4` becomes `my-model.q4`.
pub fn to_id(text: &str) -> Option<String> {
    let mut id = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        let c = if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_') { c } else { '-' };
        let boundary = matches!(c, '-' | '.' | '_');
        if boundary && (id.is_empty() || (c == '-' && id.ends_with('-'))) {
            continue;
        }
        if id.len() < MAX_NAME {
            id.push(c);
        }
    }
    let id = id.trim_end_matches(['-', '.', '_']).to_owned();
    is_id(&id).then_some(id)
}

/// Joins a `/`-separated relative path from a manifest or an archive to `base`.
///
/// `None` unless every component is a plain name: no `..`, `.`, empty, absolute or drive part, no
/// backslash, colon or control character, none of them longer than [`MAX_NAME`].
pub fn join(base: &Path, relative: &str) -> Option<PathBuf> {
    let parts: Vec<&str> = relative.split('/').collect();
    let plain = parts.len() <= MAX_DEPTH && parts.iter().all(|p| is_component(p));
    plain.then(|| parts.iter().fold(base.to_path_buf(), |path, part| path.join(part)))
}

fn is_component(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= MAX_NAME
        && part != "."
        && part != ".."
        && !part.ends_with(['.', ' '])
        && part
            .chars()
            .all(|c| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|'))
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tricks_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../x",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a\\..\\b",
            "C:\\x",
            "c:x",
            "a\0b",
            "a\nb",
            "nul.",
            "a/b/c/d/e/f/g/h/i",
        ] {
            assert_eq!(join(Path::new("/home"), bad), None, "{bad:?}");
        }
        assert_eq!(join(Path::new("/h"), "1_Pooling/config.json"), Some("/h/1_Pooling/config.json".into()));
    }

    #[test]
    fn ids_from_file_names() {
        assert_eq!(to_id("SmolLM2-135M Instruct.Q4_1").as_deref(), Some("smollm2-135m-instruct.q4_1"));
        assert_eq!(to_id("..//").as_deref(), None);
        assert_eq!(to_id("été 3").as_deref(), Some("t-3"));
    }

    proptest! {
        #[test]
        fn joined_paths_stay_inside(relative in ".{0,60}|([a-z./\\\\:]{0,20})") {
            if let Some(path) = join(Path::new("/base"), &relative) {
                let inside = path.strip_prefix("/base").unwrap();
                prop_assert!(inside.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(inside.to_str().unwrap(), relative);
            }
        }

        #[test]
        fn made_ids_are_ids(text in ".{0,300}") {
            if let Some(id) = to_id(&text) {
                prop_assert!(is_id(&id));
                prop_assert!(join(Path::new("/base"), &id).is_some());
            }
        }
    }
}
