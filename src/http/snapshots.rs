//! `POST /v1/store/snapshots`: a copy of all that the store holds, while it serves.

use axum::Json as Reply;
use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, State};

/// A copy of the store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    /// Its file, in `store/snapshots` of the home folder.
    name: String,
    bytes: u64,
}

/// Copy the store to a file on the server's disk. `stentor store snapshot FILE` does it, and takes the file away.
#[utoipa::path(
    post,
    path = "/v1/store/snapshots",
    operation_id = "createSnapshot",
    tag = "system",
    responses(
        (status = 200, description = "The copy is on the disk", body = Snapshot),
        (status = 409, description = "As many lie there as are kept", body = super::error::ErrorBody),
        (status = 507, description = "There is no room for it", body = super::error::ErrorBody),
    )
)]
pub(crate) async fn create(Extract(state): Extract<State>) -> Result<Reply<Snapshot>, ApiError> {
    let (name, bytes) = state.points().snapshot().await?;
    Ok(Reply(Snapshot { name, bytes }))
}
