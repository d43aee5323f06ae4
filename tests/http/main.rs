//! The HTTP side before a backend that answers at once: routes and shapes in process, limits, hang-ups and
//! shutdown over real sockets, arbitrary input.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod api;
mod arbitrary;
mod ask;
mod book;
mod cast;
mod dialects;
mod documents;
mod fake;
mod jobs;
mod kept;
mod librechat;
mod live;
mod live_speakers;
mod points;
mod rerank;
mod responses;
mod socket;
mod speakers;
mod speakers_elsewhere;
mod speech;
mod stenographer;
mod tokens;
mod vector_stores;
mod voices;
