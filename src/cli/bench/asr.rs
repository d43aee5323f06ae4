//! `stentor bench asr`: a recording, from the file to the text.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use super::{Common, Report, find, rounded, start};
use crate::cli::installed::helpers;
use crate::config::Config;
use crate::engine::Stay;
use crate::service::{Context, Options, Service, Transcription, Upload};
use crate::types::asr::{Chunking, Request, Task, Transcript, Vad};
use crate::types::model::Kind;

/// What is measured: greedy, a beam of 5, greedy with word times, and greedy on chunks of speech side by side.
const CASES: [&str; 4] = ["beam1", "beam5", "words", "batched8"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model, or a folder with its files
    #[arg(long, value_name = "ID|PATH")]
    pub model: String,
    /// The recording; two minutes of speech are enough
    #[arg(long, value_name = "FILE")]
    pub audio: PathBuf,
    /// Only this one of the cases beam1, beam5, words and batched8
    #[arg(long, value_name = "NAME")]
    pub case: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Serialize)]
struct Line {
    case: &'static str,
    /// What the encoder computes with, and what the decoder's weights are.
    compute: String,
    seconds: f64,
    rtfx: f64,
    text: String,
}

/// Runs the command.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let model = find(config, &args.model, Kind::Asr)?;
    File::open(&args.audio).with_context(|| args.audio.display().to_string())?;
    // Chunks are cut where the detector hears pauses.
    let models = [vec![model.clone()], helpers(config, Kind::Vad)?].concat();
    let (runtime, engine) = start(config, &args.common, models)?;
    let runs = usize::from(args.common.runs.unwrap_or(1));
    runtime.block_on(async {
        engine.preload(std::slice::from_ref(&model.id), Stay::Always).await?;
        let service = Service::new(engine, Options::default());
        let report = Report::begin(&args.common, &model)?;
        for case in CASES.iter().filter(|case| args.case.as_deref().is_none_or(|only| only == **case)) {
            let mut best: Option<(f64, Transcript)> = None;
            for _ in 0..runs {
                let start = Instant::now();
                let transcript =
                    upload(&service, request(&model.id, case), &args.audio).await?.collect().await?;
                let seconds = start.elapsed().as_secs_f64();
                if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
                    best = Some((seconds, transcript));
                }
            }
            let Some((seconds, transcript)) = best else { continue };
            let rtfx = transcript.duration / seconds;
            let texts: Vec<&str> = transcript.segments.iter().map(|s| s.text.trim()).collect();
            let line = Line {
                case,
                compute: format!("f32, decoder {}", config.models.precision.as_str()),
                seconds: rounded(seconds, 2),
                rtfx: rounded(rtfx, 1),
                text: texts.join(" "),
            };
            let name = format!("{case}, {:.1} s of audio in {seconds:.2} s", transcript.duration);
            report.case(&line, &name, rtfx, "times real time")?;
        }
        anyhow::Ok(())
    })
}

/// What a case asks for.
fn request(model: &str, case: &str) -> Request {
    let mut request = Request::new(model, Task::Transcribe);
    request.decoding.beam_size = if case == "beam5" { 5 } else { 1 };
    request.words = case == "words";
    if case == "batched8" {
        let vad = Vad { max_speech: 30.0, min_silence: 0.16, pad: 0.4, ..Vad::default() };
        request.chunking = Chunking::Chunks(vad);
    }
    request
}

/// Uploads a recording; it is transcribed as what this gives is read.
pub(super) async fn upload(
    service: &Service,
    request: Request,
    file: &Path,
) -> anyhow::Result<Transcription> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    let opened = File::open(file).with_context(|| file.display().to_string())?;
    let upload = Upload { file: opened, name, mime: None };
    Ok(service.transcribe(Context::default(), request, upload).await?)
}
