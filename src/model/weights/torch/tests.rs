//! Checkpoints that are sound, that are damaged, and that mean harm.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use zip::write::SimpleFileOptions;

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/asr/formats/small.pt")
}

/// A checkpoint of a pickle and the storage `0`.
fn checkpoint(pickle: &[u8], storage: &[u8], method: zip::CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in [("x/data.pkl", pickle), ("x/data/0", storage)] {
        zip.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn open(bytes: &[u8]) -> Result<TorchFile, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pt");
    fs::write(&path, bytes).unwrap();
    TorchFile::open(&path)
}

fn open_pickle(pickle: &[u8]) -> Result<TorchFile, Error> {
    open(&checkpoint(pickle, &[0; 64], zip::CompressionMethod::Stored))
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// `{"w": tensor}` of a storage of `count` elements.
fn tensor(class: &str, count: u8, offset: u8, size: &[u8], stride: &[u8]) -> Vec<u8> {
    let tuple = |values: &[u8]| {
        let values: Vec<u8> = values.iter().flat_map(|&v| [b'K', v]).collect();
        [b"(", &values[..], b"t"].concat()
    };
    let mut out = b"\x80\x02}".to_vec();
    out.extend(text("w"));
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    out.extend(text("storage"));
    out.extend(format!("ctorch\n{class}\n").bytes());
    out.extend([text("0"), text("cpu"), vec![b'K', count]].concat());
    out.extend(b"tQ");
    out.extend([&[b'K', offset][..], &tuple(size), &tuple(stride)].concat());
    out.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    out
}

/// The message of the failure to read tensor `w`.
fn refusal(bytes: &[u8], shape: &[usize]) -> String {
    let read = |file: &TorchFile| file.append_f32("w", shape, &mut Vec::new());
    open(bytes).and_then(|file| read(&file)).unwrap_err().to_string()
}

#[test]
fn tensors_and_sizes_are_found() {
    let file = TorchFile::open(&golden()).unwrap();
    assert_eq!(file.integer("dims.n_audio_state"), Some(16));
    assert_eq!(file.shape("encoder.conv1.weight"), Some(&[16, 80, 3][..]));
    assert!(file.names().all(|name| name.starts_with("encoder.") || name.starts_with("decoder.")));

    let values: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let bytes = |pickle: &[u8]| checkpoint(pickle, &values, zip::CompressionMethod::Stored);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.pt");
    fs::write(&path, bytes(&tensor("FloatStorage", 4, 1, &[3, 1], &[1, 7]))).unwrap();
    let mut out = vec![9.0];
    TorchFile::open(&path).unwrap().append_f32("w", &[3, 1], &mut out).unwrap();
    assert_eq!(out, [9.0, 2.0, 3.0, 4.0]);

    for (pickle, shape, says) in [
        (tensor("FloatStorage", 4, 0, &[2, 2], &[1, 2]), [2, 2], "one after the other"),
        (tensor("LongStorage", 2, 0, &[2, 1], &[1, 1]), [2, 1], "is of type I64"),
        (tensor("FloatStorage", 4, 2, &[3, 1], &[1, 1]), [3, 1], "passes the end of data/0"),
        (tensor("FloatStorage", 9, 0, &[9, 1], &[1, 1]), [9, 1], "passes the end of data/0"),
        (tensor("FloatStorage", 4, 0, &[4, 1], &[1, 1]), [2, 2], "has shape [4, 1]"),
        (tensor("TypedStorage", 4, 0, &[4, 1], &[1, 1]), [4, 1], "torch.TypedStorage"),
    ] {
        let error = refusal(&bytes(&pickle), &shape);
        assert!(error.contains(says), "{error}");
    }
    let packed =
        checkpoint(&tensor("FloatStorage", 4, 0, &[4], &[1]), &values, zip::CompressionMethod::Deflated);
    assert!(refusal(&packed, &[4]).contains("is compressed"));
}

#[test]
fn nothing_is_run() {
    for (pickle, says) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R."[..], "asks for os.system"),
        (b"\x80\x02cbuiltins\neval\n.", "asks for builtins.eval"),
        (b"\x80\x02ctorch\nload\n.", "asks for torch.load"),
        (b"(S'id'\nios\nsystem\n.", "opcode 0x53"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "protocol 4"),
        (b"\x80\x02ccollections\nOrderedDict\nX\x01\0\0\0a\x85R.", "other arguments"),
        (b"\x80\x02N.", "holds no dict"),
        (b"\x80\x02h\x07.", "memo 7"),
        (b"\x80\x02(}s.", "the stack is empty"),
        (b"\x80\x02t.", "no mark"),
        (b"\x80\x02]X\xff\xff\xff\xff", "inside a value"),
        (b"\x80\x02\x8a\xff.", "inside a value"),
        (b"", "inside a value"),
    ] {
        let error = open_pickle(pickle).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn bombs_are_bounded() {
    // A dict in itself, under two names: two more each level down.
    let mut itself = b"\x80\x02}q\x00".to_vec();
    for name in ["a", "b"] {
        itself.extend([text(name), b"h\x00s".to_vec()].concat());
    }
    itself.push(b'.');
    assert_eq!(open_pickle(&itself).unwrap().names().count(), 0);
    // Tuples in one another, which a recursive drop would not survive.
    let deep = [b"\x80\x02}X\x01\0\0\0a)", &[0x85; 500_000][..], b"s."].concat();
    open_pickle(&deep).unwrap();
    let many = [b"\x80\x02]q\0", &b"h\0"[..].repeat(1 << 20)[..], b"."].concat();
    assert!(open_pickle(&many).unwrap_err().to_string().contains("more than 1048576 values"));
    let marks = [b"\x80\x02", &[b'('; (1 << 20) + 1][..]].concat();
    assert!(open_pickle(&marks).unwrap_err().to_string().contains("more than 1048576 values"));
    // Dicts of many dicts of many dicts.
    let mut wide = b"\x80\x02}q\0".to_vec();
    for level in 0..4u8 {
        wide.extend(b"}");
        for i in 0..50 {
            wide.extend([text(&format!("{i}")), vec![b'h', level, b's']].concat());
        }
        wide.extend([b'q', level + 1]);
    }
    wide.push(b'.');
    assert!(open_pickle(&wide).unwrap_err().to_string().contains("more than 65536 entries"));
}

#[test]
fn every_cut_is_seen() {
    let bytes = fs::read(golden()).unwrap();
    for len in (0..bytes.len()).step_by(997) {
        assert!(open(&bytes[..len]).is_err(), "cut at {len}");
    }
}

/// Whatever a file holds, reading all of it ends in values or an error.
fn read_all(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pt");
    fs::write(&path, bytes).unwrap();
    if let Ok(file) = TorchFile::open(&path) {
        for name in file.names() {
            let _ = file.append_f32(name, file.shape(name).unwrap(), &mut Vec::new());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = fs::read(golden()).unwrap();
        // The pickle stands first, the directory last: half of the flips go to each of them.
        let (head, tail) = (9000.min(bytes.len()), bytes.len() - 4000.min(bytes.len()));
        for (i, (index, value)) in flips.iter().enumerate() {
            let at = if i % 2 == 0 { index.index(head) } else { tail + index.index(bytes.len() - tail) };
            bytes[at] = *value;
        }
        read_all(&bytes);
    }

    #[test]
    fn any_pickle_never_panics(ops in prop::collection::vec(
        prop::sample::select(vec![b'(', b')', b'}', b']', b't', b's', b'u', b'a', b'e', b'q', b'h', b'K', 0,
            1, b'N', 0x85, 0x86, b'Q', b'R', b'b']), 0..60)) {
        let bytes = [b"\x80\x02", &ops[..], b"."].concat();
        read_all(&checkpoint(&bytes, &[0; 8], zip::CompressionMethod::Stored));
    }
}
