//! The API's description, made of the handlers and wire types themselves.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, SecurityRequirement};
use utoipa::{Modify, OpenApi};

use super::openai::responses::{self, stored};
use super::openai::{audio, chat, completions, embeddings, files, models, rerank, tokenize, vector_stores};
use super::paneas::{asr, diar};
use super::pmx::jobs::{of_diarize, of_enroll, of_identify, of_parse, of_transcribe};
use super::pmx::{
    diarize, docs, identify, index, parse, points, query, runs, speakers as pmx_speakers, transcribe,
};
use super::realtime;
use super::{Access, librechat, routes, snapshots, speakers, system};

#[derive(OpenApi)]
#[openapi(
    info(description = "Chat, embeddings and speech recognition in one process, by OpenAI's API."),
    paths(
        chat::create,
        completions::create,
        responses::create,
        stored::retrieve,
        stored::delete,
        stored::input_items,
        embeddings::create,
        files::create,
        files::list,
        files::retrieve,
        files::delete,
        files::content,
        vector_stores::create,
        vector_stores::list,
        vector_stores::retrieve,
        vector_stores::update,
        vector_stores::delete,
        vector_stores::search::search,
        vector_stores::files::create,
        vector_stores::files::list,
        vector_stores::files::retrieve,
        vector_stores::files::update,
        vector_stores::files::delete,
        vector_stores::files::content,
        vector_stores::batches::create,
        vector_stores::batches::retrieve,
        vector_stores::batches::cancel,
        vector_stores::batches::list,
        speakers::list,
        speakers::enrol::create,
        speakers::retrieve,
        speakers::update,
        speakers::delete,
        speakers::enrol::add,
        speakers::merge,
        speakers::identify::identify,
        speakers::identify::verify,
        rerank::create,
        rerank::create_either,
        audio::transcribe,
        audio::translate,
        audio::align::align,
        realtime::openai::connect,
        models::list,
        models::retrieve,
        tokenize::tokenize,
        tokenize::detokenize,
        asr::create,
        diar::create,
        realtime::paneas::connect,
        transcribe::create,
        of_transcribe::create,
        of_transcribe::retrieve,
        of_transcribe::cancel,
        diarize::create,
        of_diarize::create,
        of_diarize::retrieve,
        of_diarize::cancel,
        identify::create,
        of_identify::create,
        of_identify::retrieve,
        of_identify::cancel,
        pmx_speakers::list,
        pmx_speakers::list_bare,
        pmx_speakers::enroll,
        pmx_speakers::retrieve,
        pmx_speakers::change,
        pmx_speakers::delete,
        of_enroll::create,
        of_enroll::retrieve,
        of_enroll::cancel,
        of_parse::create,
        of_parse::retrieve,
        of_parse::cancel,
        runs::begin,
        runs::watch,
        runs::tell,
        runs::complete,
        runs::result,
        index::create,
        query::query,
        docs::list,
        docs::delete,
        docs::tags,
        docs::change_tags,
        parse::create,
        librechat::embed,
        librechat::text,
        librechat::query,
        librechat::query_multiple,
        librechat::documents,
        librechat::delete,
        librechat::context,
        librechat::ids,
        librechat::health,
        points::embed,
        points::upsert,
        points::collections,
        points::health,
        system::root,
        system::healthz,
        system::health,
        system::readyz,
        system::version,
        system::metrics,
        snapshots::create,
        system::openapi,
        system::docs,
    ),
    modifiers(&Keys)
)]
struct Api;

/// Says which routes take a key, from the table that enforces it.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key")));
        components.add_security_scheme("header", header);
        for route in routes::table().iter().filter(|route| route.access != Access::Public) {
            let path = route.path.replace("{*", "{");
            let Some(item) = document.paths.paths.get_mut(&path) else { continue };
            for operation in [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
                .into_iter()
                .flatten()
            {
                let either = ["bearer", "header"].map(|name| SecurityRequirement::new(name, [] as [&str; 0]));
                operation.security = Some(either.to_vec());
            }
        }
    }
}

/// The document.
pub(super) fn document() -> Document {
    Api::openapi()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_every_description_is_a_route() {
        let routes: BTreeSet<(String, String)> = routes::table()
            .iter()
            .map(|route| (route.method.to_owned(), route.path.replace("{*", "{")))
            .collect();
        let document = serde_json::to_value(document()).unwrap();
        let mut described = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                described.insert((method.to_uppercase(), path.clone()));
                let open = routes::table()
                    .iter()
                    .any(|r| r.access == Access::Public && r.path.replace("{*", "{") == *path);
                assert_eq!(operation.get("security").is_none(), open, "{path}");
                assert!(operation["summary"].is_string(), "{path} has no summary");
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "two routes have the operation id {id}");
            }
        }
        assert_eq!(routes, described);
    }

    #[test]
    fn references_lead_somewhere() {
        let document = serde_json::to_value(document()).unwrap();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/").skip(1) {
            let target = reference.split('"').next().unwrap();
            assert!(document.pointer(&format!("/{target}")).is_some(), "{target}");
        }
    }
}
