//! Whisper as one file: openai/whisper's `*.pt` checkpoints and whisper.cpp's `ggml-*.bin`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::error::{Error, Result};
use super::probe::Found;
use crate::types::model::{Format, Kind};

/// The longest pickle looked through.
const MAX_PICKLE: u64 = 8 << 20;
/// A name that only Whisper's checkpoints hold.
const MARK: &[u8] = b"n_audio_state";
/// Positions of Whisper's encoder: the second of the sizes that whisper.cpp's files begin with.
const AUDIO_CONTEXT: u32 = 1500;
/// What may lie beside the weights: the vocabulary, which must, and what tells of decoding.
const VOCABULARY: &str = "tokenizer.json";
const DECODING: &str = "generation_config.json";

/// Whether a file in a folder is named as these are.
pub(super) fn is_named(file: &str) -> bool {
    !file.contains('/') && (file.ends_with(".pt") || (file.starts_with("ggml-") && file.ends_with(".bin")))
}

/// The format of a file, by its first bytes; `None` where it is neither.
pub(super) fn format(path: &Path) -> Result<Option<Format>> {
    let mut magic = Vec::new();
    File::open(path).map_err(Error::io(path))?.take(4).read_to_end(&mut magic).map_err(Error::io(path))?;
    Ok(match &magic[..] {
        b"PK\x03\x04" => Some(Format::Torch),
        b"lmgg" => Some(Format::Ggml),
        _ => None,
    })
}

/// What a file of such a format is.
pub(super) fn found(folder: &Path, name: &str, format: Format) -> Result<Found> {
    let path = folder.join(name);
    let bad = |what: String| Error::Import { path: path.clone(), what };
    let is_whisper = match format {
        Format::Ggml => is_ggml(&path),
        _ => is_checkpoint(&path),
    };
    if !is_whisper {
        return Err(bad("is no Whisper model, which is all that is served of its format".into()));
    }
    if !folder.join(VOCABULARY).is_file() {
        return Err(bad(format!(
            "has no {VOCABULARY} beside it: copy that of the same model's safetensors folder there"
        )));
    }
    let mut files = vec![name.to_owned(), VOCABULARY.to_owned()];
    files.extend(folder.join(DECODING).is_file().then(|| DECODING.to_owned()));
    let stem = name.strip_suffix(".pt").or_else(|| name.strip_suffix(".bin")).unwrap_or(name);
    Ok(Found {
        kind: Kind::Asr,
        architecture: "whisper".into(),
        format,
        folder: folder.to_path_buf(),
        files,
        name: stem.to_owned(),
    })
}

/// Whether the sizes at the beginning are Whisper's; what cannot be read is not.
fn is_ggml(path: &Path) -> bool {
    let mut head = [0; 12];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head[8..] == AUDIO_CONTEXT.to_le_bytes()
}

/// Whether the pickle of a checkpoint names what Whisper's do.
fn is_checkpoint(path: &Path) -> bool {
    let pickle = || -> Option<Vec<u8>> {
        let mut zip = zip::ZipArchive::new(BufReader::new(File::open(path).ok()?)).ok()?;
        let at = (0..zip.len()).find(|&i| {
            let name = zip.by_index_raw(i).ok().and_then(|entry| Some(entry.name().ok()?.into_owned()));
            name.is_some_and(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
        })?;
        let mut bytes = Vec::new();
        zip.by_index_raw(at).ok()?.take(MAX_PICKLE).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    pickle().is_some_and(|bytes| bytes.windows(MARK.len()).any(|window| window == MARK))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::probe::{model_at, probe};
    use super::*;

    #[test]
    fn files_are_known_by_what_they_hold() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/asr/formats");
        for (name, format) in [("small.pt", Format::Torch), ("ggml-small.bin", Format::Ggml)] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join(name);
            fs::copy(golden.join(name), &file).unwrap();
            let error = probe(&file).unwrap_err().to_string();
            assert!(error.contains("has no tokenizer.json beside it"), "{error}");
            fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
            let found = probe(&file).unwrap();
            assert_eq!(
                (found.kind, found.format, found.architecture.as_str()),
                (Kind::Asr, format, "whisper")
            );
            assert_eq!(found.files, [name, "tokenizer.json"]);
            assert_eq!(probe(dir.path()).unwrap().files, found.files);
            assert_eq!(model_at(&file).unwrap().path, fs::canonicalize(&file).unwrap());

            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..9]).unwrap();
            let error = probe(&file).unwrap_err().to_string();
            assert!(error.contains("is no Whisper model"), "{error}");
            fs::write(dir.path().join("other.pt"), "").unwrap();
            fs::write(dir.path().join("ggml-other.bin"), "").unwrap();
            let error = probe(dir.path()).unwrap_err().to_string();
            assert!(error.contains("models; import one of them"), "{error}");
        }
    }
}
