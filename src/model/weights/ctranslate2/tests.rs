//! A small file written by hand, then cut and bent in every way.

use std::io::Write;

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

struct Writer(Vec<u8>);

impl Writer {
    fn new(version: u32, spec: &str, count: u32) -> Writer {
        let mut w = Writer(version.to_le_bytes().to_vec());
        w.string(spec);
        w.0.extend(3u32.to_le_bytes());
        w.0.extend(count.to_le_bytes());
        w
    }

    fn string(&mut self, s: &str) {
        self.0.extend((s.len() as u16 + 1).to_le_bytes());
        self.0.extend(s.as_bytes());
        self.0.push(0);
    }

    fn variable(&mut self, name: &str, shape: &[u32], dtype: u8, data: &[u8]) {
        self.string(name);
        self.0.push(shape.len() as u8);
        shape.iter().for_each(|d| self.0.extend(d.to_le_bytes()));
        self.0.push(dtype);
        self.0.extend((data.len() as u32).to_le_bytes());
        self.0.extend(data);
    }

    fn aliases(&mut self, pairs: &[(&str, &str)]) {
        self.0.extend((pairs.len() as u32).to_le_bytes());
        for (alias, target) in pairs {
            self.string(alias);
            self.string(target);
        }
    }
}

fn le<T: Copy, const N: usize>(values: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| to(v)).collect()
}

fn valid() -> Vec<u8> {
    let mut w = Writer::new(6, "WhisperSpec", 9);
    w.variable("f32", &[2, 3], 0, &le(&[1.0f32, -2.0, 0.5, 4.0, 8.0, 16.0], f32::to_le_bytes));
    w.variable("f16", &[3], 4, &le(&[1.0f32, 2.5, -3.0], |v| f16::from_f32(v).to_le_bytes()));
    w.variable("bf16", &[2], 5, &le(&[1.0f32, -0.5], |v| bf16::from_f32(v).to_le_bytes()));
    w.variable("i8", &[2, 2], 1, &[127, 0x81, 64, 0]);
    w.variable("i8_scale", &[2], 0, &le(&[127.0f32, 64.0], f32::to_le_bytes));
    w.variable("i16", &[2, 2], 2, &le(&[100i16, -100, 50, 0], i16::to_le_bytes));
    w.variable("i16_scale", &[], 0, &100.0f32.to_le_bytes());
    w.variable("heads", &[], 2, &8i16.to_le_bytes());
    w.variable("nan", &[2], 0, &le(&[1.0f32, f32::NAN], f32::to_le_bytes));
    w.aliases(&[("again", "f32"), ("tied", "i8")]);
    w.0
}

fn open(bytes: &[u8]) -> Result<Ct2, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    File::create(&path).unwrap().write_all(bytes).unwrap();
    Ct2::open(dir.path(), "WhisperSpec")
}

#[test]
fn reads_every_type_and_alias() {
    let ct2 = open(&valid()).unwrap();
    assert_eq!(ct2.revision(), 3);
    assert_eq!(ct2.names().count(), 9);
    assert_eq!(ct2.read_f32("f32", &[2, 3]).unwrap(), [1.0, -2.0, 0.5, 4.0, 8.0, 16.0]);
    assert_eq!(ct2.read_f32("again", &[2, 3]).unwrap(), [1.0, -2.0, 0.5, 4.0, 8.0, 16.0]);
    assert_eq!(ct2.read_f32("f16", &[3]).unwrap(), [1.0, 2.5, -3.0]);
    assert_eq!(ct2.read_f32("bf16", &[2]).unwrap(), [1.0, -0.5]);
    assert_eq!(ct2.read_f32("i8", &[2, 2]).unwrap(), [1.0, -1.0, 1.0, 0.0]);
    assert_eq!(ct2.read_f32("tied", &[2, 2]).unwrap(), [1.0, -1.0, 1.0, 0.0]);
    assert_eq!(ct2.read_f32("i16", &[2, 2]).unwrap(), [1.0, -1.0, 0.5, 0.0]);
    assert_eq!(ct2.integer("heads").unwrap(), Some(8));
    assert_eq!(ct2.integer("absent").unwrap(), None);
    assert_eq!(ct2.shape("tied_scale"), Some(&[2][..]));
    assert_eq!(ct2.dtype("f16"), Some(Dtype::F16));
    let tensor = ct2.tensor_f32("f32", &[2, 3], &Device::Cpu).unwrap();
    assert_eq!(tensor.dims(), [2, 3]);
}

#[test]
fn a_long_variable_crosses_chunks_intact() {
    let values: Vec<f32> = (0..400_000).map(|i| (i % 1000) as f32).collect();
    let mut w = Writer::new(6, "WhisperSpec", 1);
    w.variable("long", &[400, 1000], 4, &le(&values, |v| f16::from_f32(v).to_le_bytes()));
    w.aliases(&[]);
    assert!(open(&w.0).unwrap().read_f32("long", &[400, 1000]).unwrap() == values);
}

#[test]
fn says_what_is_wrong_with_a_variable() {
    let ct2 = open(&valid()).unwrap();
    assert!(matches!(ct2.read_f32("f32", &[3, 2]), Err(Error::Shape { .. })));
    assert!(matches!(ct2.read_f32("absent", &[1]), Err(Error::Missing { .. })));
    let nan = ct2.read_f32("nan", &[2]).unwrap_err().to_string();
    assert!(nan.contains("nan: element 1 is not a finite number"), "{nan}");
    assert!(nan.contains("model.bin") && nan.contains("download it again"), "{nan}");
}

#[test]
fn refuses_other_versions_and_specifications() {
    let old = open(&Writer::new(2, "WhisperSpec", 0).0).unwrap_err();
    assert!(matches!(old, Error::Version { found: 2, .. }), "{old}");
    let other = open(&Writer::new(6, "TransformerSpec", 0).0).unwrap_err();
    assert!(matches!(&other, Error::Spec { found, .. } if found == "TransformerSpec"), "{other}");
    assert!(open(b"").is_err() && open(b"GGUF\x03\0\0\0").is_err());
}

#[test]
fn refuses_lies() {
    type Lie = fn(&mut Writer);
    let lies: [(&str, Lie); 6] = [
        ("takes more than it has", |w| {
            w.variable("x", &[4], 0, &[0; 12]);
            w.aliases(&[]);
        }),
        ("product overflows", |w| w.variable("x", &[u32::MAX; 8], 0, &[])),
        ("unknown element type", |w| w.variable("x", &[1], 9, &[0])),
        ("rank", |w| w.variable("x", &[1; 9], 1, &[0])),
        ("alias of nothing", |w| {
            w.variable("x", &[1], 1, &[0]);
            w.aliases(&[("y", "z")]);
        }),
        ("bytes after the end", |w| {
            w.variable("x", &[1], 1, &[0]);
            w.aliases(&[]);
            w.0.push(0);
        }),
    ];
    for (what, lie) in lies {
        let mut w = Writer::new(6, "WhisperSpec", 1);
        lie(&mut w);
        assert!(matches!(open(&w.0), Err(Error::Invalid { .. })), "{what}");
    }
    let huge = Writer::new(6, "WhisperSpec", u32::MAX);
    assert!(matches!(open(&huge.0), Err(Error::Invalid { .. })));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = valid();
    for len in 0..bytes.len() {
        assert!(open(&bytes[..len]).is_err(), "cut at {len} of {}", bytes.len());
    }
}

proptest! {
    /// Whatever is overwritten, reading ends in values of the promised count or in an error.
    #[test]
    fn mutations_never_panic(at in 0usize..400, with in proptest::collection::vec(any::<u8>(), 1..5)) {
        let mut bytes = valid();
        let at = at % bytes.len();
        let end = (at + with.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&with[..end - at]);
        if let Ok(ct2) = open(&bytes) {
            let names: Vec<String> = ct2.names().map(str::to_owned).collect();
            for name in &names {
                let shape = ct2.shape(name).unwrap().to_vec();
                if let Ok(values) = ct2.read_f32(name, &shape) {
                    prop_assert_eq!(values.len(), shape.iter().product::<usize>());
                }
                let _ = ct2.integer(name);
            }
        }
    }
}
