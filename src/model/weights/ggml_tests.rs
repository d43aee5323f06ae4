//! Files of whisper.cpp that are sound, and files that lie.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::Error;
use super::ggml::GgmlFile;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/asr/formats/ggml-small.bin")
}

fn open(bytes: &[u8]) -> Result<GgmlFile, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ggml-x.bin");
    fs::write(&path, bytes).unwrap();
    GgmlFile::open(&path)
}

/// A file of one matrix (2, 64).
fn file(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = b"lmgg".to_vec();
    out.extend([0; 11 * 4 + 2 * 4 + 4]);
    for field in [2, 1, kind, 64, 2] {
        out.extend(field.to_le_bytes());
    }
    [&out[..], b"w", data].concat()
}

#[test]
fn every_quantisation_is_read_as_it_was_written() {
    let values: Vec<f32> = (0..128).map(|i| (i as f32 * 0.37).sin()).collect();
    let tensor = Tensor::from_vec(values, (2, 64), &Device::Cpu).unwrap();
    for (kind, dtype) in [
        (0, GgmlDType::F32),
        (1, GgmlDType::F16),
        (2, GgmlDType::Q4_0),
        (3, GgmlDType::Q4_1),
        (6, GgmlDType::Q5_0),
        (7, GgmlDType::Q5_1),
        (8, GgmlDType::Q8_0),
    ] {
        let quantised = QTensor::quantize(&tensor, dtype).unwrap();
        let want = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ggml-x.bin");
        let data = quantised.data().unwrap();
        fs::write(&path, file(kind, &data)).unwrap();
        let mut out = Vec::new();
        let read = GgmlFile::open(&path).unwrap();
        read.append_f32("w", &[2, 64], &mut out).unwrap();
        assert_eq!(out, want.to_vec1::<f32>().unwrap(), "{dtype:?}");
        assert!(
            read.append_f32("w", &[64, 2], &mut out).is_err()
                && read.append_f32("v", &[1], &mut out).is_err()
        );
        assert!(open(&file(kind, &data[1..])).is_err(), "{dtype:?} cut short");
    }
    assert!(open(&file(16, &[])).unwrap_err().to_string().contains("type 16"));
}

#[test]
fn lies_are_seen() {
    let sound = fs::read(golden()).unwrap();
    let file = GgmlFile::open(&golden()).unwrap();
    assert_eq!((file.size("n_vocab"), file.size("n_mels"), file.size("n_none")), (Some(70), Some(80), None));
    for at in (0..48).chain([200, 2000, sound.len() - 1]) {
        assert!(open(&sound[..at]).is_err(), "cut at {at}");
    }
    // Mel filters, vocabulary, the length of a token, the rank of the first tensor.
    for at in [48, 48 + 40, 48 + 44, 48 + 40 + 4 + 3 * 4 + 5] {
        let mut huge = sound.clone();
        huge[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = open(&huge).unwrap_err().to_string();
        assert!(error.contains("are left") || error.contains("is believed"), "{error}");
    }
    assert!(open(b"GGUF").unwrap_err().to_string().contains("whisper.cpp"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..4000, any::<u8>()), 1..6)) {
        let mut bytes = fs::read(golden()).unwrap();
        for (at, value) in flips {
            bytes[at] = value;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ggml-x.bin");
        fs::write(&path, bytes).unwrap();
        if let Ok(file) = GgmlFile::open(&path) {
            for name in file.names() {
                let _ = file.append_f32(name, file.shape(name).unwrap(), &mut Vec::new());
            }
        }
    }
}
