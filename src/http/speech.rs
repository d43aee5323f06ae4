//! What the dialects' forms for recordings share.

use super::form::Values;
use super::{ApiError, State};
use crate::types::asr::{Chunking, Vad};
use crate::types::speaker::Speakers;

/// Longest prompt; the model itself hears only its last couple of hundred tokens.
pub(super) const MAX_PROMPT: usize = 16 << 10;
/// Speakers that a recording may be said to have.
const MAX_SPEAKERS: u64 = 64;
/// Temperatures that are tried in turn.
const MAX_TEMPERATURES: usize = 16;

/// The language to write down, as a code of two or three letters; a region after it (`pt-BR`) is dropped, and `auto`
/// detects it. Which codes a model knows, the service says.
pub(super) fn language(values: &Values) -> Result<Option<String>, ApiError> {
    let Some(field) = values.last(&["language"]) else { return Ok(None) };
    let code = field.text.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    let plain = code.chars().all(|c| c.is_ascii_lowercase());
    match plain && (2..=3).contains(&code.len()) && field.text.len() <= 16 {
        true => Ok(Some(code)),
        false if code == "auto" => Ok(None),
        false => Err(field.wrong("an ISO 639-1 code such as `en`, or `auto`")),
    }
}

/// The temperatures to try, where they were named. One 0 by itself asks for greedy with fallback, as OpenAI's does, and
/// a list is tried as it is.
pub(super) fn temperatures(values: &Values) -> Result<Option<Vec<f32>>, ApiError> {
    let Some(list) = values.list(&["temperature"])? else { return Ok(None) };
    let wrong = || {
        let must = format!("a number from 0 to 1, or a list of at most {MAX_TEMPERATURES}");
        ApiError::invalid(list.name.clone(), format!("`{}` must be {must}", list.name))
    };
    if !(1..=MAX_TEMPERATURES).contains(&list.items.len()) {
        return Err(wrong());
    }
    let number = |item: &String| item.parse().ok().filter(|t| (0.0..=1.0).contains(t)).ok_or_else(wrong);
    let ladder: Vec<f32> = list.items.iter().map(number).collect::<Result<_, _>>()?;
    Ok(Some(ladder).filter(|ladder| list.listed || ladder[0] > 0.0))
}

/// How many speakers a recording has, as far as that is said.
pub(super) fn speakers(values: &Values) -> Result<Speakers, ApiError> {
    let count = |name| {
        let count = values.whole(&[name], (1, MAX_SPEAKERS))?;
        Ok::<_, ApiError>(count.and_then(|count| usize::try_from(count).ok()))
    };
    let (exactly, least, most) = (count("num_speakers")?, count("min_speakers")?, count("max_speakers")?);
    if let Some(exactly) = exactly {
        return Ok(Speakers::exactly(exactly));
    }
    let any = Speakers::default();
    let (least, most) = (least.unwrap_or(any.least), most.unwrap_or(any.most));
    match least <= most {
        true => Ok(Speakers { least, most }),
        false => Err(ApiError::invalid("min_speakers", "`min_speakers` is above `max_speakers`")),
    }
}

/// Leaves silence out, as faster-whisper's `vad_filter` does.
pub(super) fn filtered(threshold: Option<f32>) -> Chunking {
    let vad = Vad { min_silence: 2.0, pad: 0.4, ..Vad::default() };
    Chunking::Speech(Vad { threshold: threshold.unwrap_or(vad.threshold), ..vad })
}

/// Refuses what is asked for by one of these flags, with what is to be said of it.
pub(super) fn refuse_flags(values: &Values, flags: &[(&[&str], &str)]) -> Result<(), ApiError> {
    for (names, message) in flags {
        if let Some(true) = values.flag(names)? {
            let name = values.last(names).map_or("", |field| field.name).to_owned();
            return Err(ApiError::unsupported(name.clone(), format!("`{name}`: {message}")));
        }
    }
    Ok(())
}

/// The model of a request in a dialect whose servers name Whisper models by their sizes (`medium`, `whisper/medium`):
/// that of the name if there is one, else `whisper-SIZE`.
pub(super) fn model(state: &State, values: &Values) -> Result<String, ApiError> {
    let Some(field) = values.last(&["model"]) else {
        let default = state.settings().default_asr.clone();
        return default.ok_or_else(|| ApiError::invalid("model", "`model` is missing: name a speech model"));
    };
    if field.text.len() > 256 || field.text.chars().any(char::is_control) {
        return Err(ApiError::invalid("model", "`model` has at most 256 bytes and no control characters"));
    }
    Ok(sized(state, field.text))
}

/// The model of this name, or the Whisper model of this size.
pub(super) fn sized(state: &State, name: &str) -> String {
    let cards = state.backend().models();
    let known =
        |name: &str| cards.iter().any(|card| card.id == name || card.aliases.iter().any(|a| a == name));
    let size = name.rsplit('/').next().unwrap_or_default();
    let whisper = format!("whisper-{size}");
    if !known(name) && known(&whisper) { whisper } else { name.to_owned() }
}
