//! Jobs: whoever asked for one is not waiting any more, and its result is what the same request would be answered.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use super::pmx::jobs::PutOff;
use super::pmx::{diarize, identify, parse, speakers, transcribe};
use super::{ApiError, State};
use crate::service::jobs::{Job, Progress, Work};
use crate::service::vector_stores::INDEX;
use crate::service::{Context, Error};

/// Does what the routes of this server put off.
struct Worker(State);

/// Who does the jobs of this server.
pub(super) fn worker(state: &State) -> Arc<dyn Work> {
    Arc::new(Worker(state.clone()))
}

impl Work for Worker {
    fn run<'a>(&'a self, job: &'a Job, progress: &'a Progress) -> BoxFuture<'a, Result<Value, Error>> {
        let state = &self.0;
        Box::pin(async move {
            let ctx = Context { request_id: format!("job_{}", job.id), key_id: job.owner.clone() };
            let kind = job.kind.as_str();
            if kind == INDEX {
                return state.vector_stores().index(&ctx, &job.request, progress).await;
            }
            let put_off = PutOff::of(job)?;
            let outcome = match kind {
                parse::JOB => parse::run(state, &put_off).await,
                diarize::JOB => diarize::run(state, ctx, &put_off).await,
                identify::JOB => identify::run(state, ctx, &put_off).await,
                speakers::JOB => speakers::run(state, ctx, &put_off).await,
                transcribe::JOB => transcribe::run(state, ctx, &put_off).await,
                other => Err(ApiError::internal(format!("nobody does jobs of the kind {other}"))),
            };
            let outcome = outcome.map_err(failed);
            // What fails as the server is stopped is done when it runs again.
            if outcome.is_ok() || !state.jobs().is_stopping() {
                put_off.call_back(state, job, &outcome);
            }
            outcome
        })
    }
}

/// An error of a handler, as one of its job.
fn failed(error: ApiError) -> Error {
    match error.detail {
        Some(detail) => Error::Internal { detail },
        None => Error::Invalid { param: "request", message: error.message },
    }
}
