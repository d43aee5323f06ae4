//! `POST /v1/audio/transcriptions` and `/v1/audio/translations`.

use axum::Extension;
use axum::extract::State as Extract;
use axum::response::Response;
use utoipa::ToSchema;

use super::described::{Granularity, JsonTranscript, TranscriptFormat};
use super::fields::ModelName;
use super::form::Form;
use super::transcript::{self, Format};
use super::{model, models};
use crate::http::{ApiError, State};
use crate::service::{Context, Upload};
use crate::types::asr::{Request, Task};

/// Longest prompt; the model itself hears only its last couple of hundred tokens.
const MAX_PROMPT: usize = 16 << 10;

/// A recording to write down. Fields that are not listed are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `Fields` reads it")]
pub(crate) struct TranscriptionForm {
    /// The recording: flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav or webm.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// Id or alias of a speech model; may be left out where the server has a default.
    model: Option<String>,
    /// ISO 639-1 code; detected if absent.
    language: Option<String>,
    /// Text that the transcript is to read as if it followed.
    prompt: Option<String>,
    /// `json` (the default), `text`, `srt`, `verbose_json` or `vtt`.
    response_format: Option<TranscriptFormat>,
    /// 0 to 1; 0 (the default) is greedy with fallback.
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f32>,
    /// Only `segment`.
    #[schema(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<Granularity>>,
}

/// The form's fields, checked.
#[derive(Debug, PartialEq)]
pub(super) struct Fields {
    pub request: Request,
    pub format: Format,
}

impl Fields {
    /// Reads the text fields. Of a field that is there twice the last counts.
    pub fn read(
        fields: Vec<(String, String)>,
        task: Task,
        default: &Option<String>,
    ) -> Result<Fields, ApiError> {
        let mut named = None;
        let mut format = Format::Json;
        let mut request = Request::new("", task);
        for (name, value) in fields {
            let value = value.trim();
            if value.is_empty() {
                continue;
            }
            match name.as_str() {
                "model" => {
                    let name = ModelName::new(value.to_owned()).map_err(|e| ApiError::invalid("model", e))?;
                    named = Some(name);
                }
                "response_format" => format = Format::parse(value)?,
                "language" => request.language = Some(language(value)?),
                "prompt" if value.len() > MAX_PROMPT => {
                    let message = format!("`prompt` is longer than {MAX_PROMPT} bytes");
                    return Err(ApiError::invalid("prompt", message));
                }
                "prompt" => request.prompt = Some(value.to_owned()),
                "temperature" => {
                    if let Some(temperature) = Some(temperature(value)?).filter(|t| *t > 0.0) {
                        request.decoding.temperatures = vec![temperature];
                    }
                }
                _ => refuse(&name, value)?,
            }
        }
        request.model = model(named, default)?;
        Ok(Fields { request, format })
    }
}

/// Refuses fields that would change the answer and are not honoured.
fn refuse(name: &str, value: &str) -> Result<(), ApiError> {
    let no = |param: &'static str, text: &str| Err(ApiError::unsupported(param, text));
    match name {
        "timestamp_granularities[]" | "timestamp_granularities" => match value {
            "segment" => Ok(()),
            "word" => no("timestamp_granularities[]", "word times are not supported by this server yet"),
            _ => Err(ApiError::invalid(
                "timestamp_granularities[]",
                "`timestamp_granularities[]` must be `segment`",
            )),
        },
        "stream" => match value.to_ascii_lowercase().as_str() {
            "false" | "0" => Ok(()),
            "true" | "1" => no("stream", "streamed transcripts are not supported by this server yet"),
            _ => Err(ApiError::invalid("stream", "`stream` must be true or false")),
        },
        "include[]" | "include" => no("include[]", "`include[]` is not supported by this server"),
        "known_speaker_names[]" | "known_speaker_names" => {
            no("known_speaker_names[]", "speakers are not supported by this server yet")
        }
        "known_speaker_references[]" | "known_speaker_references" => {
            no("known_speaker_references[]", "speakers are not supported by this server yet")
        }
        _ => Ok(()),
    }
}

/// A code of two or three letters; a region after it (`pt-BR`) is dropped. Which ones a model knows, the
/// service says.
fn language(value: &str) -> Result<String, ApiError> {
    let code = value.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    let plain = code.chars().all(|c| c.is_ascii_lowercase());
    match plain && (2..=3).contains(&code.len()) && value.len() <= 16 {
        true => Ok(code),
        false => Err(ApiError::invalid("language", "`language` must be an ISO 639-1 code such as `en`")),
    }
}

fn temperature(value: &str) -> Result<f32, ApiError> {
    match value.parse::<f32>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err(ApiError::invalid("temperature", "`temperature` must be a number from 0 to 1")),
    }
}

async fn answer(state: State, ctx: Context, form: Form, task: Task) -> Result<Response, ApiError> {
    let fields = Fields::read(form.fields, task, &state.settings().default_asr)?;
    let upload: Upload =
        form.upload.ok_or_else(|| ApiError::invalid("file", "`file` is missing: attach the recording"))?;
    let known = models::resolve(&state, &fields.request.model);
    let transcript = state.backend().transcribe(ctx, fields.request, upload).await?.collect().await?;
    let mut response = transcript::write(&transcript, fields.format, task);
    if let Some(model) = known {
        response.extensions_mut().insert(model);
    }
    Ok(response)
}

/// Transcribe a recording in its own language.
#[utoipa::path(
    post,
    path = "/v1/audio/transcriptions",
    operation_id = "createTranscription",
    tag = "audio",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript, in the form asked for",
            content((JsonTranscript = "application/json"), (String = "text/plain"), (String = "text/vtt"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn transcribe(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    form: Form,
) -> Result<Response, ApiError> {
    answer(state, ctx, form, Task::Transcribe).await
}

/// Transcribe a recording into English.
#[utoipa::path(
    post,
    path = "/v1/audio/translations",
    operation_id = "createTranslation",
    tag = "audio",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript in English, in the form asked for",
            content((JsonTranscript = "application/json"), (String = "text/plain"), (String = "text/vtt"))),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn translate(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    form: Form,
) -> Result<Response, ApiError> {
    answer(state, ctx, form, Task::Translate).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Fields, ApiError> {
        let fields = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Fields::read(fields, Task::Transcribe, &Some("default".into()))
    }

    #[test]
    fn fields_are_read_and_others_ignored() {
        let fields = read(&[
            ("model", "whisper-1"),
            ("language", "pt-BR"),
            ("prompt", " names "),
            ("response_format", "verbose_json"),
            ("temperature", "0.5"),
            ("timestamp_granularities[]", "segment"),
            ("stream", "false"),
            ("chunking_strategy", "auto"),
            ("anything", "else"),
        ])
        .unwrap();
        assert_eq!(fields.format, Format::Verbose);
        assert_eq!(fields.request.model, "whisper-1");
        assert_eq!(fields.request.language.as_deref(), Some("pt"));
        assert_eq!(fields.request.prompt.as_deref(), Some("names"));
        assert_eq!(fields.request.decoding.temperatures, [0.5]);
        assert_eq!(read(&[("language", "")]).unwrap().request.model, "default");
    }

    #[test]
    fn wrong_fields_are_named() {
        for (name, value) in [
            ("model", "a\u{7}b"),
            ("language", "../etc"),
            ("language", "english"),
            ("response_format", "pdf"),
            ("response_format", "diarized_json"),
            ("temperature", "hot"),
            ("temperature", "NaN"),
            ("temperature", "1.5"),
            ("timestamp_granularities[]", "word"),
            ("stream", "true"),
            ("include[]", "logprobs"),
            ("known_speaker_names[]", "Ann"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(name)), "{value}");
        }
    }
}
