//! `/jobs`: runs of agents elsewhere, told here and watched from here as server-sent events.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Extract};
use axum::response::Response;
use axum::{Extension, Json as Reply};
use futures::Stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::no_job;
use crate::http::body::Json;
use crate::http::dialect::DetailBody;
use crate::http::sse::{self, Message};
use crate::http::{ApiError, State};
use crate::service::runs::{Run, Runs};
use crate::service::{Context, Error};

const TITLE: &str = "Agentenlauf";
const MAX_TITLE: usize = 512;

/// A run to begin.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = PmxRunRequest)]
pub(crate) struct BeginRequest {
    /// `Agentenlauf` if absent.
    #[serde(default)]
    title: Option<String>,
}

/// A run that began.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxRun)]
pub(crate) struct Begun {
    job_id: String,
}

/// That it is noted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxOk)]
pub(crate) struct Noted {
    ok: bool,
}

/// What came of a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxRunResult)]
pub(crate) struct RunResult {
    /// `running` or `done`.
    status: &'static str,
    /// As the run gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    result: Option<Value>,
}

fn told(error: Error) -> ApiError {
    match error {
        Error::Missing { .. } => no_job(),
        other => other.into(),
    }
}

async fn run(
    state: &State,
    ctx: &Context,
    path: Result<Path<String>, PathRejection>,
) -> Result<Run, ApiError> {
    let Path(id) = path.map_err(|_| no_job())?;
    state.runs().get(&id, &ctx.key_id).await?.ok_or_else(no_job)
}

/// Begin a run.
#[utoipa::path(
    post,
    path = "/jobs",
    operation_id = "pmxBeginRun",
    tag = "pmx",
    request_body = BeginRequest,
    responses(
        (status = 200, description = "It began", body = Begun),
        (status = "4XX", description = "The request is wrong", body = DetailBody),
    )
)]
pub(crate) async fn begin(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<BeginRequest>,
) -> Result<Reply<Begun>, ApiError> {
    let title = body.title.filter(|title| !title.is_empty()).unwrap_or_else(|| TITLE.to_owned());
    if title.len() > MAX_TITLE {
        return Err(ApiError::invalid("title", format!("`title` is longer than {MAX_TITLE} bytes")));
    }
    let run = state.runs().begin(title, ctx.key_id).await?;
    Ok(Reply(Begun { job_id: run.id }))
}

/// Tell how a run goes on: any JSON object.
#[utoipa::path(
    post,
    path = "/jobs/{id}/events",
    operation_id = "pmxTellRun",
    tag = "pmx",
    params(("id" = String, Path, description = "The `job_id`")),
    request_body = Object,
    responses(
        (status = 200, description = "It is noted, and told to all who watch", body = Noted),
        (status = 404, description = "There is no such run", body = DetailBody),
        (status = "4XX", description = "The request is wrong, or the run is complete (409)", body = DetailBody),
    )
)]
pub(crate) async fn tell(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<Value>,
) -> Result<Reply<Noted>, ApiError> {
    let Path(id) = path.map_err(|_| no_job())?;
    let payload = match body {
        Value::Object(payload) => payload,
        other => Map::from_iter([("payload".to_owned(), other)]),
    };
    state.runs().tell(&id, &ctx.key_id, payload).await.map_err(told)?;
    Ok(Reply(Noted { ok: true }))
}

/// End a run: the JSON is its result.
#[utoipa::path(
    post,
    path = "/jobs/{id}/complete",
    operation_id = "pmxCompleteRun",
    tag = "pmx",
    params(("id" = String, Path, description = "The `job_id`")),
    request_body = Object,
    responses(
        (status = 200, description = "It is noted, and told to all who watch", body = Noted),
        (status = 404, description = "There is no such run", body = DetailBody),
        (status = "4XX", description = "The request is wrong, or the run is complete (409)", body = DetailBody),
    )
)]
pub(crate) async fn complete(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
    Json(result): Json<Value>,
) -> Result<Reply<Noted>, ApiError> {
    let Path(id) = path.map_err(|_| no_job())?;
    state.runs().complete(&id, &ctx.key_id, result).await.map_err(told)?;
    Ok(Reply(Noted { ok: true }))
}

/// What came of a run.
#[utoipa::path(
    get,
    path = "/jobs/{id}/result",
    operation_id = "pmxRunResult",
    tag = "pmx",
    params(("id" = String, Path, description = "The `job_id`")),
    responses(
        (status = 200, description = "Its result, once it is complete", body = RunResult),
        (status = 404, description = "There is no such run", body = DetailBody),
    )
)]
pub(crate) async fn result(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Reply<RunResult>, ApiError> {
    let run = run(&state, &ctx, path).await?;
    Ok(Reply(match run.complete {
        true => RunResult { status: "done", result: Some(run.result) },
        false => RunResult { status: "running", result: None },
    }))
}

/// Watch a run: what it told so far, then what it tells, until it is complete.
#[utoipa::path(
    get,
    path = "/jobs/{id}/events",
    operation_id = "pmxWatchRun",
    tag = "pmx",
    params(("id" = String, Path, description = "The `job_id`")),
    responses(
        (status = 200, description = "An event stream that ends after the event of the type `complete`", content_type = "text/event-stream"),
        (status = 404, description = "There is no such run", body = DetailBody),
    )
)]
pub(crate) async fn watch(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let run = run(&state, &ctx, path).await?;
    Ok(sse::respond(&state, events(state.runs().clone(), run.id)))
}

fn events(runs: Runs, id: String) -> impl Stream<Item = Message> + Send + 'static {
    // Before the first look: what comes after that is told.
    let told = runs.watch(&id);
    let state = (runs, id, told, std::collections::VecDeque::new(), 0u64, false);
    futures::stream::unfold(state, |(runs, id, mut told, mut ready, mut next, mut over)| async move {
        loop {
            let event: Option<Map<String, Value>> = ready.pop_front();
            if let Some(event) = event {
                over = event.get("type").and_then(Value::as_str) == Some("complete");
                let message = Message::from(sse::json(&event).ok()?);
                return Some((message, (runs, id, told, ready, next, over)));
            }
            if over {
                return None;
            }
            let more = runs.events(&id, next).await.ok()?;
            next += more.len() as u64;
            ready.extend(more);
            if ready.is_empty() {
                // Gone with the server.
                told.changed().await.ok()?;
            }
        }
    })
}
