//! An index as a file. It is derived from what the store holds: one that cannot be read is built anew.
//!
//! Everything is little-endian; the parts follow each other without gaps.
//!
//! | part | what |
//! |---|---|
//! | magic | the 8 bytes `sthnsw\0\1`, the last of which is the version |
//! | head | u64 each: dimensions, metric (0 cosine, 1 dot, 2 Euclidean), M, ef_construction, nodes, levels drawn, entry, stamp |
//! | codes | dimensions x i8 a node |
//! | scales | scale and bias, f32 each, a node |
//! | levels | the highest level of each node, u8 |
//! | links | of every node, for each of its levels from 0 on: a count, u8, and so many u32 |
//! | gone, free, not linked yet | a bit a node, in u64 each from the lowest bit on |
//! | check | CRC-32 of all before it, u32 |
//!
//! The stamp is the caller's: what of the store the index holds. A file is written beside the old one, brought to the
//! disk and then renamed, so that a crash leaves one of the two.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crc32fast::Hasher;

use super::{Error, Hnsw, LEVELS, NOWHERE, Params, Scale};
use crate::store::bits::Bits;
use crate::types::store::Metric;

/// Magic and version.
const MAGIC: [u8; 8] = *b"sthnsw\0\x01";
/// By their numbers in the head.
const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
/// Bytes that are buffered on the way.
const BUFFER: usize = 1 << 20;

/// Why a file gives no index.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{file}: cannot be read or written: {source}")]
    Io { file: PathBuf, source: io::Error },
    #[error("{file}: no index of this program, or one of version {version} where version 1 is known")]
    Version { file: PathBuf, version: u8 },
    #[error("{file}: damaged: {what}")]
    Damaged { file: PathBuf, what: &'static str },
}

/// Why it stopped, before it is known of which file.
enum Stop {
    Io(io::Error),
    Version(u8),
    Damaged(&'static str),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Stop::Damaged("it ends early"),
            _ => Stop::Io(error),
        }
    }
}

impl From<Error> for Stop {
    fn from(_: Error) -> Stop {
        Stop::Damaged("dimensions or links are out of range")
    }
}

impl Stop {
    fn of(self, file: &Path) -> FileError {
        let file = file.to_owned();
        match self {
            Stop::Io(source) => FileError::Io { file, source },
            Stop::Version(version) => FileError::Version { file, version },
            Stop::Damaged(what) => FileError::Damaged { file, what },
        }
    }
}

impl Hnsw {
    /// Writes the index, in the place of what is there.
    ///
    /// # Errors
    /// The file cannot be written; what was there before is there still.
    pub fn save(&self, path: &Path, stamp: u64) -> Result<(), FileError> {
        let part = path.with_extension("part");
        let write = || -> io::Result<()> {
            let mut out =
                Out { file: BufWriter::with_capacity(BUFFER, File::create(&part)?), check: Hasher::new() };
            self.write(&mut out, stamp)?;
            let check = out.check.clone().finalize();
            out.file.write_all(&check.to_le_bytes())?;
            out.file.into_inner()?.sync_all()?;
            std::fs::rename(&part, path)?;
            // The name too is to outlive a crash.
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().map_err(|source| {
            let _ = std::fs::remove_file(&part);
            FileError::Io { file: path.to_owned(), source }
        })
    }

    fn write(&self, out: &mut Out<impl Write>, stamp: u64) -> io::Result<()> {
        out.put(&MAGIC)?;
        let Params { m, ef_construction } = self.params;
        let metric = METRICS.iter().position(|metric| *metric == self.metric).unwrap_or(0);
        let entry = self.entry.load(Ordering::Acquire);
        let sizes = [self.dim(), metric, m, ef_construction, self.len()].map(|size| size as u64);
        for number in sizes.into_iter().chain([self.levels, entry, stamp]) {
            out.put(&number.to_le_bytes())?;
        }
        let nodes = 0..self.len() as u32;
        let mut row = Vec::with_capacity(self.dim());
        for node in nodes.clone() {
            row.clear();
            row.extend(self.codes.get(node as usize).into_iter().flatten().map(|code| code as u8));
            out.put(&row)?;
        }
        for Scale { scale, bias } in &self.scales {
            out.put(&scale.to_le_bytes())?;
            out.put(&bias.to_le_bytes())?;
        }
        for node in nodes.clone() {
            out.put(&[self.links.level(node) as u8])?;
        }
        for node in nodes.clone() {
            for level in 0..=self.links.level(node) {
                let links: Vec<u8> = self.links.of(node, level).flat_map(u32::to_le_bytes).collect();
                out.put(&[(links.len() / 4) as u8])?;
                out.put(&links)?;
            }
        }
        for bits in [&self.gone, &self.free, &self.fresh] {
            for from in nodes.clone().step_by(64) {
                let word = (0..64).fold(0u64, |word, bit| word | u64::from(bits.has(from + bit)) << bit);
                out.put(&word.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// Reads an index and its stamp.
    ///
    /// # Errors
    /// The file cannot be read, is none of this program's, or damaged: build the index anew.
    pub fn open(path: &Path) -> Result<(Hnsw, u64), FileError> {
        let read = || -> Result<(Hnsw, u64), Stop> {
            let file = File::open(path)?;
            let left = file.metadata()?.len();
            let mut input = In { file: BufReader::with_capacity(BUFFER, file), check: Hasher::new(), left };
            let read = Hnsw::read(&mut input)?;
            let check = input.check.clone().finalize();
            if u32::from_le_bytes(input.take()?) != check || input.left > 0 {
                return Err(Stop::Damaged("its checksum is another"));
            }
            Ok(read)
        };
        read().map_err(|stop| stop.of(path))
    }

    fn read(input: &mut In<impl Read>) -> Result<(Hnsw, u64), Stop> {
        let magic: [u8; 8] = input.take()?;
        if magic != MAGIC {
            return Err(Stop::Version(if magic[..7] == MAGIC[..7] { magic[7] } else { 0 }));
        }
        let mut numbers = [0u64; 8];
        for number in &mut numbers {
            *number = u64::from_le_bytes(input.take()?);
        }
        let [dim, metric, m, ef_construction, count, levels, entry, stamp] = numbers;
        // Every node takes its codes, a scale, a level and a list at least: more than there are bytes are not there.
        let least = dim.saturating_add(10).saturating_mul(count);
        if least > input.left || count >= u64::from(u32::MAX) {
            return Err(Stop::Damaged("it is shorter than its vectors"));
        }
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let metric = *METRICS.get(size(metric)).ok_or(Stop::Damaged("its metric is not known"))?;
        let params = Params { m: size(m), ef_construction: size(ef_construction) };
        let mut index = Hnsw::new(size(dim), metric, params)?;
        let count = size(count);
        index.codes.resize(count);
        let mut row = vec![0u8; index.dim()];
        for node in 0..count {
            input.fill(&mut row)?;
            index.codes.set(node, bytemuck::cast_slice(&row));
        }
        for _ in 0..count {
            let scale =
                Scale { scale: f32::from_le_bytes(input.take()?), bias: f32::from_le_bytes(input.take()?) };
            if !(scale.scale.is_finite() && scale.bias.is_finite()) {
                return Err(Stop::Damaged("a scale is not finite"));
            }
            index.scales.push(scale);
        }
        index.read_links(input)?;
        index.read_bits(input)?;
        index.levels = levels;
        let (node, level) = (entry as u32, (entry >> 32) as usize);
        if entry != NOWHERE && (node as usize >= count || index.links.level(node) != level) {
            return Err(Stop::Damaged("searches begin at a node that is not there"));
        }
        index.entry = entry.into();
        Ok((index, stamp))
    }

    fn read_links(&mut self, input: &mut In<impl Read>) -> Result<(), Stop> {
        let count = self.len();
        let mut levels = vec![0u8; count];
        input.fill(&mut levels)?;
        for (node, &level) in (0u32..).zip(&levels) {
            if usize::from(level) > LEVELS {
                return Err(Stop::Damaged("a node has too many levels"));
            }
            self.links.open(node, level.into());
        }
        let mut ids = Vec::new();
        for (node, &level) in (0u32..).zip(&levels) {
            for level in 0..=usize::from(level) {
                let [links] = input.take()?;
                if usize::from(links) > self.links.room(level) {
                    return Err(Stop::Damaged("a node has too many links"));
                }
                ids.clear();
                for _ in 0..links {
                    ids.push(u32::from_le_bytes(input.take()?));
                }
                let there = |to: &u32| levels.get(*to as usize).is_some_and(|top| usize::from(*top) >= level);
                if !ids.iter().all(there) {
                    return Err(Stop::Damaged("a link leads to a node that is not there"));
                }
                self.links.set(node, level, &ids);
            }
        }
        Ok(())
    }

    fn read_bits(&mut self, input: &mut In<impl Read>) -> Result<(), Stop> {
        let count = self.len() as u32;
        let mut sets = [(); 3].map(|()| Bits::default());
        for bits in &mut sets {
            for from in (0..count).step_by(64) {
                let word = u64::from_le_bytes(input.take()?);
                let members = (0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| from + bit);
                members.for_each(|node| {
                    bits.insert(node);
                });
            }
        }
        let [gone, free, fresh] = sets;
        if fresh.iter().any(|node| node >= count || free.has(node)) {
            return Err(Stop::Damaged("what is to be linked is not there"));
        }
        if gone.iter().any(|node| node >= count) || !free.iter().all(|node| gone.has(node)) {
            return Err(Stop::Damaged("what was removed is not there"));
        }
        (self.gone, self.free, self.fresh) = (gone, free, fresh);
        Ok(())
    }
}

/// A file that is written, and the checksum of what was.
struct Out<W> {
    file: W,
    check: Hasher,
}

impl<W: Write> Out<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check.update(bytes);
        self.file.write_all(bytes)
    }
}

/// A file that is read, the checksum of what was, and the bytes that are left.
struct In<R> {
    file: R,
    check: Hasher,
    left: u64,
}

impl<R: Read> In<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes)?;
        self.check.update(bytes);
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}
