//! The network against WeSpeaker's own, as pyannote has it (`tests/golden/speaker/resnet34`).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use crate::model::speaker::testing::{
    changed, cosine, every_tensor_is_needed, golden, installed, refusal,
    voices_are_where_the_reference_has_them,
};
use crate::model::speaker::{BINS, Loaded, load};
use crate::ops::testing::noise;
use crate::types::model::Kind;

const CHECKPOINT: &str = "speaker/resnet34/avg_model.pt";

fn model() -> Loaded {
    load(&installed(golden(CHECKPOINT), "resnet34", Kind::Speaker), &Device::Cpu).unwrap()
}

#[test]
fn voices_are_where_wespeaker_has_them() {
    voices_are_where_the_reference_has_them("speaker/resnet34/golden.json", model);
}

#[test]
fn pyannotes_names_are_the_same_model() {
    let rename = |tensors: &mut HashMap<String, Tensor>| {
        *tensors = tensors.drain().map(|(name, tensor)| (format!("resnet.{name}"), tensor)).collect();
    };
    let mut renamed = changed(CHECKPOINT, "resnet34", rename).0.unwrap();
    let mut loaded = model();
    assert_eq!(renamed.front, loaded.front);
    let rows = vec![noise(BINS * 12, 1).into()];
    assert_eq!(renamed.model.step(&rows).unwrap(), loaded.model.step(&rows).unwrap());
}

#[test]
fn the_fewest_frames_have_a_vector() {
    let mut loaded = model();
    let rows = vec![noise(BINS * loaded.front.least_frames, 1).into()];
    let got = loaded.model.step(&rows).unwrap();
    assert!((cosine(&got[0], &got[0]) - 1.0).abs() < 1e-6);
    let error = loaded.model.step(&vec![noise(BINS * 9, 1).into()]).unwrap_err().to_string();
    assert!(error.contains("at least 10"), "{error}");
}

#[test]
fn what_is_no_such_network_is_refused() {
    // The head of training is not read.
    every_tensor_is_needed(CHECKPOINT, "resnet34", &["projection.weight"]);
    // Blocks of three convolutions, as ResNet50 has them.
    let one = |_: &Tensor| Some(Tensor::zeros((2, 2, 1, 1), DType::F32, &Device::Cpu).unwrap());
    let error = refusal(CHECKPOINT, "resnet34", "layer1.0.conv1.weight", one);
    assert!(error.contains("layer1.0.conv1.weight has shape [2, 2, 1, 1]"), "{error}");
    let second = |tensors: &mut HashMap<String, Tensor>| {
        let weight = Tensor::zeros((16, 16), DType::F32, &Device::Cpu).unwrap();
        tensors.insert("seg_2.weight".to_owned(), weight);
    };
    let error = changed(CHECKPOINT, "resnet34", second).0.err().unwrap().to_string();
    assert!(error.contains("seg_2.weight"), "{error}");
}
