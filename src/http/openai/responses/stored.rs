//! Responses that are kept: found, listed and removed by whoever asked for them.

use axum::Extension;
use axum::Json as Reply;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State as Extract};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::Answer;
use super::items::Item;
use crate::http::{ApiError, State};
use crate::service::responses::{Kept, ResponseId};
use crate::service::{self, Context};

/// Items on a page.
const PAGE: usize = 20;
const MAX_PAGE: usize = 100;

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedResponse {
    #[schema(value_type = String)]
    id: ResponseId,
    object: &'static str,
    deleted: bool,
}

/// A page of items.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InputItemList {
    object: &'static str,
    data: Vec<Item>,
    /// Of this page; null where it is empty.
    first_id: Option<String>,
    last_id: Option<String>,
    /// Whether more come after `last_id`.
    has_more: bool,
}

/// Find a response.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    operation_id = "getResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Id of a response that was stored")),
    responses(
        (status = 200, description = "The response, as it was answered", body = Answer),
        (status = 404, description = "It is not kept, or another API key asked for it", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name == "stream" && value == "true" {
            let message = "a stored response cannot be streamed; leave `stream` out";
            return Err(ApiError::unsupported("stream", message));
        }
    }
    let kept = find(&state, &ctx, id).await?;
    Ok(([(CONTENT_TYPE, "application/json")], String::from(kept.response.get())).into_response())
}

/// Remove a response.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    operation_id = "deleteResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Id of a response that was stored")),
    responses(
        (status = 200, description = "It is gone; what went on from it cannot be gone on from any more", body = DeletedResponse),
        (status = 404, description = "It is not kept, or another API key asked for it", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn delete(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Reply<DeletedResponse>, ApiError> {
    let id = parse(id)?;
    state.responses().remove(ctx.key_id.as_deref(), &id).await?;
    Ok(Reply(DeletedResponse { id, object: "response", deleted: true }))
}

/// List the items that a response was asked with.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    operation_id = "listInputItems",
    tag = "responses",
    params(
        ("id" = String, Path, description = "Id of a response that was stored"),
        ("order" = Option<String>, Query, description = "`desc` (if absent): the last item first; or `asc`"),
        ("limit" = Option<u32>, Query, description = "Items on the page, 1 to 100; 20 if absent"),
        ("after" = Option<String>, Query, description = "Begin after the item of this id"),
    ),
    responses(
        (status = 200, description = "The items of its own `input`, not those of the responses before it", body = InputItemList),
        (status = 404, description = "It is not kept, or another API key asked for it", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn input_items(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Reply<InputItemList>, ApiError> {
    let wanted = Wanted::parse(&query.unwrap_or_default())?;
    let kept = find(&state, &ctx, id).await?;
    let items = serde_json::from_str(kept.input.get())
        .map_err(|e| ApiError::internal(format!("the items of {} cannot be read: {e}", kept.id.as_str())))?;
    wanted.page(items).map(Reply)
}

async fn find(
    state: &State,
    ctx: &Context,
    id: Result<Path<String>, PathRejection>,
) -> Result<Kept, ApiError> {
    let id = parse(id)?;
    Ok(state.responses().find(ctx.key_id.as_deref(), &id).await?)
}

/// What is no id is the id of nothing.
fn parse(id: Result<Path<String>, PathRejection>) -> Result<ResponseId, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "the id is not UTF-8"))?;
    ResponseId::parse(&id).ok_or_else(|| {
        let shown = id.chars().take(64).collect();
        service::Error::UnknownResponse { id: shown }.into()
    })
}

/// Which page.
#[derive(Debug, PartialEq)]
struct Wanted {
    ascending: bool,
    limit: usize,
    after: Option<String>,
}

impl Wanted {
    fn parse(query: &str) -> Result<Wanted, ApiError> {
        let mut wanted = Wanted { ascending: false, limit: PAGE, after: None };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("order", "asc") => wanted.ascending = true,
                ("order", "desc") => wanted.ascending = false,
                ("order", _) => return Err(ApiError::invalid("order", "`order` must be `asc` or `desc`")),
                ("limit", value) => match value.parse() {
                    Ok(limit) if (1..=MAX_PAGE).contains(&limit) => wanted.limit = limit,
                    _ => {
                        let message = format!("`limit` must be a number from 1 to {MAX_PAGE}");
                        return Err(ApiError::invalid("limit", message));
                    }
                },
                ("after", id) => wanted.after = Some(id.to_owned()),
                _ => {}
            }
        }
        Ok(wanted)
    }

    fn page(&self, mut items: Vec<Item>) -> Result<InputItemList, ApiError> {
        if !self.ascending {
            items.reverse();
        }
        let start = match &self.after {
            None => 0,
            Some(after) => match items.iter().position(|item| item.id() == after) {
                Some(at) => at + 1,
                None => {
                    let message = "`after` is the id of none of the items";
                    return Err(
                        ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message).param("after")
                    );
                }
            },
        };
        let mut data = items.split_off(start);
        let has_more = data.len() > self.limit;
        data.truncate(self.limit);
        let id = |item: Option<&Item>| item.map(|item| item.id().to_owned());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Ok(InputItemList { object: "list", data, first_id, last_id, has_more })
    }
}
