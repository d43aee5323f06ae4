//! `POST /identify`: whose voices are in a recording.

use axum::extract::{Request, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::jobs::PutOff;
use super::transcribe::{Debug, FILE, millis};
use crate::http::dialect::DetailBody;
use crate::http::form::{Form, Values};
use crate::http::observe::ModelId;
use crate::http::speakers::identify::{asked, note, parts};
use crate::http::{ApiError, State};
use crate::service::speakers::{Asked, Found, Match, Recognised, UNKNOWN};
use crate::service::{Context, Error, Upload};
use crate::types::speaker::{Part, Sample};

/// What jobs of this are called.
pub(in crate::http) const JOB: &str = "identify";
const TOP_K: u64 = 1;

/// A recording whose voices are looked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `Wanted` reads it")]
#[schema(as = PmxIdentifyForm)]
pub(crate) struct IdentifyForm {
    /// The recording; `audio` and `input` are other names for it.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// Parts of it as JSON, `[{"start_ms": 0, "end_ms": 2500, "spk": "S1"}]`; `segments` is another name. The whole
    /// recording if absent.
    segments_json: Option<String>,
    /// Score from which a voice is that of a speaker, a cosine; the model's own if absent.
    #[schema(minimum = -1, maximum = 1)]
    threshold: Option<f32>,
    /// So many of the speakers that are most alike, 1 to 50; 1 if absent.
    #[schema(minimum = 1, maximum = 50)]
    top_k: Option<u32>,
}

/// Whose voices were found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxIdentified)]
pub(crate) struct IdentifyAnswer {
    matches: Vec<Matched>,
    info: Info,
    debug: Debug,
}

/// Whose the voice of a segment is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxMatch)]
pub(crate) struct Matched {
    from_ms: u64,
    to_ms: u64,
    /// As it was sent.
    spk: Option<String>,
    /// Null: of nobody who is known.
    spk_id: Option<String>,
    /// The speaker's name, or `unknown`.
    name: String,
    /// Of the speaker who is most alike, alike enough or not.
    score: f32,
    /// The speakers who are most alike besides the one that is named.
    alts: Vec<Alternative>,
}

/// Another speaker who is like the voice.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxAlternative)]
pub(crate) struct Alternative {
    spk_id: String,
    name: String,
    score: f32,
}

/// How voices were looked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxIdentifyInfo)]
pub(crate) struct Info {
    /// Speakers that the voices were compared with.
    enrolled_count: usize,
    /// Speakers that they could not be compared with: another model embedded them.
    stale_count: usize,
    segments_processed: usize,
    threshold: f32,
    top_k: usize,
    /// Whether scores are compared with the other speakers' (AS-norm, on the cosine's scale); else they are cosines.
    normalized: bool,
    /// Always `stentor`.
    backend: &'static str,
    /// Id of the model.
    embed_model: String,
    /// Of the recording, as far as it was looked at.
    duration_ms: u64,
    /// What to do about speakers that another model embedded.
    note: Option<String>,
}

/// A segment as it is sent.
#[derive(Debug, Clone, Deserialize)]
struct Segment {
    start_ms: f64,
    end_ms: f64,
    #[serde(default)]
    spk: Option<String>,
}

/// A form's fields, checked.
struct Wanted {
    asked: Asked,
    segments: Vec<Segment>,
    parts: Vec<Part>,
}

impl Wanted {
    fn read(values: &Values) -> Result<Wanted, ApiError> {
        let segments = match values.last(&["segments_json", "segments"]) {
            Some(field) => {
                parts(field, |segment: &Segment| (segment.start_ms / 1000.0, segment.end_ms / 1000.0))?
            }
            None => Vec::new(),
        };
        let (segments, parts) = segments.into_iter().unzip();
        Ok(Wanted { asked: asked(values, TOP_K, None)?, segments, parts })
    }
}

/// Say whose voices are in a recording.
#[utoipa::path(
    post,
    path = "/identify",
    operation_id = "pmxIdentify",
    tag = "pmx",
    request_body(content = IdentifyForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "Whose they are", body = IdentifyAnswer),
        (status = 503, description = "Nobody is enrolled", body = DetailBody),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    request: Request,
) -> Result<(Extension<ModelId>, Reply<IdentifyAnswer>), ApiError> {
    let form = Form::read(request, &state, FILE).await?;
    let wanted = Wanted::read(&form.values)?;
    let answer = answer(&state, &ctx, wanted, form.upload()?).await?;
    Ok((Extension(ModelId(answer.info.embed_model.clone())), Reply(answer)))
}

/// Whether a request that is put off could be done.
pub(super) fn check(_: &State, values: &Values) -> Result<(), ApiError> {
    Wanted::read(values).map(drop)
}

/// Does a request that was put off.
pub(in crate::http) async fn run(state: &State, ctx: Context, put_off: &PutOff) -> Result<Value, ApiError> {
    let wanted = Wanted::read(&put_off.values())?;
    let answer = answer(state, &ctx, wanted, put_off.upload(state).await?).await?;
    serde_json::to_value(answer).map_err(|e| ApiError::internal(e.to_string()))
}

async fn answer(
    state: &State,
    ctx: &Context,
    wanted: Wanted,
    upload: Upload,
) -> Result<IdentifyAnswer, ApiError> {
    let nobody = |reason: String| ApiError::from(Error::Unavailable { reason });
    if state.book().is_empty() {
        return Err(nobody("no speakers are enrolled; enrol some at /speakers/enroll".to_owned()));
    }
    let Wanted { asked, segments, parts } = wanted;
    let debug = Debug::new(upload.name.clone());
    let heard = state.book().recognise(state.backend(), ctx, upload, parts, asked).await?;
    let Recognised { identified, samples, embedder } = heard;
    let note = note(identified.stale);
    if identified.enrolled == 0 {
        return Err(nobody(note.unwrap_or_else(|| "no speakers are enrolled".to_owned())));
    }
    let found = identified.found.into_iter().zip(&samples).enumerate();
    let matches: Vec<Matched> =
        found.map(|(at, (found, sample))| matched(segments.get(at), found, sample)).collect();
    let info = Info {
        enrolled_count: identified.enrolled,
        stale_count: identified.stale,
        segments_processed: matches.len(),
        threshold: identified.threshold,
        top_k: asked.top_k,
        normalized: identified.normalised,
        backend: "stentor",
        embed_model: embedder.model,
        duration_ms: matches.iter().map(|matched| matched.to_ms).max().unwrap_or(0),
        note,
    };
    Ok(IdentifyAnswer { matches, info, debug })
}

fn matched(segment: Option<&Segment>, found: Found, sample: &Sample) -> Matched {
    let speaker = found.speaker().cloned();
    let (from_ms, to_ms) = match segment {
        Some(segment) => (millis(segment.start_ms / 1000.0), millis(segment.end_ms / 1000.0)),
        None => (0, millis(sample.seconds)),
    };
    let alternative = |Match { id, name, score }| Alternative { spk_id: id, name, score };
    Matched {
        from_ms,
        to_ms,
        spk: segment.and_then(|segment| segment.spk.clone()),
        name: speaker.as_ref().map_or(UNKNOWN, |speaker| &speaker.name).to_owned(),
        score: found.matches.first().map_or(0.0, |best| best.score),
        alts: found.matches.into_iter().skip(usize::from(speaker.is_some())).map(alternative).collect(),
        spk_id: speaker.map(|speaker| speaker.id),
    }
}
