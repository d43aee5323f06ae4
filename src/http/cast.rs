//! Who speaks in a recording, for the dialects that say so beside what is said.

use std::io::{Seek, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::form::Values;
use super::{ApiError, State};
use crate::service::speakers::Asked;
use crate::service::voices::dot;
use crate::service::{Context, Error, Upload};
use crate::types::speaker::{Cast, Diarization, Speakers};

/// Most speakers that a caller brings along, as OpenAI has it.
const MAX_KNOWN: usize = 4;
/// People of the book who may be a speaker.
const CANDIDATES: usize = 4;
/// The longest name.
const MAX_NAME: usize = 256;
/// Fields of the names and of the recordings.
const NAMES: &str = "known_speaker_names";
const REFERENCES: &str = "known_speaker_references";

/// A speaker whom the caller brings along.
#[derive(Debug)]
pub(super) struct Known {
    name: String,
    clip: Upload,
}

/// The speakers of `known_speaker_names[]`, each with a clip of `known_speaker_references[]`: a data URL.
pub(super) async fn known(state: &State, values: &Values) -> Result<Vec<Known>, ApiError> {
    let (names, clips) = (values.all(&[NAMES]), values.all(&[REFERENCES]));
    if names.len() != clips.len() || names.len() > MAX_KNOWN {
        let message = format!(
            "{} names and {} references: give each speaker one of both, {MAX_KNOWN} speakers at most",
            names.len(),
            clips.len()
        );
        return Err(ApiError::invalid(NAMES, message));
    }
    let mut known = Vec::with_capacity(names.len());
    for (name, clip) in names.into_iter().zip(clips) {
        if name.text.trim().is_empty() || name.text.len() > MAX_NAME {
            return Err(name.wrong(format!("a name of 1 to {MAX_NAME} bytes")));
        }
        let bytes = data_url(clip.text)
            .ok_or_else(|| clip.wrong("a data URL of audio, such as `data:audio/wav;base64,...`"))?;
        known.push(Known { name: name.text.trim().to_owned(), clip: spool(state, bytes).await? });
    }
    Ok(known)
}

/// The content of a data URL in base64 (RFC 2397).
fn data_url(text: &str) -> Option<Vec<u8>> {
    let (head, content) = text.trim().strip_prefix("data:")?.split_once(',')?;
    head.ends_with(";base64").then(|| STANDARD.decode(content.trim()).ok()).flatten()
}

async fn spool(state: &State, bytes: Vec<u8>) -> Result<Upload, ApiError> {
    let folder = state.settings().spool_dir.clone();
    let write = move || {
        let mut file = tempfile::tempfile_in(folder)?;
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok(file)
    };
    let failed = |detail: String| ApiError::internal(format!("spool: {detail}"));
    let written = tokio::task::spawn_blocking(write).await.map_err(|e| failed(e.to_string()))?;
    let file = written.map_err(|e: std::io::Error| failed(e.to_string()))?;
    Ok(Upload { file, name: None, mime: None })
}

/// Who speaks when in a recording, by name: those of `known` first, else those of the book. The recording is at its
/// beginning again then.
pub(super) async fn cast(
    state: &State,
    ctx: &Context,
    upload: &mut Upload,
    speakers: Speakers,
    known: Vec<Known>,
) -> Result<Cast, ApiError> {
    let found = state.backend().diarize(ctx.clone(), upload.again()?, speakers).await?;
    upload.rewind()?;
    name(state, ctx, found, known).await
}

/// The names of those who speak.
pub(super) async fn name(
    state: &State,
    ctx: &Context,
    found: Diarization,
    known: Vec<Known>,
) -> Result<Cast, ApiError> {
    if known.is_empty() && state.book().is_empty() {
        return Ok(named(found, Vec::new()));
    }
    let embedder = state.backend().embedder(ctx.clone()).await?;
    let mut alike = Vec::new();
    for Known { name, clip } in known {
        let heard = state.backend().samples(ctx.clone(), clip, Vec::new()).await;
        let mut samples = heard.map_err(|error| match error {
            Error::Invalid { message, .. } => {
                ApiError::invalid(REFERENCES, format!("the reference of `{name}`: {message}"))
            }
            other => other.into(),
        })?;
        let embedding = samples.pop().map(|sample| sample.embedding).unwrap_or_default();
        if embedding.is_empty() {
            let message = format!("the reference of `{name}` has no speech: send 2 to 10 s of it");
            return Err(ApiError::invalid(REFERENCES, message));
        }
        for (voice, at) in found.voices.iter().enumerate() {
            let score = dot(&at.embedding, &embedding);
            if score >= embedder.threshold {
                alike.push(Alike { voice, who: name.clone(), name: name.clone(), brought: true, score });
            }
        }
    }
    state.book().renew(state.backend(), ctx, &embedder).await?;
    let probes = found.voices.iter().map(|voice| voice.embedding.clone()).collect();
    let asked = Asked { top_k: CANDIDATES, threshold: None };
    let identified = state.book().identify(&embedder, probes, asked).await?;
    for (voice, found) in identified.found.into_iter().enumerate() {
        let likely = found.matches.into_iter().filter(|found| found.score >= identified.threshold);
        alike.extend(likely.map(|found| Alike {
            voice,
            who: found.id,
            name: found.name,
            brought: false,
            score: found.score,
        }));
    }
    Ok(named(found, alike))
}

/// A speaker of the recording who may be someone known.
struct Alike {
    voice: usize,
    /// Tells people of one name apart.
    who: String,
    name: String,
    /// Whether the caller brought them along.
    brought: bool,
    score: f32,
}

/// Names for speakers, the surest first: nobody is two speakers, and no speaker two people.
fn named(found: Diarization, mut alike: Vec<Alike>) -> Cast {
    alike.sort_by(|a, b| b.brought.cmp(&a.brought).then(b.score.total_cmp(&a.score)));
    let mut names: Vec<Option<String>> = vec![None; found.voices.len()];
    let mut taken: Vec<String> = Vec::new();
    for Alike { voice, who, name, .. } in alike {
        if !taken.contains(&who)
            && let Some(slot @ None) = names.get_mut(voice)
        {
            *slot = Some(name);
            taken.push(who);
        }
    }
    let names = names.into_iter().enumerate();
    let names = names.map(|(at, name)| name.unwrap_or_else(|| Cast::nameless(at))).collect();
    Cast { turns: found.exclusive, names }
}
