//! Points as bytes: what lies in the database.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format` | the version of this table, u32 |
//! | `meta` | `epoch` | 16 random bytes, others after each restore: indexes of another epoch are not this store's |
//! | `meta` | `next` | the number of the next collection, u32 |
//! | `collections` | name | the collection's number, u32, and its [`Spec`](crate::types::store::Spec) as JSON |
//! | `states` | collection | changes so far, u64; points, u64 |
//! | `ids` | collection, id | the point's number |
//! | `records` | collection, number | a [`Record`] as JSON, sealed |
//! | `vectors` | collection, number | the vector, f32 or f16 by the collection's precision, sealed |
//! | `changes` | collection, change | the numbers that it touched, u32 each |
//!
//! Numbers are little-endian. What is sealed begins with the CRC-32 of its key (collection and number, u32 each) and of
//! what follows, so that what was damaged, or lies under another key, is told. Format 1 is the first.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::types::store::{Precision, Record};

/// The version that is written.
pub const FORMAT: u32 = 1;

/// The number of a collection and of a point in it.
pub type Key = (u32, u32);

fn check(key: Key, bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.0.to_le_bytes());
    hasher.update(&key.1.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

/// Puts the check before the bytes, which begin with room for it.
fn seal(key: Key, mut bytes: Vec<u8>) -> Vec<u8> {
    let check = check(key, bytes.get(4..).unwrap_or_default());
    bytes.iter_mut().zip(check).for_each(|(byte, check)| *byte = check);
    bytes
}

/// The bytes after the check; `None` where it is another.
fn opened(key: Key, sealed: &[u8]) -> Option<&[u8]> {
    let (found, bytes) = sealed.split_first_chunk::<4>()?;
    (*found == check(key, bytes)).then_some(bytes)
}

/// A record as it is kept.
pub fn write_record(key: Key, record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    // Neither its keys nor its values are such that JSON cannot hold them.
    if let Ok(json) = serde_json::to_vec(record) {
        bytes.extend(json);
    }
    seal(key, bytes)
}

/// A record as it was kept; `None` where it is damaged.
pub fn read_record(key: Key, sealed: &[u8]) -> Option<Record> {
    serde_json::from_slice(opened(key, sealed)?).ok()
}

/// A vector as it is kept.
pub fn write_vector(key: Key, vector: &[f32], precision: Precision) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    match precision {
        Precision::F32 => bytes.extend(vector.iter().flat_map(|v| v.to_le_bytes())),
        Precision::F16 | Precision::Int8 => {
            bytes.extend(vector.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
        }
    }
    seal(key, bytes)
}

/// A vector as it was kept, of `dim` dimensions; `None` where it is damaged.
pub fn read_vector(key: Key, sealed: &[u8], dim: usize, precision: Precision) -> Option<Vec<f32>> {
    let bytes = opened(key, sealed)?;
    let vector: Vec<f32> = match precision {
        Precision::F32 => bytes.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect(),
        Precision::F16 | Precision::Int8 => {
            let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|v| f16::from_le_bytes(*v)).collect();
            let mut vector = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut vector);
            vector
        }
    };
    (vector.len() == dim).then_some(vector)
}

/// Numbers as they are kept.
pub fn write_numbers(numbers: impl Iterator<Item = u32>) -> Vec<u8> {
    numbers.flat_map(u32::to_le_bytes).collect()
}

/// Numbers as they were kept.
pub fn read_numbers(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_or_lies_elsewhere_is_told() {
        let record =
            Record { id: "a".into(), tags: vec!["x".into()], text: "words".into(), ..Record::default() };
        let sealed = write_record((1, 2), &record);
        assert_eq!(read_record((1, 2), &sealed), Some(record));
        assert_eq!(read_record((1, 3), &sealed), None);
        assert_eq!(read_record((1, 2), &sealed[..3]), None);
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 4;
            assert_eq!(read_record((1, 2), &other), None, "{at}");
        }
        for precision in [Precision::F32, Precision::F16, Precision::Int8] {
            let sealed = write_vector((1, 2), &[1.0, -0.5, 0.25], precision);
            assert_eq!(sealed.len(), if precision == Precision::F32 { 16 } else { 10 });
            assert_eq!(read_vector((1, 2), &sealed, 3, precision), Some(vec![1.0, -0.5, 0.25]));
            assert_eq!(read_vector((1, 2), &sealed, 4, precision), None);
            assert_eq!(read_vector((2, 2), &sealed, 3, precision), None);
        }
    }
}
