//! What the tests of the architectures share: recordings of the goldens, and how near a vector has to lie.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::*;
use crate::audio::{self, Fbank};
use crate::types::model::{Format, Kind};

/// A file of the goldens.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// Values of a file of little-endian f32.
pub(crate) fn floats(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(golden(name)).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The first seconds of a recording that is shared, at 16 kHz; `None`, with a word, where it is not here.
pub(crate) fn samples(file: &str, seconds: Option<f64>) -> Option<Vec<f32>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(file);
    if !path.is_file() {
        println!("skipped: {file} is not here");
        return None;
    }
    let mut all = Vec::new();
    let mut keep = |samples: &[f32]| {
        all.extend_from_slice(samples);
        Ok(())
    };
    audio::decode(File::open(&path).unwrap(), Some(file), &audio::Limits::default(), &mut keep).unwrap();
    all.truncate(seconds.map_or(usize::MAX, |s| (s * 16_000.0).round() as usize));
    Some(all)
}

/// What a model hears of samples.
pub(crate) fn heard(samples: &[f32], features: Features) -> Arc<[f32]> {
    Fbank::new(features).energies(samples).into()
}

pub(crate) fn installed(path: PathBuf, architecture: &str, kind: Kind) -> Installed {
    Installed {
        id: "model".to_owned(),
        aliases: Vec::new(),
        kind,
        architecture: architecture.to_owned(),
        format: Format::Torch,
        path,
        bytes: 0,
        created: 0,
        owner: String::new(),
    }
}

/// The cosine of two vectors of any length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}
