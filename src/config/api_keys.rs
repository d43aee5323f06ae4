//! API keys: made here, kept only as SHA-256.
//!
//! A key file has a key a line, `NAME sha256:HEX`; `#` starts a comment. Keys are 256 random bits, so a plain
//! SHA-256 cannot be searched backwards and needs no salt or stretching.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng;
use sha2::{Digest, Sha256};

use super::{Environment, Error};
use crate::types::key::ApiKey;

/// A key that was just made. `secret` is shown once and kept nowhere.
pub struct NewKey {
    pub secret: String,
    pub id: String,
}

/// Shortest key accepted from the environment, where people choose their own.
const MIN_LENGTH: usize = 16;
const MAX_KEYS: usize = 10_000;

/// Makes a key named `name` and appends its hash to the key file.
///
/// # Errors
/// The name is not usable or taken, or the file cannot be read or written.
pub fn new_key(path: &Path, name: &str) -> Result<NewKey, Error> {
    let existing = match std::fs::read_to_string(path) {
        Ok(text) => parse_keys(path, &text)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    if !good_name(name) || existing.iter().any(|key| key.id == name) {
        return Err(Error::KeyName { name: name.to_owned() });
    }
    let mut bytes = [0u8; 32];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|e| Error::Random { message: e.to_string() })?;
    let secret = format!("sk-stentor-{}", URL_SAFE_NO_PAD.encode(bytes));
    let line = format!("{name} sha256:{}\n", hex(&hash(&secret)));
    append(path, &line).map_err(|source| Error::Write { path: path.to_owned(), source })?;
    Ok(NewKey { secret, id: name.to_owned() })
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

/// Reads a key file's text; `path` is for the errors.
///
/// # Errors
/// A line that is not `NAME sha256:HEX`, or a name that stands there twice.
pub fn parse_keys(path: &Path, text: &str) -> Result<Vec<ApiKey>, Error> {
    let mut keys: Vec<ApiKey> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let fail = |message: &str| Error::KeyFile {
            path: path.to_owned(),
            line: at + 1,
            message: message.to_owned(),
        };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (name, digest) = line
            .split_once(char::is_whitespace)
            .and_then(|(name, rest)| Some((name, rest.trim().strip_prefix("sha256:")?)))
            .ok_or_else(|| fail("must be `NAME sha256:HEX`; `stentor key NAME` writes such a line"))?;
        let sha256 = unhex(digest).ok_or_else(|| fail("the hash must be 64 hexadecimal digits"))?;
        if !good_name(name) || keys.iter().any(|key| key.id == name) {
            return Err(fail("the name must be 1 to 64 of a-z A-Z 0-9 . _ - and stand here once"));
        }
        if keys.len() == MAX_KEYS {
            return Err(fail("more than 10000 keys"));
        }
        keys.push(ApiKey { id: name.to_owned(), sha256 });
    }
    Ok(keys)
}

/// The keys in `STENTOR_API_KEY` and, comma-separated, in `STENTOR_API_KEYS`.
pub(super) fn from_environment(env: Environment<'_>) -> Result<Vec<ApiKey>, Error> {
    let mut keys = Vec::new();
    for variable in ["STENTOR_API_KEY", "STENTOR_API_KEYS"] {
        let Some(text) = env(variable) else { continue };
        for secret in text.split(',').map(str::trim).filter(|secret| !secret.is_empty()) {
            if secret.len() < MIN_LENGTH {
                let message = format!(
                    "a key has {} characters, and {MIN_LENGTH} are the least; \
                     `openssl rand -hex 32` makes a good one",
                    secret.len()
                );
                return Err(Error::EnvKey { variable, message });
            }
            let sha256 = hash(secret);
            let short: String = hex(&sha256).chars().take(8).collect();
            keys.push(ApiKey { id: format!("env-{short}"), sha256 });
        }
    }
    Ok(keys)
}

fn good_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut out = [0u8; 32];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(out)
}
