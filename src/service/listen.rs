//! From an uploaded file to what a speech model hears: features, and where there is speech.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::resolve::joined;
use super::{Context, Error, Service, Upload};
use crate::audio;
use crate::engine::Served;
use crate::engine::handle::Handle;
use crate::engine::job::Event;
use crate::engine::lane::vad::{Input, MAX_FRAMES};
use crate::model::asr::output::Cut;
use crate::model::vad::segments::{self, Span};
use crate::model::vad::{FRAME, Vad, VadState};
use crate::types::asr::{Chunking, HOP, LogMel};

/// A voice is possible from this probability on; speech itself, where silence is left out, begins at twice as much.
const VOICE: f32 = 0.25;
/// Seconds of speech in a chunk: what the network hears at a time.
const CHUNK: f32 = 30.0;

/// A recording as models hear it.
pub(super) struct Heard {
    pub mel: LogMel,
    /// Samples at 16 kHz.
    samples: usize,
    /// Of speech in each frame of the detector; empty where none listened.
    speech: Vec<f32>,
}

impl Heard {
    /// Which parts of it a speech model is to hear.
    pub fn cut(&self, chunking: Chunking) -> Cut {
        let frames = |span: &Span| span.start / HOP..span.end / HOP;
        match chunking {
            Chunking::Sequential if self.speech.is_empty() => Cut::Whole,
            Chunking::Sequential => Cut::Voiced(voiced(&self.speech)),
            Chunking::Speech(vad) => {
                let spans = segments::spans(&self.speech, self.samples, &vad);
                Cut::Stretches(spans.iter().map(frames).collect())
            }
            Chunking::Chunks(vad) => {
                let spans = segments::spans(&self.speech, self.samples, &vad);
                let chunks = segments::chunks(&spans, CHUNK);
                Cut::Chunks(chunks.iter().map(|chunk| chunk.iter().map(frames).collect()).collect())
            }
        }
    }
}

/// Mel frames in which the detector may have heard a voice.
fn voiced(speech: &[f32]) -> Vec<Range<usize>> {
    let mut voiced: Vec<Range<usize>> = Vec::new();
    for (at, _) in speech.iter().enumerate().filter(|(_, p)| **p >= VOICE) {
        let (from, to) = (at * FRAME / HOP, ((at + 1) * FRAME).div_ceil(HOP));
        match voiced.last_mut() {
            Some(last) if last.end >= from => last.end = to,
            _ => voiced.push(from..to),
        }
    }
    voiced
}

impl Service {
    /// The voice activity detector, for what the field `param` asks.
    pub(super) async fn detector(&self, ctx: &Context, param: &'static str) -> Result<Handle<Vad>, Error> {
        match self.possible_detector(ctx).await? {
            Some(detector) => Ok(detector),
            None => {
                let message = "finding speech needs a voice activity detector and none is installed: \
                               run `stentor pull silero-vad`";
                Err(Error::Invalid { param, message: message.to_owned() })
            }
        }
    }

    /// The same where there is one.
    pub(super) async fn possible_detector(&self, ctx: &Context) -> Result<Option<Handle<Vad>>, Error> {
        self.first(ctx).await
    }

    /// The first installed model of a kind, where there is one.
    pub(super) async fn first<M: Served>(&self, ctx: &Context) -> Result<Option<Handle<M>>, Error> {
        match self.engine.models().iter().find(|m| m.kind == M::KIND) {
            Some(installed) => self.installed(ctx, &installed.id).await.map(Some),
            None => Ok(None),
        }
    }

    /// A place among the recordings that are heard at a time, for as long as it is held.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = self.recordings.clone().acquire_owned().await;
        place.map_err(|_| Error::Unavailable { reason: "the server is stopping".to_owned() })
    }

    /// Works away from the threads that serve sockets, until it is done or nobody waits for it.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AtomicBool, audio::Limits) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let limits = audio::Limits { max_seconds: u64::from(self.options.audio_seconds) };
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let still_wanted = wanted.0.clone();
        joined(tokio::task::spawn_blocking(move || work(&still_wanted, limits)).await)?
    }

    /// Decodes the file, computes its features and has the detector hear it.
    pub(super) async fn listen(
        &self,
        upload: Upload,
        mels: usize,
        detector: Option<Handle<Vad>>,
    ) -> Result<Heard, Error> {
        self.apart(move |wanted, limits| {
            let mut mel = audio::MelExtractor::new(mels);
            let mut detector = detector.map(Detector::new);
            let mut count = 0;
            let decoded = read(upload, &limits, wanted, &mut |samples| {
                mel.push(samples);
                count += samples.len();
                detector.as_mut().map_or(Ok(()), |detector| detector.push(samples))
            })?;
            if let Some(warning) = &decoded.warning {
                tracing::warn!(?warning, seconds = decoded.seconds, "an uploaded recording is damaged");
            }
            let speech = detector.map(Detector::finish).transpose()?.unwrap_or_default();
            Ok(Heard { mel: mel.finish(), samples: count, speech })
        })
        .await
    }
}

/// Decodes a file into `take`, until that fails or nobody wants it.
pub(super) fn read(
    upload: Upload,
    limits: &audio::Limits,
    wanted: &AtomicBool,
    take: &mut dyn FnMut(&[f32]) -> Result<(), Error>,
) -> Result<audio::Decoded, Error> {
    let mut failed = None;
    let mut push = |samples: &[f32]| {
        failed = take(samples).err();
        let goes_on = failed.is_none() && wanted.load(Ordering::Relaxed);
        goes_on.then_some(()).ok_or(audio::Stop)
    };
    let decoded = audio::decode(upload.file, upload.name.as_deref(), limits, &mut push);
    match failed {
        Some(error) => Err(error),
        None => decoded.map_err(unheard),
    }
}

/// A detector hearing one recording: while it hears a piece the next is decoded.
struct Detector {
    handle: Handle<Vad>,
    state: VadState,
    pending: Vec<f32>,
    asked: Option<mpsc::Receiver<Event<Vad>>>,
    speech: Vec<f32>,
}

impl Detector {
    fn new(handle: Handle<Vad>) -> Detector {
        Detector { handle, state: VadState::default(), pending: Vec::new(), asked: None, speech: Vec::new() }
    }

    fn push(&mut self, mut samples: &[f32]) -> Result<(), Error> {
        while !samples.is_empty() {
            let room = MAX_FRAMES * FRAME - self.pending.len();
            let (now, later) = samples.split_at(room.min(samples.len()));
            self.pending.extend_from_slice(now);
            samples = later;
            if self.pending.len() == MAX_FRAMES * FRAME {
                self.ask()?;
            }
        }
        Ok(())
    }

    /// Sends what is pending, behind what was sent before.
    fn ask(&mut self) -> Result<(), Error> {
        self.await_answer()?;
        let samples = std::mem::take(&mut self.pending);
        self.asked = Some(self.handle.submit(Input { state: self.state.clone(), samples }, None)?);
        Ok(())
    }

    fn await_answer(&mut self) -> Result<(), Error> {
        let Some(mut asked) = self.asked.take() else { return Ok(()) };
        match asked.blocking_recv() {
            Some(Event::Done((speech, state))) => {
                self.speech.extend(speech);
                self.state = state;
                Ok(())
            }
            Some(Event::Delta(never)) => match never {},
            Some(Event::Failed(failure)) => Err(failure.into()),
            None => Err(Error::Internal { detail: "the worker dropped the job".to_owned() }),
        }
    }

    fn finish(mut self) -> Result<Vec<f32>, Error> {
        if !self.pending.is_empty() {
            self.pending.resize(self.pending.len().next_multiple_of(FRAME), 0.0);
            self.ask()?;
        }
        self.await_answer()?;
        Ok(self.speech)
    }
}

/// Says, when it is dropped, that the result of a blocking task is wanted no more.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn unheard(error: audio::Error) -> Error {
    match error {
        audio::Error::Stopped => Error::Cancelled,
        audio::Error::Io(e) => Error::Internal { detail: format!("the spooled upload: {e}") },
        other => Error::Invalid { param: "file", message: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_detector_are_those_of_the_features() {
        assert_eq!(voiced(&[0.0, 0.3, 0.25, 0.2, 0.0, 0.9]), [3..10, 16..20]);
        assert!(voiced(&[0.1; 9]).is_empty());
    }
}
