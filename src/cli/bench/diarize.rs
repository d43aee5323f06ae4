//! `stentor bench diarize`: a recording, from the file to who spoke when.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::{Common, Report, rounded};
use crate::cli::diarize;
use crate::cli::installed::helpers;
use crate::config::Config;
use crate::types::model::Kind;
use crate::types::speaker::Speakers;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recordings
    #[arg(long, required = true, value_name = "FILE")]
    pub audio: Vec<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Serialize)]
struct Line<'a> {
    case: &'static str,
    file: &'a str,
    seconds: f64,
    rtfx: f64,
    speakers: usize,
}

/// Runs the command. The first run of all loads the models and is not counted.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let Some(model) = helpers(config, Kind::Speaker)?.into_iter().next() else {
        anyhow::bail!("no speaker model is installed; fetch one with `stentor pull campplus`");
    };
    let mut config = config.clone();
    if let Some(threads) = args.common.threads {
        config.device.threads = Some(threads.into());
    }
    let (runtime, service) = diarize::start(&config)?;
    let report = Report::begin(&args.common, &model)?;
    let runs = usize::from(args.common.runs.unwrap_or(1));
    runtime.block_on(async {
        if let Some(first) = args.audio.first() {
            diarize::diarize(&service, first, Speakers::default()).await?;
        }
        for path in &args.audio {
            let mut best: Option<(f64, f64, usize)> = None;
            for _ in 0..runs {
                let start = Instant::now();
                let found = diarize::diarize(&service, path, Speakers::default()).await?;
                let seconds = start.elapsed().as_secs_f64();
                if best.is_none_or(|(least, ..)| seconds < least) {
                    best = Some((seconds, found.duration, found.voices.len()));
                }
            }
            let Some((seconds, duration, speakers)) = best else { continue };
            let (rtfx, file) = (duration / seconds, path.display().to_string());
            let line = Line {
                case: "stentor",
                file: &file,
                seconds: rounded(seconds, 2),
                rtfx: rounded(rtfx, 1),
                speakers,
            };
            let name = format!("{duration:.1} s of audio in {seconds:.2} s");
            report.case(&line, &name, rtfx, "times real time")?;
        }
        anyhow::Ok(())
    })
}
