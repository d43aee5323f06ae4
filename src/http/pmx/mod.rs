//! The dialect of PMX. Its proxy has it below `/rag`, and so every route is found there too.

pub(super) mod diarize;
pub(super) mod docs;
pub(super) mod identify;
pub(super) mod index;
pub(super) mod jobs;
pub(super) mod parse;
pub(super) mod points;
pub(super) mod query;
pub(super) mod runs;
pub(super) mod speakers;
pub(super) mod transcribe;

use axum::http::StatusCode;

use super::ApiError;

/// The text of an error.
pub(super) fn detail(error: &ApiError) -> String {
    match error.status {
        StatusCode::UNAUTHORIZED => "Invalid API key".to_owned(),
        _ => error.message.clone(),
    }
}

/// The text of an error of speech recognition.
pub(super) fn speech_detail(error: &ApiError) -> String {
    match error.status {
        StatusCode::UNAUTHORIZED => detail(error),
        _ => format!("Transcribe failed: {}", error.message),
    }
}

/// The answer where a job is not there, or is another caller's.
fn no_job() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "job_not_found", "job not found")
}
