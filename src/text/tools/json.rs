//! JSON that is still being written: how far a call's object has come.

/// What is known of a call's object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Object<'t> {
    pub name: Option<String>,
    /// The text of the arguments as far as it has come, and whether that is all.
    pub arguments: Option<(&'t str, bool)>,
    pub state: State,
}

/// Where a text stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// More must come.
    #[default]
    Open,
    /// It ends before this byte.
    Ended(usize),
    /// It is no JSON.
    Broken,
}

/// Reads an object from the start of a text.
pub(super) fn object(text: &str) -> Object<'_> {
    let mut seen = Object::default();
    seen.state = members(text, &mut seen);
    seen
}

fn members<'t>(text: &'t str, seen: &mut Object<'t>) -> State {
    let byte = |at: usize| text.as_bytes().get(at).copied();
    if byte(0) != Some(b'{') {
        return if text.is_empty() { State::Open } else { State::Broken };
    }
    let mut at = spaces(text, 1);
    loop {
        match byte(at) {
            None => return State::Open,
            Some(b'}') => return State::Ended(at + 1),
            Some(b'"') => {}
            Some(_) => return State::Broken,
        }
        let State::Ended(end) = value(text, at) else { return State::Open };
        let key = &text[at + 1..end - 1];
        at = spaces(text, end);
        match byte(at) {
            None => return State::Open,
            Some(b':') => at = spaces(text, at + 1),
            Some(_) => return State::Broken,
        }
        if byte(at).is_none() {
            return State::Open;
        }
        let state = value(text, at);
        match (key, state) {
            (_, State::Broken) => return State::Broken,
            ("name", State::Ended(end)) => {
                let Ok(name) = serde_json::from_str(&text[at..end]) else { return State::Broken };
                seen.name.get_or_insert(name);
            }
            ("arguments" | "parameters", State::Ended(end)) => {
                seen.arguments.get_or_insert((&text[at..end], true));
            }
            ("arguments" | "parameters", State::Open) => {
                seen.arguments.get_or_insert((&text[at..], false));
            }
            _ => {}
        }
        let State::Ended(end) = state else { return State::Open };
        at = spaces(text, end);
        match byte(at) {
            None => return State::Open,
            Some(b',') => at = spaces(text, at + 1),
            Some(b'}') => {}
            Some(_) => return State::Broken,
        }
    }
}

/// The end of the value that begins at `from`. Brackets are counted, not matched: what is between them is read when
/// all of it is there.
fn value(text: &str, from: usize) -> State {
    let bytes = text.as_bytes();
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, &byte) in bytes.iter().enumerate().skip(from) {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => continue,
            }
            if quoted || depth > 0 {
                continue;
            }
            return State::Ended(at + 1);
        }
        match byte {
            b'"' if depth == 0 && at > from => return State::Broken,
            b'"' => quoted = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' | b']' if depth == 1 => return State::Ended(at + 1),
            b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' | b':' if depth == 0 => {
                return if at > from { State::Ended(at) } else { State::Broken };
            }
            _ => {}
        }
    }
    State::Open
}

/// The first byte from `from` on that is no white space.
pub(super) fn spaces(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.len() - rest.trim_start_matches([' ', '\n', '\r', '\t']).len()
}
