//! `stentor bench mixed`: what text that is being written waits for while the same device transcribes and embeds.

use std::cell::Cell;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::StreamExt;
use serde::Serialize;

use super::words::Words;
use super::{Common, Report, find, llm, rounded, start};
use crate::cli::installed::helpers;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::handle::Handle;
use crate::model::llm::Llm;
use crate::service::{Context, Options, Service, Upload};
use crate::types::asr::{Delta, Request, Task};
use crate::types::embed;
use crate::types::model::{Installed, Kind};

/// Tokens of an answer that is timed.
const TOKENS: usize = 512;
/// Others run for so long before one is.
const WARM_UP: Duration = Duration::from_secs(2);
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

#[derive(Serialize)]
struct Line {
    case: &'static str,
    /// Milliseconds from one token to the next: the median, and percentiles.
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    /// The 95th percentile by that of the model alone.
    p95_by_alone: f64,
    tok_s: f64,
    /// Seconds of audio transcribed a second, and texts embedded.
    rtfx: f64,
    texts_s: f64,
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
        engine.preload(&ids).await?;
        let id = |model: Option<Installed>| model.map(|model| model.id);
        let bench = Bench::new(engine, &chat.id, id(asr), id(embed), args).await?;
        bench.measure(&Report::begin(&args.common, &chat)?, usize::from(args.common.runs.unwrap_or(1))).await
    })
}

struct Bench {
    chat: Handle<Llm>,
    service: Service,
    asr: Option<(String, PathBuf)>,
    embed: Option<(String, Vec<embed::Input>)>,
    /// Seconds of audio, and texts, so far.
    heard: Cell<f64>,
    embedded: Cell<f64>,
}

impl Bench {
    async fn new(
        engine: Engine,
        chat: &str,
        asr: Option<String>,
        embed: Option<String>,
        args: &Args,
    ) -> anyhow::Result<Bench> {
        let chat = engine.get::<Llm>(chat).await?;
        let (count, low, high) = TEXTS;
        let texts = Words::read(None)?.texts(count, low, high).into_iter().map(embed::Input::Text).collect();
        Ok(Bench {
            chat,
            service: Service::new(engine, Options::default()),
            asr: asr.zip(args.audio.clone()),
            embed: embed.map(|id| (id, texts)),
            heard: Cell::new(0.0),
            embedded: Cell::new(0.0),
        })
    }

    async fn measure(&self, report: &Report, runs: usize) -> anyhow::Result<()> {
        let (asr, embed) = (self.asr.is_some(), self.embed.is_some());
        let cases = [
            ("alone", false, false),
            ("transcribing", asr, false),
            ("embedding", false, embed),
            ("transcribing and embedding", asr && embed, asr && embed),
        ];
        let mut alone = None;
        for (case, asr, embed) in
            cases.into_iter().filter(|(case, asr, embed)| *case == "alone" || *asr || *embed)
        {
            let mut lines = Vec::new();
            for _ in 0..runs {
                lines.push(self.case(case, asr, embed).await?);
            }
            lines.sort_by(|a, b| a.p95_ms.total_cmp(&b.p95_ms));
            let mut line = lines.swap_remove(lines.len() / 2);
            line.p95_by_alone = rounded(line.p95_ms / *alone.get_or_insert(line.p95_ms), 2);
            let name = format!(
                "{case}: {} at p99, {} x, audio {} x, {} texts/s",
                line.p99_ms, line.p95_by_alone, line.rtfx, line.texts_s
            );
            report.case(&line, &name, line.p95_ms, "ms at p95")?;
        }
        Ok(())
    }

    /// One answer beside what is asked for.
    async fn case(&self, case: &'static str, asr: bool, embed: bool) -> anyhow::Result<Line> {
        let others = async {
            tokio::try_join!(self.transcribe(asr), self.embed(embed))?;
            anyhow::Ok(())
        };
        let answer = async {
            if asr || embed {
                tokio::time::sleep(WARM_UP).await;
            }
            let (begun, heard, embedded) = (Instant::now(), self.heard.get(), self.embedded.get());
            let waits = llm::waits(&self.chat, TOKENS).await?;
            let seconds = begun.elapsed().as_secs_f64();
            let rate = |now: f64, before: f64| rounded((now - before) / seconds, 1);
            let at =
                |share: f64| rounded(waits[(waits.len() as f64 * share) as usize].as_secs_f64() * 1e3, 2);
            anyhow::Ok(Line {
                case,
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

    /// Transcribes the recording over and over, if it is to be.
    async fn transcribe(&self, wanted: bool) -> anyhow::Result<()> {
        let Some((model, path)) = self.asr.as_ref().filter(|_| wanted) else {
            return std::future::pending().await;
        };
        loop {
            let file = File::open(path).with_context(|| path.display().to_string())?;
            let upload = Upload { file, name: None, mime: None };
            let request = Request::new(model, Task::Transcribe);
            let mut events = self.service.transcribe(Context::default(), request, upload).await?;
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
        let Some((model, texts)) = self.embed.as_ref().filter(|_| wanted) else {
            return std::future::pending().await;
        };
        loop {
            let request = embed::Request::new(model.clone(), texts.clone());
            self.service.embed(Context::default(), request).await?;
            self.embedded.set(self.embedded.get() + texts.len() as f64);
        }
    }
}
