//! `stentor bench mixed`: what text that is being written waits for while the same device transcribes and embeds.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures::StreamExt;
use serde::Serialize;

use super::words::Words;
use super::{Common, Report, asr, find, llm, rounded, start};
use crate::cli::installed::helpers;
use crate::config::Config;
use crate::engine::handle::Handle;
use crate::engine::{Engine, Stay};
use crate::model::llm::Llm;
use crate::service::{Context, Options, Service};
use crate::types::asr::{Delta, Request, Task};
use crate::types::embed;
use crate::types::model::{Installed, Kind};

/// Texts of a request, and the range of words a text has: documents on their way into an index.
const TEXTS: (usize, usize, usize) = (64, 180, 220);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The chat model that writes: installed, or a GGUF file
    #[arg(long, value_name = "ID|PATH")]
    pub chat: String,
    /// The speech model that transcribes beside it
    #[arg(long, value_name = "ID|PATH", requires = "audio")]
    pub asr: Option<String>,
    /// The recording, which is transcribed over and over
    #[arg(long, value_name = "FILE", requires = "asr")]
    pub audio: Option<PathBuf>,
    /// The embedding model that embeds documents beside it
    #[arg(long, value_name = "ID|PATH")]
    pub embed: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

/// What runs beside an answer: its name, and whether that transcribes and embeds.
pub(super) type Case = (&'static str, bool, bool);
/// Every case, the answer alone first.
pub(super) const CASES: [Case; 4] = [
    ("alone", false, false),
    ("transcribing", true, false),
    ("embedding", false, true),
    ("transcribing and embedding", true, true),
];

/// How long a case takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Tokens of the answer, and when it is broken off.
    pub tokens: usize,
    pub most: Duration,
    /// Others run for so long before it begins, at least.
    pub warm_up: Duration,
}

const PACE: Pace = Pace { tokens: 512, most: Duration::from_secs(3600), warm_up: Duration::from_secs(2) };

#[derive(Serialize)]
struct Line {
    case: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

/// What an answer waited for.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// Milliseconds from one token to the next: the median, and percentiles.
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    /// The 95th percentile by that of the model alone.
    pub p95_by_alone: f64,
    pub tok_s: f64,
    /// Seconds of audio transcribed a second, and texts embedded.
    pub rtfx: f64,
    pub texts_s: f64,
}

impl Figures {
    /// What a row of the table says beside the 95th percentile.
    pub(super) fn told(&self) -> String {
        let Figures { p99_ms, p95_by_alone, rtfx, texts_s, .. } = self;
        format!("{p99_ms} at p99, {p95_by_alone} x, audio {rtfx} x, {texts_s} texts/s")
    }
}

/// Runs the command.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let chat = find(config, &args.chat, Kind::Chat)?;
    let asr = args.asr.as_deref().map(|name| find(config, name, Kind::Asr)).transpose()?;
    let embed = args.embed.as_deref().map(|name| find(config, name, Kind::Embed)).transpose()?;
    let mut config = config.clone();
    // Guesses would make waits of several tokens at once.
    config.models.speculate = false;
    config.models.drafts.clear();
    let used: Vec<_> = [Some(&chat), asr.as_ref(), embed.as_ref()].into_iter().flatten().cloned().collect();
    let ids: Vec<String> = used.iter().map(|model| model.id.clone()).collect();
    let (runtime, engine) = start(&config, &args.common, [used, helpers(&config, Kind::Vad)?].concat())?;
    runtime.block_on(async {
        engine.preload(&ids, Stay::Always).await?;
        let id = |model: Option<Installed>| model.map(|model| model.id);
        let recording = id(asr).zip(args.audio.clone());
        let beside = Beside {
            asr: recording.map(|(id, file)| (Request::new(id, Task::Transcribe), file)),
            embed: id(embed).map(|id| Ok::<_, anyhow::Error>((id, documents()?))).transpose()?,
        };
        let bench = Bench::new(engine, &chat.id, beside, PACE).await?;
        bench.measure(&Report::begin(&args.common, &chat)?, usize::from(args.common.runs.unwrap_or(1))).await
    })
}

/// Documents on their way into an index.
pub(super) fn documents() -> anyhow::Result<Vec<String>> {
    let (count, low, high) = TEXTS;
    Ok(Words::read(None)?.texts(count, low, high))
}

/// What runs beside an answer, over and over: a request and its recording, a model and its texts.
pub(super) struct Beside {
    pub asr: Option<(Request, PathBuf)>,
    pub embed: Option<(String, Vec<String>)>,
}

/// An answer, and what runs beside it.
pub(super) struct Bench {
    chat: Handle<Llm>,
    service: Service,
    beside: Beside,
    pace: Pace,
    /// Seconds of audio, and texts, so far.
    heard: Cell<f64>,
    embedded: Cell<f64>,
}

impl Bench {
    pub(super) async fn new(engine: Engine, chat: &str, beside: Beside, pace: Pace) -> anyhow::Result<Bench> {
        let chat = engine.get::<Llm>(chat).await?;
        let service = Service::new(engine, Options::default());
        Ok(Bench { chat, service, beside, pace, heard: Cell::new(0.0), embedded: Cell::new(0.0) })
    }

    async fn measure(&self, report: &Report, runs: usize) -> anyhow::Result<()> {
        let mut alone = None;
        for (case, asr, embed) in CASES {
            if (asr && self.beside.asr.is_none()) || (embed && self.beside.embed.is_none()) {
                continue;
            }
            let mut all = Vec::new();
            for _ in 0..runs {
                all.push(self.case(asr, embed).await?);
            }
            all.sort_by(|a, b| a.p95_ms.total_cmp(&b.p95_ms));
            let mut figures = all.swap_remove(all.len() / 2);
            figures.p95_by_alone = rounded(figures.p95_ms / *alone.get_or_insert(figures.p95_ms), 2);
            let (p95, name) = (figures.p95_ms, format!("{case}: {}", figures.told()));
            report.case(&Line { case, figures }, &name, p95, "ms at p95")?;
        }
        Ok(())
    }

    /// One answer beside what is asked for; by the answer alone it is not divided yet.
    pub(super) async fn case(&self, asr: bool, embed: bool) -> anyhow::Result<Figures> {
        let others = async {
            tokio::try_join!(self.transcribe(asr), self.embed(embed))?;
            anyhow::Ok(())
        };
        let Pace { tokens, most, .. } = self.pace;
        let answer = async {
            if asr || embed {
                self.warm_up(asr, embed).await;
            }
            let (begun, heard, embedded) = (Instant::now(), self.heard.get(), self.embedded.get());
            let waits = llm::waits(&self.chat, tokens, most).await?;
            let seconds = begun.elapsed().as_secs_f64();
            let rate = |now: f64, before: f64| rounded((now - before) / seconds, 1);
            let at =
                |share: f64| rounded(waits[(waits.len() as f64 * share) as usize].as_secs_f64() * 1e3, 2);
            anyhow::Ok(Figures {
                p50_ms: at(0.5),
                p95_ms: at(0.95),
                p99_ms: at(0.99),
                p95_by_alone: 1.0,
                tok_s: rounded(waits.len() as f64 / seconds, 1),
                rtfx: rate(self.heard.get(), heard),
                texts_s: rate(self.embedded.get(), embedded),
            })
        };
        tokio::select! {
            line = answer => line,
            ended = others => match ended {
                Ok(()) => bail!("what runs beside the answer ended"),
                Err(error) => Err(error),
            },
        }
    }

    /// Until the others are at work: a long recording is read before any of it is heard.
    async fn warm_up(&self, asr: bool, embed: bool) {
        let (begun, heard, embedded) = (Instant::now(), self.heard.get(), self.embedded.get());
        tokio::time::sleep(self.pace.warm_up).await;
        while (asr && self.heard.get() == heard) || (embed && self.embedded.get() == embedded) {
            if begun.elapsed() > self.pace.warm_up + self.pace.most {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Transcribes the recording over and over, if it is to be.
    async fn transcribe(&self, wanted: bool) -> anyhow::Result<()> {
        let Some((request, file)) = self.beside.asr.as_ref().filter(|_| wanted) else {
            return std::future::pending().await;
        };
        loop {
            let mut events = asr::upload(&self.service, request.clone(), file).await?;
            let mut until = 0.0;
            while let Some(delta) = events.next().await {
                if let Delta::Segment(segment) = delta? {
                    self.heard.set(self.heard.get() + (segment.end - until).max(0.0));
                    until = segment.end.max(until);
                }
            }
        }
    }

    /// Embeds documents over and over, if it is to.
    async fn embed(&self, wanted: bool) -> anyhow::Result<()> {
        let Some((model, texts)) = self.beside.embed.as_ref().filter(|_| wanted) else {
            return std::future::pending().await;
        };
        let inputs: Vec<embed::Input> = texts.iter().cloned().map(embed::Input::Text).collect();
        loop {
            let request = embed::Request::new(model.clone(), inputs.clone());
            self.service.embed(Context::default(), request).await?;
            self.embedded.set(self.embedded.get() + texts.len() as f64);
        }
    }
}
