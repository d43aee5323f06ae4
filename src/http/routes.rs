//! The one table of routes. The router, the keys that are asked for, the labels of the metrics and the test
//! of the API description all read it.

use axum::routing::{MethodRouter, delete, get, patch, post, put};

use super::State;
use super::dialect::Dialect;
use super::{librechat, openai, paneas, pmx, realtime, snapshots, speakers, system};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone who reaches the server: probes, and pages that are the same on every server.
    Public,
    /// Whoever has an API key, where keys are configured.
    Key,
    /// Whom LibreChat's token names, where its secret is configured; else whoever has an API key.
    LibreChat,
}

/// One route.
pub struct Route {
    pub method: &'static str,
    /// Axum's template; `{*id}` takes slashes.
    pub path: &'static str,
    pub access: Access,
    /// Whose form its errors have.
    pub dialect: Dialect,
    pub(super) handler: fn() -> MethodRouter<State>,
}

#[rustfmt::skip]
const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/", access: Access::Public, dialect: Dialect::OpenAi, handler: || get(system::root) },
    Route { method: "GET", path: "/healthz", access: Access::Public, dialect: Dialect::OpenAi, handler: || get(system::healthz) },
    Route { method: "GET", path: "/health", access: Access::Public, dialect: Dialect::OpenAi, handler: || get(system::health) },
    Route { method: "GET", path: "/readyz", access: Access::Public, dialect: Dialect::OpenAi, handler: || get(system::readyz) },
    Route { method: "GET", path: "/docs", access: Access::Public, dialect: Dialect::OpenAi, handler: || get(system::docs) },
    Route { method: "GET", path: "/openapi.json", access: Access::Public, dialect: Dialect::OpenAi, handler: || get(system::openapi) },
    Route { method: "GET", path: "/version", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(system::version) },
    Route { method: "GET", path: "/metrics", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(system::metrics) },
    Route { method: "GET", path: "/v1/models", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::models::list) },
    Route { method: "GET", path: "/v1/models/{*id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::models::retrieve) },
    Route { method: "POST", path: "/v1/chat/completions", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::chat::create) },
    Route { method: "POST", path: "/v1/completions", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::completions::create) },
    Route { method: "POST", path: "/v1/responses", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::responses::create) },
    Route { method: "GET", path: "/v1/responses/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::responses::stored::retrieve) },
    Route { method: "DELETE", path: "/v1/responses/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || delete(openai::responses::stored::delete) },
    Route { method: "GET", path: "/v1/responses/{id}/input_items", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::responses::stored::input_items) },
    Route { method: "POST", path: "/v1/embeddings", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::embeddings::create) },
    Route { method: "POST", path: "/v1/rerank", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::rerank::create) },
    Route { method: "POST", path: "/rerank", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::rerank::create_either) },
    Route { method: "POST", path: "/v1/audio/transcriptions", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::audio::transcribe) },
    Route { method: "POST", path: "/v1/audio/translations", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::audio::translate) },
    Route { method: "POST", path: "/v1/audio/align", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::audio::align::align) },
    Route { method: "POST", path: "/v1/files", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::files::create) },
    Route { method: "GET", path: "/v1/files", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::files::list) },
    Route { method: "GET", path: "/v1/files/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::files::retrieve) },
    Route { method: "DELETE", path: "/v1/files/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || delete(openai::files::delete) },
    Route { method: "GET", path: "/v1/files/{id}/content", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::files::content) },
    Route { method: "POST", path: "/v1/vector_stores", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::vector_stores::create) },
    Route { method: "GET", path: "/v1/vector_stores", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::vector_stores::list) },
    Route { method: "GET", path: "/v1/vector_stores/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::vector_stores::retrieve) },
    Route { method: "POST", path: "/v1/vector_stores/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::vector_stores::update) },
    Route { method: "DELETE", path: "/v1/vector_stores/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || delete(openai::vector_stores::delete) },
    Route { method: "POST", path: "/v1/vector_stores/{id}/search", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::vector_stores::search::search) },
    Route { method: "POST", path: "/v1/vector_stores/{id}/files", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::vector_stores::files::create) },
    Route { method: "GET", path: "/v1/vector_stores/{id}/files", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::vector_stores::files::list) },
    Route { method: "GET", path: "/v1/vector_stores/{id}/files/{file_id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::vector_stores::files::retrieve) },
    Route { method: "POST", path: "/v1/vector_stores/{id}/files/{file_id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::vector_stores::files::update) },
    Route { method: "DELETE", path: "/v1/vector_stores/{id}/files/{file_id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || delete(openai::vector_stores::files::delete) },
    Route { method: "GET", path: "/v1/vector_stores/{id}/files/{file_id}/content", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::vector_stores::files::content) },
    Route { method: "POST", path: "/v1/vector_stores/{id}/file_batches", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::vector_stores::batches::create) },
    Route { method: "GET", path: "/v1/vector_stores/{id}/file_batches/{batch_id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::vector_stores::batches::retrieve) },
    Route { method: "POST", path: "/v1/vector_stores/{id}/file_batches/{batch_id}/cancel", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::vector_stores::batches::cancel) },
    Route { method: "GET", path: "/v1/vector_stores/{id}/file_batches/{batch_id}/files", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(openai::vector_stores::batches::list) },
    Route { method: "GET", path: "/v1/speakers", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(speakers::list) },
    Route { method: "POST", path: "/v1/speakers", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(speakers::enrol::create) },
    Route { method: "GET", path: "/v1/speakers/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(speakers::retrieve) },
    Route { method: "PATCH", path: "/v1/speakers/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || patch(speakers::update) },
    Route { method: "DELETE", path: "/v1/speakers/{id}", access: Access::Key, dialect: Dialect::OpenAi, handler: || delete(speakers::delete) },
    Route { method: "POST", path: "/v1/speakers/{id}/samples", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(speakers::enrol::add) },
    Route { method: "POST", path: "/v1/speakers/{id}/merge", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(speakers::merge) },
    Route { method: "POST", path: "/v1/speakers/identify", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(speakers::identify::identify) },
    Route { method: "POST", path: "/v1/speakers/verify", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(speakers::identify::verify) },
    Route { method: "POST", path: "/v1/store/snapshots", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(snapshots::create) },
    Route { method: "GET", path: "/v1/realtime", access: Access::Key, dialect: Dialect::OpenAi, handler: || get(realtime::openai::connect) },
    Route { method: "POST", path: "/tokenize", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::tokenize::tokenize) },
    Route { method: "POST", path: "/detokenize", access: Access::Key, dialect: Dialect::OpenAi, handler: || post(openai::tokenize::detokenize) },
    Route { method: "POST", path: "/api/v1/asr", access: Access::Key, dialect: Dialect::Paneas, handler: || post(paneas::asr::create) },
    Route { method: "POST", path: "/api/v1/diar", access: Access::Key, dialect: Dialect::Paneas, handler: || post(paneas::diar::create) },
    Route { method: "GET", path: "/api/v1/asr/stream", access: Access::Key, dialect: Dialect::Paneas, handler: || get(realtime::paneas::connect) },
    Route { method: "POST", path: "/transcribe", access: Access::Key, dialect: Dialect::PmxSpeech, handler: || post(pmx::transcribe::create) },
    Route { method: "POST", path: "/transcribe/async", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::jobs::of_transcribe::create) },
    Route { method: "GET", path: "/transcribe/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::jobs::of_transcribe::retrieve) },
    Route { method: "DELETE", path: "/transcribe/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || delete(pmx::jobs::of_transcribe::cancel) },
    Route { method: "POST", path: "/diarize", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::diarize::create) },
    Route { method: "POST", path: "/diarize/async", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::jobs::of_diarize::create) },
    Route { method: "GET", path: "/diarize/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::jobs::of_diarize::retrieve) },
    Route { method: "DELETE", path: "/diarize/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || delete(pmx::jobs::of_diarize::cancel) },
    Route { method: "POST", path: "/identify", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::identify::create) },
    Route { method: "POST", path: "/identify/async", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::jobs::of_identify::create) },
    Route { method: "GET", path: "/identify/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::jobs::of_identify::retrieve) },
    Route { method: "DELETE", path: "/identify/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || delete(pmx::jobs::of_identify::cancel) },
    Route { method: "GET", path: "/speakers", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::speakers::list) },
    Route { method: "GET", path: "/speakers/list", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::speakers::list_bare) },
    Route { method: "POST", path: "/speakers/enroll", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::speakers::enroll) },
    Route { method: "POST", path: "/speakers/enroll/async", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::jobs::of_enroll::create) },
    Route { method: "GET", path: "/speakers/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::jobs::of_enroll::retrieve) },
    Route { method: "DELETE", path: "/speakers/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || delete(pmx::jobs::of_enroll::cancel) },
    Route { method: "GET", path: "/speakers/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::speakers::retrieve) },
    Route { method: "PUT", path: "/speakers/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || put(pmx::speakers::change) },
    Route { method: "DELETE", path: "/speakers/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || delete(pmx::speakers::delete) },
    Route { method: "POST", path: "/parse/document/async", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::jobs::of_parse::create) },
    Route { method: "GET", path: "/parse/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::jobs::of_parse::retrieve) },
    Route { method: "DELETE", path: "/parse/jobs/{id}", access: Access::Key, dialect: Dialect::Pmx, handler: || delete(pmx::jobs::of_parse::cancel) },
    Route { method: "POST", path: "/jobs", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::runs::begin) },
    Route { method: "GET", path: "/jobs/{id}/events", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::runs::watch) },
    Route { method: "POST", path: "/jobs/{id}/events", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::runs::tell) },
    Route { method: "POST", path: "/jobs/{id}/complete", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::runs::complete) },
    Route { method: "GET", path: "/jobs/{id}/result", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::runs::result) },
    Route { method: "POST", path: "/index", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::index::create) },
    Route { method: "POST", path: "/query", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::query::query) },
    Route { method: "GET", path: "/tags", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::docs::tags) },
    Route { method: "GET", path: "/docs/list", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::docs::list) },
    Route { method: "DELETE", path: "/docs/{doc_id}", access: Access::Key, dialect: Dialect::Pmx, handler: || delete(pmx::docs::delete) },
    Route { method: "PATCH", path: "/docs/{doc_id}/tags", access: Access::Key, dialect: Dialect::Pmx, handler: || patch(pmx::docs::change_tags) },
    Route { method: "POST", path: "/parse/document", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::parse::create) },
    Route { method: "POST", path: "/embed", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::points::embed) },
    Route { method: "POST", path: "/qdrant/upsert", access: Access::Key, dialect: Dialect::Pmx, handler: || post(pmx::points::upsert) },
    Route { method: "GET", path: "/qdrant/collections", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::points::collections) },
    Route { method: "GET", path: "/qdrant/health", access: Access::Key, dialect: Dialect::Pmx, handler: || get(pmx::points::health) },
    Route { method: "POST", path: "/librechat/embed", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || post(librechat::embed) },
    Route { method: "POST", path: "/librechat/text", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || post(librechat::text) },
    Route { method: "POST", path: "/librechat/query", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || post(librechat::query) },
    Route { method: "POST", path: "/librechat/query_multiple", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || post(librechat::query_multiple) },
    Route { method: "GET", path: "/librechat/documents", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || get(librechat::documents) },
    Route { method: "DELETE", path: "/librechat/documents", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || delete(librechat::delete) },
    Route { method: "GET", path: "/librechat/documents/{id}/context", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || get(librechat::context) },
    Route { method: "GET", path: "/librechat/ids", access: Access::LibreChat, dialect: Dialect::Pmx, handler: || get(librechat::ids) },
    Route { method: "GET", path: "/librechat/health", access: Access::Public, dialect: Dialect::Pmx, handler: || get(librechat::health) },
];

/// Every route.
pub fn table() -> &'static [Route] {
    ROUTES
}

fn find(template: Option<&str>) -> Option<&'static Route> {
    ROUTES.iter().find(|route| Some(route.path) == template)
}

/// Who may use the route that matched; what matched none needs a key, so that a stranger learns nothing.
pub(super) fn access(template: Option<&str>) -> Access {
    find(template).map_or(Access::Key, |route| route.access)
}

/// Whose form the errors of the route that matched have.
pub(super) fn dialect(template: Option<&str>) -> Dialect {
    find(template).map_or(Dialect::OpenAi, |route| route.dialect)
}

/// The template as a metric's label.
pub(super) fn label(template: Option<&str>) -> &'static str {
    find(template).map_or("other", |route| route.path)
}

/// Routes that are called every few seconds by machines.
pub(super) fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/health" | "/readyz" | "/metrics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probes_and_static_pages_are_public() {
        let public: Vec<_> = table().iter().filter(|r| r.access == Access::Public).collect();
        let paths: Vec<_> = public.iter().map(|route| route.path).collect();
        assert_eq!(
            paths,
            ["/", "/healthz", "/health", "/readyz", "/docs", "/openapi.json", "/librechat/health"]
        );
        assert!(public.iter().all(|route| route.method == "GET"));
        assert_eq!(access(None), Access::Key);
        assert_eq!(access(Some("/unheard/of")), Access::Key);
    }
}
