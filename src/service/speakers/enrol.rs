//! Enrolment: recordings are heard, judged, and become the samples of a speaker.

use std::sync::Arc;

use super::vector::{Vector, centroid, unit};
use super::{
    Book, Card, Entry, Noted, SAMPLES, SAMPLES_MOST, SPEAKERS_MOST, Sample, Source, Speaker, id, missing,
    name, tags, wrong,
};
use crate::service::files::SPEAKER;
use crate::service::rag::now;
use crate::service::voices::Voices;
use crate::service::{Context, Error, Upload};
use crate::types::speaker::{self, Embedder};

/// Seconds of speech of each recording, and of all of a speaker together: an embedding of less is mostly of what is
/// said, not of who says it.
const SPEECH_LEAST: f64 = 1.0;
const SPEECH_LEAST_OF_ALL: f64 = 2.0;
/// Speech that is less than twice as loud as what is between shapes the embedding no more than the noise does.
const SNR_LEAST: f32 = 6.0;
/// Share of the speech that may be of another voice: short answers of an interviewer, not half a conversation.
const OTHERS_MOST: f32 = 0.2;
/// How far below the threshold of being held for one person the recordings of one person may be: rooms and moods differ.
const UNLIKE: f32 = 0.1;

/// A speaker to enrol, or what a speaker gets.
#[derive(Debug, Default)]
pub struct Enrolment {
    /// `None`: a new speaker gets an id.
    pub id: Option<String>,
    /// The id must be that of a speaker who is there.
    pub existing: bool,
    /// `None`: a speaker who is there keeps it, and a new one is called by the id.
    pub name: Option<String>,
    /// `None`: as before, or none.
    pub tags: Option<Vec<String>>,
    /// Whether samples are added to those that are there; else they take their place.
    pub merge: bool,
    /// Takes recordings that seem to be of different people.
    pub force: bool,
    pub samples: Vec<NewSample>,
}

/// A recording of a speaker.
#[derive(Debug)]
pub struct NewSample {
    pub upload: Upload,
    /// Where it was fetched from; `None`: it was uploaded.
    pub url: Option<String>,
}

/// A recording that was heard and is good enough.
struct Heard {
    sample: Sample,
    embedding: Vec<f32>,
    /// As errors call it.
    called: String,
    /// To be kept, where recordings are.
    audio: Option<Upload>,
}

impl Book {
    /// Enrols a speaker; what is known then. Nothing is changed where one of the recordings is not good enough.
    ///
    /// # Errors
    /// Which recording is not good enough, and why; the speaker is not there, or has as many samples as are kept.
    pub async fn enrol(
        &self,
        voices: &dyn Voices,
        ctx: &Context,
        new: Enrolment,
    ) -> Result<Arc<Speaker>, Error> {
        let wanted = Wanted::check(&new)?;
        if let (Some(id), true) = (&new.id, new.existing) {
            self.get(id)?;
        }
        let embedder = voices.embedder(ctx.clone()).await?;
        if new.id.is_some() && new.merge {
            self.renew(voices, ctx, &embedder).await?;
        }
        let mut heard = Vec::with_capacity(new.samples.len());
        let count = new.samples.len();
        for (at, sample) in new.samples.into_iter().enumerate() {
            heard.push(self.hear(voices, ctx, (at + 1, count), sample).await?);
        }
        let turn = self.turn().await;
        let before = match &new.id {
            Some(id) => self.entry(id).await?,
            None => None,
        };
        if let (Some(id), true, None) = (&new.id, new.existing, &before) {
            return Err(missing(id));
        }
        let replaced: Vec<String> = match &before {
            Some(before) if !new.merge => before.audio().cloned().collect(),
            _ => Vec::new(),
        };
        let mut entry = wanted.begin(before, &embedder, new.merge)?;
        let speech = entry.speaker.samples.iter().map(|noted| noted.sample.speech).sum::<f64>();
        enough(speech + heard.iter().map(|heard| heard.sample.speech).sum::<f64>())?;
        if !new.force {
            alike(&entry, &heard, &embedder)?;
        }
        self.room(&entry, heard.len())?;
        let kept = self.keep(&mut entry, heard).await?;
        entry.speaker.updated_at = now();
        match self.put(turn, Entry::of(entry.speaker)).await {
            Ok(speaker) => {
                self.forget(replaced).await?;
                Ok(speaker)
            }
            Err(error) => {
                self.forget(kept).await?;
                Err(error)
            }
        }
    }

    /// Hears one of the recordings, and judges it.
    async fn hear(
        &self,
        voices: &dyn Voices,
        ctx: &Context,
        (number, of): (usize, usize),
        NewSample { upload, url }: NewSample,
    ) -> Result<Heard, Error> {
        let file = upload.name.clone().unwrap_or_else(|| "recording".to_owned());
        let called = if of > 1 { format!("recording {number} (`{file}`)") } else { format!("`{file}`") };
        let audio = match self.0.options.keep_audio {
            true => Some(upload.again()?),
            false => None,
        };
        let heard = voices.samples(ctx.clone(), upload, Vec::new()).await;
        let heard = heard.map_err(|error| match error {
            Error::Invalid { message, .. } => wrong("file", format!("{called}: {message}")),
            other => other,
        })?;
        let none = || Error::Internal { detail: "the speaker model gave no sample".to_owned() };
        let heard = heard.into_iter().next().ok_or_else(none)?;
        good_enough(&called, &heard)?;
        let embedding = unit(&heard.embedding).ok_or_else(none)?;
        let sample = Sample {
            id: uuid::Uuid::new_v4().simple().to_string(),
            source: url.map_or(Source::Upload(file), Source::Url),
            seconds: heard.seconds,
            speech: heard.speech,
            snr_db: heard.snr_db.filter(|snr| snr.is_finite()),
            audio: None,
        };
        Ok(Heard { sample, embedding, called, audio })
    }

    /// Whether so many samples can be added.
    fn room(&self, entry: &Entry<Noted>, more: usize) -> Result<(), Error> {
        let has = entry.speaker.samples.len();
        if has + more > SAMPLES {
            let message = format!(
                "a speaker has {SAMPLES} samples at most, and `{}` has {has}; enrol with `merge=false` to replace them",
                entry.speaker.id
            );
            return Err(Error::Conflict { message });
        }
        let (speakers, samples) = self.shelf().size();
        if speakers >= SPEAKERS_MOST || samples + more > SAMPLES_MOST {
            let message = format!(
                "the server knows {speakers} speakers by {samples} samples already, and takes {SPEAKERS_MOST} by \
                 {SAMPLES_MOST}; delete some"
            );
            return Err(Error::Full { message });
        }
        Ok(())
    }

    /// Adds what was heard to a speaker; the ids of the files that are kept of it.
    async fn keep(&self, entry: &mut Entry<Noted>, heard: Vec<Heard>) -> Result<Vec<String>, Error> {
        let mut kept = Vec::new();
        for Heard { mut sample, embedding, audio, .. } in heard {
            if let Some(mut audio) = audio {
                // It was read to its end as it was heard.
                audio.rewind()?;
                match self.0.files.keep(audio, SPEAKER, None).await {
                    Ok(file) => {
                        kept.push(file.id.clone());
                        sample.audio = Some(file.id);
                    }
                    Err(error) => {
                        self.forget(kept).await?;
                        return Err(error);
                    }
                }
            }
            entry.speaker.samples.push(Noted { sample, embedding: Vector(embedding) });
        }
        Ok(kept)
    }
}

/// What a caller wants a speaker to be, checked.
struct Wanted {
    id: Option<String>,
    name: Option<String>,
    tags: Option<Vec<String>>,
}

impl Wanted {
    fn check(new: &Enrolment) -> Result<Wanted, Error> {
        new.id.as_deref().map(id).transpose()?;
        let (name, tags) =
            (new.name.as_deref().map(name).transpose()?, new.tags.clone().map(tags).transpose()?);
        if new.samples.is_empty() {
            return Err(wrong("file", "`file` is missing: attach a recording of the speaker".to_owned()));
        }
        if new.samples.len() > SAMPLES {
            let message = format!("a speaker has {SAMPLES} samples at most; send the best of them");
            return Err(wrong("file", message));
        }
        Ok(Wanted { id: new.id.clone(), name, tags })
    }

    /// The speaker before the new samples are added.
    fn begin(
        self,
        before: Option<Entry<Noted>>,
        embedder: &Embedder,
        merge: bool,
    ) -> Result<Entry<Noted>, Error> {
        let mut speaker = match before {
            Some(before) => before.speaker,
            None => {
                let id = self.id.unwrap_or_else(|| format!("spk_{}", uuid::Uuid::new_v4().simple()));
                let name = self.name.clone().unwrap_or_else(|| id.clone());
                let now = now();
                Card {
                    id,
                    name,
                    tags: Vec::new(),
                    created_at: now,
                    updated_at: now,
                    model: String::new(),
                    version: String::new(),
                    dim: 0,
                    samples: Vec::new(),
                }
            }
        };
        if !merge {
            speaker.samples.clear();
        }
        if !speaker.samples.is_empty() && !speaker.is_of(embedder) {
            let message = format!(
                "`{}` was enrolled with the model {} and this server has {} now; enrol with `merge=false` to replace \
                 the samples",
                speaker.id, speaker.model, embedder.model
            );
            return Err(Error::Conflict { message });
        }
        (speaker.model, speaker.version) = (embedder.model.clone(), embedder.version.clone());
        speaker.name = self.name.unwrap_or(speaker.name);
        speaker.tags = self.tags.unwrap_or(speaker.tags);
        Ok(Entry::of(speaker))
    }
}

/// Whether a recording tells enough of a voice, and of one only.
fn good_enough(called: &str, heard: &speaker::Sample) -> Result<(), Error> {
    let refuse = |why: String| Err(wrong("file", format!("{called}: {why}")));
    if heard.speech < SPEECH_LEAST || heard.embedding.is_empty() {
        return refuse(format!(
            "too short: it has {:.1} s of speech, and at least {SPEECH_LEAST:.1} s is needed; send a longer one",
            heard.speech
        ));
    }
    if let Some(snr) = heard.snr_db.filter(|snr| *snr < SNR_LEAST) {
        return refuse(format!(
            "too noisy: speech is {snr:.0} dB above what is between, and at least {SNR_LEAST:.0} dB is needed; record \
             it nearer to the microphone, or where it is quieter"
        ));
    }
    if heard.others > OTHERS_MOST {
        return refuse(format!(
            "two voices: {:.0}% of the speech is of another one, and at most {:.0}% may be; cut it, so that one person \
             speaks",
            heard.others * 100.0,
            OTHERS_MOST * 100.0
        ));
    }
    Ok(())
}

/// Whether what was heard is of one person, and of the one who is there already.
fn alike(before: &Entry<Noted>, heard: &[Heard], embedder: &Embedder) -> Result<(), Error> {
    let least = embedder.threshold - UNLIKE;
    let mut all: Vec<(&[f32], f64)> = before
        .speaker
        .samples
        .iter()
        .map(|noted| (noted.embedding.0.as_slice(), noted.sample.speech))
        .collect();
    for heard in heard {
        let middle = centroid(all.iter().copied());
        let cosine: f32 = middle.iter().zip(&heard.embedding).map(|(a, b)| a * b).sum();
        if !all.is_empty() && cosine < least {
            let message = format!(
                "{}: unlike the recordings before it, as if another person spoke (cosine {cosine:.2}; at least \
                 {least:.2} is expected); leave it out, or send `force=true` if it is the same person",
                heard.called
            );
            return Err(wrong("file", message));
        }
        all.push((&heard.embedding, heard.sample.speech));
    }
    Ok(())
}

/// Whether all samples of a speaker are enough together.
fn enough(speech: f64) -> Result<(), Error> {
    if speech >= SPEECH_LEAST_OF_ALL {
        return Ok(());
    }
    let message = format!(
        "too short: the recordings have {speech:.1} s of speech together, and at least {SPEECH_LEAST_OF_ALL:.1} s are \
         needed; send another one, or a longer one"
    );
    Err(wrong("file", message))
}
