//! Embeddings and rerankings from texts to numbers, through an engine with models of random weights.

use serde::Deserialize;

use super::{Context, Error, Options, Service};
use crate::engine::{self, Engine};
use crate::model::embed::testing::{Golden, distance, golden, installed, read};
use crate::types::embed::{Input, Prompt, Request};
use crate::types::model::{Format, Installed, Kind};
use crate::types::rerank;

fn service() -> Service {
    let model = |id: &str, kind| {
        let found = installed(&golden(id), Format::Safetensors, kind);
        Installed { id: id.to_owned(), ..found }
    };
    let models = vec![model("xlm-roberta", Kind::Embed), model("rerank-bert", Kind::Rerank)];
    let device = crate::device::Choice::Cpu;
    let options = engine::Options { device, memory_budget: Some(1 << 30), ..Default::default() };
    Service::new(Engine::start(models, options).unwrap(), Options::default())
}

fn request(texts: &[&str]) -> Request {
    let inputs = texts.iter().map(|text| Input::Text((*text).to_owned())).collect();
    Request::new("xlm-roberta".to_owned(), inputs)
}

#[tokio::test]
async fn texts_are_embedded_behind_the_prompt_that_is_asked_for() {
    let (service, rows) = (service(), read::<Vec<Golden>>("xlm-roberta/golden.json"));
    let plain = rows[0].text.as_str();
    let with = rows.iter().find(|row| row.text == format!("query: {plain}")).unwrap();
    for (prompt, want) in
        [(Prompt::None, &rows[0]), (Prompt::Query, with), (Prompt::Named("query".to_owned()), with)]
    {
        let request = Request { prompt: prompt.clone(), ..request(&[plain]) };
        let response = service.embed(Context::default(), request).await.unwrap();
        assert!(distance(&response.vectors[0], &want.vector) < 1e-4, "{prompt:?}");
        assert_eq!(response.usage.prompt_tokens as usize, want.ids.len());
    }
    let refused = async |request: Request| match service.embed(Context::default(), request).await {
        Err(Error::Invalid { param, message }) => (param, message),
        other => panic!("{other:?}"),
    };
    let named = Prompt::Named("poem".to_owned());
    let (param, message) = refused(Request { prompt: named, ..request(&["a"]) }).await;
    assert!(param == "prompt_name" && message.contains("poem") && message.contains("query"), "{message}");
    let inputs = vec![Input::Tokens(vec![5])];
    let (param, message) = refused(Request { inputs, prompt: Prompt::Query, ..request(&[]) }).await;
    assert!(param == "prompt_name" && message.contains("input[0]"), "{message}");
    let long = "fox ".repeat(100);
    let (param, message) = refused(Request { truncate: false, ..request(&["a", &long]) }).await;
    assert!(param == "input" && message.contains("`input[1]`") && message.contains("64"), "{message}");
    assert!(service.embed(Context::default(), request(&[&long])).await.is_ok());
}

#[derive(Deserialize)]
struct Scored {
    query: String,
    text: String,
    ids: Vec<u32>,
    score: f32,
}

#[tokio::test]
async fn documents_are_scored_in_their_order() {
    let (service, rows) = (service(), read::<Vec<Scored>>("rerank-bert/golden.json"));
    let rows: Vec<&Scored> = rows.iter().filter(|row| row.query == rows[0].query).collect();
    let documents = rows.iter().map(|row| row.text.clone()).collect();
    let ask = |model: &str, documents: Vec<String>, truncate| {
        let (model, query) = (model.to_owned(), rows[0].query.clone());
        let request = rerank::Request { model, query, documents, truncate };
        service.rerank(Context::default(), request)
    };
    let response = ask("rerank-bert", documents, true).await.unwrap();
    assert_eq!(response.scores.len(), rows.len());
    for (score, row) in response.scores.iter().zip(&rows) {
        assert!((score.0 - row.score).abs() < 1e-4, "{score:?} for {}", row.score);
        assert!((score.relevance() - 1.0 / (1.0 + (-row.score).exp())).abs() < 1e-4);
    }
    assert_eq!(response.usage.prompt_tokens as usize, rows.iter().map(|row| row.ids.len()).sum::<usize>());
    let error = ask("xlm-roberta", vec!["a".to_owned()], true).await.unwrap_err();
    assert!(matches!(&error, Error::WrongKind { kind: "embed", .. }), "{error}");
    let long = vec!["a".to_owned(), "fox ".repeat(100)];
    let error = ask("rerank-bert", long, false).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { param: "documents", .. }), "{error}");
    assert!(error.to_string().contains("document 1"), "{error}");
}
