//! The dialect of the AI Stack Platform ("Paneas"), below `/api/v1`.

pub(super) mod asr;
pub(super) mod diar;

use axum::http::StatusCode;

use super::ApiError;

/// The text of an error.
pub(super) fn detail(error: &ApiError) -> String {
    match error.status {
        StatusCode::UNAUTHORIZED => "Unauthorized".to_owned(),
        _ => error.message.clone(),
    }
}
