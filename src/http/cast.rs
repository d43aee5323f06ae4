//! Who speaks in a recording, for the dialects that say so beside what is said.

use std::io::{Seek, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::form::Values;
use super::{ApiError, State};
use crate::service::{Context, Upload};
use crate::types::speaker::{Cast, Diarization, Speakers};

/// Most speakers that a caller brings along, as OpenAI has it.
const MAX_KNOWN: usize = 4;
/// Most speakers that can be asked for.
const MAX_SPEAKERS: u64 = 100;
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

/// How many speakers a form says that there are, by one of `exactly`, or within bounds.
pub(super) fn speakers(values: &Values, exactly: &[&str]) -> Result<Speakers, ApiError> {
    let whole =
        |names: &[&str]| Ok::<_, ApiError>(values.whole(names, (1, MAX_SPEAKERS))?.map(|n| n as usize));
    if let Some(count) = whole(exactly)? {
        return Ok(Speakers::exactly(count));
    }
    let least = whole(&["min_speakers"])?.unwrap_or(1);
    let most = whole(&["max_speakers"])?.unwrap_or(usize::MAX);
    if least > most {
        let message = format!("`min_speakers` is {least} and `max_speakers` {most}: that is nobody");
        return Err(ApiError::invalid("min_speakers", message));
    }
    Ok(Speakers { least, most })
}

/// The speakers of `known_speaker_names[]`, each with a clip of `known_speaker_references[]`: a data URL.
pub(super) fn known(state: &State, values: &Values) -> Result<Vec<Known>, ApiError> {
    let (names, clips) = (values.all(&[NAMES]), values.all(&[REFERENCES]));
    if names.len() != clips.len() || names.len() > MAX_KNOWN {
        let message = format!(
            "{} names and {} references: give each speaker one of both, {MAX_KNOWN} speakers at most",
            names.len(),
            clips.len()
        );
        return Err(ApiError::invalid(NAMES, message));
    }
    let pairs = names.into_iter().zip(clips);
    pairs
        .map(|(name, clip)| {
            if name.text.trim().is_empty() || name.text.len() > MAX_NAME {
                return Err(name.wrong(format!("a name of 1 to {MAX_NAME} bytes")));
            }
            let bytes = data_url(clip.text)
                .ok_or_else(|| clip.wrong("a data URL of audio, such as `data:audio/wav;base64,...`"))?;
            Ok(Known { name: name.text.trim().to_owned(), clip: spool(state, &bytes)? })
        })
        .collect()
}

/// The content of a data URL in base64 (RFC 2397).
fn data_url(text: &str) -> Option<Vec<u8>> {
    let (head, content) = text.trim().strip_prefix("data:")?.split_once(',')?;
    head.ends_with(";base64").then(|| STANDARD.decode(content.trim()).ok()).flatten()
}

fn spool(state: &State, bytes: &[u8]) -> Result<Upload, ApiError> {
    let write = || {
        let mut file = tempfile::tempfile_in(&state.settings().spool_dir)?;
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file)
    };
    let file = write().map_err(|e: std::io::Error| ApiError::internal(format!("spool: {e}")))?;
    Ok(Upload { file, name: None, mime: None })
}

/// Who speaks when in a recording, by name: those of `known` first, else those of the book.
pub(super) async fn cast(
    state: &State,
    ctx: &Context,
    upload: Upload,
    speakers: Speakers,
    known: Vec<Known>,
) -> Result<Cast, ApiError> {
    let found = state.backend().diarize(ctx.clone(), upload, speakers).await?;
    let mut alike = Vec::new();
    if !known.is_empty() {
        let threshold = state.backend().embedder(ctx.clone()).await?.threshold;
        for Known { name, clip } in known {
            let mut samples = state.backend().samples(ctx.clone(), clip, Vec::new()).await?;
            let embedding = samples.pop().map(|sample| sample.embedding).unwrap_or_default();
            if embedding.is_empty() {
                let message = format!("the reference of `{name}` has no speech: send 2 to 10 s of it");
                return Err(ApiError::invalid(REFERENCES, message));
            }
            let voices = found.voices.iter().enumerate();
            let scores = voices.map(|(voice, at)| (voice, name.clone(), cosine(&at.embedding, &embedding)));
            alike.extend(scores.filter(|(.., score)| *score >= threshold));
        }
    }
    Ok(named(found, alike))
}

/// Names for speakers, the surest first, each name once and each speaker one.
fn named(found: Diarization, mut alike: Vec<(usize, String, f32)>) -> Cast {
    alike.sort_by(|a, b| b.2.total_cmp(&a.2));
    let mut names: Vec<Option<String>> = vec![None; found.voices.len()];
    for (voice, name, _) in alike {
        if !names.iter().flatten().any(|taken| *taken == name)
            && let Some(slot @ None) = names.get_mut(voice)
        {
            *slot = Some(name);
        }
    }
    let names = names.into_iter().enumerate();
    let names = names.map(|(at, name)| name.unwrap_or_else(|| Cast::nameless(at))).collect();
    Cast { turns: found.exclusive, names }
}

/// Of two vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
