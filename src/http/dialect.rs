//! Whose form an answer has. Handlers know the form of what they answer; errors come from everywhere, and get theirs
//! here.

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::Failure;
use super::{paneas, pmx, routes};

/// Whose client a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    Paneas,
    Pmx,
    PmxSpeech,
}

/// What went wrong, for clients that read one text.
#[derive(Serialize, ToSchema)]
#[schema(as = Detail)]
pub(super) struct DetailBody {
    detail: String,
}

/// Gives an error the form that clients of its route read.
pub(super) async fn speak(request: Request, next: Next) -> Response {
    let dialect = routes::dialect(request.extensions().get::<MatchedPath>().map(MatchedPath::as_str));
    let mut response = next.run(request).await;
    let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() else { return response };
    let detail = match dialect {
        Dialect::OpenAi => return response,
        Dialect::Paneas => paneas::detail(&error),
        Dialect::Pmx => pmx::detail(&error),
        Dialect::PmxSpeech => pmx::speech_detail(&error),
    };
    if let Ok(text) = serde_json::to_string(&DetailBody { detail }) {
        *response.body_mut() = Body::from(text);
    }
    response
}
