//! What models take of the memory that the server would use.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::app::{self, Machine};
use crate::config::Config;
use crate::fetch::manifest::Manifest;
use crate::fetch::{Error, Library};
use crate::types::model::{Footprint, Installed};

/// Memory that models take together, against the budget.
#[derive(Debug, Serialize)]
pub struct Ledger {
    /// What the models are: `installed`, or the profile or model that was asked for.
    pub of: String,
    pub models: Vec<Line>,
    /// What each keeps, and of each device the largest step once.
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
    pub weights_bytes: u64,
    /// Keys and values that it keeps.
    pub cache_bytes: u64,
    /// What its largest step takes besides. Models of one device compute in turn and need the largest of these once.
    pub step_bytes: u64,
    /// Whether there is code for its architecture.
    pub runs: bool,
}

impl Line {
    fn takes(&self) -> Footprint {
        Footprint { weights: self.weights_bytes, cache: self.cache_bytes, step: self.step_bytes }
    }

    /// Bytes that it needs alone.
    pub fn needs(&self) -> u64 {
        self.takes().most()
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
        let takes: Vec<Footprint> = models.iter().map(Line::takes).collect();
        let laid_out = self.machine.lay_out(&takes);
        let step = takes.iter().map(|takes| takes.step).max().unwrap_or(0);
        let once = || takes.iter().fold(step, |sum, takes| sum.saturating_add(takes.kept()));
        Ledger {
            of: of.to_owned(),
            models,
            needs_bytes: laid_out.unwrap_or_else(once),
            budget_bytes: self.machine.budget(),
            largest_bytes: self.largest(),
            fits: laid_out.is_some(),
        }
    }

    /// What the server reckons of a model that is here; of one that is to come, what its manifest says.
    fn line(&self, id: &str) -> Option<Line> {
        let manifest = self.library.catalog().get(id);
        let said = manifest.and_then(|m| self.precision(&m.memory_mib));
        let here = self.installed.iter().find(|m| m.id == id);
        let (config, budget, gpu) = (self.config, self.largest(), self.machine.gpus);
        let (model, takes) = match (here, manifest) {
            (Some(model), _) => (model.clone(), app::takes(config, budget, gpu, model, self.installed)),
            (None, Some(manifest)) => {
                let weights = said.map_or(0, |(_, bytes)| bytes);
                (to_come(manifest), app::takes_to_come(config, budget, gpu, manifest, weights))
            }
            (None, None) => return None,
        };
        Some(Line {
            kind: model.kind.as_str(),
            precision: said.map(|(precision, _)| precision.to_owned()),
            runs: app::runs(&model),
            id: model.id,
            weights_bytes: takes.weights,
            cache_bytes: takes.cache,
            step_bytes: takes.step,
        })
    }

    /// The precision that the server's device computes in, and the bytes that the manifest gives for it.
    fn precision<'m>(&self, mib_of: &'m BTreeMap<String, u64>) -> Option<(&'m str, u64)> {
        let usual = mib_of.get_key_value(if self.machine.gpus { "f16" } else { "f32" });
        let (precision, size) = usual.or_else(|| mib_of.iter().max_by_key(|(_, size)| **size))?;
        Some((precision, mib(*size)))
    }
}

fn mib(count: u64) -> u64 {
    count.saturating_mul(1 << 20)
}

/// The model as it will be.
fn to_come(manifest: &Manifest) -> Installed {
    Installed {
        id: manifest.id.clone(),
        aliases: manifest.aliases.clone(),
        kind: manifest.kind,
        architecture: manifest.architecture.clone(),
        format: manifest.format,
        path: std::path::PathBuf::new(),
        bytes: manifest.bytes(),
        created: 0,
        owner: manifest.owner.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    const MIB: u64 = 1 << 20;

    fn books<T>(budgets: &[u64], gpus: bool, act: impl FnOnce(&Books) -> T) -> T {
        let home = tempfile::tempdir().unwrap();
        let overrides = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let config = Config::load(&overrides).unwrap();
        let library = Library::open(home.path()).unwrap();
        let machine = Machine { budgets: budgets.to_vec(), gpus, ..app::machine(&config) };
        act(&Books { config: &config, machine: &machine, library: &library, installed: &[] })
    }

    fn line<'l>(ledger: &'l Ledger, id: &str) -> &'l Line {
        ledger.models.iter().find(|line| line.id == id).unwrap()
    }

    #[test]
    fn of_models_to_come_the_manifest_tells() {
        books(&[4 << 30], false, |books| {
            let ledger = books.named("starter").unwrap();
            let chat = line(&ledger, "smollm2-135m-instruct");
            assert!(chat.weights_bytes >= 98_362_432, "its file is that large");
            assert_eq!(chat.cache_bytes, 728 * 32 * 23_040, "an eighth of the budget, in whole blocks");
            assert_eq!(line(&ledger, "whisper-base").cache_bytes, 0);
            let step = ledger.models.iter().map(|line| line.step_bytes).max().unwrap();
            let kept: u64 = ledger.models.iter().map(|line| line.takes().kept()).sum();
            assert_eq!(ledger.needs_bytes, kept + step);
            assert!(ledger.fits);
            let ledger = books.named("qwen2.5-32b-instruct").unwrap();
            // The context is cut to what is of use, and it is too large all the same.
            assert_eq!(ledger.needs_bytes, (19_070 + 1_455 + 512) * MIB);
            assert!(!ledger.fits);
            assert!(books.named("starterr").unwrap_err().to_string().contains("\"starter\""));
        });
    }

    #[test]
    fn what_just_fills_the_budget_fits() {
        let name = "mistral-7b-instruct-v0.3";
        // Its cache takes half of what there is, down to the shortest context.
        let least = (4_220 + 720 + 256) * MIB;
        books(&[least], false, |books| assert!(books.named(name).unwrap().fits));
        books(&[least - 1], false, |books| assert!(!books.named(name).unwrap().fits));
        books(&[8 << 30], false, |books| {
            // In whole blocks of 4 MiB.
            assert_eq!(
                line(&books.named(name).unwrap(), name).cache_bytes,
                (8_192 - 4_220 - 720) / 2 / 4 * 4 * MIB
            );
        });
    }

    /// Of what such a card has, its driver takes some hundreds of megabytes; the server takes nine tenths of the rest.
    fn card(mib: u64) -> (u64, u64) {
        let available = (mib - 512) * MIB;
        (available, available / 10 * 9)
    }

    /// An RTX A2000 says that it has 12,282 MiB, a Quadro RTX 6000 24,190.
    #[test]
    fn profiles_fit_the_cards_that_they_are_for() {
        let (available, budget) = card(12_282);
        books(&[budget], true, |books| {
            let ledger = books.named("gpu-12gb").unwrap();
            assert!(ledger.fits && available - ledger.needs_bytes >= 1_000_000_000, "{ledger:?}");
            let chat = line(&ledger, "qwen2.5-7b-instruct");
            assert!(chat.cache_bytes >= 4 * 8_192 * 57_344, "four conversations of 8,192 tokens");
        });
        let (_, budget) = card(24_190);
        books(&[budget; 4], true, |books| assert!(books.named("gpu-4x24gb").unwrap().fits));
    }
}
