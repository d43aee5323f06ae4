//! Another speaker model makes other vectors. Speakers whose recordings are kept are embedded anew by it.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use super::vector::{Vector, unit};
use super::{Book, Entry, Speaker};
use crate::service::files::SPEAKER;
use crate::service::voices::Voices;
use crate::service::{Context, Error, ErrorKind};
use crate::types::speaker::Embedder;

/// Speakers that one request has embedded anew; the next one goes on.
const AT_ONCE: usize = 16;

impl Book {
    /// Embeds speakers anew whom another model embedded, and all of whose recordings are kept; how many.
    ///
    /// # Errors
    /// The model cannot be asked now, or the store cannot be written.
    pub async fn renew(
        &self,
        voices: &dyn Voices,
        ctx: &Context,
        embedder: &Embedder,
    ) -> Result<usize, Error> {
        let stale = || self.shelf().renewable(embedder, &self.failed(), AT_ONCE);
        if stale().is_empty() {
            return Ok(0);
        }
        let _one = self.0.renewing.lock().await;
        let mut renewed = 0;
        // Another request may have done it meanwhile.
        for speaker in stale() {
            match self.renew_one(voices, ctx, embedder, &speaker).await {
                Ok(done) => renewed += usize::from(done),
                Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound) => {
                    tracing::warn!(speaker.id, %error, "the recordings of a speaker cannot be embedded anew");
                    self.failed().insert(speaker.id.clone());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(renewed)
    }

    pub(super) fn failed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was done: the speaker may be another one meanwhile, or gone.
    async fn renew_one(
        &self,
        voices: &dyn Voices,
        ctx: &Context,
        embedder: &Embedder,
        speaker: &Speaker,
    ) -> Result<bool, Error> {
        let silent =
            || Error::Invalid { param: "file", message: "no speech is heard in a recording".to_owned() };
        let mut vectors = Vec::with_capacity(speaker.samples.len());
        for sample in &speaker.samples {
            let (_, upload) = self.0.files.content(sample.audio.as_deref().unwrap_or_default()).await?;
            let heard = voices.samples(ctx.clone(), upload, Vec::new()).await?;
            vectors.push(heard.first().and_then(|heard| unit(&heard.embedding)).ok_or_else(silent)?);
        }
        let turn = self.turn().await;
        let Some(mut entry) = self.entry(&speaker.id).await? else { return Ok(false) };
        let same = entry.speaker.samples.len() == speaker.samples.len()
            && entry.speaker.samples.iter().zip(&speaker.samples).all(|(a, b)| a.sample.id == b.id);
        if !same || entry.speaker.is_of(embedder) {
            return Ok(false);
        }
        for (noted, vector) in entry.speaker.samples.iter_mut().zip(vectors) {
            noted.embedding = Vector(vector);
        }
        (entry.speaker.model, entry.speaker.version) = (embedder.model.clone(), embedder.version.clone());
        self.put(turn, Entry::of(entry.speaker)).await.map(|_| true)
    }

    /// Deletes recordings that are kept for no speaker: of requests that were given up between keeping and noting.
    ///
    /// # Errors
    /// The store cannot be read and written.
    pub async fn sweep(&self) -> Result<(), Error> {
        // Under way, a change has kept what it has not noted yet.
        let _turn = self.turn().await;
        let speakers = self.list(None);
        let known: HashSet<&str> = speakers
            .iter()
            .flat_map(|speaker| speaker.samples.iter().filter_map(|sample| sample.audio.as_deref()))
            .collect();
        let kept = self.0.files.own(SPEAKER).await?;
        self.forget(kept.into_iter().map(|kept| kept.id).filter(|id| !known.contains(id.as_str()))).await
    }
}
