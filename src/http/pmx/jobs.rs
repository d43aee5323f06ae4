//! The asynchronous forms: a request is noted, answered with the id of its job, and its result is asked for later.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State as Extract};
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{diarize, identify, no_job, parse, speakers, transcribe};
use crate::http::body::Json;
use crate::http::dialect::DetailBody;
use crate::http::form::{Files, Form, Values, is_form};
use crate::http::speakers::enrol::URLS;
use crate::http::{ApiError, State};
use crate::service::files::JOB;
use crate::service::jobs::{Job, Status};
use crate::service::{Context, Error, Upload};

/// A request to be done later, as a form or as JSON. Its other fields are those of the request that is not put off.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; `PutOff` is read from it")]
pub(crate) struct LaterForm {
    /// The file itself, in a form.
    #[schema(value_type = Option<String>, format = Binary)]
    file: Option<Vec<u8>>,
    /// Where it is: on a host that the server's operator lists in `remote_hosts`.
    file_url: Option<String>,
    /// Where the result is sent, on such a host: `{job_id, status, result}` or `{job_id, status, error}`.
    callback_url: Option<String>,
    /// Any JSON, which is given back with the job.
    meta: Option<String>,
}

/// What is noted of a request.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::http) struct PutOff {
    fields: Vec<(String, String)>,
    /// Id of the kept file, and those of others where there are several.
    file: Option<String>,
    #[serde(default)]
    more: Vec<String>,
    file_url: Option<String>,
    callback_url: Option<String>,
    meta: Value,
}

/// A job that waits for its turn.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxJobQueued)]
pub(crate) struct Queued {
    job_id: String,
    /// `queued`.
    status: &'static str,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxJob)]
pub(crate) struct JobAnswer {
    id: String,
    /// `queued` until it is over, then `done` or `error`.
    status: &'static str,
    /// Whether it is its turn.
    running: bool,
    /// Unix seconds.
    created_at: f64,
    /// Unix seconds.
    updated_at: f64,
    /// The fields that it was sent with.
    #[schema(value_type = Object)]
    request: Value,
    /// What the same request would be answered.
    #[schema(value_type = Object)]
    result: Option<Value>,
    error: Option<String>,
}

impl PutOff {
    /// The request of a job.
    pub fn of(job: &Job) -> Result<PutOff, Error> {
        let read = serde_json::from_value(job.request.clone());
        read.map_err(|error| Error::Internal { detail: format!("a job's request: {error}") })
    }

    /// Its fields.
    pub fn values(&self) -> Values {
        Values::new(self.fields.clone())
    }

    /// Its file.
    pub async fn upload(&self, state: &State) -> Result<Upload, Error> {
        match (&self.file, &self.file_url) {
            (Some(id), _) => Ok(state.files().content(id).await?.1),
            (None, Some(url)) => state.remote().fetch("file_url", url).await,
            (None, None) => Err(Error::Invalid { param: "file", message: "no file was sent".to_owned() }),
        }
    }

    /// Its files, those that it names by URL left out.
    pub async fn uploads(&self, state: &State) -> Result<Vec<Upload>, Error> {
        let mut uploads = Vec::with_capacity(self.more.len() + 1);
        for id in self.file.iter().chain(&self.more) {
            uploads.push(state.files().content(id).await?.1);
        }
        Ok(uploads)
    }

    /// Sends what came of a job to where that was asked to go. The next job does not wait for it.
    pub fn call_back(&self, state: &State, job: &Job, outcome: &Result<Value, Error>) {
        let Some(url) = self.callback_url.clone() else { return };
        let body = match outcome {
            Ok(result) => json!({"job_id": job.id, "status": "done", "result": result, "meta": self.meta}),
            Err(error) => {
                json!({"job_id": job.id, "status": "error", "error": error.to_string(), "meta": self.meta})
            }
        };
        let remote = state.remote().clone();
        tokio::spawn(async move { remote.send(&url, &body).await });
    }
}

/// Reads a request, checks it as if it were done now, and notes it.
async fn submit(
    state: &State,
    ctx: &Context,
    request: Request,
    kind: &'static str,
    files: Files<'_>,
    check: fn(&State, &Values) -> Result<(), ApiError>,
) -> Result<Queued, ApiError> {
    let (values, uploads) = if is_form(&request) {
        let form = Form::read(request, state, files).await?;
        (form.values, form.uploads)
    } else {
        let Json(fields) = Json::<Map<String, Value>>::from_request(request, state).await?;
        (Values::of_json(fields), Vec::new())
    };
    check(state, &values)?;
    let text = |names: &[&str]| values.last(names).map(|field| field.text.to_owned());
    let (file_url, callback_url) = (text(&["file_url"]), text(&["callback_url"]));
    for (param, url) in [("file_url", &file_url), ("callback_url", &callback_url)] {
        if let Some(url) = url {
            state.remote().check(param, url)?;
        }
    }
    let several = files.most > 1 && values.last(URLS).is_some();
    if uploads.is_empty() && file_url.is_none() && !several {
        return Err(ApiError::invalid("file_url", "`file_url` is missing, and no `file` is attached"));
    }
    let meta = text(&["meta"]).unwrap_or_default();
    let meta = serde_json::from_str(&meta).unwrap_or(Value::String(meta));
    let mut kept = Vec::new();
    let submitted = async {
        for upload in uploads {
            kept.push(state.files().keep(upload, JOB, None).await?.id);
        }
        let mut more = kept.clone().into_iter();
        let (fields, file) = (values.into_pairs(), more.next());
        let put_off = PutOff { fields, file, more: more.collect(), file_url, callback_url, meta };
        let request = serde_json::to_value(&put_off);
        let request = request.map_err(|error| Error::Internal { detail: error.to_string() })?;
        state.jobs().submit(kind, ctx.key_id.clone(), request, kept.clone(), state.worker()).await
    };
    match submitted.await {
        Ok(job) => Ok(Queued { job_id: job.id, status: "queued" }),
        Err(error) => {
            for file in kept {
                state.files().remove(&file).await?;
            }
            Err(error.into())
        }
    }
}

/// A job of a kind that this caller asked for.
async fn job(state: &State, ctx: &Context, kind: &str, id: &str) -> Result<Job, ApiError> {
    let job = state.jobs().get(id).await?.filter(|job| job.kind == kind && job.owner == ctx.key_id);
    job.ok_or_else(no_job)
}

impl From<Job> for JobAnswer {
    fn from(job: Job) -> JobAnswer {
        let put_off = PutOff::of(&job).unwrap_or_default();
        let mut request: Map<String, Value> =
            put_off.fields.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
        if !put_off.meta.is_null() && put_off.meta != "" {
            request.insert("meta".to_owned(), put_off.meta);
        }
        let seconds = |millis: u64| millis as f64 / 1000.0;
        JobAnswer {
            id: job.id,
            status: match job.status {
                Status::Queued | Status::Running => "queued",
                Status::Done => "done",
                Status::Error | Status::Cancelled => "error",
            },
            running: job.status == Status::Running,
            created_at: seconds(job.created),
            updated_at: seconds(job.updated),
            request: Value::Object(request),
            result: job.result,
            error: job.error.or_else(|| (job.status == Status::Cancelled).then(|| "cancelled".to_owned())),
        }
    }
}

/// Makes the three routes of a kind of job: asking for it, seeing how far it is, and cancelling it.
macro_rules! asynchronous {
    ($name:ident, $kind:expr, $files:expr, $check:expr, $submit:literal, $poll:literal, $ids:tt) => {
        pub(in crate::http) mod $name {
            use super::*;

            asynchronous!(@submit $kind, $files, $check, $submit, $ids);
            asynchronous!(@poll $kind, $poll, $ids);
        }
    };
    (@submit $kind:expr, $files:expr, $check:expr, $path:literal, [$submit:literal, $poll:literal, $cancel:literal]) => {
        /// Put a request off. It is done though the client goes away and the server is started anew.
        #[utoipa::path(
            post,
            path = $path,
            operation_id = $submit,
            tag = "pmx",
            request_body(content((LaterForm = "multipart/form-data"), (Object = "application/json"))),
            responses(
                (status = 200, description = "It is noted", body = Queued),
                (status = "4XX", description = "The request is wrong, or too many wait (429)", body = DetailBody),
                (status = "5XX", description = "The server could not note it", body = DetailBody),
            )
        )]
        pub(crate) async fn create(
            Extract(state): Extract<State>,
            Extension(ctx): Extension<Context>,
            request: Request,
        ) -> Result<Reply<Queued>, ApiError> {
            submit(&state, &ctx, request, $kind, $files, $check).await.map(Reply)
        }
    };
    (@poll $kind:expr, $path:literal, [$submit:literal, $poll:literal, $cancel:literal]) => {
        /// How far a request is that was put off, and what came of it.
        #[utoipa::path(
            get,
            path = $path,
            operation_id = $poll,
            tag = "pmx",
            params(("id" = String, Path, description = "The `job_id`")),
            responses(
                (status = 200, description = "The job", body = JobAnswer),
                (status = 404, description = "There is none, or its time is over", body = DetailBody),
            )
        )]
        pub(crate) async fn retrieve(
            Extract(state): Extract<State>,
            Extension(ctx): Extension<Context>,
            path: Result<Path<String>, PathRejection>,
        ) -> Result<Reply<JobAnswer>, ApiError> {
            let id = path.map(|Path(id)| id).unwrap_or_default();
            Ok(Reply(job(&state, &ctx, $kind, &id).await?.into()))
        }

        /// Cancel a request that was put off. One that is over stays what it is.
        #[utoipa::path(
            delete,
            path = $path,
            operation_id = $cancel,
            tag = "pmx",
            params(("id" = String, Path, description = "The `job_id`")),
            responses(
                (status = 200, description = "The job as it is now", body = JobAnswer),
                (status = 404, description = "There is none, or its time is over", body = DetailBody),
            )
        )]
        pub(crate) async fn cancel(
            Extract(state): Extract<State>,
            Extension(ctx): Extension<Context>,
            path: Result<Path<String>, PathRejection>,
        ) -> Result<Reply<JobAnswer>, ApiError> {
            let id = path.map(|Path(id)| id).unwrap_or_default();
            let known = job(&state, &ctx, $kind, &id).await?;
            let cancelled = state.jobs().cancel(&known.id).await?;
            Ok(Reply(cancelled.unwrap_or(known).into()))
        }
    };
}

asynchronous!(
    of_transcribe,
    transcribe::JOB,
    transcribe::FILE,
    transcribe::check,
    "/transcribe/async",
    "/transcribe/jobs/{id}",
    ["pmxTranscribeLater", "pmxTranscribeJob", "pmxCancelTranscribe"]
);
asynchronous!(
    of_parse,
    parse::JOB,
    parse::FILE,
    parse::check,
    "/parse/document/async",
    "/parse/jobs/{id}",
    ["pmxParseLater", "pmxParseJob", "pmxCancelParse"]
);
asynchronous!(
    of_diarize,
    diarize::JOB,
    transcribe::FILE,
    diarize::check,
    "/diarize/async",
    "/diarize/jobs/{id}",
    ["pmxDiarizeLater", "pmxDiarizeJob", "pmxCancelDiarize"]
);
asynchronous!(
    of_identify,
    identify::JOB,
    transcribe::FILE,
    identify::check,
    "/identify/async",
    "/identify/jobs/{id}",
    ["pmxIdentifyLater", "pmxIdentifyJob", "pmxCancelIdentify"]
);
asynchronous!(
    of_enroll,
    speakers::JOB,
    speakers::FILES,
    speakers::check,
    "/speakers/enroll/async",
    "/speakers/jobs/{id}",
    ["pmxEnrollLater", "pmxEnrollJob", "pmxCancelEnroll"]
);
