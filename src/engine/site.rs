//! A device as the engine holds it: its worker, and what may be loaded there.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Error;
use super::worker::{Command, Loaded, ModelKey, Setup, Worker};
use crate::device;
use crate::types::model::Installed;

/// A device with its worker.
pub(super) struct Site {
    /// `cpu`, `cuda:0`, ...
    pub id: String,
    /// Bytes that loaded models may take together.
    pub budget: u64,
    pub is_gpu: bool,
    worker: Worker,
    inbox: Mutex<Sender<Command>>,
}

impl Site {
    /// Starts the device's worker; `threads` cores compute for it.
    pub fn start(info: device::Info, budget: u64, threads: usize, setup: Setup) -> std::io::Result<Site> {
        let (id, is_gpu) = (info.id.clone(), info.is_gpu());
        let worker = Worker::spawn(info, threads, setup)?;
        Ok(Site { id, budget, is_gpu, inbox: Mutex::new(worker.inbox()), worker })
    }

    /// Where commands go.
    pub fn inbox(&self) -> Sender<Command> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when the worker has ended.
    pub async fn ended(&self) {
        let mut alive = self.worker.alive();
        while alive.changed().await.is_ok() {}
    }

    /// Has the worker load a model.
    pub async fn load(&self, key: ModelKey, installed: &Installed) -> Result<Loaded, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Load { key, installed: Box::new(installed.clone()), reply };
        self.inbox().send(command).map_err(|_| Error::Stopped)?;
        let loaded = answer.await.map_err(|_| Error::Stopped)?;
        loaded.map_err(|e| Error::Load { model: installed.id.clone(), reason: e.to_string() })
    }

    /// Has the worker drop a model, and waits until it is gone.
    pub async fn unload(&self, key: ModelKey) {
        let (reply, gone) = oneshot::channel();
        if self.inbox().send(Command::Unload { key, reply }).is_ok() {
            let _ = gone.await;
        }
    }
}

/// Whether the devices that models are to be on are there, and the models.
///
/// # Errors
/// The first that is not.
pub(super) fn check(
    pins: &BTreeMap<String, Vec<String>>,
    models: &[Installed],
    sites: &[Site],
) -> Result<(), Error> {
    for (model, wanted) in pins {
        if !models.iter().any(|m| m.id == *model) {
            return Err(Error::Unknown(model.clone()));
        }
        if let Some(missing) = wanted.iter().find(|id| !sites.iter().any(|site| site.id == **id)) {
            let there: Vec<&str> = sites.iter().map(|site| site.id.as_str()).collect();
            let (model, wanted, there) = (model.clone(), missing.clone(), there.join(", "));
            return Err(Error::NoDevice { model, wanted, there });
        }
    }
    Ok(())
}
