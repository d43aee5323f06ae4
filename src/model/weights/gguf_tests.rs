use super::*;

#[test]
fn reads_a_real_model() {
    let Some(home) = std::env::var_os("STENTOR_TEST_MODELS") else {
        println!("skipped: STENTOR_TEST_MODELS is not set");
        return;
    };
    let path = Path::new(&home).join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let gguf = Gguf::open(path).unwrap();
    assert_eq!(gguf.architecture().unwrap(), "llama");
    assert_eq!(gguf.meta("llama.block_count").u32().unwrap(), 30);
    assert_eq!(gguf.meta("tokenizer.ggml.tokens").strs().unwrap().len(), 49152);
    let info = gguf.expect_shape("blk.0.ffn_down.weight", &[576, 1536]).unwrap();
    assert_eq!(info.ggml_type, GgmlDType::Q4_1);
    for info in gguf.tensors() {
        let tensor = gguf.qtensor_shaped(&info.name, &info.shape, &Device::Cpu).unwrap();
        assert_eq!(tensor.storage_size_in_bytes() as u64, info.bytes);
    }
    let norm = gguf.tensor_f32("output_norm.weight", &[576], &Device::Cpu).unwrap();
    assert!(norm.to_vec1::<f32>().unwrap().iter().all(|v| v.is_finite()));
}
