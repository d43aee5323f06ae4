//! Voices: who speaks when in a recording, and what a speaker model makes of those who speak.

mod again;
mod cast;
mod cluster;
mod ear;
mod live;
mod sample;
#[cfg(test)]
mod tests;
mod turns;
mod who;
mod windows;

use std::sync::atomic::AtomicBool;

use futures::future::BoxFuture;

use super::listen::read;
use super::{Context, Error, Service, Upload};
use crate::audio;
use crate::engine::Served;
use crate::engine::handle::Handle;
use crate::model::speaker::Speaker;
pub use crate::store::flat::dot;
use crate::types::asr::SAMPLE_RATE;
use crate::types::speaker::{Diarization, Embedder, Part, Sample, Speakers};
pub use cast::spoken;
use ear::{Ear, Networks};
pub use live::{Company, Told};
use turns::Scene;

/// The models that know voices. See [`Service`], which has them.
pub trait Voices: Send + Sync + 'static {
    /// The model that embeds voices.
    ///
    /// # Errors
    /// None is installed.
    fn embedder(&self, ctx: Context) -> BoxFuture<'_, Result<Embedder, Error>>;

    /// What is to be known of a recording of one person: of the whole, or of parts of it, a sample each in order.
    fn samples(
        &self,
        ctx: Context,
        upload: Upload,
        parts: Vec<Part>,
    ) -> BoxFuture<'_, Result<Vec<Sample>, Error>>;

    /// Who speaks when.
    fn diarize(
        &self,
        ctx: Context,
        upload: Upload,
        speakers: Speakers,
    ) -> BoxFuture<'_, Result<Diarization, Error>>;

    /// Begins to listen to a stream for its speakers.
    ///
    /// # Errors
    /// No models for it.
    fn company(&self, ctx: Context) -> BoxFuture<'_, Result<Company, Error>>;
}

impl Voices for Service {
    fn embedder(&self, ctx: Context) -> BoxFuture<'_, Result<Embedder, Error>> {
        Box::pin(Service::embedder(self, ctx))
    }

    fn samples(
        &self,
        ctx: Context,
        upload: Upload,
        parts: Vec<Part>,
    ) -> BoxFuture<'_, Result<Vec<Sample>, Error>> {
        Box::pin(Service::samples(self, ctx, upload, parts))
    }

    fn diarize(
        &self,
        ctx: Context,
        upload: Upload,
        speakers: Speakers,
    ) -> BoxFuture<'_, Result<Diarization, Error>> {
        Box::pin(Service::diarize(self, ctx, upload, speakers))
    }

    fn company(&self, ctx: Context) -> BoxFuture<'_, Result<Company, Error>> {
        Box::pin(Service::company(self, ctx))
    }
}

impl Service {
    /// The model that embeds voices.
    ///
    /// # Errors
    /// None is installed, or it cannot be loaded.
    pub async fn embedder(&self, ctx: Context) -> Result<Embedder, Error> {
        let handle = self.speaker_model(&ctx).await?;
        let front = handle.front();
        Ok(Embedder {
            model: handle.id().to_owned(),
            version: front.version.clone(),
            threshold: front.scale.threshold,
            strangers: front.scale.strangers,
        })
    }

    /// Who speaks when in a recording of any length.
    ///
    /// # Errors
    /// A file that cannot be read as audio; no models; a model that fails.
    pub async fn diarize(
        &self,
        ctx: Context,
        upload: Upload,
        speakers: Speakers,
    ) -> Result<Diarization, Error> {
        let networks = self.networks(&ctx).await?;
        let _place = self.place().await?;
        self.apart(move |wanted, limits| who_speaks(&networks, upload, speakers, &limits, wanted)).await
    }

    /// What is to be known of a recording of one person: of the whole, or of parts of it.
    ///
    /// # Errors
    /// As [`diarize`](Self::diarize).
    pub async fn samples(
        &self,
        ctx: Context,
        upload: Upload,
        parts: Vec<Part>,
    ) -> Result<Vec<Sample>, Error> {
        let networks = self.networks(&ctx).await?;
        let _place = self.place().await?;
        self.apart(move |wanted, limits| {
            let again = upload.again()?;
            let found = who_speaks(&networks, upload, Speakers::default(), &limits, wanted)?;
            sample::samples(&networks, &found, again, &limits, &parts, wanted)
        })
        .await
    }

    async fn speaker_model(&self, ctx: &Context) -> Result<Handle<Speaker>, Error> {
        self.needed(ctx, "knowing voices", "campplus").await
    }

    async fn networks(&self, ctx: &Context) -> Result<Networks, Error> {
        let segment = self.needed(ctx, "telling speakers apart", "pyannote-segmentation").await?;
        Ok(Networks { segment, speaker: self.speaker_model(ctx).await? })
    }

    /// The first installed model of a kind, for `what`; where there is none, a word of one that could be.
    async fn needed<M: Served>(&self, ctx: &Context, what: &str, pull: &str) -> Result<Handle<M>, Error> {
        self.first(ctx).await?.ok_or_else(|| {
            let kind = M::KIND.as_str();
            let reason =
                format!("{what} needs a {kind} model and none is installed: run `stentor pull {pull}`");
            Error::Unavailable { reason }
        })
    }
}

/// Who speaks when in a file. It is read twice: for who is heard in windows of it, and for what each says alone.
fn who_speaks(
    networks: &Networks,
    upload: Upload,
    speakers: Speakers,
    limits: &audio::Limits,
    wanted: &AtomicBool,
) -> Result<Diarization, Error> {
    let again = upload.again()?;
    let mut ear = Ear::new(networks.clone());
    let grid = ear.grid();
    read(upload, limits, wanted, &mut |samples| ear.push(samples))?;
    let seconds = ear.count() as f64 / f64::from(SAMPLE_RATE);
    let windows = ear.finish()?;
    let merge = networks.speaker.front().scale.merge;
    let voices = who::voices(&windows, &grid, merge, speakers);
    let mut scene = Scene::new(&windows, &voices, &grid);
    drop(windows);
    again::hear_again(networks, &mut scene, &voices, again, limits, wanted)?;
    Ok(scene.finish(&voices, seconds))
}
