//! The book of speakers: with the server that runs, since it has the store open; else in this process.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use super::{Known, Match, Sample, Voice, Who};
use crate::app;
use crate::cli::desk::{ENDLESS, detail, form, points, running_server};
use crate::cli::running;
use crate::config::Config;
use crate::engine::Engine;
use crate::fetch::Library;
use crate::service::files::{self, Files};
use crate::service::speakers::{Asked, Book, Enrolment, NewSample, Speaker, UNKNOWN};
use crate::service::{self, Context, Service, Upload};
use crate::types::model::Kind;

/// Speakers that the server is asked for at a time.
const PAGE: usize = 100;

/// Who has the book.
pub enum Desk {
    Here { book: Book, config: Box<Config> },
    There { client: Client, base: String },
}

/// A speaker to enrol.
pub struct Enrol {
    pub id: Option<String>,
    pub name: String,
    /// None: those that there are.
    pub tags: Vec<String>,
    pub replace: bool,
    pub force: bool,
    pub files: Vec<PathBuf>,
}

impl Desk {
    /// The server that runs, else the store of the home folder.
    ///
    /// # Errors
    /// No server runs, and another process has the store open.
    pub async fn open(config: &Config) -> anyhow::Result<Desk> {
        if let Some((client, base)) = running_server(config.addr).await? {
            return Ok(Desk::There { client, base });
        }
        let points = points(config)?;
        let limits = files::Limits { bytes: config.files.keep_bytes };
        let files = Files::open(&config.home.join("files"), points.clone(), limits)
            .context("the folder of files in the home folder")?;
        let book = Book::open(points, files, app::book_options(config))?;
        Ok(Desk::Here { book, config: Box::new(config.clone()) })
    }

    /// All speakers, the newest first.
    pub async fn list(&self) -> anyhow::Result<Vec<Known>> {
        match self {
            Desk::Here { book, .. } => {
                Ok(book.list(None).iter().map(|speaker| speaker.as_ref().into()).collect())
            }
            Desk::There { .. } => {
                let mut all: Vec<Known> = Vec::new();
                loop {
                    let after = all.last().map(|last| format!("&after={}", last.id)).unwrap_or_default();
                    let path = format!("/v1/speakers?limit={PAGE}{after}");
                    let mut page = self.send(self.request(Method::GET, &path)?).await?;
                    let more: Vec<Known> = serde_json::from_value(page["data"].take())?;
                    let is_last = more.is_empty() || page["has_more"] != true;
                    all.extend(more);
                    if is_last {
                        return Ok(all);
                    }
                }
            }
        }
    }

    /// Enrols a speaker; what is known then.
    pub async fn enrol(&self, enrol: Enrol) -> anyhow::Result<Known> {
        match self {
            Desk::Here { book, config } => {
                let samples =
                    enrol.files.iter().map(|file| Ok(NewSample { upload: upload(file)?, url: None }));
                let new = Enrolment {
                    samples: samples.collect::<anyhow::Result<_>>()?,
                    id: enrol.id,
                    existing: false,
                    name: Some(enrol.name),
                    tags: Some(enrol.tags).filter(|tags| !tags.is_empty()),
                    merge: !enrol.replace,
                    force: enrol.force,
                };
                let speaker = book.enrol(&voices(config)?, &Context::default(), new).await.map_err(plain)?;
                Ok(speaker.as_ref().into())
            }
            Desk::There { .. } => {
                let mut fields = vec![
                    ("name", enrol.name),
                    ("merge", (!enrol.replace).to_string()),
                    ("force", enrol.force.to_string()),
                ];
                fields.extend(enrol.id.map(|id| ("id", id)));
                fields.extend(enrol.tags.into_iter().map(|tag| ("tags", tag)));
                let body = form(&fields, "files", &read(&enrol.files).await?);
                let request = self.request(Method::POST, "/v1/speakers")?;
                Ok(serde_json::from_value(self.send(with(request, body)).await?)?)
            }
        }
    }

    /// Whose voice is in a recording.
    pub async fn identify(&self, file: &Path, top_k: usize, threshold: Option<f32>) -> anyhow::Result<Who> {
        match self {
            Desk::Here { book, config } => {
                let (voices, asked) = (voices(config)?, Asked { top_k, threshold });
                let heard =
                    book.recognise(&voices, &Context::default(), upload(file)?, Vec::new(), asked).await;
                Ok(heard.map_err(plain)?.into())
            }
            Desk::There { .. } => {
                let mut fields = vec![("top_k", top_k.to_string())];
                fields.extend(threshold.map(|threshold| ("threshold", threshold.to_string())));
                let body = form(&fields, "file", &read(&[file.to_owned()]).await?);
                let request = self.request(Method::POST, "/v1/speakers/identify")?;
                Ok(serde_json::from_value(self.send(with(request, body)).await?)?)
            }
        }
    }

    /// Deletes a speaker.
    pub async fn remove(&self, id: &str) -> anyhow::Result<()> {
        match self {
            Desk::Here { book, .. } => book.remove(&Context::default(), id).await.map_err(plain),
            Desk::There { .. } => {
                let request = self.request(Method::DELETE, &format!("/v1/speakers/{id}"))?;
                self.send(request).await.map(drop)
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let Desk::There { client, base } = self else { bail!("no server runs") };
        let request = client.request(method, format!("{base}{path}"));
        Ok(match running::key() {
            Some(key) => request.bearer_auth(key),
            None => request,
        })
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let answer = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(reqwest::Error::without_url)?;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            bail!(detail(&json, status.as_u16()));
        }
        Ok(json)
    }
}

fn with(request: RequestBuilder, (mime, body): (String, Vec<u8>)) -> RequestBuilder {
    request.header("content-type", mime).body(body)
}

/// There is no log that has what is not told.
fn plain(error: service::Error) -> anyhow::Error {
    match error {
        service::Error::Internal { detail } => anyhow::Error::msg(detail),
        other => other.into(),
    }
}

fn name(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn upload(file: &Path) -> anyhow::Result<Upload> {
    let open = File::open(file).with_context(|| file.display().to_string())?;
    Ok(Upload { file: open, name: Some(name(file)), mime: None })
}

/// Names and contents.
async fn read(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::with_capacity(files.len());
    for file in files {
        let bytes = tokio::fs::read(file).await.with_context(|| file.display().to_string())?;
        all.push((name(file), bytes));
    }
    Ok(all)
}

/// The models that know voices, in this process.
fn voices(config: &Config) -> anyhow::Result<Service> {
    let mut models = Library::open(&config.home)?.installed()?;
    models.retain(|model| matches!(model.kind, Kind::Speaker | Kind::Segment | Kind::Vad));
    if !models.iter().any(|model| model.kind == Kind::Speaker) {
        bail!("no speaker model is installed; `stentor models` lists those that `stentor pull` fetches");
    }
    let mut options = app::engine_options(config);
    options.drafts.clear();
    let engine = Engine::start(models, options)?;
    let seconds = config.limits.audio_seconds;
    let options =
        service::Options { timeout: ENDLESS, audio_seconds: seconds, ..service::Options::default() };
    Ok(Service::new(engine, options))
}

impl From<&Speaker> for Known {
    fn from(speaker: &Speaker) -> Known {
        let sample = |sample: &service::speakers::Sample| Sample {
            id: sample.id.clone(),
            seconds: sample.seconds,
            speech_seconds: sample.speech,
        };
        Known {
            id: speaker.id.clone(),
            name: speaker.name.clone(),
            tags: speaker.tags.clone(),
            created_at: speaker.created_at,
            updated_at: speaker.updated_at,
            model: speaker.model.clone(),
            samples: speaker.samples.iter().map(sample).collect(),
        }
    }
}

impl From<service::speakers::Recognised> for Who {
    fn from(heard: service::speakers::Recognised) -> Who {
        let service::speakers::Recognised { identified, samples, embedder } = heard;
        let voice = |(found, sample): (service::speakers::Found, &crate::types::speaker::Sample)| {
            let speaker = found.speaker();
            Voice {
                id: speaker.map(|speaker| speaker.id.clone()),
                name: speaker.map_or(UNKNOWN, |speaker| &speaker.name).to_owned(),
                speech_seconds: sample.speech,
                matches: found
                    .matches
                    .iter()
                    .map(|one| Match { id: one.id.clone(), name: one.name.clone(), score: one.score })
                    .collect(),
            }
        };
        Who {
            model: embedder.model,
            threshold: identified.threshold,
            enrolled: identified.enrolled,
            stale: identified.stale,
            data: identified.found.into_iter().zip(&samples).map(voice).collect(),
        }
    }
}
