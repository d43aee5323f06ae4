//! `/v1/speakers`: who is known by voice.

pub(super) mod enrol;
pub(super) mod identify;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::Json;
use super::openai::files::{Gone, asked, id};
use super::openai::page::{Page, PageAsked};
use super::{ApiError, State};
use crate::service::Context;
use crate::service::speakers::{Changed, Source, Speaker};
use crate::types::speaker::Embedder;

/// Entries of one page.
const MOST: usize = 100;

/// A speaker.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Speaker)]
pub(crate) struct SpeakerObject {
    id: String,
    object: &'static str,
    name: String,
    tags: Vec<String>,
    /// Unix seconds.
    created_at: u64,
    /// Unix seconds.
    updated_at: u64,
    /// Id of the model that embedded the samples.
    model: String,
    /// Another model embedded the samples than the one that the server has now: nobody is recognised by them.
    stale: bool,
    samples: Vec<SampleObject>,
}

/// A recording that a speaker is known by.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SpeakerSample)]
pub(crate) struct SampleObject {
    id: String,
    source: SourceObject,
    /// Of the recording.
    seconds: f64,
    /// Seconds of speech in it.
    speech_seconds: f64,
    /// How far speech is above what is between; null where nothing is.
    snr_db: Option<f32>,
    /// Whether the server keeps the recording.
    kept: bool,
}

/// Where a recording came from.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SpeakerSource)]
pub(crate) struct SourceObject {
    /// `upload` or `url`.
    kind: &'static str,
    /// The file's name, or the URL.
    name: String,
}

/// What a speaker becomes; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UpdateSpeaker)]
pub(crate) struct UpdateRequest {
    #[serde(default)]
    name: Option<String>,
    /// In the place of those that the speaker has.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Who becomes one with a speaker.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MergeSpeakers)]
pub(crate) struct MergeRequest {
    /// Ids of the others, which are no more then.
    speakers: Vec<String>,
}

/// Which speakers.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SpeakersAsked {
    /// Only those who have it.
    tag: Option<String>,
}

impl SpeakerObject {
    fn new(speaker: &Speaker, embedder: Option<&Embedder>) -> SpeakerObject {
        let sample = |sample: &crate::service::speakers::Sample| SampleObject {
            id: sample.id.clone(),
            source: SourceObject {
                kind: match &sample.source {
                    Source::Upload(_) => "upload",
                    Source::Url(_) => "url",
                },
                name: sample.source.name().to_owned(),
            },
            seconds: sample.seconds,
            speech_seconds: sample.speech,
            snr_db: sample.snr_db,
            kept: sample.audio.is_some(),
        };
        SpeakerObject {
            id: speaker.id.clone(),
            object: "speaker",
            name: speaker.name.clone(),
            tags: speaker.tags.clone(),
            created_at: speaker.created_at,
            updated_at: speaker.updated_at,
            model: speaker.model.clone(),
            stale: embedder.is_none_or(|embedder| !speaker.is_of(embedder)),
            samples: speaker.samples.iter().map(sample).collect(),
        }
    }
}

/// The model that embeds voices; `None`: there is none, and nobody is recognised.
pub(super) async fn embedder(state: &State, ctx: &Context) -> Option<Embedder> {
    state.backend().embedder(ctx.clone()).await.ok()
}

/// A speaker as it is answered.
async fn shown(state: &State, ctx: &Context, speaker: &Speaker) -> Reply<SpeakerObject> {
    Reply(SpeakerObject::new(speaker, embedder(state, ctx).await.as_ref()))
}

/// List speakers.
#[utoipa::path(
    get,
    path = "/v1/speakers",
    operation_id = "listSpeakers",
    tag = "speakers",
    params(SpeakersAsked, PageAsked),
    responses(
        (status = 200, description = "A page of them; `limit` is up to 100", body = Page<SpeakerObject>),
        (status = "4XX", description = "The request is wrong", body = super::error::ErrorBody),
    )
)]
pub(crate) async fn list(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    speakers: Result<Query<SpeakersAsked>, QueryRejection>,
    page: Result<Query<PageAsked>, QueryRejection>,
) -> Result<Reply<Page<SpeakerObject>>, ApiError> {
    let (speakers, page) = (asked(speakers)?, asked(page)?);
    let page = page.of(state.book().list(speakers.tag.as_deref()), |speaker| &speaker.id, MOST)?;
    let embedder = embedder(&state, &ctx).await;
    Ok(Reply(page.map(|speaker| SpeakerObject::new(&speaker, embedder.as_ref()))))
}

/// Describe a speaker.
#[utoipa::path(
    get,
    path = "/v1/speakers/{id}",
    operation_id = "retrieveSpeaker",
    tag = "speakers",
    params(("id" = String, Path, description = "Id of a speaker")),
    responses(
        (status = 200, description = "The speaker", body = SpeakerObject),
        (status = 404, description = "There is no such speaker", body = super::error::ErrorBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<SpeakerObject>, ApiError> {
    let speaker = state.book().get(&id(path)?)?;
    Ok(shown(&state, &ctx, &speaker).await)
}

/// Change a speaker's name and tags.
#[utoipa::path(
    patch,
    path = "/v1/speakers/{id}",
    operation_id = "updateSpeaker",
    tag = "speakers",
    params(("id" = String, Path, description = "Id of a speaker")),
    request_body = UpdateRequest,
    responses(
        (status = 200, description = "The speaker as it is now", body = SpeakerObject),
        (status = 404, description = "There is no such speaker", body = super::error::ErrorBody),
        (status = "4XX", description = "The request is wrong", body = super::error::ErrorBody),
    )
)]
pub(crate) async fn update(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<UpdateRequest>,
) -> Result<Reply<SpeakerObject>, ApiError> {
    let changed = Changed { name: body.name, tags: body.tags };
    let speaker = state.book().change(&id(path)?, changed).await?;
    Ok(shown(&state, &ctx, &speaker).await)
}

/// Delete a speaker, with all recordings and vectors. Nobody is recognised as this speaker once this is answered.
#[utoipa::path(
    delete,
    path = "/v1/speakers/{id}",
    operation_id = "deleteSpeaker",
    tag = "speakers",
    params(("id" = String, Path, description = "Id of a speaker")),
    responses(
        (status = 200, description = "The speaker is gone", body = Gone),
        (status = 404, description = "There is no such speaker", body = super::error::ErrorBody),
    )
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<Gone>, ApiError> {
    let id = id(path)?;
    state.book().remove(&ctx, &id).await?;
    Ok(Reply(Gone::new(id, "speaker.deleted")))
}

/// Make several speakers one, who has the samples and the tags of all.
#[utoipa::path(
    post,
    path = "/v1/speakers/{id}/merge",
    operation_id = "mergeSpeakers",
    tag = "speakers",
    params(("id" = String, Path, description = "Id of the speaker who stays")),
    request_body = MergeRequest,
    responses(
        (status = 200, description = "The one speaker", body = SpeakerObject),
        (status = 404, description = "One of them is not there", body = super::error::ErrorBody),
        (status = 409, description = "They are of different models", body = super::error::ErrorBody),
        (status = "4XX", description = "The request is wrong", body = super::error::ErrorBody),
    )
)]
pub(crate) async fn merge(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<MergeRequest>,
) -> Result<Reply<SpeakerObject>, ApiError> {
    let speaker = state.book().merge(&ctx, &id(path)?, body.speakers).await?;
    Ok(shown(&state, &ctx, &speaker).await)
}
