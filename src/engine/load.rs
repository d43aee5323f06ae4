//! Models into memory and out of it: where there is room, and who leaves for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::handle::{Gate, Handle};
use super::placement::{DoesNotFit, Fleet};
use super::site::Site;
use super::worker::{AnyFront, ModelKey};
use super::{AnyHandle, Engine, Entry, Error, Place, State, Stay, open};
use crate::obs::ModelMetrics;
use crate::types::key::Owner;
use crate::types::model::{Footprint, Installed};

/// Between two looks at whether those who use the models that are there have ended: the first ones and the
/// last ones, as many may wait for long.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

impl Engine {
    /// Of the copies of a model the one with the fewest jobs under way.
    pub(super) fn find(&self, id: &str) -> Option<AnyHandle> {
        let mut entries = self.entries();
        let copies = entries.iter_mut().filter(|(place, _)| place.model == id);
        let entry = copies.map(|(_, entry)| entry).min_by_key(|entry| entry.handle.gate().under_way())?;
        entry.used = Instant::now();
        Some(entry.handle.clone())
    }

    /// Loads a model on every device that it is to be on, or on one of them all. It is loaded if one copy is. While others
    /// use the models that would have to leave for it, it waits for them to end, as long as the options say.
    pub(super) async fn load(&self, id: &str, stay: Stay) -> Result<AnyHandle, Error> {
        let Some(installed) = self.inner.models.iter().find(|m| m.id == id) else {
            return Err(Error::Unknown(id.to_owned()));
        };
        let (begin, mut takes) = (Instant::now(), Vec::new());
        loop {
            let refused = match self.try_load(installed, stay, &mut takes).await {
                Err(Error::DoesNotFit(refused)) => refused,
                result => return result,
            };
            if !refused.for_now || begin.elapsed() >= self.inner.options.load_wait {
                return Err(refused.into());
            }
            if self.state() == State::Stopping {
                return Err(Error::Stopped);
            }
            // Others load meanwhile, and a handle's end tells nobody.
            let [first, last] = LOOK_AGAIN;
            tokio::time::sleep((begin.elapsed() / 8).clamp(first, last)).await;
        }
    }

    /// Loads it unless a model that is in use would have to leave. `takes` is what it is reckoned to take of each device, once
    /// that is known.
    async fn try_load(
        &self,
        installed: &Installed,
        stay: Stay,
        takes: &mut Vec<Footprint>,
    ) -> Result<AnyHandle, Error> {
        let id = installed.id.as_str();
        let mut fleet = self.inner.fleet.lock().await;
        // Another caller may have loaded it while this one waited for the lock.
        if let Some(handle) = self.find(id) {
            let mut entries = self.entries();
            for (place, entry) in entries.iter_mut().filter(|(place, _)| place.model == id) {
                entry.stay = entry.stay.max(stay);
                if let (Stay::Always, Some(ledger)) = (entry.stay, fleet.ledger(place.site)) {
                    ledger.pin(id);
                }
            }
            return Ok(handle);
        }
        if takes.is_empty() {
            *takes = self.reckon(installed);
        }
        let copies = self.inner.options.devices.get(id).map_or(1, Vec::len);
        let first = self.load_copy(&mut fleet, installed, stay, takes).await?;
        for _ in 1..copies {
            if let Err(error) = self.load_copy(&mut fleet, installed, stay, takes).await {
                tracing::warn!(model = id, %error, "a further copy of a model is left out");
                break;
            }
        }
        Ok(first)
    }

    async fn load_copy(
        &self,
        fleet: &mut Fleet,
        installed: &Installed,
        stay: Stay,
        takes: &mut [Footprint],
    ) -> Result<AnyHandle, Error> {
        let id = installed.id.as_str();
        let at = self.make_room(fleet, id, &self.needs(installed, takes)).await?;
        let site = self.inner.sites.get(at).ok_or(Error::Stopped)?;
        let metrics = ModelMetrics::new(id, at);
        let key = ModelKey(self.inner.keys.fetch_add(1, Ordering::Relaxed));
        let loaded = site.load(key, installed).await.inspect_err(|error| {
            tracing::error!(model = id, device = site.id, %error, "a model could not be loaded");
            metrics.load_failed();
        })?;
        let (ms, mb) = (loaded.took.as_millis() as u64, loaded.takes.kept() >> 20);
        tracing::info!(model = id, device = site.id, ms, mb, "model loaded");
        // The estimate knew its files' heads only.
        takes[at] = loaded.takes;
        let mut there = vec![None; self.inner.sites.len()];
        there[at] = Some(loaded.takes);
        if let Err(error) = self.make_room(fleet, id, &there).await {
            tracing::error!(model = id, %error, "a model is larger than was estimated, and leaves again");
            site.unload(key).await;
            metrics.load_failed();
            return Err(error.into());
        }
        metrics.loaded(loaded.took, loaded.takes.kept());
        if let Some(ledger) = fleet.ledger(at) {
            ledger.insert(id, loaded.takes, self.tick(Instant::now()), stay == Stay::Always);
        }
        let handle = self.handle(key, id, site, loaded.front, metrics.clone());
        let entry = Entry { handle: handle.clone(), metrics, stay, used: Instant::now() };
        self.entries().insert(Place { model: id.to_owned(), site: at }, entry);
        Ok(handle)
    }

    /// What a model is reckoned to take of each device.
    fn reckon(&self, installed: &Installed) -> Vec<Footprint> {
        let (options, models) = (&self.inner.options, &self.inner.models);
        let draft = options.drafts.get(&installed.id);
        let draft = models.iter().find(|m| Some(&m.id) == draft);
        let takes = |site: &Site| open::estimate(installed, draft, site.is_gpu, options.limits(site.budget));
        self.inner.sites.iter().map(takes).collect()
    }

    /// The same; `None` where it may not be, or is.
    fn needs(&self, installed: &Installed, takes: &[Footprint]) -> Vec<Option<Footprint>> {
        let pins = self.inner.options.devices.get(&installed.id);
        let entries = self.entries();
        let needs = |((at, site), takes): ((usize, &Site), &Footprint)| {
            let is_there = entries.contains_key(&Place { model: installed.id.clone(), site: at });
            let may_be = pins.is_none_or(|pins| pins.contains(&site.id));
            (may_be && !is_there).then_some(*takes)
        };
        self.inner.sites.iter().enumerate().zip(takes).map(needs).collect()
    }

    /// Unloads models until a device has room for one that needs so much of each. One that someone came to use meanwhile
    /// stays, and others are looked for. Gives the device.
    async fn make_room(
        &self,
        fleet: &mut Fleet,
        id: &str,
        needs: &[Option<Footprint>],
    ) -> Result<usize, DoesNotFit> {
        loop {
            self.note_uses(fleet);
            let busy = |site: usize, other: &str| {
                let place = Place { model: other.to_owned(), site };
                self.entries().get(&place).is_some_and(|e| e.handle.is_busy())
            };
            let placed = fleet.place(id, needs, busy)?;
            if placed.leave.is_empty() {
                return Ok(placed.device);
            }
            for model in placed.leave {
                self.unload(fleet, &Place { model, site: placed.device }).await;
            }
        }
    }

    /// Takes a copy out of memory unless someone has come to use it since.
    pub(super) async fn unload(&self, fleet: &mut Fleet, place: &Place) {
        let entry = {
            let mut entries = self.entries();
            if entries.get(place).is_none_or(|e| e.handle.is_busy()) {
                return;
            }
            entries.remove(place)
        };
        let (Some(entry), Some(site)) = (entry, self.inner.sites.get(place.site)) else { return };
        site.unload(entry.handle.key()).await;
        if let Some(ledger) = fleet.ledger(place.site) {
            ledger.remove(&place.model);
        }
        entry.metrics.unloaded();
        tracing::info!(model = place.model, device = site.id, "model unloaded");
    }

    fn handle(
        &self,
        key: ModelKey,
        id: &str,
        site: &Site,
        front: AnyFront,
        metrics: ModelMetrics,
    ) -> AnyHandle {
        let gate = Gate::new(self.inner.options.queue);
        let (id, inbox, owner) = (Arc::from(id), site.inbox(), Owner::default());
        macro_rules! handle {
            ($kind:ident, $front:expr) => {
                AnyHandle::$kind(Handle { key, id, front: $front, gate, inbox, metrics, owner })
            };
        }
        match front {
            AnyFront::Llm(front) => handle!(Llm, front),
            AnyFront::Embed(front) => handle!(Embed, front),
            AnyFront::Rerank(front) => handle!(Rerank, front),
            AnyFront::Asr(front) => handle!(Asr, front),
            AnyFront::Vad => handle!(Vad, Arc::new(())),
            AnyFront::Speaker(front) => handle!(Speaker, front),
            AnyFront::Segment(front) => handle!(Segment, front),
        }
    }

    fn note_uses(&self, fleet: &mut Fleet) {
        for (place, entry) in self.entries().iter() {
            if let Some(ledger) = fleet.ledger(place.site) {
                ledger.touch(&place.model, self.tick(entry.used));
            }
        }
    }
}
