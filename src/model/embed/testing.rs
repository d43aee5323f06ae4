//! What tests of several networks share.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::types::model::{Format, Installed, Kind};

/// A text, its tokens and its vector by the reference implementation.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub text: String,
    pub ids: Vec<u32>,
    pub vector: Vec<f32>,
}

/// A path below the golden files.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/embed").join(name)
}

/// A golden file.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// A model that lies at `path`.
pub(crate) fn installed(path: &Path, format: Format, kind: Kind) -> Installed {
    Installed {
        id: "model".to_owned(),
        aliases: Vec::new(),
        kind,
        architecture: String::new(),
        format,
        path: path.to_owned(),
        bytes: 0,
        created: 0,
        owner: String::new(),
    }
}

/// The largest difference of two vectors' values.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Holds a model against its golden file: its tokens exactly, its vectors within `tolerance`; and each row alone against
/// the same in company, to the last bit.
#[track_caller]
pub(crate) fn agrees(path: &Path, format: Format, file: &str, tolerance: f32) {
    let golden: Vec<Golden> = read(file);
    let mut loaded = super::load(&installed(path, format, Kind::Embed), &candle_core::Device::Cpu).unwrap();
    let encode = |g: &Golden| loaded.front.tokenizer.encode(&g.text).unwrap();
    let rows: Vec<Vec<u32>> = golden.iter().map(encode).collect();
    for (row, g) in rows.iter().zip(&golden) {
        assert_eq!(row, &g.ids, "tokens of {:?}", g.text);
    }
    let vectors = loaded.model.step(&rows).unwrap();
    for ((vector, g), row) in vectors.iter().zip(&golden).zip(&rows) {
        let far = distance(vector, &g.vector);
        assert!(far < tolerance, "{far} for {:?}", g.text);
        let alone = loaded.model.step(&vec![row.clone()]).unwrap();
        assert_eq!(&alone[0], vector, "{:?} depends on its neighbours", g.text);
    }
    // As a GPU computes, here on the CPU.
    let vectors = crate::ops::testing::composed(|| {
        let installed = installed(path, format, Kind::Embed);
        super::load(&installed, &candle_core::Device::Cpu).unwrap().model.step(&rows).unwrap()
    });
    for (vector, g) in vectors.iter().zip(&golden) {
        let far = distance(vector, &g.vector);
        assert!(far < tolerance, "{far} for {:?} composed", g.text);
    }
}
