//! The zip around a checkpoint: where its entries lie.

use std::collections::HashMap;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::model::weights::file::Buffered;
use crate::model::weights::{Error, WeightsFile};

/// The entry that says what the others are.
pub(super) const PICKLE: &str = "data.pkl";
/// Entries believed: a storage each.
const MAX_FILES: usize = 1 << 16;

/// Offset and length of every entry, by its name below the folder that all are in. Invariant: within the file.
#[derive(Debug)]
pub(super) struct Archive {
    entries: HashMap<String, (u64, u64)>,
}

impl Archive {
    pub(super) fn open(file: &WeightsFile) -> Result<Archive, Error> {
        let path = file.path();
        let broken = |e: ZipError| Error::malformed(path, "zip", e.to_string());
        let mut magic = [0; 4];
        file.read_exact_at(&mut magic, 0, "magic")?;
        if magic != *b"PK\x03\x04" {
            let problem = "is no zip; save it again with PyTorch 1.6 or later";
            return Err(Error::unsupported(path, "magic", problem));
        }
        let mut zip = ZipArchive::new(Buffered::new(file)).map_err(broken)?;
        if zip.len() > MAX_FILES {
            return Err(Error::unsupported(path, "zip", format!("holds more than {MAX_FILES} entries")));
        }
        let mut all = Vec::with_capacity(zip.len());
        for i in 0..zip.len() {
            let entry = zip.by_index_raw(i).map_err(broken)?;
            let name = entry.name().map_err(broken)?.into_owned();
            if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
                let problem = "is compressed or encrypted, which torch.save does not do";
                return Err(Error::unsupported(path, format!("entry {name}"), problem));
            }
            let (start, len) = (entry.data_start(), entry.size());
            let end = start.and_then(|at| at.checked_add(len)).filter(|&end| end <= file.len());
            let Some(end) = end else {
                return Err(Error::malformed(path, format!("entry {name}"), "passes the end of the file"));
            };
            all.push((name, (end - len, len)));
        }
        let root = all.iter().find_map(|(name, _)| name.strip_suffix(PICKLE)).map(str::to_owned);
        let Some(root) = root.filter(|root| root.is_empty() || root.ends_with('/')) else {
            return Err(Error::Missing { path: path.to_owned(), field: format!("entry {PICKLE}") });
        };
        let below = |(name, place): (String, _)| Some((name.strip_prefix(&root)?.to_owned(), place));
        let archive = Archive { entries: all.into_iter().filter_map(below).collect() };
        archive.check_order(file)?;
        Ok(archive)
    }

    fn check_order(&self, file: &WeightsFile) -> Result<(), Error> {
        let Some(&(at, len)) = self.entries.get("byteorder") else { return Ok(()) };
        let mut order = [0; 6];
        if len == 6 {
            file.read_exact_at(&mut order, at, "byteorder")?;
        }
        match &order {
            b"little" => Ok(()),
            _ => Err(Error::unsupported(file.path(), "byteorder", "only little-endian files are read")),
        }
    }

    /// The pickle, which is at most `limit` bytes long.
    pub(super) fn read_pickle(&self, file: &WeightsFile, limit: u64) -> Result<Vec<u8>, Error> {
        let path = file.path();
        let Some(&(at, len)) = self.entries.get(PICKLE) else {
            return Err(Error::Missing { path: path.to_owned(), field: format!("entry {PICKLE}") });
        };
        if len > limit {
            let problem = format!("{len} bytes, at most {limit} are read");
            return Err(Error::unsupported(path, PICKLE, problem));
        }
        // Within `limit`, hence within `usize`.
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, at, PICKLE)?;
        Ok(bytes)
    }

    /// Offset and length of a storage.
    pub(super) fn storage(&self, key: &str) -> Option<(u64, u64)> {
        self.entries.get(&format!("data/{key}")).copied()
    }
}
