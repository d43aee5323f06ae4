//! Models of random weights that are there for the length of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cli::bench::llm::synthesize;
use crate::cli::out;
use crate::fetch::probe;
use crate::model::weights::{self, synthetic_bert, synthetic_whisper};
use crate::types::model::Installed;

/// Each is written when it is first asked for, and deleted when it is forgotten or the shelf is dropped.
pub(super) struct Shelf {
    folder: TempDir,
    models: BTreeMap<String, Installed>,
}

impl Shelf {
    /// An empty one, in the temporary folder.
    pub(super) fn new() -> anyhow::Result<Shelf> {
        Ok(Shelf { folder: tempfile::tempdir()?, models: BTreeMap::new() })
    }

    /// Where a file of this name would be.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A chat model, by its `SHAPE:QUANT`, which is its id too.
    pub(super) fn chat(&mut self, spec: &str) -> anyhow::Result<Installed> {
        if let Some(model) = self.models.get(spec) {
            return Ok(model.clone());
        }
        let path = self.path(&format!("{spec}.gguf"));
        self.keep(spec, synthesize(spec, Some(&path), &mut None)?)
    }

    /// A speech model, by the name of its shape.
    pub(super) fn whisper(&mut self, shape: &synthetic_whisper::Shape) -> anyhow::Result<Installed> {
        self.folder(shape.name, shape.bytes(), |path| synthetic_whisper::write(shape, path, 0))
    }

    /// An embedding model, by the name of its shape.
    pub(super) fn bert(&mut self, shape: &synthetic_bert::Shape) -> anyhow::Result<Installed> {
        self.folder(shape.name, shape.bytes(), |path| synthetic_bert::write(shape, path, 0))
    }

    fn folder(
        &mut self,
        name: &str,
        bytes: u64,
        write: impl FnOnce(&Path) -> Result<(), weights::Error>,
    ) -> anyhow::Result<Installed> {
        if let Some(model) = self.models.get(name) {
            return Ok(model.clone());
        }
        out::note(&format!("Writing {} MB of random weights ...", bytes / 1_000_000));
        let path = self.path(name);
        write(&path)?;
        self.keep(name, probe::model_at(&path)?)
    }

    fn keep(&mut self, id: &str, model: Installed) -> anyhow::Result<Installed> {
        let model = Installed { id: id.to_owned(), ..model };
        self.models.insert(id.to_owned(), model.clone());
        Ok(model)
    }

    /// Deletes a model; one that is not there or cannot be deleted goes with the shelf.
    pub(super) fn forget(&mut self, id: &str) {
        let Some(model) = self.models.remove(id) else { return };
        let _ = match model.format.is_file() {
            true => std::fs::remove_file(&model.path),
            false => std::fs::remove_dir_all(&model.path),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::model::{Format, Kind};

    #[test]
    fn models_are_written_once_and_found_for_what_they_are() {
        let mut shelf = Shelf::new().unwrap();
        let chat = shelf.chat("tiny:q4_0").unwrap();
        assert_eq!((chat.id.as_str(), chat.kind, chat.format), ("tiny:q4_0", Kind::Chat, Format::Gguf));
        let speech = shelf.whisper(&synthetic_whisper::TINY).unwrap();
        assert_eq!((speech.kind, speech.format), (Kind::Asr, Format::Safetensors));
        let embed = shelf.bert(&synthetic_bert::TINY).unwrap();
        assert_eq!((embed.kind, embed.architecture.as_str()), (Kind::Embed, "bert"));
        let written = std::fs::metadata(&chat.path).unwrap().modified().unwrap();
        assert_eq!(shelf.chat("tiny:q4_0").unwrap(), chat);
        assert_eq!(std::fs::metadata(&chat.path).unwrap().modified().unwrap(), written);
        for model in [&chat, &speech, &embed] {
            assert!(model.path.exists());
            shelf.forget(&model.id);
            assert!(!model.path.exists());
        }
    }
}
