//! Who speaks, and whether two voices are one.

use super::shelf::Match;
use super::vector::unit;
use super::{Book, wrong};
use crate::service::resolve::joined;
use crate::service::voices::Voices;
use crate::service::{Context, Error, Upload};
use crate::store::flat::dot;
use crate::types::speaker::{Embedder, Part, Sample};

/// What is asked of the book.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// So many of the speakers that are most alike.
    pub top_k: usize,
    /// Score from which a voice is that of a speaker; `None`: the model's own.
    pub threshold: Option<f32>,
}

/// Whose a voice is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The best first, whether they are alike enough or not.
    pub matches: Vec<Match>,
    /// Whether the first is alike enough.
    pub known: bool,
}

impl Found {
    /// Who it is; `None`: nobody who is known.
    pub fn speaker(&self) -> Option<&Match> {
        self.matches.first().filter(|_| self.known)
    }
}

/// Whose voices are, and how that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Identified {
    /// One for each voice, in order.
    pub found: Vec<Found>,
    /// Speakers that they were compared with.
    pub enrolled: usize,
    /// Speakers that they could not be compared with, as another model embedded them.
    pub stale: usize,
    pub threshold: f32,
    /// Whether scores are compared with a cohort, as [`score`](super) says; else they are cosines.
    pub normalised: bool,
}

/// A recording whose voices were looked for.
#[derive(Debug, Clone)]
pub struct Recognised {
    pub identified: Identified,
    /// What was heard of each part.
    pub samples: Vec<Sample>,
    pub embedder: Embedder,
}

/// Whether two recordings are of one voice.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The cosine.
    pub score: f32,
    pub same: bool,
    pub threshold: f32,
    /// Id of the model.
    pub model: String,
}

impl Book {
    /// Whose voices are in a recording: one of the whole, or one a part.
    ///
    /// # Errors
    /// The recording cannot be heard, or no model embeds voices.
    pub async fn recognise(
        &self,
        voices: &dyn Voices,
        ctx: &Context,
        upload: Upload,
        parts: Vec<Part>,
        asked: Asked,
    ) -> Result<Recognised, Error> {
        let embedder = voices.embedder(ctx.clone()).await?;
        self.renew(voices, ctx, &embedder).await?;
        let samples = voices.samples(ctx.clone(), upload, parts).await?;
        let probes = samples.iter().map(|sample| sample.embedding.clone()).collect();
        let identified = self.identify(&embedder, probes, asked).await?;
        Ok(Recognised { identified, samples, embedder })
    }

    /// Whose voices these are, as a model embedded them; an empty one is nobody's. Each is compared with those who are in
    /// the book at one moment after this was called.
    ///
    /// # Errors
    /// The thread that compares ended early.
    pub async fn identify(
        &self,
        embedder: &Embedder,
        probes: Vec<Vec<f32>>,
        asked: Asked,
    ) -> Result<Identified, Error> {
        let (book, embedder) = (self.clone(), embedder.clone());
        let work = move || {
            let threshold = asked.threshold.unwrap_or(embedder.threshold);
            let (enrolled, stale) = book.shelf().count(&embedder);
            let mut all = Identified { found: Vec::new(), enrolled, stale, threshold, normalised: false };
            for probe in &probes {
                // A change waits for one voice, not for all.
                let (matches, normalised) = match unit(probe) {
                    Some(voice) => book.shelf().nearest(&embedder, &voice, asked.top_k),
                    None => (Vec::new(), false),
                };
                let known = matches.first().is_some_and(|best| best.score >= threshold);
                all.normalised |= normalised;
                all.found.push(Found { matches, known });
            }
            all
        };
        joined(tokio::task::spawn_blocking(work).await)
    }

    /// Whether two recordings are of one voice.
    ///
    /// # Errors
    /// One of them cannot be heard or has no speech, or no model embeds voices.
    pub async fn verify(
        voices: &dyn Voices,
        ctx: &Context,
        (one, other): (Upload, Upload),
        threshold: Option<f32>,
    ) -> Result<Verified, Error> {
        let embedder = voices.embedder(ctx.clone()).await?;
        let mut heard = Vec::with_capacity(2);
        for upload in [one, other] {
            let file = upload.name.clone().unwrap_or_else(|| "recording".to_owned());
            let samples = voices.samples(ctx.clone(), upload, Vec::new()).await?;
            let voice = samples.first().and_then(|sample| unit(&sample.embedding));
            heard.push(voice.ok_or_else(|| {
                wrong("file", format!("`{file}`: no speech is heard; send a longer or a louder one"))
            })?);
        }
        let score = match heard.as_slice() {
            [one, other] => dot(one, other).clamp(-1.0, 1.0),
            _ => 0.0,
        };
        let threshold = threshold.unwrap_or(embedder.threshold);
        Ok(Verified { score, same: score >= threshold, threshold, model: embedder.model })
    }
}
