//! Stentor: one process that embeds speech, embedding, chat and speaker models and serves them over
//! OpenAI-style HTTP.
//!
//! # Map
//!
//! Every modality is *a model stepped until its rows finish*: an embedding finishes at its first step, a
//! chat answer or a transcript at its N-th. So every modality has the same shape.
//!
//! | module | does | may use |
//! |---|---|---|
//! | [`types`] | plain data, a file a modality; no I/O, no tensors | nothing |
//! | [`obs`] | metric names, log and trace set-up | nothing |
//! | [`device`] | what hardware there is, and its limits | nothing |
//! | [`config`] | flags over environment over file, validated once | types |
//! | [`audio`] | decode, resample, log-mel, filterbanks that speaker models hear | types |
//! | [`documents`] | files of text, mail and offices as text, and that in chunks | nothing |
//! | [`text`] | tokenizers, chat templates, UTF-8 safe detokenising | types |
//! | [`fetch`] | manifests, downloads, checksums, the home folder | types |
//! | [`ops`] | fused operations with a CPU and a device side; all CUDA `unsafe` | device |
//! | [`store`] | points with vectors, text and JSON, durably; what is found among them | ops, types |
//! | [`model`] | the `Model` trait, the architectures, the weight readers | ops, device, text, types |
//! | [`engine`] | jobs, schedulers, one worker thread a device, placement | model, ops, device, obs, types |
//! | [`service`] | validate, tokenise, orchestrate, detokenise, keep responses, points, documents and speakers, answer from these, write transcripts as files; of models only their front: tokenizer, template, limits | engine, model, store, audio, documents, text, obs, types |
//! | [`http`] | wire formats and routes; the only place that knows JSON dialects | service, obs, types |
//! | [`app`] | the composition root: the only wiring | everything above |
//! | [`cli`] | the commands | app, fetch, config, types |
//! | [`cli::transcribe`] | recordings to files, without HTTP | app, config, engine, service, types |
//! | [`cli::diarize`] | who speaks when in recordings, without HTTP | app, config, engine, service, types |
//! | [`cli::desk`] | documents and answers, by a server that runs or in this process | app, config, fetch, engine, service, store, types |
//! | [`cli::index`] | documents into the store, without HTTP where no server runs | app, config, service, types |
//! | [`cli::speakers`] | the book of speakers, by a server that runs or in this process | app, config, fetch, engine, service, types |
//! | [`cli::store`] | look at, copy and mend the store, without HTTP but where a server has it open | config, service, store, types |
//! | [`cli::bench`] | speed without HTTP | app, config, fetch, engine, service, model, store, audio, text, ops, device, types |
//!
//! `tests/architecture.rs` reads this table and every path in the source, and fails on an arrow that is not here,
//! or that does not point upwards. Tests may use anything.

pub mod app;
pub mod audio;
pub mod cli;
pub mod config;
pub mod device;
pub mod documents;
pub mod engine;
pub mod fetch;
pub mod http;
pub mod model;
pub mod obs;
pub mod ops;
pub mod service;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod types;
