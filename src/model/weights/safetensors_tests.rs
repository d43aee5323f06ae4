//! Files that are sound, and files that lie.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use half::{bf16, f16};
use proptest::prelude::*;

use super::Error;
use super::safetensors::SafetensorsFolder;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn sound() -> Vec<u8> {
    let mut data: Vec<u8> = [1.5f32, -2.0, 0.0, 7.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    data.extend([1.0f32, -0.5].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
    data.extend([3.0f32, 1e30].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()));
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "h":{"dtype":"F16","shape":[2],"data_offsets":[16,20]},
        "b":{"dtype":"BF16","shape":[2],"data_offsets":[20,24]},"__metadata__":{"format":"pt"}}"#;
    file(header, &data)
}

fn folder(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    dir
}

fn read(dir: &Path, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
    let tensor = SafetensorsFolder::open(dir)?.tensor(name, shape, DType::F32, &Device::Cpu)?;
    Ok(tensor.flatten_all().unwrap().to_vec1().unwrap())
}

/// The message of the failure to read all tensors of a file.
fn refusal(bytes: &[u8]) -> String {
    let dir = folder(bytes);
    let err = read(dir.path(), "a", &[2, 2]).expect_err("a broken file was read");
    let text = err.to_string();
    assert!(text.contains("model.safetensors"), "no file named in {text}");
    text
}

#[test]
fn a_file_of_another_name_is_found_where_it_is_the_only_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("network_16k.safetensors"), sound()).unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    assert_eq!(read(dir.path(), "a", &[2, 2]).unwrap(), [1.5, -2.0, 0.0, 7.0]);
    fs::write(dir.path().join("network_8k.safetensors"), sound()).unwrap();
    let refused = SafetensorsFolder::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("model.safetensors: open"), "{refused}");
}

#[test]
fn reads_the_three_types() {
    let dir = folder(&sound());
    assert_eq!(read(dir.path(), "a", &[2, 2]).unwrap(), [1.5, -2.0, 0.0, 7.0]);
    assert_eq!(read(dir.path(), "h", &[2]).unwrap(), [1.0, -0.5]);
    assert_eq!(read(dir.path(), "b", &[2]).unwrap(), [3.0, bf16::from_f32(1e30).to_f32()]);
    let open = SafetensorsFolder::open(dir.path()).unwrap();
    assert_eq!(open.shape("a"), Some(&[2, 2][..]));
    assert_eq!(open.shape("z"), None);
    assert_eq!(open.bytes(), 24);
    assert!(matches!(read(dir.path(), "z", &[1]), Err(Error::Missing { .. })));
    assert!(matches!(read(dir.path(), "a", &[4]), Err(Error::Shape { .. })));
}

#[test]
fn lies_are_told_apart() {
    let claim = |dtype: &str, shape: &str, end: u64, have: usize| {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        refusal(&file(&header, &vec![0; have]))
    };
    assert!(refusal(b"").contains("header length"));
    assert!(refusal(&u64::MAX.to_le_bytes()).contains("header length"));
    assert!(refusal(&[&(16u64 << 20).to_le_bytes()[..], b"{}"].concat()).contains("header length"));
    assert!(refusal(&file("not json", &[])).contains("header"));
    assert!(claim("F32", "[2,2]", 16, 15).contains("16 bytes declared, 15 there"));
    assert!(claim("F32", "[2,2]", 16, 17).contains("16 bytes declared, 17 there"));
    assert!(claim("F32", "[2,3]", 16, 16).contains("header"));
    assert!(claim("F32", "[4294967296,4294967296,4294967296]", 16, 16).contains("header"));
    assert!(claim("F32", "[2,2]", 18_446_744_073_709_551_615, 16).contains("header"));
    assert!(claim("I64", "[2,1]", 16, 16).contains("shape"));
    assert!(claim("F64", "[2,2]", 32, 32).contains("F64"));
    let overlap = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
    assert!(refusal(&file(overlap, &[0; 16])).contains("header"));
}

#[test]
fn values_that_are_not_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut bytes = sound();
        let at = bytes.len() - 24 + 8;
        bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
        let text = refusal(&bytes);
        assert!(text.contains("tensor a") && text.contains("value 2"), "{text}");
    }
}

#[test]
fn shards_are_found_through_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, value: f32| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        file(&header, &value.to_le_bytes())
    };
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    put("x-1.safetensors", &one("a", 1.0));
    put("x-2.safetensors", &one("b", 2.0));
    let index =
        |map: &str| put("model.safetensors.index.json", format!(r#"{{"weight_map":{map}}}"#).as_bytes());
    index(r#"{"a":"x-1.safetensors","b":"x-2.safetensors"}"#);
    assert_eq!(read(dir.path(), "a", &[1]).unwrap(), [1.0]);
    assert_eq!(read(dir.path(), "b", &[1]).unwrap(), [2.0]);
    for lie in [
        r#"{"a":"../x-1.safetensors"}"#,
        r#"{"a":"/etc/passwd"}"#,
        r#"{"a":"x-1.safetensors","c":"x-2.safetensors"}"#,
        r#"{}"#,
        r#"{"a":1}"#,
        r#"{"a":".."}"#,
    ] {
        index(lie);
        let text = read(dir.path(), "a", &[1]).expect_err(lie).to_string();
        assert!(text.contains("weight_map") || text.contains("tensor c"), "{text}");
    }
    put("x-2.safetensors", &one("a", 2.0));
    index(r#"{"a":"x-1.safetensors","b":"x-2.safetensors"}"#);
    assert!(read(dir.path(), "a", &[1]).is_err(), "one tensor in two files");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever the bytes are: an answer, and a refusal of every file that is cut short.
    #[test]
    fn mutated_files_are_read_or_refused(
        cut in 0usize..400, flips in prop::collection::vec((0usize..400, any::<u8>()), 0..4),
    ) {
        let mut bytes = sound();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let whole = bytes.len();
        bytes.truncate(cut.max(1));
        let dir = folder(&bytes);
        let open = SafetensorsFolder::open(dir.path());
        if let Ok(open) = open {
            for name in open.names() {
                let shape = open.shape(name).unwrap().to_vec();
                if let Ok(t) = open.tensor(name, &shape, DType::F32, &Device::Cpu) {
                    let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
                    prop_assert!(values.iter().all(|v| v.is_finite()));
                }
            }
        } else {
            prop_assert!(true, "refused, of {whole} bytes");
        }
    }

    #[test]
    fn every_cut_is_refused(cut in 0usize..300) {
        let mut bytes = sound();
        prop_assume!(cut < bytes.len());
        bytes.truncate(cut);
        prop_assert!(SafetensorsFolder::open(folder(&bytes).path()).is_err());
    }
}
