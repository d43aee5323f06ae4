//! What the tests of the architectures share: recordings of the goldens, and how near a vector has to lie.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::audio::{self, Fbank};
use crate::model::weights::torch::TorchFile;
use crate::ops::testing::composed;
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

/// The tensors of a checkpoint, changed, as a model of its own. The folder is gone when it is dropped.
pub(crate) fn changed(
    checkpoint: &str,
    architecture: &str,
    change: impl FnOnce(&mut HashMap<String, Tensor>),
) -> (Result<Loaded, Error>, tempfile::TempDir) {
    let file = TorchFile::open(&golden(checkpoint)).unwrap();
    let mut tensors = HashMap::new();
    for name in file.names().filter(|name| !name.ends_with("num_batches_tracked")) {
        let (shape, mut values) = (file.shape(name).unwrap(), Vec::new());
        file.append_f32(name, shape, &mut values).unwrap();
        tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    change(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    let mut installed = installed(folder.path().to_owned(), architecture, Kind::Speaker);
    installed.format = Format::Safetensors;
    (load(&installed, &Device::Cpu), folder)
}

/// Why a checkpoint is not loaded once a tensor is changed; to nothing, it is not there.
pub(crate) fn refusal(
    checkpoint: &str,
    architecture: &str,
    name: &str,
    to: impl FnOnce(&Tensor) -> Option<Tensor>,
) -> String {
    let change = |tensors: &mut HashMap<String, Tensor>| {
        let tensor = tensors.remove(name).unwrap_or_else(|| panic!("no tensor {name}"));
        tensors.extend(to(&tensor).map(|tensor| (name.to_owned(), tensor)));
    };
    match changed(checkpoint, architecture, change).0 {
        Ok(_) => panic!("{name} may be anything"),
        Err(error) => error.to_string(),
    }
}

/// Every tensor that a checkpoint has and a network needs: without it, and as one of another shape, the checkpoint is
/// refused by its name.
pub(crate) fn every_tensor_is_needed(checkpoint: &str, architecture: &str, spare: &[&str]) {
    let file = TorchFile::open(&golden(checkpoint)).unwrap();
    let needed = |name: &&str| !name.ends_with("num_batches_tracked") && !spare.contains(name);
    for name in file.names().filter(needed) {
        let error = refusal(checkpoint, architecture, name, |_| None);
        assert!(error.contains("missing") && error.contains(name), "{name}: {error}");
        let error = refusal(checkpoint, architecture, name, |t| Some(t.unsqueeze(0).unwrap()));
        assert!(error.contains("shape") && error.contains(name), "{name}: {error}");
    }
}

/// What a reference makes of a recording.
#[derive(Deserialize)]
pub(crate) struct Want {
    pub file: String,
    pub seconds: f64,
    pub embedding: Vec<f32>,
}

/// Holds a network against its reference's vectors, and against itself out of candle's operations.
pub(crate) fn voices_are_where_the_reference_has_them(goldens: &str, model: impl Fn() -> Loaded) {
    let wanted: BTreeMap<String, Want> = read(goldens);
    let mut loaded = model();
    let mut rows = Vec::new();
    for want in wanted.values() {
        let Some(samples) = samples(&want.file, Some(want.seconds)) else { return };
        rows.push(heard(&samples, loaded.front.features));
    }
    let got = loaded.model.step(&rows).unwrap();
    for ((name, want), got) in wanted.iter().zip(&got) {
        let alike = cosine(got, &want.embedding);
        println!("{name}: 1 - {:e}", 1.0 - alike);
        // FFmpeg resamples these with another filter, which is heard in the highest bins.
        let near = if name.starts_with("jfk") { 0.99 } else { 0.999_99 };
        assert!(alike > near, "{name}: {alike}");
        assert!((cosine(got, got) - 1.0).abs() < 1e-6 && got.len() == loaded.front.dimensions);
    }
    let alone = loaded.model.step(&vec![rows[1].clone()]).unwrap();
    assert_eq!(alone[0], got[1], "a row does not depend on the rows beside it");
    let short: Vec<_> = rows.iter().map(|row| row[..BINS * 140].into()).collect();
    let got = loaded.model.step(&short).unwrap();
    let want = composed(|| model().model.step(&short).unwrap());
    for (got, want) in got.iter().zip(&want) {
        assert!(cosine(got, want) > 0.999_99, "out of candle's operations");
    }
}

/// The cosine of two vectors of any length.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}
