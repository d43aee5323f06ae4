//! How a recording is cut and searched: OpenAI's `chunking_strategy`, and what faster-whisper and the servers around it
//! take beside OpenAI's fields.

use serde::Deserialize;

use crate::http::ApiError;
use crate::http::form::{Field, Values};
use crate::http::speech::{self, MAX_PROMPT};
use crate::types::asr::{Chunking, Decoding, Vad};

/// More than any network has room for.
const MAX_NEW_TOKENS: u64 = 1024;

/// Longest pad, and longest pause that does not end speech, in milliseconds.
const MAX_MS: f32 = 30_000.0;
/// What the network hears at a time, in seconds.
const WINDOW: f32 = 30.0;

/// How tokens are searched for.
pub(super) fn decoding(values: &Values) -> Result<Decoding, ApiError> {
    let default = Decoding::default();
    let texts = |name: &str, default: usize| -> Result<usize, ApiError> {
        Ok(values.whole(&[name], (1, 16))?.map_or(default, |n| n as usize))
    };
    let number = |name: &str, bounds, default: f32| -> Result<f32, ApiError> {
        Ok(values.number(&[name], bounds)?.unwrap_or(default))
    };
    let flag = |name: &str, default: bool| -> Result<bool, ApiError> {
        Ok(values.flag(&[name])?.unwrap_or(default))
    };
    let logprob = ["log_prob_threshold", "logprob_threshold"];
    Ok(Decoding {
        beam_size: texts("beam_size", default.beam_size)?,
        best_of: texts("best_of", default.best_of)?,
        patience: number("patience", (0.1, 10.0), default.patience)?,
        length_penalty: number("length_penalty", (0.0, 10.0), default.length_penalty)?,
        temperatures: speech::temperatures(values)?.unwrap_or(default.temperatures),
        compression_ratio: values
            .threshold(&["compression_ratio_threshold"], (0.0, 1000.0))?
            .unwrap_or(default.compression_ratio),
        logprob: values.threshold(&logprob, (-1000.0, 0.0))?.unwrap_or(default.logprob),
        no_speech: values.threshold(&["no_speech_threshold"], (0.0, 1.0))?.unwrap_or(default.no_speech),
        condition_on_previous: flag("condition_on_previous_text", default.condition_on_previous)?,
        suppress_blank: flag("suppress_blank", default.suppress_blank)?,
        suppress: suppressed(values)?,
        without_timestamps: flag("without_timestamps", default.without_timestamps)?,
        max_initial_timestamp: number("max_initial_timestamp", (0.0, WINDOW), default.max_initial_timestamp)?,
        hallucination_silence: values
            .threshold(&["hallucination_silence_threshold"], (0.0, WINDOW))?
            .unwrap_or(default.hallucination_silence),
        max_new_tokens: values.whole(&["max_new_tokens"], (1, MAX_NEW_TOKENS))?.map(|n| n as usize),
        language_windows: default.language_windows,
        seed: seed(values)?.unwrap_or(default.seed),
    })
}

/// Ids of tokens; -1 by itself stands for the model's list.
fn suppressed(values: &Values) -> Result<Option<Vec<u32>>, ApiError> {
    let Some(list) = values.list(&["suppress_tokens"])? else { return Ok(None) };
    if list.items == ["-1"] {
        return Ok(None);
    }
    let id = |item: &String| {
        item.parse().map_err(|_| {
            let message = "`suppress_tokens` must be token ids, or -1 alone for those that are not speech";
            ApiError::invalid(list.name.clone(), message)
        })
    };
    list.items.iter().map(id).collect::<Result<_, _>>().map(Some)
}

/// Negative seeds are seeds like any other: the same bits each time.
fn seed(values: &Values) -> Result<Option<u64>, ApiError> {
    let Some(field) = values.last(&["seed"]) else { return Ok(None) };
    let signed = field.text.parse().map(i64::cast_unsigned);
    signed.or_else(|_| field.text.parse()).map(Some).map_err(|_| field.wrong("a whole number"))
}

/// Names and terms that may be said, by faster-whisper's name and by OpenAI's.
pub(super) fn hotwords(values: &Values) -> Result<Option<String>, ApiError> {
    let mut words: Vec<String> = values.text(&["hotwords"], MAX_PROMPT)?.into_iter().collect();
    words.extend(values.list(&["keywords"])?.map(|list| list.items).unwrap_or_default());
    let joined = words.join(", ");
    if joined.len() > MAX_PROMPT {
        return Err(ApiError::invalid(
            "keywords[]",
            format!("`keywords[]` has more than {MAX_PROMPT} bytes"),
        ));
    }
    Ok(Some(joined).filter(|words| !words.is_empty()))
}

/// How the recording is cut. A strategy wins over the filter: its chunks are without silence too.
pub(super) fn chunking(values: &Values) -> Result<Chunking, ApiError> {
    let threshold = values.number(&["vad_threshold"], (0.0, 1.0))?;
    let filter = values.flag(&["vad_filter"])?.unwrap_or(false);
    Ok(match strategy(values)? {
        Some(vad) => Chunking::Chunks(vad),
        None if filter => speech::filtered(threshold),
        None => Chunking::Sequential,
    })
}

/// OpenAI's `server_vad`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerVad {
    r#type: Option<String>,
    threshold: Option<f32>,
    prefix_padding_ms: Option<f32>,
    silence_duration_ms: Option<f32>,
}

/// `auto`, a JSON object, or the object's entries as fields (`chunking_strategy[type]`), as the official clients send
/// them.
fn strategy(values: &Values) -> Result<Option<Vad>, ApiError> {
    const NAME: &str = "chunking_strategy";
    let entries = values.keyed(NAME);
    let whole = values.last(&[NAME]);
    let wrong = || {
        let must = "`auto` or an object of `type` (`server_vad`), `threshold` (0 to 1), `prefix_padding_ms` and \
                    `silence_duration_ms` (0 to 30000)";
        ApiError::invalid(NAME, format!("`{NAME}` must be {must}"))
    };
    let vad = match whole.map(|field| field.text.trim_matches('"')) {
        None if entries.is_empty() => return Ok(None),
        Some("auto") => return server_vad(&ServerVad::default()).map(Some).ok_or_else(wrong),
        Some(text) => serde_json::from_str::<ServerVad>(text).map_err(|_| wrong())?,
        None => from_entries(&entries).ok_or_else(wrong)?,
    };
    if vad.r#type.as_deref() != Some("server_vad") {
        return Err(wrong());
    }
    server_vad(&vad).map(Some).ok_or_else(wrong)
}

fn from_entries(entries: &[(&str, Field<'_>)]) -> Option<ServerVad> {
    let mut vad = ServerVad::default();
    for (key, field) in entries {
        let number = || field.text.parse().ok();
        match *key {
            "type" => vad.r#type = Some(field.text.to_owned()),
            "threshold" => vad.threshold = Some(number()?),
            "prefix_padding_ms" => vad.prefix_padding_ms = Some(number()?),
            "silence_duration_ms" => vad.silence_duration_ms = Some(number()?),
            _ => return None,
        }
    }
    Some(vad)
}

/// With OpenAI's defaults; `None`: a value is out of range.
fn server_vad(vad: &ServerVad) -> Option<Vad> {
    let threshold = vad.threshold.unwrap_or(0.5);
    let (pad, silence) = (vad.prefix_padding_ms.unwrap_or(300.0), vad.silence_duration_ms.unwrap_or(200.0));
    let within =
        (0.0..=1.0).contains(&threshold) && [pad, silence].iter().all(|ms| (0.0..=MAX_MS).contains(ms));
    within.then(|| Vad {
        threshold,
        max_speech: WINDOW,
        min_silence: silence / 1000.0,
        pad: pad / 1000.0,
        ..Vad::default()
    })
}
