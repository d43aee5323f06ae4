use std::path::PathBuf;

use super::*;
use crate::engine::Engine;
use crate::service::Options;
use crate::types::model::Format;

fn installed(id: &str, kind: Kind, aliases: &[&str]) -> Installed {
    Installed {
        id: id.to_owned(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        kind,
        architecture: String::new(),
        format: Format::Gguf,
        path: PathBuf::new(),
        bytes: 0,
        created: 0,
        owner: String::new(),
    }
}

/// Two chat models and an embedding model; `default_chat` and `aliases` as configured.
fn service(models: Vec<Installed>, default_chat: Option<&str>, aliases: &[(&str, &str)]) -> Service {
    let options = Options {
        default_chat: default_chat.map(str::to_owned),
        aliases: aliases.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect(),
        ..Options::default()
    };
    let opener = |_: &Installed, _: &candle_core::Device| unreachable!("nothing is loaded");
    let engine = engine::Options { memory_budget: Some(1 << 30), ..Default::default() };
    Service::new(Engine::start_with(models, engine, Box::new(opener)).unwrap(), options)
}

fn models() -> Vec<Installed> {
    vec![
        installed("small", Kind::Chat, &["tiny"]),
        installed("large", Kind::Chat, &[]),
        installed("vectors", Kind::Embed, &["tiny"]),
    ]
}

fn aliases(service: &Service, id: &str) -> Vec<String> {
    service.models().into_iter().find(|card| card.id == id).unwrap().aliases
}

#[test]
fn default_is_the_chat_model_of_requests_that_name_none() {
    for chosen in ["large", "mistral"] {
        let service = service(models(), Some(chosen), &[("mistral", "large")]);
        assert_eq!(service.resolve("default", Kind::Chat).unwrap(), "large");
        assert_eq!(aliases(&service, "large"), ["mistral", "default"]);
        assert_eq!(aliases(&service, "small"), ["tiny"]);
        let error = service.resolve("default", Kind::Embed).unwrap_err();
        assert!(matches!(error, Error::WrongKind { kind: "chat", .. }), "{error}");
    }
    assert_eq!(service(models(), Some("tiny"), &[]).resolve("default", Kind::Chat).unwrap(), "small");
}

#[test]
fn a_model_or_alias_of_that_name_goes_before_it() {
    let configured = service(models(), Some("large"), &[("default", "small")]);
    assert_eq!(configured.resolve("default", Kind::Chat).unwrap(), "small");
    assert_eq!(aliases(&configured, "small"), ["tiny", "default"]);
    assert_eq!(aliases(&configured, "large"), [] as [&str; 0]);
    let mut named = models();
    named.push(installed("default", Kind::Chat, &[]));
    let named = service(named, Some("large"), &[]);
    assert_eq!(named.resolve("default", Kind::Chat).unwrap(), "default");
    assert_eq!(aliases(&named, "large"), [] as [&str; 0]);
}

#[test]
fn without_a_default_it_is_no_name() {
    for chosen in [None, Some("gone")] {
        let service = service(models(), chosen, &[]);
        assert!(matches!(service.resolve("default", Kind::Chat), Err(Error::UnknownModel { .. })));
        assert!(service.models().iter().all(|card| !card.aliases.iter().any(|alias| alias == "default")));
    }
}

#[test]
fn names_of_the_right_kind_go_first() {
    let service = service(models(), None, &[]);
    assert_eq!(service.resolve("tiny", Kind::Chat).unwrap(), "small");
    assert_eq!(service.resolve("tiny", Kind::Embed).unwrap(), "vectors");
    assert!(matches!(service.resolve("vectors", Kind::Chat), Err(Error::WrongKind { .. })));
}
