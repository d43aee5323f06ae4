use candle_core::Device;

use super::*;
use crate::model::weights::gguf::{Field, Gguf};

#[test]
fn specs_are_parsed_and_mistakes_name_the_nearest() {
    let s = spec("Qwen2.5-7B:Q4_K_M").unwrap();
    assert_eq!((s.shape.name, s.quant), ("qwen2.5-7b", Quant::Q4KM));
    assert!(matches!(spec("qwen2.5-7c:q4_0"), Err(SpecError::Shape { nearest: "qwen2.5-7b", .. })));
    assert!(matches!(spec("tiny:q9"), Err(SpecError::Quant { .. })));
    assert!(matches!(spec("tiny"), Err(SpecError::Form(_))));
}

#[test]
fn sizes_are_those_of_the_real_files() {
    // Bytes of the published GGUF files, which add a head of some megabytes.
    for (text, published) in [
        ("qwen2.5-7b:q4_k_m", 4_683_073_536u64),
        ("mistral-7b:q4_k_m", 4_372_811_776),
        ("llama-3-8b:q4_k_m", 4_920_734_272),
    ] {
        let ours = spec(text).unwrap().bytes();
        let ratio = ours as f64 / published as f64;
        assert!((0.995..1.001).contains(&ratio), "{text}: {ours} against {published}");
    }
}

#[test]
fn every_mix_is_read_back_with_sane_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for shape in ["tiny", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3", "tiny-phi3"] {
        for (quant, _) in Quant::ALL {
            let s = spec(&format!("{shape}:{quant}")).unwrap();
            write(&s, &path, 7).unwrap();
            let gguf = Gguf::open(&path).unwrap();
            assert_eq!(gguf.architecture().unwrap(), s.shape.arch.name());
            assert_eq!(gguf.meta("tokenizer.ggml.tokens").strs().unwrap().len(), s.shape.vocab);
            assert_eq!(gguf.meta("nothing").opt(Field::u32).unwrap(), None);
            assert_eq!(gguf.tensors().len(), s.tensors().len());
            for t in s.tensors() {
                let q = gguf.qtensor_shaped(&t.name, &t.shape, &Device::Cpu).unwrap();
                let all =
                    q.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let n = all.len() as f64;
                let mean = all.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                let std = (all.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n - mean * mean).sqrt();
                if t.shape.len() == 2 {
                    let want = 1.0 / (t.shape[1] as f64).sqrt();
                    assert!(mean.abs() < 0.05 * want, "{shape}:{quant} {}: mean {mean}", t.name);
                    assert!((0.5..2.0).contains(&(std / want)), "{shape}:{quant} {}: std {std}", t.name);
                }
            }
        }
    }
}
