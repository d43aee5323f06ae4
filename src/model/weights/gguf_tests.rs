use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::model::weights::gguf_write::{TensorSpec, Writer};

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

/// A small file with every type of metadata, and its bytes.
fn small() -> Vec<u8> {
    let strs: StrArray = ["", "a", "héé"].into_iter().collect();
    let mut meta: Vec<(String, Value)> = vec![
        ("general.architecture".into(), Value::Str("llama".into())),
        ("u8".into(), Value::U8(1)),
        ("i8".into(), Value::I8(-1)),
        ("u16".into(), Value::U16(2)),
        ("i16".into(), Value::I16(-2)),
        ("u32".into(), Value::U32(3)),
        ("i32".into(), Value::I32(-3)),
        ("u64".into(), Value::U64(1 << 40)),
        ("i64".into(), Value::I64(-4)),
        ("f32".into(), Value::F32(1.5)),
        ("nan".into(), Value::F32(f32::NAN)),
        ("f64".into(), Value::F64(2.5)),
        ("bool".into(), Value::Bool(true)),
    ];
    let arrays = [
        Array::U8(vec![1, 2]),
        Array::I8(vec![-1]),
        Array::U16(vec![1]),
        Array::I16(vec![-1]),
        Array::U32(vec![1]),
        Array::I32(vec![-1, 5]),
        Array::U64(vec![1]),
        Array::I64(vec![-1]),
        Array::F32(vec![0.5]),
        Array::F64(vec![0.5]),
        Array::Bool(vec![true, false]),
        Array::Str(strs),
        Array::Array(vec![Array::U8(vec![7]), Array::Bool(vec![])]),
    ];
    meta.extend(arrays.into_iter().enumerate().map(|(i, a)| (format!("array.{i}"), Value::Array(a))));
    let tensors =
        vec![TensorSpec::new("w", &[3, 32], GgmlDType::Q8_0), TensorSpec::new("b", &[5], GgmlDType::F32)];
    let mut writer = Writer::begin(Vec::new(), Path::new("small"), &meta, tensors).unwrap();
    writer.tensor(|t, out| out.write_all(&vec![0x11; t.bytes().unwrap() as usize])).unwrap();
    writer
        .tensor(|_, out| [1f32, 2.0, 3.0, 4.0, 5.0].iter().try_for_each(|v| out.write_all(&v.to_le_bytes())))
        .unwrap();
    writer.finish().unwrap()
}

fn open(bytes: &[u8]) -> Result<Gguf, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Gguf::open(file.path())
}

/// Where `needle` begins.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|w| w == needle).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let gguf = open(&small()).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.meta("u64").value(), Some(&Value::U64(1 << 40)));
    assert_eq!(gguf.meta("i16").value(), Some(&Value::I16(-2)));
    assert_eq!(gguf.meta("u8").u32().unwrap(), 1);
    assert_eq!(gguf.meta("f64").f32().unwrap(), 2.5);
    assert_eq!(gguf.meta("array.5").i32s().unwrap(), [-1, 5]);
    assert_eq!(gguf.meta("array.11").strs().unwrap().iter().collect::<Vec<_>>(), ["", "a", "héé"]);
    let nested = Array::Array(vec![Array::U8(vec![7]), Array::Bool(vec![])]);
    assert_eq!(gguf.meta("array.12").value(), Some(&Value::Array(nested)));
    let b = gguf.tensor_f32("b", &[5], &Device::Cpu).unwrap();
    assert_eq!(b.to_vec1::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(gguf.expect_shape("w", &[3, 32]).unwrap().bytes, 102);
    assert!(matches!(gguf.expect_shape("w", &[32, 3]), Err(Error::Shape { .. })));
    assert!(matches!(gguf.require("none"), Err(Error::Missing { .. })));
}

#[test]
fn wrong_fields_are_named() {
    let gguf = open(&small()).unwrap();
    for (key, error) in [
        ("i8", gguf.meta("i8").u32().unwrap_err()),
        ("u64", gguf.meta("u64").u32().unwrap_err()),
        ("nan", gguf.meta("nan").f32().unwrap_err()),
        ("bool", gguf.meta("bool").str().unwrap_err()),
        ("missing", gguf.meta("missing").bool().unwrap_err()),
    ] {
        assert!(error.to_string().contains(&format!("field {key}")), "{error}");
    }
}

#[test]
fn lies_are_caught_by_name() {
    let good = small();
    let lie = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        match open(&bad) {
            Err(e @ (Error::Malformed { .. } | Error::Unsupported { .. })) => e.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let huge = [u64::MAX, 1 << 40, 1 << 26, good.len() as u64].map(u64::to_le_bytes);
    for n in &huge {
        assert!(lie(8, n).contains("tensor count"));
        assert!(lie(16, n).contains("metadata count"));
        assert!(lie(24, n).contains("key of metadata pair 0"));
        assert!(lie(find(&good, b"array.11") + 16, n).contains("metadata field array.11"));
        assert!(lie(find(&good, b"array.8") + 15, n).contains("metadata field array.8"));
    }
    assert!(lie(0, b"GGML").contains("not a GGUF file"));
    assert!(lie(4, &1u32.to_le_bytes()).contains("version 1"));
    assert!(lie(4, &3u32.to_be_bytes()).contains("big-endian"));
    // A description: name, rank, dimensions (innermost first), type, offset.
    let w = find(&good, b"\x01\0\0\0\0\0\0\0w") + 9;
    assert!(lie(w, &9u32.to_le_bytes()).contains("tensor w: rank 9"));
    assert!(lie(w + 4, &33u64.to_le_bytes()).contains("whole blocks"));
    assert!(lie(w + 4, &0u64.to_le_bytes()).contains("tensor w: dimension 0"));
    assert!(lie(w + 12, &u64::MAX.to_le_bytes()).contains("tensor w"));
    assert!(lie(w + 20, &200u32.to_le_bytes()).contains("unknown type 200"));
    assert!(lie(w + 20, &23u32.to_le_bytes()).contains("IQ4_XS is not supported"));
    assert!(lie(w + 24, &7u64.to_le_bytes()).contains("not a multiple of 32"));
    assert!(lie(w + 24, &(1u64 << 20).to_le_bytes()).contains("pass the end of the file"));
    assert!(lie(w + 24, &(u64::MAX - 31).to_le_bytes()).contains("tensor w"));
    assert!(lie(w + 40, b"w").contains("tensor w: described twice"));
}

#[test]
fn numbers_that_are_none_are_caught_at_load() {
    let mut bytes = small();
    let b = bytes.len() - 32;
    bytes[b + 4..b + 8].copy_from_slice(&f32::NAN.to_le_bytes());
    let gguf = open(&bytes).unwrap();
    let error = gguf.qtensor("b", &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("tensor b: not a finite number at or after element 1"), "{error}");
    let w = gguf.tensor("w").unwrap().offset as usize;
    bytes[w + 34..w + 36].copy_from_slice(&[0, 0x7c]);
    let error = open(&bytes).unwrap().qtensor("w", &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("tensor w: not a finite number at or after element 32"), "{error}");
}

#[test]
fn a_file_cut_short_after_opening_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = small();
    std::fs::write(file.path(), &bytes).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    file.as_file().set_len(bytes.len() as u64 - 64).unwrap();
    assert!(matches!(gguf.qtensor("b", &Device::Cpu), Err(Error::Malformed { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// Whatever a file holds, it is read or refused: no panic, no tensor outside it.
    #[test]
    fn damaged_files_are_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = small();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(gguf) = open(&bytes) {
            for info in gguf.tensors() {
                prop_assert!(info.offset + info.bytes <= bytes.len() as u64);
                let _ = gguf.qtensor(&info.name, &Device::Cpu);
            }
            let _ = crate::model::llm::tokenizer::tokenizer(&gguf);
        }
    }
}

/// A model in two parts, with what may be wrong with them.
fn split(dir: &Path, numbers: [(u16, u16); 2], names: [&str; 2], tensors: [&str; 2]) -> PathBuf {
    for i in 0..2 {
        let path = dir.join(names[i]);
        let mut meta = vec![
            ("split.no".to_owned(), Value::U16(numbers[i].0)),
            ("split.count".to_owned(), Value::U16(numbers[i].1)),
        ];
        if i == 0 {
            meta.push(("general.architecture".into(), Value::Str("llama".into())));
        }
        let spec = vec![TensorSpec::new(tensors[i], &[2], GgmlDType::F32)];
        let mut writer = Writer::begin(std::fs::File::create(&path).unwrap(), &path, &meta, spec).unwrap();
        writer.tensor(|_, out| out.write_all(bytemuck::cast_slice(&[i as f32, 7.0]))).unwrap();
        writer.finish().unwrap();
    }
    dir.join(names[0])
}

#[test]
fn a_split_model_is_read_as_one() {
    const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let dir = tempfile::tempdir().unwrap();
    let first = split(dir.path(), [(0, 2), (1, 2)], NAMES, ["a", "b"]);
    let gguf = Gguf::open(&first).unwrap();
    assert_eq!((gguf.architecture().unwrap(), gguf.tensors().len()), ("llama", 2));
    for (i, name) in ["a", "b"].into_iter().enumerate() {
        let values = gguf.tensor_f32(name, &[2], &Device::Cpu).unwrap();
        assert_eq!(values.to_vec1::<f32>().unwrap(), [i as f32, 7.0]);
    }
    let refused = |path: &Path, why: &str| {
        let error = Gguf::open(path).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&dir.path().join(NAMES[1]), "is part 2 of 2");
    refused(&split(dir.path(), [(0, 2), (0, 2)], NAMES, ["a", "b"]), "the file is not part 2 of 2");
    refused(&split(dir.path(), [(0, 2), (1, 2)], NAMES, ["a", "a"]), "is in two parts");
    refused(&split(dir.path(), [(0, 3), (1, 3)], NAMES, ["a", "b"]), "NAME-00001-of-00003.gguf");
    refused(
        &split(dir.path(), [(0, 2), (1, 2)], ["m.gguf", "n.gguf"], ["a", "b"]),
        "NAME-00001-of-00002.gguf",
    );
    let first = split(dir.path(), [(0, 2), (1, 2)], NAMES, ["a", "b"]);
    std::fs::remove_file(dir.path().join(NAMES[1])).unwrap();
    refused(&first, NAMES[1]);
}
