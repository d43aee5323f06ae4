//! The dialect of PMX, at the root and below `/rag`, where its proxy has it.

pub(super) mod transcribe;

use axum::http::StatusCode;

use super::ApiError;

/// The text of an error.
pub(super) fn detail(error: &ApiError) -> String {
    match error.status {
        StatusCode::UNAUTHORIZED => "Invalid API key".to_owned(),
        _ => format!("Transcribe failed: {}", error.message),
    }
}
