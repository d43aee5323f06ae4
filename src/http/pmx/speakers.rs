//! `/speakers`: who is known by voice, as PMX's services enrol and list them.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::docs::Deleted;
use super::jobs::PutOff;
use crate::http::body::Json;
use crate::http::dialect::DetailBody;
use crate::http::form::{Files, Form, Values};
use crate::http::speakers::embedder;
use crate::http::speakers::enrol::{self, enrolment, recordings, urls};
use crate::http::{ApiError, State};
use crate::service::speakers::{Changed, NewSample, Speaker};
use crate::service::{Context, Error};
use crate::types::speaker::Embedder;

/// Names of the parts that are recordings of a speaker.
pub(super) const FILES: Files<'static> = enrol::FILES;
/// What jobs of this are called.
pub(in crate::http) const JOB: &str = "enroll";
const LISTED: usize = 10_000;
const MOST: usize = 100_000;

/// A speaker to enrol.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `enrolment` reads it")]
pub(crate) struct EnrollForm {
    /// Recordings of the speaker alone, with at least a second of speech each; `file` and `files[]` are other names.
    #[schema(value_type = Option<Vec<String>>, format = Binary)]
    files: Option<Vec<Vec<u8>>>,
    /// A JSON list of URLs of recordings, on hosts that the server's operator lists in `remote_hosts`.
    file_urls_json: Option<String>,
    /// The id if absent.
    name: Option<String>,
    /// Id of a speaker who is there, or the one that a new speaker gets; `id` and `speaker_id` are other names.
    spk_id: Option<String>,
    /// Between commas.
    tags_csv: Option<String>,
    /// Add the samples to those that are there; else they take their place. True if absent.
    merge: Option<bool>,
    /// Take recordings that seem to be of different people.
    force: Option<bool>,
}

/// A speaker.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxSpeaker)]
pub(crate) struct Item {
    spk_id: String,
    /// The same.
    id: String,
    name: String,
    tags: Vec<String>,
    sample_count: usize,
    /// Names of the files, or URLs.
    sources: Vec<String>,
    /// Unix seconds.
    created_at: u64,
    /// Unix seconds.
    updated_at: u64,
    /// Another model embedded the samples than the one that the server has now: nobody is recognised by them.
    stale: bool,
}

/// A speaker who was enrolled.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxEnrolled)]
pub(crate) struct Enrolled {
    ok: bool,
    speaker_id: String,
    /// Of the vectors.
    dim: usize,
    #[serde(flatten)]
    item: Item,
}

/// The speakers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxSpeakers)]
pub(crate) struct Items {
    items: Vec<Item>,
}

/// Which speakers.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listed {
    /// At most so many, the newest first; 10000 if absent.
    limit: Option<usize>,
}

/// What a speaker becomes; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = PmxSpeakerChange)]
pub(crate) struct Change {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Item {
    fn new(speaker: &Speaker, embedder: Option<&Embedder>) -> Item {
        Item {
            spk_id: speaker.id.clone(),
            id: speaker.id.clone(),
            name: speaker.name.clone(),
            tags: speaker.tags.clone(),
            sample_count: speaker.samples.len(),
            sources: speaker.samples.iter().map(|sample| sample.source.name().to_owned()).collect(),
            created_at: speaker.created_at,
            updated_at: speaker.updated_at,
            stale: embedder.is_none_or(|embedder| !speaker.is_of(embedder)),
        }
    }
}

/// The id of a speaker; of another text there is none.
fn id(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let missing = |_| Error::Missing { what: "speaker", id: String::new() };
    Ok(path.map(|Path(id)| id).map_err(missing)?)
}

async fn items(
    state: &State,
    ctx: &Context,
    asked: Result<Query<Listed>, QueryRejection>,
) -> Result<Vec<Item>, ApiError> {
    let Query(asked) = asked.map_err(|_| ApiError::invalid("limit", "`limit` must be a whole number"))?;
    let embedder = embedder(state, ctx).await;
    let speakers = state.book().list(None).into_iter().take(asked.limit.unwrap_or(LISTED).min(MOST));
    Ok(speakers.map(|speaker| Item::new(&speaker, embedder.as_ref())).collect())
}

/// List speakers, the newest first.
#[utoipa::path(
    get,
    path = "/speakers",
    operation_id = "pmxSpeakers",
    tag = "pmx",
    params(Listed),
    responses(
        (status = 200, description = "The speakers", body = Items),
        (status = "4XX", description = "The request is wrong", body = DetailBody),
    )
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    asked: Result<Query<Listed>, QueryRejection>,
) -> Result<Reply<Items>, ApiError> {
    Ok(Reply(Items { items: items(&state, &ctx, asked).await? }))
}

/// List speakers, as older clients read it.
#[utoipa::path(
    get,
    path = "/speakers/list",
    operation_id = "pmxSpeakerList",
    tag = "pmx",
    params(Listed),
    responses(
        (status = 200, description = "The speakers", body = Vec<Item>),
        (status = "4XX", description = "The request is wrong", body = DetailBody),
    )
)]
pub(crate) async fn list_bare(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    asked: Result<Query<Listed>, QueryRejection>,
) -> Result<Reply<Vec<Item>>, ApiError> {
    items(&state, &ctx, asked).await.map(Reply)
}

/// Describe a speaker.
#[utoipa::path(
    get,
    path = "/speakers/{id}",
    operation_id = "pmxSpeaker",
    tag = "pmx",
    params(("id" = String, Path, description = "The `spk_id`")),
    responses(
        (status = 200, description = "The speaker", body = Item),
        (status = 404, description = "There is no such speaker", body = DetailBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<Item>, ApiError> {
    let speaker = state.book().get(&id(path)?)?;
    Ok(Reply(Item::new(&speaker, embedder(&state, &ctx).await.as_ref())))
}

/// Change a speaker's name and tags.
#[utoipa::path(
    put,
    path = "/speakers/{id}",
    operation_id = "pmxChangeSpeaker",
    tag = "pmx",
    params(("id" = String, Path, description = "The `spk_id`")),
    request_body = Change,
    responses(
        (status = 200, description = "The speaker as it is now", body = Item),
        (status = 404, description = "There is no such speaker", body = DetailBody),
        (status = "4XX", description = "The request is wrong", body = DetailBody),
    )
)]
pub(crate) async fn change(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(change): Json<Change>,
) -> Result<Reply<Item>, ApiError> {
    let changed = Changed { name: change.name, tags: change.tags };
    let speaker = state.book().change(&id(path)?, changed).await?;
    Ok(Reply(Item::new(&speaker, embedder(&state, &ctx).await.as_ref())))
}

/// Delete a speaker, with all recordings and vectors.
#[utoipa::path(
    delete,
    path = "/speakers/{id}",
    operation_id = "pmxDeleteSpeaker",
    tag = "pmx",
    params(("id" = String, Path, description = "The `spk_id`")),
    responses(
        (status = 200, description = "The speaker is gone", body = Deleted),
        (status = 404, description = "There is no such speaker", body = DetailBody),
    )
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<Deleted>, ApiError> {
    let id = id(path)?;
    state.book().remove(&ctx, &id).await?;
    Ok(Reply(Deleted::new(id)))
}

/// Enrol a speaker by recordings, or add some to one who is there. Nothing is changed where one is not good enough.
#[utoipa::path(
    post,
    path = "/speakers/enroll",
    operation_id = "pmxEnroll",
    tag = "pmx",
    request_body(content = EnrollForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The speaker", body = Enrolled),
        (status = "4XX", description = "The request is wrong, or a recording is not good enough: which, why, and what to do", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn enroll(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    request: Request,
) -> Result<Reply<Enrolled>, ApiError> {
    let form = Form::read(request, &state, FILES).await?;
    let samples = recordings(&state, form.uploads, urls(&state, &form.values)?).await?;
    enrolled(&state, &ctx, &form.values, samples).await.map(Reply)
}

/// Whether a request that is put off could be done.
pub(super) fn check(state: &State, values: &Values) -> Result<(), ApiError> {
    urls(state, values)?;
    enrolment(values).map(drop)
}

/// Does a request that was put off.
pub(in crate::http) async fn run(state: &State, ctx: Context, put_off: &PutOff) -> Result<Value, ApiError> {
    let values = put_off.values();
    let samples = recordings(state, put_off.uploads(state).await?, urls(state, &values)?).await?;
    let answer = enrolled(state, &ctx, &values, samples).await?;
    serde_json::to_value(answer).map_err(|e| ApiError::internal(e.to_string()))
}

async fn enrolled(
    state: &State,
    ctx: &Context,
    values: &Values,
    samples: Vec<NewSample>,
) -> Result<Enrolled, ApiError> {
    let mut new = enrolment(values)?;
    new.samples = samples;
    let speaker = state.book().enrol(state.backend(), ctx, new).await?;
    let item = Item::new(&speaker, embedder(state, ctx).await.as_ref());
    Ok(Enrolled { ok: true, speaker_id: speaker.id.clone(), dim: speaker.dim, item })
}
