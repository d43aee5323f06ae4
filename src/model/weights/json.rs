//! The JSON files beside weights: configurations and indexes.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Error, WeightsFile};

/// No configuration comes near this; whole tokenizers are read elsewhere.
pub const MAX_CONFIG: u64 = 4 << 20;

/// Reads `path` as `T`; `None` where there is no such file.
///
/// # Errors
/// A file that cannot be read, is longer than `limit` bytes, or does not hold a `T`; the message names the field.
pub fn read_optional<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<Option<T>, Error> {
    match path.try_exists() {
        Ok(false) => Ok(None),
        _ => read(path, limit).map(Some),
    }
}

/// Reads `path` as `T`.
///
/// # Errors
/// As [`read_optional`]; also where there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, Error> {
    let file = WeightsFile::open(path)?;
    if file.len() > limit {
        return Err(Error::malformed(
            path,
            "length",
            format!("{} bytes, at most {limit} are read", file.len()),
        ));
    }
    // Within `limit`, hence within `usize`.
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(&mut bytes, 0, "content")?;
    parse(&bytes, path)
}

/// Parses `bytes`, which came from `path`.
///
/// # Errors
/// Bytes that do not hold a `T`; the message names the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T, Error> {
    let json = &mut serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(json).map_err(|e| {
        let field = match e.path().to_string() {
            root if root == "." => "JSON".to_owned(),
            field => field,
        };
        Error::malformed(path, field, e.inner().to_string())
    })
}
