//! What models take of the memory that the server would use.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::app::{self, Machine};
use crate::config::Config;
use crate::fetch::manifest::Manifest;
use crate::fetch::{Error, Library};
use crate::types::model::Installed;

/// Memory that models take together, against the budget.
#[derive(Debug, Serialize)]
pub struct Ledger {
    /// What the models are: `installed`, or the profile or model that was asked for.
    pub of: String,
    pub models: Vec<Line>,
    pub needs_bytes: u64,
    /// Of all devices that the server takes, and of the largest of them.
    pub budget_bytes: u64,
    pub largest_bytes: u64,
    pub fits: bool,
}

/// One model of a ledger.
#[derive(Debug, Serialize)]
pub struct Line {
    pub id: String,
    pub kind: &'static str,
    /// What the weights are computed in, where a manifest says.
    pub precision: Option<String>,
    /// `None`: requests cannot name a model of this kind, so it is not loaded.
    pub weights_bytes: Option<u64>,
    /// Whether there is code for its architecture.
    pub runs: bool,
    /// What a chat model keeps of conversations. `None`: it has no such cache, or `weights_bytes` includes it.
    pub cache_bytes: Option<u64>,
}

impl Line {
    /// Bytes in all.
    pub fn needs(&self) -> u64 {
        self.weights_bytes.unwrap_or(0).saturating_add(self.cache_bytes.unwrap_or(0))
    }
}

/// What the ledgers of one run are made from.
pub struct Books<'a> {
    pub config: &'a Config,
    pub machine: &'a Machine,
    pub library: &'a Library,
    pub installed: &'a [Installed],
}

impl Books<'_> {
    /// The ledger of a profile or a model.
    ///
    /// # Errors
    /// An unknown name, with the nearest.
    pub fn named(&self, name: &str) -> Result<Ledger, Error> {
        Ok(self.ledger(name, self.library.expand(&[name])?))
    }

    /// The ledger of the models that are here.
    pub fn installed(&self) -> Ledger {
        self.ledger("installed", self.installed.iter().map(|m| m.id.clone()).collect())
    }

    fn largest(&self) -> u64 {
        self.machine.budgets.iter().copied().max().unwrap_or(0)
    }

    fn ledger(&self, of: &str, ids: Vec<String>) -> Ledger {
        let models: Vec<Line> = ids.iter().filter_map(|id| self.line(id)).collect();
        let needs_bytes = models.iter().map(Line::needs).fold(0, u64::saturating_add);
        let each: Vec<u64> = models.iter().map(Line::needs).collect();
        let fits = self.machine.has_room(&each);
        let largest_bytes = self.largest();
        Ledger {
            of: of.to_owned(),
            models,
            needs_bytes,
            budget_bytes: self.machine.budget(),
            largest_bytes,
            fits,
        }
    }

    /// What the server reckons of a model whose files' sizes are known; what its manifest says of another.
    fn line(&self, id: &str) -> Option<Line> {
        let manifest = self.library.catalog().get(id);
        let here = self.installed.iter().find(|m| m.id == id).cloned();
        let model = here.or_else(|| manifest.map(to_come))?;
        let said = manifest.and_then(|m| self.precision(&m.memory_mib));
        let mut line = Line {
            id: model.id.clone(),
            kind: model.kind.as_str(),
            precision: said.map(|(precision, _)| precision.to_owned()),
            runs: app::runs(&model),
            weights_bytes: None,
            cache_bytes: None,
        };
        if let Some(needs) = app::needs(self.config, self.largest(), &model) {
            match said {
                Some((_, bytes)) if model.bytes == 0 => line.weights_bytes = Some(bytes),
                _ => {
                    line.weights_bytes = Some(needs.weights);
                    line.cache_bytes = Some(needs.cache).filter(|bytes| *bytes > 0);
                }
            }
        }
        Some(line)
    }

    /// The precision that the server's device computes in, and the bytes that the manifest gives for it.
    fn precision<'m>(&self, mib: &'m BTreeMap<String, u64>) -> Option<(&'m str, u64)> {
        let on_cpu = self.machine.devices.first().is_none_or(|device| device.id == "cpu");
        let usual = mib.get_key_value(if on_cpu { "f32" } else { "f16" });
        let (precision, mib) = usual.or_else(|| mib.iter().max_by_key(|(_, mib)| **mib))?;
        Some((precision, mib.saturating_mul(1 << 20)))
    }
}

/// The model as it will be; of 0 bytes where not every file's size is known.
fn to_come(manifest: &Manifest) -> Installed {
    let known = manifest.files.iter().all(|file| file.pin.is_some());
    Installed {
        id: manifest.id.clone(),
        aliases: manifest.aliases.clone(),
        kind: manifest.kind,
        architecture: manifest.architecture.clone(),
        format: manifest.format,
        path: std::path::PathBuf::new(),
        bytes: if known { manifest.bytes() } else { 0 },
        created: 0,
        owner: manifest.owner.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn books<T>(budget: u64, act: impl FnOnce(&Books) -> T) -> T {
        let home = tempfile::tempdir().unwrap();
        let overrides = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let mut config = Config::load(&overrides).unwrap();
        // By itself it would grow with the budget.
        config.models.kv_cache_bytes = Some(1 << 29);
        let library = Library::open(home.path()).unwrap();
        let machine = Machine { budgets: vec![budget], ..app::machine(&config) };
        act(&Books { config: &config, machine: &machine, library: &library, installed: &[] })
    }

    #[test]
    fn sizes_come_from_files_else_from_the_manifest() {
        books(2 << 30, |books| {
            let ledger = books.named("starter").unwrap();
            let line = |id: &str| ledger.models.iter().find(|l| l.id == id).unwrap();
            let chat = line("smollm2-135m-instruct");
            assert!(chat.weights_bytes.unwrap() >= 98_362_432, "its file is that large");
            assert!(chat.cache_bytes.is_some());
            assert!(line("whisper-base").cache_bytes.is_none());
            assert_eq!(line("silero-vad").weights_bytes, None, "no request names it");
            assert_eq!(ledger.needs_bytes, ledger.models.iter().map(Line::needs).sum::<u64>());
            assert!(ledger.fits);
            // No checksums, and so no sizes, are known of this one.
            let ledger = books.named("qwen2.5-32b-instruct").unwrap();
            assert_eq!(ledger.needs_bytes, 22_000 << 20);
            assert!(!ledger.fits);
            assert!(books.named("starterr").unwrap_err().to_string().contains("\"starter\""));
        });
    }

    #[test]
    fn what_just_fills_the_budget_fits() {
        let needs = books(0, |books| books.named("starter").unwrap().needs_bytes);
        assert!(books(needs, |books| books.named("starter").unwrap().fits));
        assert!(!books(needs - 1, |books| books.named("starter").unwrap().fits));
    }
}
