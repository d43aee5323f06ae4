//! Documents and answers: by the server that this configuration would start, if it runs, since it has the store open;
//! else by the models in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::installed::find;
use super::{Exit, running};
use crate::app;
use crate::config::Config;
use crate::engine::{Engine, Stay};
use crate::fetch::Library;
use crate::service::points::Points;
use crate::service::rag::{Options, Place, Rag, Said};
use crate::service::{self, Context, Service};
use crate::store;
use crate::types::model::{Installed, Kind};
use crate::types::rag::{By, Content, NewDocument, Outcome, Passage, Question};
use crate::types::store::{Filter, Fusion, Stemming};

/// Nobody else waits for what this process does.
pub(super) const ENDLESS: Duration = Duration::from_secs(30 * 24 * 3600);
/// Separates the parts of a form; no file holds it, as it is drawn anew for each.
const BOUNDARY: &str = "stentor-";

/// Who does it.
pub enum Desk {
    Here(Box<Here>),
    There { client: Client, base: String },
}

/// The models in this process.
pub struct Here {
    rag: Rag,
    embed: Option<String>,
    chat: Option<String>,
    rerank: Option<String>,
}

/// A file that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub outcome: Outcome,
    pub passages: u64,
    /// What of it could not be read.
    pub left_out: Option<String>,
}

/// Where a file goes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Into<'a> {
    pub collection: &'a str,
    pub tags: &'a [String],
    pub auto_tags: bool,
    /// Of a collection that is made.
    pub language: Option<&'a str>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub question: String,
    pub collection: String,
    pub k: usize,
    pub tags: Vec<String>,
    pub model: Option<String>,
}

/// A source of an answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Source {
    pub source: String,
    #[serde(default)]
    pub page: Option<u64>,
    pub score: f32,
    pub snippet: String,
}

impl Desk {
    /// The server that runs, else the models of these kinds.
    ///
    /// # Errors
    /// No server runs, and another process has the store open, or there is no such model.
    pub async fn open(config: &Config, kinds: &[Kind]) -> anyhow::Result<Desk> {
        if let Some((client, base)) = running_server(config.addr).await? {
            return Ok(Desk::There { client, base });
        }
        let mut models = Vec::new();
        let mut named = |kind: Kind, name: &Option<String>| -> anyhow::Result<Option<String>> {
            if !kinds.contains(&kind) && kind != Kind::Rerank {
                return Ok(None);
            }
            let model = the(config, kind, name)?;
            let id = model.id.clone();
            models.push(model);
            Ok(Some(id))
        };
        let embed = named(Kind::Embed, &config.models.embed)?;
        let chat = named(Kind::Chat, &config.models.chat)?;
        let rerank = match &config.models.rerank {
            Some(_) if kinds.contains(&Kind::Chat) => named(Kind::Rerank, &config.models.rerank)?,
            _ => None,
        };
        let points = points(config)?;
        let mut options = app::engine_options(config);
        options.drafts.clear();
        let ids: Vec<String> = models.iter().map(|model| model.id.clone()).collect();
        let engine = Engine::start(models, options)?;
        engine.preload(&ids, Stay::Always).await?;
        let options = service::Options { timeout: ENDLESS, ..service::Options::default() };
        let rag = Rag::new(Arc::new(Service::new(engine, options)), points, Options::default());
        Ok(Desk::Here(Box::new(Here { rag, embed, chat, rerank })))
    }

    /// Takes a file in under a name.
    ///
    /// # Errors
    /// It cannot be read, or nothing can be taken in.
    pub async fn index(&self, path: &Path, name: &str, into: Into<'_>) -> Result<Taken, Failure> {
        let bytes = tokio::fs::read(path).await.map_err(|error| Failure::File(error.into()))?;
        match self {
            Desk::Here(here) => here.index(bytes, name, into).await,
            Desk::There { client, base } => {
                let mut fields = vec![("collection", into.collection.to_owned()), ("name", name.to_owned())];
                fields.extend(into.tags.iter().map(|tag| ("tags", tag.clone())));
                fields.extend(into.language.map(|language| ("language", language.to_owned())));
                fields.push(("auto_tags", into.auto_tags.to_string()));
                let answer = send(
                    client,
                    &format!("{base}/index"),
                    form(&fields, "files", &[(name.to_owned(), bytes)]),
                )
                .await?;
                taken(&answer)
            }
        }
    }

    /// Answers a question; `say` is told each piece of the answer. What it may come from.
    ///
    /// # Errors
    /// It cannot be answered.
    pub async fn ask(
        &self,
        asked: &Asked,
        say: &mut (dyn FnMut(&str) -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<Vec<Source>> {
        match self {
            Desk::Here(here) => here.ask(asked, say).await,
            Desk::There { client, base } => there(client, base, asked, say).await,
        }
    }
}

/// The server that runs at an address: what asks it, and where.
///
/// # Errors
/// This process cannot ask at all.
pub(super) async fn running_server(addr: SocketAddr) -> anyhow::Result<Option<(Client, String)>> {
    let server = tokio::task::spawn_blocking(move || running::server(addr)).await?;
    if server.is_none() {
        return Ok(None);
    }
    let client = Client::builder().no_proxy().tls_certs_only([]).build()?;
    Ok(Some((client, format!("http://{}", running::reachable(addr)))))
}

/// The store of the home folder.
///
/// # Errors
/// Another process has it open, or it cannot be read.
pub(super) fn points(config: &Config) -> anyhow::Result<Points> {
    Points::open(&config.store()).map_err(|error| match error {
        locked @ store::Error::Locked(_) => Exit::held(locked.to_string()).into(),
        other => anyhow::Error::from(other),
    })
}

/// Why a file was not taken in.
#[derive(Debug)]
pub enum Failure {
    /// It would be the same with every other one.
    Whole(anyhow::Error),
    File(anyhow::Error),
}

/// The model of a kind: the configured one, else the first that was installed.
fn the(config: &Config, kind: Kind, name: &Option<String>) -> anyhow::Result<Installed> {
    if let Some(name) = name {
        return find(config, name, kind);
    }
    let installed = Library::open(&config.home)?.installed()?;
    let first = installed.into_iter().filter(|model| model.kind == kind).min_by_key(|model| model.created);
    first.with_context(|| {
        format!("no {} model is installed; fetch some with `stentor pull starter`", kind.as_str())
    })
}

impl Here {
    async fn index(&self, bytes: Vec<u8>, name: &str, into: Into<'_>) -> Result<Taken, Failure> {
        let place = Place {
            collection: into.collection.to_owned(),
            model: self.embed.clone(),
            tagger: self.chat.clone().filter(|_| into.auto_tags),
            stemming: into.language.and_then(Stemming::parse).unwrap_or_default(),
            ..Place::default()
        };
        let new = NewDocument {
            name: name.to_owned(),
            content: Content::File(bytes),
            tags: into.tags.to_vec(),
            ..NewDocument::default()
        };
        match self.rag.index(&Context::default(), &place, new, &|_, _| ()).await {
            Ok(indexed) => {
                let left_out = indexed.entry.left_out.iter().map(|(name, why)| format!("{name}: {why}"));
                let left_out = left_out.collect::<Vec<_>>().join("; ");
                Ok(Taken {
                    outcome: indexed.outcome,
                    passages: indexed.entry.passages,
                    left_out: (!left_out.is_empty()).then_some(left_out),
                })
            }
            Err(service::Error::Invalid { param: "file" | "name" | "tags", message }) => {
                Err(Failure::File(anyhow::Error::msg(message)))
            }
            // There is no log that has it.
            Err(service::Error::Internal { detail }) => Err(Failure::Whole(anyhow::Error::msg(detail))),
            Err(other) => Err(Failure::Whole(other.into())),
        }
    }

    async fn ask(
        &self,
        asked: &Asked,
        say: &mut (dyn FnMut(&str) -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<Vec<Source>> {
        let model =
            asked.model.clone().or_else(|| self.chat.clone()).context("no chat model is installed")?;
        let question = Question {
            collections: vec![asked.collection.clone()],
            text: asked.question.clone(),
            k: asked.k,
            filter: (!asked.tags.is_empty()).then(|| Filter::tags_any(&asked.tags)),
            by: By::Both,
            fusion: Fusion::default(),
            reranker: self.rerank.clone(),
        };
        let mut answered = match self.rag.answer(&Context::default(), model, &question).await {
            Err(service::Error::UnknownCollection { name }) => {
                bail!(
                    "there is no collection `{name}`; fill one with `stentor index PATH --collection {name}`"
                )
            }
            answered => answered?,
        };
        let sources = answered.sources.iter().map(Source::from).collect();
        while let Some(said) = answered.next().await {
            if let Said::Text(text) = said? {
                say(&text)?;
            }
        }
        Ok(sources)
    }
}

impl From<&Passage> for Source {
    fn from(passage: &Passage) -> Source {
        Source {
            source: passage.name.clone(),
            page: passage.page,
            score: passage.relevance.unwrap_or(passage.score),
            snippet: passage.text.clone(),
        }
    }
}

/// A form with files, by name and content, in parts called `part`: its type and its body.
pub(super) fn form(fields: &[(&str, String)], part: &str, files: &[(String, Vec<u8>)]) -> (String, Vec<u8>) {
    let boundary = format!("{BOUNDARY}{}", uuid::Uuid::new_v4().simple());
    let bytes: usize = files.iter().map(|(_, file)| file.len() + 1024).sum();
    let mut body = Vec::with_capacity(bytes + 1024);
    for (field, value) in fields {
        let head =
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n");
        body.extend(head.into_bytes());
    }
    for (name, file) in files {
        // A form has the last part of the name; where all of it matters, a field has it.
        let last = Path::new(name).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let plain: String = last.chars().filter(|c| !c.is_control() && !"\"\\".contains(*c)).collect();
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{part}\"; filename=\"{plain}\"\r\n\r\n"
        );
        body.extend(head.into_bytes());
        body.extend(file);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").into_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// Posts a body; what is answered.
async fn send(client: &Client, url: &str, (mime, body): (String, Vec<u8>)) -> Result<Value, Failure> {
    let mut request = client.post(url).header("content-type", mime).body(body);
    if let Some(key) = running::key() {
        request = request.bearer_auth(key);
    }
    let whole = |error: reqwest::Error| Failure::Whole(error.without_url().into());
    let answer = request.send().await.map_err(whole)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(whole)?;
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(json);
    }
    let error = anyhow::Error::msg(detail(&json, status.as_u16()));
    // A file that cannot be read is a wrong request; the rest is not the file's fault.
    Err(if status.as_u16() == 400 { Failure::File(error) } else { Failure::Whole(error) })
}

/// What a server says is wrong.
pub(super) fn detail(json: &Value, status: u16) -> String {
    match json.get("detail").or_else(|| json.pointer("/error/message")).and_then(Value::as_str) {
        Some(detail) => detail.to_owned(),
        None => format!("the server answers {status}"),
    }
}

/// What the server says of one file.
fn taken(answer: &Value) -> Result<Taken, Failure> {
    let file = &answer["files"][0];
    let outcome = match file["outcome"].as_str() {
        Some("new") => Outcome::New,
        Some("changed") => Outcome::Changed,
        Some("same") => Outcome::Same,
        _ => {
            return Err(Failure::Whole(anyhow::Error::msg(
                "the server is of another version than this program",
            )));
        }
    };
    Ok(Taken {
        outcome,
        passages: file["chunks"].as_u64().unwrap_or_default(),
        left_out: file["error"].as_str().map(str::to_owned),
    })
}

/// Asks the server, whose answer is a stream.
async fn there(
    client: &Client,
    base: &str,
    asked: &Asked,
    say: &mut (dyn FnMut(&str) -> anyhow::Result<()> + Send),
) -> anyhow::Result<Vec<Source>> {
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "lowercase")]
    enum Event {
        Sources { sources: Vec<Source> },
        Delta { text: String },
        Done {},
        Error { detail: String },
    }
    let body = json!({"query": asked.question, "collection": asked.collection, "top_k": asked.k,
        "tags_any": asked.tags, "model": asked.model, "stream": true});
    let mut request = client.post(format!("{base}/query")).header("content-type", "application/json");
    if let Some(key) = running::key() {
        request = request.bearer_auth(key);
    }
    let answer = request.body(body.to_string()).send().await.map_err(reqwest::Error::without_url)?;
    if !answer.status().is_success() {
        let status = answer.status().as_u16();
        bail!(detail(&serde_json::from_slice(&answer.bytes().await?).unwrap_or_default(), status));
    }
    let (mut sources, mut waiting) = (Vec::new(), Vec::new());
    let mut stream = answer.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece: Bytes = piece.map_err(reqwest::Error::without_url)?;
        waiting.extend_from_slice(&piece);
        while let Some(end) = waiting.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            match serde_json::from_slice(data)? {
                Event::Sources { sources: found } => sources = found,
                Event::Delta { text } => say(&text)?,
                Event::Done {} => return Ok(sources),
                Event::Error { detail } => bail!(detail),
            }
        }
    }
    bail!("the answer ended before its end")
}
