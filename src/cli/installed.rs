//! Which model a command means.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::config::Config;
use crate::fetch::{Library, probe};
use crate::types::model::{Installed, Kind};

/// The model that `name` means: an installed one's id or alias, else a GGUF file or a folder, which is not
/// registered.
pub fn find(config: &Config, name: &str, kind: Kind) -> anyhow::Result<Installed> {
    let library = Library::open(&config.home)?;
    let installed = library.installed()?;
    let id = |id: &str| installed.iter().find(|m| m.id == id);
    let alias = || installed.iter().find(|m| m.aliases.iter().any(|a| a == name));
    let configured = || config.models.aliases.get(name).and_then(|name| id(name));
    let model = match id(name).or_else(configured).or_else(alias) {
        Some(model) => model.clone(),
        None if Path::new(name).exists() => probe::model_at(Path::new(name))?,
        None => {
            let id = library.resolve(name).with_context(|| format!("`{name}` is no file or folder here"))?;
            bail!("{id} is not installed; fetch it with `stentor pull {id}`");
        }
    };
    if model.kind != kind {
        bail!("`{name}` is a {} model; this takes {} models", model.kind.as_str(), kind.as_str());
    }
    Ok(model)
}

/// The speech model where none is named: the configured one, else the only one there is.
pub fn speech(config: &Config) -> anyhow::Result<Installed> {
    if let Some(name) = &config.models.asr {
        return find(config, name, Kind::Asr).context("models.asr");
    }
    let mut models = Library::open(&config.home)?.installed()?;
    models.retain(|model| model.kind == Kind::Asr);
    match models.len() {
        0 => bail!("no speech model is installed; fetch one with `stentor pull whisper-base`"),
        1 => Ok(models.remove(0)),
        _ => {
            let ids: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
            bail!("{} are installed; name one with --model, or as `models.asr`", ids.join(", "))
        }
    }
}

/// The installed models of a kind that others work with.
pub fn helpers(config: &Config, kind: Kind) -> anyhow::Result<Vec<Installed>> {
    let installed = Library::open(&config.home)?.installed()?;
    Ok(installed.into_iter().filter(|m| m.kind == kind).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::synthetic;
    use crate::types::model::Format;

    #[test]
    fn a_file_is_found_without_being_registered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("Tiny Model.gguf");
        synthetic::write(&synthetic::spec("tiny:q8_0").unwrap(), &file, 1).unwrap();
        let mut config = Config::load(&crate::config::Overrides::default()).unwrap();
        config.home = dir.path().join("home");
        let name = file.to_str().unwrap();
        let model = find(&config, name, Kind::Chat).unwrap();
        assert_eq!((model.architecture.as_str(), model.format), ("llama", Format::Gguf));
        assert_eq!(model.path, file.canonicalize().unwrap());
        assert_eq!(model.bytes, std::fs::metadata(&file).unwrap().len());
        let error = find(&config, name, Kind::Asr).unwrap_err().to_string();
        assert!(error.contains("is a chat model; this takes asr models"), "{error}");
        assert!(!config.home.exists(), "looking leaves no trace in the home folder");
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load(&crate::config::Overrides::default()).unwrap();
        config.home = dir.path().to_path_buf();
        let error = format!("{:#}", find(&config, "whisper-base", Kind::Asr).unwrap_err());
        assert!(error.contains("`stentor pull whisper-base`"), "{error}");
        let error = format!("{:#}", find(&config, "no/such.gguf", Kind::Chat).unwrap_err());
        assert!(
            error.contains("is no file or folder here") && error.contains("no model or profile"),
            "{error}"
        );
        let error = speech(&config).unwrap_err().to_string();
        assert!(error.contains("`stentor pull whisper-base`"), "{error}");
    }
}
