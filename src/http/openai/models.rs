//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json as Reply;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Extract};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::observe::ModelId;
use crate::http::{ApiError, State};
use crate::service::{Card, Error};

/// The models that requests may name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    id: String,
    /// Unix seconds.
    created: u64,
    object: &'static str,
    owned_by: String,
    /// Whether it is in memory now; another one is loaded first when a request names it.
    loaded: bool,
}

impl From<Card> for Model {
    fn from(card: Card) -> Model {
        Model {
            id: card.id,
            created: card.created,
            object: "model",
            owned_by: card.owner,
            loaded: card.loaded,
        }
    }
}

fn named(card: &Card, name: &str) -> bool {
    card.id == name || card.aliases.iter().any(|alias| alias == name)
}

/// The id of the model that `name` stands for, for the log.
pub(super) fn resolve(state: &State, name: &str) -> Option<ModelId> {
    let card = state.backend().models().into_iter().find(|card| named(card, name))?;
    Some(ModelId(card.id))
}

/// List models.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "models",
    responses((status = 200, description = "Every model that requests may name", body = ModelList))
)]
pub(crate) async fn list(Extract(state): Extract<State>) -> Reply<ModelList> {
    let data = state.backend().models().into_iter().map(Model::from).collect();
    Reply(ModelList { object: "list", data })
}

/// Describe a model.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "retrieveModel",
    tag = "models",
    params(("id" = String, Path, description = "Id or alias of a model; it may have slashes")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 404, description = "There is no such model; the message lists those there are", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn retrieve(
    Extract(state): Extract<State>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Reply<Model>, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "the model's name is not UTF-8"))?;
    let cards = state.backend().models();
    let available: Vec<String> = cards.iter().map(|card| card.id.clone()).collect();
    match cards.into_iter().find(|card| named(card, &id)) {
        Some(card) => Ok(Reply(card.into())),
        None => {
            let model = id.chars().take(256).collect();
            Err(Error::UnknownModel { model, available }.into())
        }
    }
}
