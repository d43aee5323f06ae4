//! Just enough of Rust's lexical structure to look for words in code: comments and texts are blanked, line
//! numbers kept, and braces can be counted.

use regex::Regex;

/// A Rust file's code: every byte of a comment, text or character is a space, newlines stay.
pub struct Source {
    pub code: String,
}

/// By the tree's convention: `tests.rs`, `*_tests.rs`, `testing.rs`, or below a folder `tests`.
pub fn is_test_file(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    stem == "tests" || stem == "testing" || stem.ends_with("_tests") || path.contains("/tests/")
}

impl Source {
    pub fn new(text: &str) -> Source {
        let bytes = text.as_bytes();
        let mut code = bytes.to_vec();
        let mut at = 0;
        while at < bytes.len() {
            let end = skip(bytes, at);
            if end == at {
                at += 1;
                continue;
            }
            for byte in code[at..end].iter_mut().filter(|byte| **byte != b'\n') {
                *byte = b' ';
            }
            at = end;
        }
        // Whole texts were blanked, so what is left between them is as valid as before.
        Source { code: String::from_utf8(code).unwrap() }
    }

    /// Without the inline modules and items behind `#[cfg(test)]` too.
    pub fn without_tests(text: &str) -> Source {
        let mut source = Source::new(text);
        let attribute = Regex::new(r"#\[cfg\((?:all\()?test\b").unwrap();
        let starts: Vec<usize> = attribute.find_iter(&source.code).map(|m| m.start()).collect();
        let mut code = source.code.clone().into_bytes();
        for start in starts {
            let end = item_end(source.code.as_bytes(), start);
            for byte in code[start..end].iter_mut().filter(|byte| **byte != b'\n') {
                *byte = b' ';
            }
        }
        source.code = String::from_utf8(code).unwrap();
        source
    }

    fn line_of(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Numbers of the lines where `word` is.
    pub fn lines_with<'a>(&'a self, word: &'a Regex) -> impl Iterator<Item = usize> + 'a {
        word.find_iter(&self.code).map(|found| self.line_of(found.start()))
    }

    /// Top-level modules of this crate that paths name, with their lines: `crate::x`, `stentor::x`, braces at
    /// the root, and `super::super::x` where it leaves `module`.
    pub fn modules_used(&self, module: &str) -> Vec<(usize, String)> {
        let mut used = Vec::new();
        let rooted = Regex::new(r"\b(?:crate|stentor)\s*::\s*(\{|[a-z_]\w*)").unwrap();
        for found in rooted.captures_iter(&self.code) {
            let (line, what) = (self.line_of(found.get(0).unwrap().start()), found.get(1).unwrap());
            match what.as_str() {
                "{" => {
                    let end = closing(self.code.as_bytes(), what.start());
                    used.extend(firsts(&self.code[what.end()..end]).map(|name| (line, name)));
                }
                name => used.push((line, name.to_owned())),
            }
        }
        let depth = module.split("::").count();
        let climbing = Regex::new(r"\b((?:super\s*::\s*)+)([a-z_]\w*)").unwrap();
        for found in climbing.captures_iter(&self.code) {
            if found[1].matches("super").count() == depth {
                used.push((self.line_of(found.get(0).unwrap().start()), found[2].to_owned()));
            }
        }
        used
    }

    /// Every function with a body: its line, name, and lines from `fn` to the closing brace.
    pub fn functions(&self) -> Vec<(usize, String, usize)> {
        let head = Regex::new(r"\bfn\s+(\w+)").unwrap();
        let bytes = self.code.as_bytes();
        let mut functions = Vec::new();
        for found in head.captures_iter(&self.code) {
            let start = found.get(0).unwrap().start();
            let end = item_end(bytes, start);
            let lines = self.code[start..end].matches('\n').count() + 1;
            functions.push((self.line_of(start), found[1].to_owned(), lines));
        }
        functions
    }
}

/// The first name of each entry of a `{a::b, c}` list.
fn firsts(list: &str) -> impl Iterator<Item = String> {
    let mut depth = 0;
    let mut names = vec![String::new()];
    for character in list.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(String::new()),
            _ if depth == 0 => names.last_mut().unwrap().push(character),
            _ => {}
        }
    }
    let first = |name: String| name.split("::").next().unwrap_or_default().trim().to_owned();
    names.into_iter().map(first).filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// The end of the item that starts here: past its body's closing brace, or past its semicolon. Brackets and
/// parentheses before it are passed over whole, for the `;` in `[u8; 4]`.
fn item_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => return closing(bytes, at) + 1,
            b';' => return at + 1,
            b'(' | b'[' => at = closing(bytes, at),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The place of the bracket that closes the one at `open`; the last byte if none does.
fn closing(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len().saturating_sub(1)
}

/// The end of the comment, text or character that starts at `at`; `at` itself if none does.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let identifier_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !identifier_before => at + raw(rest),
        // A lifetime has no closing quote right after its one character.
        [b'\'', b'\\', ..] => at + quoted(rest, b'\''),
        [b'\'', ..] => at + character(rest),
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."` and `r#"..."#`; 0 for a raw identifier.
fn raw(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let body = &rest[2 + hashes..];
    body.windows(end.len()).position(|w| w == end).map_or(rest.len(), |at| 2 + hashes + at + end.len())
}

/// `'x'` of any width in UTF-8; 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    let width = rest.get(1).map_or(1, |first| match first {
        0..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    });
    if rest.get(1 + width) == Some(&b'\'') { 2 + width } else { 0 }
}
