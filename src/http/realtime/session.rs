//! A session as clients configure it, in OpenAI's two forms: nested below `audio.input`, and flat as it was before.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::http::speech::MAX_PROMPT;
use crate::http::{ApiError, State};
use crate::service::live::{Encoding, Options, Turns};

/// Longest padding or silence, in milliseconds.
const MAX_MS: u64 = 30_000;
/// What the name of a model that tells speakers ends with, as OpenAI's `gpt-4o-transcribe-diarize`.
const DIARIZES: &str = "-diarize";
/// Sample rates of PCM; OpenAI's is 24 kHz.
const RATES: std::ops::RangeInclusive<u32> = 8_000..=48_000;

/// What a client may say of a session; what it does not say stays.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Update {
    r#type: Option<String>,
    audio: Option<Audio>,
    input_audio_format: Option<String>,
    input_audio_transcription: Option<Transcription>,
    input_audio_noise_reduction: Option<Value>,
    #[serde(deserialize_with = "said")]
    turn_detection: Option<Option<Detection>>,
    include: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Audio {
    input: Option<Input>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Input {
    format: Option<Format>,
    transcription: Option<Transcription>,
    noise_reduction: Option<Value>,
    #[serde(deserialize_with = "said")]
    turn_detection: Option<Option<Detection>>,
}

#[derive(Debug, Deserialize)]
struct Format {
    r#type: String,
    rate: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Transcription {
    model: Option<String>,
    language: Option<String>,
    prompt: Option<String>,
    /// This server's own: OpenAI tells speakers where the model is one that does.
    diarize: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Detection {
    r#type: Option<String>,
    threshold: Option<f32>,
    prefix_padding_ms: Option<u64>,
    silence_duration_ms: Option<u64>,
}

/// Tells null from nothing.
fn said<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<Detection>>, D::Error> {
    Option::<Detection>::deserialize(from).map(Some)
}

/// The session as it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub id: String,
    pub options: Options,
    pub encoding: Encoding,
    /// Whether sentences say who speaks.
    pub diarize: bool,
    /// Whether the client is told in the older, flat form.
    pub flat: bool,
}

impl Config {
    /// OpenAI's defaults.
    pub fn new(state: &State, model: Option<String>, flat: bool) -> Config {
        let model = model.or_else(|| state.settings().default_asr.clone()).unwrap_or_default();
        let diarize = model.ends_with(DIARIZES);
        Config {
            id: format!("sess_{}", uuid::Uuid::new_v4().simple()),
            options: Options::new(model),
            encoding: Encoding::Pcm16 { rate: 24_000 },
            diarize,
            flat,
        }
    }

    /// What it becomes; as it is where something is wrong.
    pub fn updated(&self, update: Update) -> Result<Config, ApiError> {
        let mut config = self.clone();
        if let Some(kind) = update.r#type.filter(|kind| kind != "transcription") {
            let message = format!("a session of the type `{kind}` is not served: use `transcription`");
            return Err(ApiError::unsupported("session.type", message));
        }
        if let Some(name) = update.include.unwrap_or_default().first() {
            let message = format!("`{name}` cannot be included");
            return Err(ApiError::unsupported("session.include", message));
        }
        let input = update.audio.unwrap_or_default().input.unwrap_or_default();
        if let Some(format) = input.format {
            config.encoding = encoding(&format.r#type, format.rate)?;
        } else if let Some(name) = update.input_audio_format {
            config.encoding = flat_encoding(&name)?;
        }
        if let Some(Value::Object(_)) = input.noise_reduction.or(update.input_audio_noise_reduction) {
            let message = "noise is not reduced here: send `noise_reduction` as null";
            return Err(ApiError::unsupported("session.audio.input.noise_reduction", message));
        }
        if let Some(detection) = input.turn_detection.or(update.turn_detection) {
            config.options.turns = detection.map(|detection| turns(&detection)).transpose()?;
        }
        if let Some(transcription) = input.transcription.or(update.input_audio_transcription) {
            config.transcribe(transcription)?;
        }
        Ok(config)
    }

    fn transcribe(&mut self, transcription: Transcription) -> Result<(), ApiError> {
        if let Some(model) = transcription.model {
            self.diarize = model.ends_with(DIARIZES);
            self.options.model = model_name(model)?;
        }
        if let Some(diarize) = transcription.diarize {
            self.diarize = diarize;
        }
        if let Some(language) = transcription.language {
            self.options.language = language_code(&language)?;
        }
        if let Some(prompt) = transcription.prompt {
            if prompt.len() > MAX_PROMPT {
                let message = format!("`prompt` has more than {MAX_PROMPT} bytes");
                return Err(ApiError::invalid("session.audio.input.transcription.prompt", message));
            }
            self.options.prompt = Some(prompt).filter(|prompt| !prompt.is_empty());
        }
        Ok(())
    }

    /// Whether audio is heard by the same models, in the same format.
    pub fn hears_like(&self, other: &Config) -> bool {
        let heard = |config: &Config| (config.options.model.clone(), config.encoding, config.diarize);
        heard(self) == heard(other)
    }

    /// As the client is told.
    pub fn to_json(&self) -> Value {
        let turns = self.options.turns.map(|turns| {
            json!({"type": "server_vad", "threshold": turns.threshold, "prefix_padding_ms": turns.padding.as_millis() as u64,
                "silence_duration_ms": turns.silence.as_millis() as u64})
        });
        let options = &self.options;
        let transcription = json!({"model": options.model, "language": options.language, "prompt": options.prompt, "diarize": self.diarize});
        let object = "realtime.transcription_session";
        if self.flat {
            let format = match self.encoding {
                Encoding::Pcm16 { .. } => "pcm16",
                Encoding::MuLaw => "g711_ulaw",
                Encoding::ALaw => "g711_alaw",
            };
            return json!({"id": self.id, "object": object, "input_audio_format": format,
                "input_audio_transcription": transcription, "input_audio_noise_reduction": null,
                "turn_detection": turns, "include": null});
        }
        let format = match self.encoding {
            Encoding::Pcm16 { rate } => json!({"type": "audio/pcm", "rate": rate}),
            Encoding::MuLaw => json!({"type": "audio/pcmu"}),
            Encoding::ALaw => json!({"type": "audio/pcma"}),
        };
        json!({"type": "transcription", "id": self.id, "object": object, "include": null, "audio": {"input": {
            "format": format, "transcription": transcription, "noise_reduction": null, "turn_detection": turns}}})
    }
}

fn encoding(name: &str, rate: Option<u32>) -> Result<Encoding, ApiError> {
    const PARAM: &str = "session.audio.input.format";
    match (name, rate.unwrap_or(24_000)) {
        ("audio/pcm", rate) if RATES.contains(&rate) => Ok(Encoding::Pcm16 { rate }),
        ("audio/pcm", _) => {
            Err(ApiError::invalid(PARAM, "the `rate` of `audio/pcm` must be from 8000 to 48000"))
        }
        ("audio/pcmu", _) => Ok(Encoding::MuLaw),
        ("audio/pcma", _) => Ok(Encoding::ALaw),
        _ => Err(ApiError::invalid(PARAM, "the `type` must be `audio/pcm`, `audio/pcmu` or `audio/pcma`")),
    }
}

fn flat_encoding(name: &str) -> Result<Encoding, ApiError> {
    match name {
        "pcm16" => Ok(Encoding::Pcm16 { rate: 24_000 }),
        "g711_ulaw" => Ok(Encoding::MuLaw),
        "g711_alaw" => Ok(Encoding::ALaw),
        _ => {
            let message = "`input_audio_format` must be `pcm16`, `g711_ulaw` or `g711_alaw`";
            Err(ApiError::invalid("session.input_audio_format", message))
        }
    }
}

fn turns(detection: &Detection) -> Result<Turns, ApiError> {
    const PARAM: &str = "session.audio.input.turn_detection";
    if let Some(kind) = detection.r#type.as_deref().filter(|kind| *kind != "server_vad") {
        let message = format!("turns are not found by `{kind}`: use `server_vad`, or null");
        return Err(ApiError::unsupported(PARAM, message));
    }
    let turns = Turns::default();
    let threshold = detection.threshold.unwrap_or(turns.threshold);
    let ms = |given: Option<u64>, default: Duration| given.map_or(default, Duration::from_millis);
    let padding = ms(detection.prefix_padding_ms, turns.padding);
    let silence = ms(detection.silence_duration_ms, turns.silence);
    let most = Duration::from_millis(MAX_MS);
    if !(0.0..=1.0).contains(&threshold) || padding > most / 3 || silence > most {
        let message = "`threshold` must be from 0 to 1, `prefix_padding_ms` at most 10000 and `silence_duration_ms` \
                       at most 30000";
        return Err(ApiError::invalid(PARAM, message));
    }
    Ok(Turns { threshold, padding, silence })
}

/// A model's name as a client gives it.
pub(super) fn model_name(name: String) -> Result<String, ApiError> {
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        return Err(ApiError::invalid("model", "`model` has 1 to 256 bytes and no control characters"));
    }
    Ok(name)
}

/// A code of two or three letters, without a region; nothing, or `auto`, detects it.
pub(super) fn language_code(text: &str) -> Result<Option<String>, ApiError> {
    let code = text.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    let plain = code.chars().all(|c| c.is_ascii_lowercase()) && text.len() <= 16;
    match plain && (2..=3).contains(&code.len()) {
        true => Ok(Some(code)),
        false if code == "auto" || text.is_empty() => Ok(None),
        false => {
            Err(ApiError::invalid("language", "`language` must be an ISO 639-1 code such as `en`, or `auto`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let (options, encoding) = (Options::new("ears"), Encoding::Pcm16 { rate: 24_000 });
        Config { id: "sess_1".into(), options, encoding, diarize: false, flat: false }
    }

    fn update(value: Value) -> Result<Config, ApiError> {
        config().updated(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn both_forms_say_the_same() {
        let nested = update(json!({"type": "transcription", "audio": {"input": {
            "format": {"type": "audio/pcmu"}, "transcription": {"model": "m", "language": "pt-BR", "prompt": "p"},
            "turn_detection": {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 200}}}}));
        let flat = update(json!({"input_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "m", "language": "pt", "prompt": "p"},
            "turn_detection": {"threshold": 0.4, "silence_duration_ms": 200, "create_response": true}}));
        let (nested, flat) = (nested.unwrap(), flat.unwrap());
        assert_eq!(nested, flat);
        assert_eq!(nested.options.language.as_deref(), Some("pt"));
        assert_eq!(nested.options.turns.unwrap().silence, Duration::from_millis(200));
        assert_eq!(nested.to_json()["audio"]["input"]["format"]["type"], "audio/pcmu");
        let flat = Config { flat: true, ..flat };
        assert_eq!(flat.to_json()["turn_detection"]["prefix_padding_ms"], 300);
    }

    #[test]
    fn null_is_not_nothing() {
        assert!(update(json!({})).unwrap().options.turns.is_some());
        assert_eq!(update(json!({"turn_detection": null})).unwrap().options.turns, None);
        let nested = json!({"audio": {"input": {"turn_detection": null, "noise_reduction": null}}});
        assert_eq!(update(nested).unwrap().options.turns, None);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (wrong, param) in [
            (json!({"type": "realtime"}), "session.type"),
            (json!({"include": ["item.input_audio_transcription.logprobs"]}), "session.include"),
            (json!({"turn_detection": {"type": "semantic_vad"}}), "session.audio.input.turn_detection"),
            (json!({"turn_detection": {"threshold": 2}}), "session.audio.input.turn_detection"),
            (json!({"input_audio_format": "mp3"}), "session.input_audio_format"),
            (
                json!({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 1}}}}),
                "session.audio.input.format",
            ),
            (json!({"input_audio_transcription": {"language": "english"}}), "language"),
            (
                json!({"input_audio_noise_reduction": {"type": "near_field"}}),
                "session.audio.input.noise_reduction",
            ),
        ] {
            let error = update(wrong.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{wrong}");
        }
    }
}
