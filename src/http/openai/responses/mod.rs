//! The Responses API: `POST /v1/responses`, and what is kept of it.

mod answer;
mod compose;
pub(super) mod echo;
mod events;
mod input;
mod items;
mod request;
mod search;
pub(in crate::http) mod stored;
mod stream;
#[cfg(test)]
mod tests;

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::generate::Answers;
use crate::http::body::Json;
use crate::http::observe::{Deadline, ModelId};
use crate::http::{ApiError, State, sse};
use crate::service::responses::{Kept, ResponseId, Responses};
use crate::service::{self, Context};
use crate::types::llm::{Prompt, Request};
use answer::Answer;
use compose::Composer;
use items::Item;
use request::{ResponseRequest, Wanted};

/// Answer.
#[utoipa::path(
    post,
    path = "/v1/responses",
    operation_id = "createResponse",
    tag = "responses",
    request_body = ResponseRequest,
    responses(
        (status = 200, description = "The response; with `stream` an event stream that ends with `response.completed`, `response.incomplete` or `response.failed`",
            content((Answer = "application/json"), (events::Event = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong, the response before it is not kept (404), or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Extension(deadline): Extension<Deadline>,
    Json(body): Json<ResponseRequest>,
) -> Result<Response, ApiError> {
    let wanted = body.check(&state.settings().default_chat)?;
    let before = before(state.responses(), ctx.key_id.as_deref(), &wanted).await?;
    let Wanted { request, input, instructions, search, stream, echo } = wanted;
    let turns = items::turns(instructions.as_deref(), before, &input)?;
    let mut request = Request { prompt: Prompt::Chat(turns), ..request };
    let searched = match search {
        Some(search) => search.run(&state, &ctx, &mut request).await.map_err(of_input)?,
        None => None,
    };
    let mut answers = Answers::start(&state, &ctx, deadline, vec![request]).await.map_err(of_input)?;
    let model = answers.model.clone();
    let mut answer = Answer::begun(model.clone(), echo);
    let shelf = Shelf { responses: state.responses().clone(), owner: ctx.key_id.clone(), input };
    let mut response = if stream {
        sse::respond(&state, stream::messages(answers, answer, shelf, searched, ctx.request_id))
    } else {
        let mut composer = Composer::begun(searched, &mut Vec::new());
        let usage = loop {
            if let Some(usage) = composer.take(answers.next().await?, &mut Vec::new()) {
                break usage;
            }
        };
        let (output, cut) = composer.into_output();
        answer.finish(output, cut, usage);
        shelf.keep(&mut answer, &ctx.request_id).await;
        Reply(answer).into_response()
    };
    response.extensions_mut().insert(ModelId(model));
    Ok(response)
}

/// What the service calls `messages` is `input` here.
fn of_input(error: ApiError) -> ApiError {
    match error.param.as_deref() {
        Some("messages") => error.param("input"),
        _ => error.or_param("input"),
    }
}

/// The items of the responses that this one goes on from.
async fn before(responses: &Responses, owner: Option<&str>, wanted: &Wanted) -> Result<Vec<Item>, ApiError> {
    #[derive(Deserialize)]
    struct Said {
        output: Vec<Item>,
    }
    fn read<'t, T: Deserialize<'t>>(id: &ResponseId, text: &'t RawValue) -> Result<T, ApiError> {
        serde_json::from_str(text.get())
            .map_err(|e| ApiError::internal(format!("the response {} cannot be read: {e}", id.as_str())))
    }
    let Some(previous) = &wanted.echo.previous_response_id else { return Ok(Vec::new()) };
    let turns = responses.conversation(owner, previous).await.map_err(|error| match error {
        error @ service::Error::UnknownResponse { .. } => {
            let mut error = ApiError::from(error).param("previous_response_id");
            error.code = "previous_response_not_found";
            error
        }
        other => other.into(),
    })?;
    let mut items = Vec::new();
    for kept in &turns {
        items.append(&mut read(&kept.id, &kept.input)?);
        items.append(&mut read::<Said>(&kept.id, &kept.response)?.output);
    }
    Ok(items)
}

/// Where a response goes when it is there.
struct Shelf {
    responses: Responses,
    owner: Option<String>,
    input: Vec<Item>,
}

impl Shelf {
    /// Keeps the response if it is to be kept. One that cannot be kept is an answer all the same, which says so.
    async fn keep(&self, answer: &mut Answer, request_id: &str) {
        if !answer.echo.store {
            return;
        }
        let result = match self.kept(answer) {
            Ok(kept) => self.responses.keep(kept).await,
            Err(error) => Err(service::Error::Internal { detail: error.to_string() }),
        };
        answer.echo.store = match result {
            Ok(stored) => stored,
            Err(error) => {
                let detail = match &error {
                    service::Error::Internal { detail } => detail.clone(),
                    other => other.to_string(),
                };
                tracing::error!(request_id, detail, "a response cannot be kept");
                false
            }
        };
    }

    fn kept(&self, answer: &Answer) -> serde_json::Result<Kept> {
        let (input, response) = (to_raw_value(&self.input)?, to_raw_value(answer)?);
        let previous = answer.echo.previous_response_id.clone();
        Ok(Kept::new(answer.id.clone(), self.owner.clone(), answer.created_at, previous, input, response))
    }
}
