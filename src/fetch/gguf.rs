//! The architecture of a GGUF file, from as few bytes as that takes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::error::{Error, Result};
use super::paths;
use super::probe::TAKEN;

/// Keys looked through before `general.architecture` must have come; writers put it first.
const MAX_KEYS: u64 = 4096;
const MAX_TEXT: u64 = 1 << 20;

/// `general.architecture` of a GGUF file, version 2 or 3 (ggml's `gguf.md`).
pub(super) fn architecture(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut reader = Gguf { reader: BufReader::new(file.take(64 << 20)) };
    reader.architecture().map_err(|what| Error::Import { path: path.to_path_buf(), what })
}

struct Gguf<R> {
    reader: R,
}

impl<R: Read> Gguf<R> {
    fn architecture(&mut self) -> Result<String, String> {
        if self.bytes::<4>()? != *b"GGUF" {
            return Err(format!("does not begin with GGUF; {TAKEN}"));
        }
        let version = u32::from_le_bytes(self.bytes()?);
        if !(2..=3).contains(&version) {
            return Err(format!("is GGUF version {version}; 2 and 3 are read"));
        }
        let _tensors = self.u64()?;
        let keys = self.u64()?;
        for _ in 0..keys.min(MAX_KEYS) {
            let key = self.text()?;
            let kind = u32::from_le_bytes(self.bytes()?);
            if key == "general.architecture" {
                let name = if kind == 8 { self.text()? } else { String::new() };
                let fine = paths::is_id(&name);
                return if fine {
                    Ok(name)
                } else {
                    Err("has a `general.architecture` that is no name".into())
                };
            }
            self.skip_value(kind)?;
        }
        Err("has no `general.architecture`".into())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|e| format!("ends inside its header ({e})"))?;
        Ok(bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        if length > MAX_TEXT {
            return Err(format!("has a text of {length} bytes in its header"));
        }
        let mut bytes = Vec::new();
        self.reader.by_ref().take(length).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() as u64 != length {
            return Err("ends inside its header".into());
        }
        String::from_utf8(bytes).map_err(|_| "has a text in its header that is not UTF-8".into())
    }

    fn skip(&mut self, length: u64) -> Result<(), String> {
        let skipped = std::io::copy(&mut self.reader.by_ref().take(length), &mut std::io::sink());
        match skipped {
            Ok(n) if n == length => Ok(()),
            _ => Err("ends inside its header".into()),
        }
    }

    fn skip_value(&mut self, kind: u32) -> Result<(), String> {
        match kind {
            8 => {
                let length = self.u64()?;
                self.skip(length)
            }
            9 => {
                let element = u32::from_le_bytes(self.bytes()?);
                let count = self.u64()?;
                match scalar_size(element) {
                    Some(size) => self.skip(count.checked_mul(size).ok_or("has an array past any size")?),
                    // Each text takes 8 bytes at least, so the reader's limit ends a lying count.
                    None if element == 8 => (0..count).try_for_each(|_| self.skip_value(8)),
                    None => Err(format!("has an array of type {element} in its header")),
                }
            }
            _ => self
                .skip(scalar_size(kind).ok_or_else(|| format!("has a value of type {kind} in its header"))?),
        }
    }
}

/// Bytes of ggml's scalar value types.
fn scalar_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gguf(keys: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(0u64.to_le_bytes());
        out.extend((keys.len() as u64).to_le_bytes());
        for (key, kind, value) in keys {
            out.extend((key.len() as u64).to_le_bytes());
            out.extend(key.as_bytes());
            out.extend(kind.to_le_bytes());
            out.extend(*value);
        }
        out
    }

    fn text(value: &str) -> Vec<u8> {
        [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
    }

    #[test]
    fn the_architecture_is_found_behind_other_keys() {
        let mut list = 8u32.to_le_bytes().to_vec();
        list.extend(2u64.to_le_bytes());
        list.extend([text("a"), text("bc")].concat());
        let file =
            gguf(&[("x", 9, &list), ("y", 4, &[0; 4]), ("general.architecture", 8, &text("nomic-bert"))]);
        assert_eq!(Gguf { reader: &file[..] }.architecture().unwrap(), "nomic-bert");
        for cut in 0..file.len() {
            assert!(Gguf { reader: &file[..cut] }.architecture().is_err());
        }
    }

    #[test]
    fn lying_lengths_fail_without_memory() {
        for value in [u64::MAX.to_le_bytes(), (1u64 << 60).to_le_bytes()] {
            let file = gguf(&[("general.architecture", 8, &value)]);
            assert!(Gguf { reader: &file[..] }.architecture().is_err());
            let array = [&5u32.to_le_bytes()[..], &value].concat();
            assert!(Gguf { reader: &gguf(&[("x", 9, &array)])[..] }.architecture().is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..60) {
            let mut file = gguf(&[("general.architecture", 8, &text("llama"))]);
            file.truncate(cut);
            file.extend(bytes);
            let _ = Gguf { reader: &file[..] }.architecture();
        }
    }
}
