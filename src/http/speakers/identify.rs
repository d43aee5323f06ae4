//! Whose voices are in a recording, and whether two recordings are of one voice.

use axum::extract::{Request, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::form::{Field, Files, Form, Values};
use crate::http::observe::ModelId;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::speakers::{Asked, Book, Found, Match, Recognised, UNKNOWN};
use crate::types::speaker::Part;

/// Most of the speakers that are most alike.
const MAX_TOP_K: u64 = 50;
const TOP_K: u64 = 5;
/// Parts of a recording, and seconds of one.
const MAX_PARTS: usize = 5000;
const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// A recording whose voice is looked for.
#[derive(ToSchema)]
#[schema(as = IdentifySpeakers)]
#[expect(dead_code, reason = "describes the form; `identify` reads it")]
pub(crate) struct IdentifyForm {
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// So many of the speakers that are most alike, 1 to 50; 5 if absent.
    #[schema(minimum = 1, maximum = 50)]
    top_k: Option<u32>,
    /// Score from which a voice is that of a speaker, -1 to 1; the model's own if absent.
    #[schema(minimum = -1, maximum = 1)]
    threshold: Option<f32>,
    /// Parts of the recording as JSON, `[{"start": 0.0, "end": 2.5}]` in seconds, each of which is looked for by itself;
    /// the whole of it if absent.
    segments: Option<String>,
}

/// Two recordings to compare.
#[derive(ToSchema)]
#[schema(as = VerifySpeakers)]
#[expect(dead_code, reason = "describes the form; `verify` reads it")]
pub(crate) struct VerifyForm {
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    #[schema(value_type = String, format = Binary)]
    other: Vec<u8>,
    /// Score from which they are of one voice, -1 to 1; the model's own if absent.
    #[schema(minimum = -1, maximum = 1)]
    threshold: Option<f32>,
}

/// Whose voices were found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SpeakerIdentification)]
pub(crate) struct Identification {
    object: &'static str,
    /// Id of the model that embeds voices.
    model: String,
    /// Score from which a voice is that of a speaker.
    threshold: f32,
    /// Whether scores are compared with the other speakers' (AS-norm, on the cosine's scale); else they are cosines.
    normalized: bool,
    /// Speakers that the voices were compared with.
    enrolled: usize,
    /// Speakers that they could not be compared with: another model embedded them.
    stale: usize,
    /// What to do about those.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// One for the recording, or one a segment, in order.
    data: Vec<Identified>,
}

/// Whose a voice is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IdentifiedSpeaker)]
pub(crate) struct Identified {
    /// Seconds; of a segment only.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<f64>,
    /// Id of the speaker; null: of nobody who is known.
    id: Option<String>,
    /// The speaker's name, or `unknown`.
    name: String,
    /// Seconds of speech; less than two tell little.
    speech_seconds: f64,
    /// The speakers that are most alike, the best first, whether they are alike enough or not.
    matches: Vec<MatchObject>,
}

/// A speaker that is like a voice.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SpeakerMatch)]
pub(crate) struct MatchObject {
    id: String,
    name: String,
    /// -1 to 1.
    score: f32,
}

/// Whether two recordings are of one voice.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SpeakerVerification)]
pub(crate) struct Verification {
    object: &'static str,
    same: bool,
    /// The cosine of their vectors, -1 to 1.
    score: f32,
    threshold: f32,
    /// Id of the model that embeds voices.
    model: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Segment {
    start: f64,
    end: f64,
}

impl From<Match> for MatchObject {
    fn from(Match { id, name, score }: Match) -> MatchObject {
        MatchObject { id, name, score }
    }
}

/// What a form asks of the book.
pub(in crate::http) fn asked(values: &Values, top_k: u64, threshold: Option<f32>) -> Result<Asked, ApiError> {
    let top_k = values.whole(&["top_k"], (1, MAX_TOP_K))?.unwrap_or(top_k);
    let threshold = values.number(&["threshold"], (-1.0, 1.0))?.or(threshold);
    Ok(Asked { top_k: usize::try_from(top_k).unwrap_or(1), threshold })
}

/// The parts of a recording that a field lists as JSON, each read as `T`; `span` is where it begins and ends in seconds.
pub(in crate::http) fn parts<T: serde::de::DeserializeOwned>(
    field: Field<'_>,
    span: impl Fn(&T) -> (f64, f64),
) -> Result<Vec<(T, Part)>, ApiError> {
    let name = || field.name.to_owned();
    let segments: Vec<T> = serde_json::from_str(field.text)
        .map_err(|_| ApiError::invalid(name(), format!("`{}` is no JSON list of segments", field.name)))?;
    if segments.len() > MAX_PARTS {
        return Err(ApiError::invalid(name(), format!("`{}` has more than {MAX_PARTS} entries", field.name)));
    }
    let part = |(at, segment): (usize, T)| {
        let (start, end) = span(&segment);
        if !(0.0..=MAX_SECONDS).contains(&start) || !(start..=MAX_SECONDS).contains(&end) || start == end {
            let message = format!("`{}[{at}]` must end after it begins", field.name);
            return Err(ApiError::invalid(name(), message));
        }
        Ok((segment, Part::seconds(start, end)))
    };
    segments.into_iter().enumerate().map(part).collect()
}

/// What is said of speakers that could not be compared with.
pub(in crate::http) fn note(stale: usize) -> Option<String> {
    (stale > 0).then(|| {
        format!(
            "{stale} speakers were enrolled with another model and cannot be recognised; enrol them again"
        )
    })
}

/// Say whose voice is in a recording, or whose voices are in its segments.
#[utoipa::path(
    post,
    path = "/v1/speakers/identify",
    operation_id = "identifySpeakers",
    tag = "speakers",
    request_body(content = IdentifyForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "Whose they are; where nobody is enrolled, nobody's", body = Identification),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn identify(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    form: Form,
) -> Result<(Extension<ModelId>, Reply<Identification>), ApiError> {
    let asked = asked(&form.values, TOP_K, None)?;
    let segments = match form.values.last(&["segments"]) {
        Some(field) => parts(field, |segment: &Segment| (segment.start, segment.end))?,
        None => Vec::new(),
    };
    let (segments, parts): (Vec<Segment>, Vec<Part>) = segments.into_iter().unzip();
    let heard = state.book().recognise(state.backend(), &ctx, form.upload()?, parts, asked).await?;
    let model = ModelId(heard.embedder.model.clone());
    Ok((Extension(model), Reply(identification(&segments, heard))))
}

fn identification(segments: &[Segment], heard: Recognised) -> Identification {
    let Recognised { identified, samples, embedder } = heard;
    let one = |(at, (found, sample)): (usize, (Found, &crate::types::speaker::Sample))| {
        let segment = segments.get(at);
        let speaker = found.speaker().cloned();
        Identified {
            start: segment.map(|segment| segment.start),
            end: segment.map(|segment| segment.end),
            name: speaker.as_ref().map_or(UNKNOWN, |speaker| &speaker.name).to_owned(),
            id: speaker.map(|speaker| speaker.id),
            speech_seconds: sample.speech,
            matches: found.matches.into_iter().map(MatchObject::from).collect(),
        }
    };
    Identification {
        object: "speaker.identification",
        model: embedder.model,
        threshold: identified.threshold,
        normalized: identified.normalised,
        enrolled: identified.enrolled,
        stale: identified.stale,
        note: note(identified.stale),
        data: identified.found.into_iter().zip(&samples).enumerate().map(one).collect(),
    }
}

/// Say whether two recordings are of one voice. Nobody needs to be enrolled.
#[utoipa::path(
    post,
    path = "/v1/speakers/verify",
    operation_id = "verifySpeakers",
    tag = "speakers",
    request_body(content = VerifyForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "Whether they are", body = Verification),
        (status = "4XX", description = "The request is wrong, or a recording has no speech", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn verify(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    request: Request,
) -> Result<(Extension<ModelId>, Reply<Verification>), ApiError> {
    let form = Form::read(request, &state, Files { names: &["file", "other"], most: 2 }).await?;
    let threshold = form.values.number(&["threshold"], (-1.0, 1.0))?;
    let mut uploads = form.uploads.into_iter();
    let (Some(one), Some(other)) = (uploads.next(), uploads.next()) else {
        return Err(ApiError::invalid("other", "two recordings are needed: attach `file` and `other`"));
    };
    let verified = Book::verify(state.backend(), &ctx, (one, other), threshold).await?;
    let model = ModelId(verified.model.clone());
    let answer = Verification {
        object: "speaker.verification",
        same: verified.same,
        score: verified.score,
        threshold: verified.threshold,
        model: verified.model,
    };
    Ok((Extension(model), Reply(answer)))
}
