//! The network against SpeechBrain's own (`tests/golden/speaker/ecapa`).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use crate::model::speaker::testing::{
    changed, cosine, every_tensor_is_needed, golden, installed, refusal,
    voices_are_where_the_reference_has_them,
};
use crate::model::speaker::{BINS, Loaded, load};
use crate::ops::testing::noise;
use crate::types::model::Kind;

const CHECKPOINT: &str = "speaker/ecapa/embedding_model.ckpt";

fn model() -> Loaded {
    load(&installed(golden(CHECKPOINT), "ecapa-tdnn", Kind::Speaker), &Device::Cpu).unwrap()
}

#[test]
fn voices_are_where_speechbrain_has_them() {
    voices_are_where_the_reference_has_them("speaker/ecapa/golden.json", model);
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

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn what_is_no_such_network_is_refused() {
    every_tensor_is_needed(CHECKPOINT, "ecapa-tdnn", &[]);
    let refused = |name: &str, shape: &[usize], says: &str| {
        let error = refusal(CHECKPOINT, "ecapa-tdnn", name, |_| Some(zeros(shape)));
        assert!(error.contains(name) && error.contains(says), "{error}");
    };
    refused("blocks.0.conv.conv.weight", &[16, 80, 4], "has 4 taps");
    refused("blocks.0.conv.conv.weight", &[16, 80, 21], "has 21 taps");
    refused("blocks.3.res2net_block.blocks.2.conv.conv.weight", &[2, 2, 7], "has 7 taps 4 apart");
    refused("blocks.1.res2net_block.blocks.0.conv.conv.weight", &[3, 2, 3], "has 3 outputs");
    refused("blocks.1.res2net_block.blocks.0.conv.conv.weight", &[16, 2, 3], "has 16 outputs");
    // Without the statistics of all frames.
    refused("asp.tdnn.conv.conv.weight", &[8, 48, 1], "has shape [8, 48, 1]");
}

/// A block of other channels than what is before it has a product on the way past it.
#[test]
fn blocks_may_change_their_width() {
    let widen = |tensors: &mut HashMap<String, Tensor>| {
        let (weight, bias) = ("blocks.0.conv.conv.weight", "blocks.0.conv.conv.bias");
        tensors.insert(
            weight.to_owned(),
            Tensor::from_vec(noise(24 * 80 * 5, 1), (24, 80, 5), &Device::Cpu).unwrap(),
        );
        tensors.insert(bias.to_owned(), zeros(&[24]));
        for (end, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            let ones = Tensor::full(value as f32, 24, &Device::Cpu).unwrap();
            tensors.insert(format!("blocks.0.norm.norm.{end}"), ones);
        }
        let first = "blocks.1.tdnn1.conv.conv.weight";
        tensors.insert(
            first.to_owned(),
            Tensor::from_vec(noise(16 * 24, 2), (16, 24, 1), &Device::Cpu).unwrap(),
        );
    };
    let error = changed(CHECKPOINT, "ecapa-tdnn", widen).0.err().unwrap().to_string();
    assert!(error.contains("blocks.1.shortcut.conv.weight is missing"), "{error}");
    let whole = |tensors: &mut HashMap<String, Tensor>| {
        widen(tensors);
        tensors.insert("blocks.1.shortcut.conv.weight".to_owned(), zeros(&[16, 24, 1]));
        tensors.insert("blocks.1.shortcut.conv.bias".to_owned(), zeros(&[16]));
    };
    let mut loaded = changed(CHECKPOINT, "ecapa-tdnn", whole).0.unwrap();
    let got = loaded.model.step(&vec![noise(BINS * 20, 1).into()]).unwrap();
    assert_eq!(got[0].len(), 12);
}
