//! Enrolment, and what the dialects' forms for it share.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Extract};
use axum::{Extension, Json as Reply};
use utoipa::ToSchema;

use super::{SpeakerObject, shown};
use crate::http::form::{Files, Form, Values};
use crate::http::openai::files::id;
use crate::http::{ApiError, State};
use crate::service::speakers::{Enrolment, ID_BYTES, NAME_BYTES, NewSample, SAMPLES};
use crate::service::{Context, Upload};

/// Names of the parts that are recordings of a speaker.
pub(in crate::http) const FILES: Files<'static> =
    Files { names: &["file", "file[]", "files", "files[]"], most: SAMPLES };
/// Names of the field that lists recordings to be fetched.
pub(in crate::http) const URLS: &[&str] = &["file_urls", "file_urls_json"];

/// A speaker to enrol.
#[derive(ToSchema)]
#[schema(as = EnrolSpeaker)]
#[expect(dead_code, reason = "describes the form; `enrolment` reads it")]
pub(crate) struct EnrolForm {
    /// A recording of the speaker alone, with at least a second of speech; several are sent as `files[]`.
    #[schema(value_type = Option<String>, format = Binary)]
    file: Option<Vec<u8>>,
    /// Up to 32 recordings, two seconds of speech together at least.
    #[schema(rename = "files[]", value_type = Option<Vec<String>>, format = Binary)]
    files: Option<Vec<Vec<u8>>>,
    /// URLs of recordings, on hosts that the server's operator lists in `remote_hosts`.
    file_urls: Option<Vec<String>>,
    /// Needed unless the `id` is of a speaker who is there.
    name: Option<String>,
    /// Up to 32, repeated or between commas.
    tags: Option<Vec<String>>,
    /// Id of a speaker who is there, or the one that a new speaker gets; made by the server if absent.
    id: Option<String>,
    /// Add the samples to those that are there; else they take their place. True if absent.
    merge: Option<bool>,
    /// Take recordings that seem to be of different people.
    force: Option<bool>,
}

/// More recordings of a speaker.
#[derive(ToSchema)]
#[schema(as = AddSpeakerSamples)]
#[expect(dead_code, reason = "describes the form; `enrolment` reads it")]
pub(crate) struct SamplesForm {
    /// A recording of the speaker alone, with at least a second of speech; several are sent as `files[]`.
    #[schema(value_type = Option<String>, format = Binary)]
    file: Option<Vec<u8>>,
    /// URLs of recordings, on hosts that the server's operator lists in `remote_hosts`.
    file_urls: Option<Vec<String>>,
    /// Take recordings that seem to be of different people.
    force: Option<bool>,
}

/// What a form asks for, without its recordings.
pub(in crate::http) fn enrolment(values: &Values) -> Result<Enrolment, ApiError> {
    Ok(Enrolment {
        id: values.text(&["id", "spk_id", "speaker_id"], ID_BYTES)?,
        existing: false,
        name: values.text(&["name"], NAME_BYTES)?,
        tags: values.list(&["tags", "tags_csv"])?.map(|list| list.items),
        merge: values.flag(&["merge"])?.unwrap_or(true),
        force: values.flag(&["force"])?.unwrap_or(false),
        samples: Vec::new(),
    })
}

/// URLs of the recordings that a form names, all of which may be asked for.
pub(in crate::http) fn urls(state: &State, values: &Values) -> Result<Vec<String>, ApiError> {
    let mut urls = values.list(URLS)?.map(|list| list.items).unwrap_or_default();
    urls.extend(values.last(&["file_url"]).map(|field| field.text.to_owned()));
    if urls.len() > SAMPLES {
        return Err(ApiError::invalid("file_urls", format!("`file_urls` has more than {SAMPLES} entries")));
    }
    for url in &urls {
        state.remote().check("file_urls", url)?;
    }
    Ok(urls)
}

/// The recordings of a request: those that were sent, and those that are fetched.
pub(in crate::http) async fn recordings(
    state: &State,
    uploads: Vec<Upload>,
    urls: Vec<String>,
) -> Result<Vec<NewSample>, ApiError> {
    let mut samples: Vec<NewSample> =
        uploads.into_iter().map(|upload| NewSample { upload, url: None }).collect();
    if samples.len() + urls.len() > SAMPLES {
        let message = format!("a speaker has {SAMPLES} samples at most; send the best of them");
        return Err(ApiError::invalid("file", message));
    }
    for url in urls {
        let upload = state.remote().fetch("file_urls", &url).await?;
        samples.push(NewSample { upload, url: Some(url) });
    }
    Ok(samples)
}

/// Reads a form, with its recordings.
async fn read(state: &State, request: Request) -> Result<Enrolment, ApiError> {
    let form = Form::read(request, state, FILES).await?;
    let mut new = enrolment(&form.values)?;
    new.samples = recordings(state, form.uploads, urls(state, &form.values)?).await?;
    Ok(new)
}

/// Enrol a speaker by recordings, or add some to one who is there. Nothing is changed where one is not good enough.
#[utoipa::path(
    post,
    path = "/v1/speakers",
    operation_id = "enrolSpeaker",
    tag = "speakers",
    request_body(content = EnrolForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The speaker", body = SpeakerObject),
        (status = 409, description = "The speaker has as many samples as are kept, or was enrolled with another model", body = crate::http::error::ErrorBody),
        (status = "4XX", description = "The request is wrong, or a recording is not good enough: which, why, and what to do", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    request: Request,
) -> Result<Reply<SpeakerObject>, ApiError> {
    let mut new = read(&state, request).await?;
    let is_there = |id: &String| state.book().get(id).is_ok();
    if new.name.is_none() && !new.id.as_ref().is_some_and(is_there) {
        return Err(ApiError::invalid("name", "`name` is missing: say what the speaker is called"));
    }
    // Deleted meanwhile, a speaker is not made again without a name.
    new.existing = new.name.is_none();
    let speaker = state.book().enrol(state.backend(), &ctx, new).await?;
    Ok(shown(&state, &ctx, &speaker).await)
}

/// Add recordings to a speaker.
#[utoipa::path(
    post,
    path = "/v1/speakers/{id}/samples",
    operation_id = "addSpeakerSamples",
    tag = "speakers",
    params(("id" = String, Path, description = "Id of a speaker")),
    request_body(content = SamplesForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The speaker as it is now", body = SpeakerObject),
        (status = 404, description = "There is no such speaker", body = crate::http::error::ErrorBody),
        (status = 409, description = "The speaker has as many samples as are kept, or was enrolled with another model", body = crate::http::error::ErrorBody),
        (status = "4XX", description = "The request is wrong, or a recording is not good enough: which, why, and what to do", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn add(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Reply<SpeakerObject>, ApiError> {
    let id = id(path)?;
    state.book().get(&id)?;
    let Enrolment { force, samples, .. } = read(&state, request).await?;
    let new = Enrolment { id: Some(id), existing: true, merge: true, force, samples, ..Enrolment::default() };
    let speaker = state.book().enrol(state.backend(), &ctx, new).await?;
    Ok(shown(&state, &ctx, &speaker).await)
}
