//! `POST /v1/embeddings`.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Reply};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::described::TextOrTokens;
use super::fields::{Input, Inputs, MAX_INPUTS, ModelName};
use super::model;
use crate::http::body::Json;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::types::embed;

/// More than any model has.
const MAX_DIMENSIONS: usize = 65_536;

/// Texts to embed. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingRequest {
    /// Id or alias of an embedding model; may be left out where the server has a default.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
    /// A string, a list of up to 2048 strings, a list of token ids, or a list of such lists.
    #[schema(value_type = TextOrTokens)]
    input: Inputs,
    /// `float` (the default) or `base64` (little-endian 32-bit floats).
    #[serde(default)]
    encoding_format: Option<Encoding>,
    /// Keep this many leading dimensions and normalise again.
    #[serde(default)]
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
    /// Name of a prompt in the model's files to put before each text, such as `query` or `document`; none if absent.
    #[serde(default)]
    prompt_name: Option<String>,
    /// Whether texts that are too long for the model are cut (true if absent), or else refused.
    #[serde(default)]
    truncate: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    Float,
    Base64,
}

/// The vectors, in the order of the inputs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingList {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

/// One vector.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// Numbers, or their bytes in base64.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

/// Tokens of the inputs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl Vector {
    pub(super) fn new(values: Vec<f32>, encoding: Encoding) -> Vector {
        match encoding {
            Encoding::Float => Vector::Float(values),
            Encoding::Base64 => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

impl EmbeddingRequest {
    /// The request in the service's terms, and how to write the vectors.
    pub(super) fn into_request(
        self,
        default: &Option<String>,
    ) -> Result<(embed::Request, Encoding), ApiError> {
        if let Some(dimensions) = self.dimensions
            && !(1..=MAX_DIMENSIONS).contains(&dimensions)
        {
            let message = format!("`dimensions` is {dimensions}; it must be from 1 to the model's own");
            return Err(ApiError::invalid("dimensions", message));
        }
        let count = self.input.0.len();
        if !(1..=MAX_INPUTS).contains(&count) {
            let message = format!("`input` has {count} entries; it must have from 1 to {MAX_INPUTS}");
            return Err(ApiError::invalid("input", message));
        }
        let mut inputs = Vec::with_capacity(count);
        for (at, input) in self.input.0.into_iter().enumerate() {
            inputs.push(match input {
                Input::Text(text) if !text.is_empty() => embed::Input::Text(text),
                Input::Tokens(ids) if !ids.is_empty() => embed::Input::Tokens(ids),
                _ => return Err(ApiError::invalid("input", format!("`input[{at}]` is empty"))),
            });
        }
        let model = model(self.model, default)?;
        let request = embed::Request {
            model,
            inputs,
            dimensions: self.dimensions,
            prompt: self.prompt_name.map_or(embed::Prompt::None, embed::Prompt::Named),
            truncate: self.truncate.unwrap_or(true),
        };
        Ok((request, self.encoding_format.unwrap_or(Encoding::Float)))
    }
}

/// Embed texts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    operation_id = "createEmbedding",
    tag = "embeddings",
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "A unit vector for every input, in order", body = EmbeddingList),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = crate::http::error::ErrorBody),
        (status = "5XX", description = "The server could not answer", body = crate::http::error::ErrorBody),
    )
)]
pub(crate) async fn create(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let (request, encoding) = body.into_request(&state.settings().default_embed)?;
    let named = request.model.clone();
    let response =
        state.backend().embed(ctx, request).await.map_err(|e| ApiError::from(e).or_param("input"))?;
    let known = super::models::resolve(&state, &named);
    let data = response
        .vectors
        .into_iter()
        .enumerate()
        .map(|(index, values)| Embedding {
            object: "embedding",
            index,
            embedding: Vector::new(values, encoding),
        })
        .collect();
    let usage = EmbeddingUsage {
        prompt_tokens: response.usage.prompt_tokens,
        total_tokens: response.usage.prompt_tokens,
    };
    let model = known.clone().map_or(named, |model| model.0);
    let mut reply = Reply(EmbeddingList { object: "list", data, model, usage }).into_response();
    if let Some(model) = known {
        reply.extensions_mut().insert(model);
    }
    Ok(reply)
}
