//! `/qdrant/*` and `/embed`: vectors by themselves, as PMX's services hand them to each other.

use axum::extract::State as Extract;
use axum::{Extension, Json as Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::body::Json;
use crate::http::dialect::DetailBody;
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::types::embed;
use crate::types::store::{Described, Metric, Point, Record};

/// The collection of requests that name none.
pub(super) const COLLECTION: &str = "pmx_docs";
/// Points or texts of a request at most.
const MOST: usize = 16_384;

/// Points to put. Those that are there are replaced.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct UpsertRequest {
    points: Vec<PointBody>,
    /// `pmx_docs` if absent; it is made where it is not there.
    #[serde(default)]
    collection: Option<String>,
    /// Taken and not needed: points are on the disk when the answer comes.
    #[serde(default)]
    #[expect(dead_code, reason = "describes what is taken")]
    wait: bool,
}

/// One point.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PointBody {
    /// A text or a whole number.
    #[schema(value_type = String)]
    id: Id,
    vector: Vec<f32>,
    /// Of it, `text` is searched by its words, and `tags` are the point's tags.
    #[serde(default)]
    #[schema(value_type = Object)]
    payload: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    Text(String),
    Number(i64),
}

/// What was put.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Upserted {
    upserted: usize,
    collection: String,
    /// Dimensions of the collection's vectors.
    dim: usize,
}

/// The collections.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Collections {
    items: Vec<Collection>,
}

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Collection {
    name: String,
    /// `green`, or `yellow` while new points are being linked, which are found all the same.
    status: &'static str,
    vectors_count: usize,
    config: Config,
}

/// What a collection was made for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PmxCollectionConfig)]
pub(crate) struct Config {
    /// Dimensions; null where it has no vectors.
    size: Option<usize>,
    /// `Cosine`, `Dot` or `Euclid`.
    distance: Option<&'static str>,
}

/// Whether the store can be used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoreHealth {
    ok: bool,
    /// Always `embedded`: the store is a part of this server.
    url: &'static str,
}

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbedRequest {
    texts: Vec<String>,
    /// Id or alias of an embedding model; the server's default if absent.
    #[serde(default)]
    model: Option<String>,
    /// Taken and not needed: vectors have length 1.
    #[serde(default)]
    #[expect(dead_code, reason = "describes what is taken")]
    normalize: Option<bool>,
    /// Taken and not needed: the server batches by itself.
    #[serde(default)]
    #[expect(dead_code, reason = "describes what is taken")]
    batch_size: Option<u32>,
}

/// The vectors, in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embedded {
    vectors: Vec<Vec<f32>>,
    dim: usize,
    model: String,
}

impl Id {
    pub(super) fn into_text(self) -> String {
        match self {
            Id::Text(id) => id,
            Id::Number(id) => id.to_string(),
        }
    }
}

impl PointBody {
    fn into_point(self) -> Point {
        let id = self.id.into_text();
        let payload = self.payload.unwrap_or_default();
        let text = payload.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
        let tags = payload.get("tags").and_then(Value::as_array).into_iter().flatten();
        let tags = tags.filter_map(|tag| tag.as_str().map(str::to_owned)).collect();
        Point { record: Record { id, tags, text, payload }, vector: Some(self.vector) }
    }
}

impl From<Described> for Collection {
    fn from(described: Described) -> Collection {
        let vectors = described.spec.vectors;
        Collection {
            name: described.name,
            status: if described.unlinked > 0 { "yellow" } else { "green" },
            vectors_count: vectors.map_or(0, |_| described.points),
            config: Config {
                size: vectors.map(|vectors| vectors.dim),
                distance: vectors.map(|vectors| match vectors.metric {
                    Metric::Cosine => "Cosine",
                    Metric::Dot => "Dot",
                    Metric::Euclidean => "Euclid",
                }),
            },
        }
    }
}

pub(super) fn check(param: &'static str, count: usize) -> Result<(), ApiError> {
    if (1..=MOST).contains(&count) {
        return Ok(());
    }
    Err(ApiError::invalid(param, format!("`{param}` has {count} entries; it must have from 1 to {MOST}")))
}

/// Put points.
#[utoipa::path(
    post,
    path = "/qdrant/upsert",
    operation_id = "pmxUpsert",
    tag = "pmx",
    request_body = UpsertRequest,
    responses(
        (status = 200, description = "The points are on the disk, and are found", body = Upserted),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn upsert(
    Extract(state): Extract<State>,
    Json(body): Json<UpsertRequest>,
) -> Result<Reply<Upserted>, ApiError> {
    check("points", body.points.len())?;
    let collection = body.collection.unwrap_or_else(|| COLLECTION.to_owned());
    let points = body.points.into_iter().map(PointBody::into_point).collect();
    let (done, described) = state.points().put(collection, points).await?;
    let dim = described.spec.vectors.map_or(0, |vectors| vectors.dim);
    Ok(Reply(Upserted { upserted: done.put, collection: described.name, dim }))
}

/// List the collections.
#[utoipa::path(
    get,
    path = "/qdrant/collections",
    operation_id = "pmxCollections",
    tag = "pmx",
    responses((status = 200, description = "The collections", body = Collections))
)]
pub(crate) async fn collections(Extract(state): Extract<State>) -> Reply<Collections> {
    Reply(Collections { items: state.points().collections().into_iter().map(Collection::from).collect() })
}

/// Whether the store can be used.
#[utoipa::path(
    get,
    path = "/qdrant/health",
    operation_id = "pmxStoreHealth",
    tag = "pmx",
    responses((status = 200, description = "It can", body = StoreHealth))
)]
pub(crate) async fn health() -> Reply<StoreHealth> {
    Reply(StoreHealth { ok: true, url: "embedded" })
}

/// Embed texts.
#[utoipa::path(
    post,
    path = "/embed",
    operation_id = "pmxEmbed",
    tag = "pmx",
    request_body = EmbedRequest,
    responses(
        (status = 200, description = "A unit vector for every text, in order", body = Embedded),
        (status = "4XX", description = "The request is wrong, or the server is busy (429)", body = DetailBody),
        (status = "5XX", description = "The server could not answer", body = DetailBody),
    )
)]
pub(crate) async fn embed(
    Extract(state): Extract<State>,
    Extension(ctx): Extension<Context>,
    Json(body): Json<EmbedRequest>,
) -> Result<Reply<Embedded>, ApiError> {
    check("texts", body.texts.len())?;
    if let Some(at) = body.texts.iter().position(String::is_empty) {
        return Err(ApiError::invalid("texts", format!("`texts[{at}]` is empty")));
    }
    let default = || state.settings().default_embed.clone();
    let none = || ApiError::invalid("model", "`model` is missing: name one of those in /v1/models");
    let model = body.model.or_else(default).ok_or_else(none)?;
    let inputs = body.texts.into_iter().map(embed::Input::Text).collect();
    let request = embed::Request::new(model.clone(), inputs);
    let vectors = state.backend().embed(ctx, request).await?.vectors;
    Ok(Reply(Embedded { dim: vectors.first().map_or(0, Vec::len), vectors, model }))
}
