//! `stentor diarize`: who speaks when in recordings, with the models in this process.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::runtime::Runtime;

use super::installed::helpers;
use super::transcribe::recordings;
use super::{Exit, files, out};
use crate::app;
use crate::config::Config;
use crate::engine::{Engine, Stay};
use crate::service::{Context, Options, Service, Upload};
use crate::types::model::{Installed, Kind};
use crate::types::speaker::{Cast, Diarization, Speakers, Turn};

/// Nobody else waits for what this process does.
const ENDLESS: u32 = 30 * 24 * 3600;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recordings, folders with some, or patterns such as 'talks/*.mp3'
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Kinds::Txt)]
    pub format: Kinds,
    /// How many speakers there are [default: found]
    #[arg(long, value_name = "N", conflicts_with_all = ["min_speakers", "max_speakers"], value_parser = clap::value_parser!(u16).range(1..=100))]
    pub speakers: Option<u16>,
    /// How many there are at least
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub min_speakers: Option<u16>,
    /// How many there are at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub max_speakers: Option<u16>,
    /// One speaker at a time: who is heard best
    #[arg(long)]
    pub exclusive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kinds {
    /// A line a turn, for people
    Txt,
    /// NIST's format, which scoring tools read
    Rttm,
    /// An object a recording
    Json,
}

impl Args {
    fn bounds(&self) -> anyhow::Result<Speakers> {
        if let Some(count) = self.speakers {
            return Ok(Speakers::exactly(usize::from(count)));
        }
        let least = self.min_speakers.map_or(1, usize::from);
        let most = self.max_speakers.map_or(usize::MAX, usize::from);
        ensure!(least <= most, "--min-speakers {least} is more than --max-speakers {most}");
        Ok(Speakers { least, most })
    }
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let bounds = args.bounds()?;
    let found = files::find(&args.files, recordings(false))?;
    found.problems.iter().for_each(|problem| out::note(problem));
    let mut failed = found.problems.len();
    let (runtime, service) = start(config)?;
    let work = async {
        let several = found.files.len() > 1;
        for recording in &found.files {
            match diarize(&service, &recording.path, bounds).await {
                Ok(found) => {
                    let turns = if args.exclusive { &found.exclusive } else { &found.turns };
                    out::stream(&text(args.format, &recording.path, &found, turns, several)?)?;
                }
                Err(error) => {
                    failed += 1;
                    out::note(&format!("{}: {error:#}", recording.path.display()));
                }
            }
        }
        match failed {
            0 => Ok(()),
            1 => bail!("one of the files named could not be listened to"),
            failed => bail!("{failed} of the files named could not be listened to"),
        }
    };
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            stopped = app::stop_signal() => {
                stopped.context("stop signals cannot be caught")?;
                Err(Exit::stopped("stopped".to_owned()).into())
            }
        }
    })
}

/// A service with the models that know voices. The runtime only waits: models compute on their device's thread.
pub(super) fn start(config: &Config) -> anyhow::Result<(Runtime, Service)> {
    let mut options = app::engine_options(config);
    // They are of chat models, which this engine does not know.
    options.drafts.clear();
    let models = [helpers(config, Kind::Segment)?, helpers(config, Kind::Speaker)?].concat();
    let ids: Vec<String> = models.iter().map(|model: &Installed| model.id.clone()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let engine = Engine::start(models, options)?;
    // What is wrong with a model is told here; a recording only learns that there is none.
    runtime.block_on(engine.preload(&ids, Stay::Always))?;
    let options = Options { audio_seconds: ENDLESS, ..Options::default() };
    let service = Service::new(engine, options);
    Ok((runtime, service))
}

/// Who speaks when in one recording.
pub(super) async fn diarize(
    service: &Service,
    path: &Path,
    speakers: Speakers,
) -> anyhow::Result<Diarization> {
    let file = File::open(path).context("cannot be opened")?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let upload = Upload { file, name, mime: None };
    Ok(service.diarize(Context::default(), upload, speakers).await?)
}

fn text(
    kind: Kinds,
    path: &Path,
    found: &Diarization,
    turns: &[Turn],
    several: bool,
) -> anyhow::Result<String> {
    let mut text = String::new();
    match kind {
        Kinds::Txt => {
            if several {
                writeln!(text, "{}", path.display())?;
            }
            for turn in turns {
                writeln!(
                    text,
                    "{} - {}  {}",
                    clock(turn.start),
                    clock(turn.end),
                    Cast::nameless(turn.speaker)
                )?;
            }
        }
        Kinds::Rttm => {
            // A name without blanks: the format has them between its fields.
            let file = path.file_stem().map(|stem| stem.to_string_lossy().replace(char::is_whitespace, "_"));
            let file = file.filter(|file| !file.is_empty()).unwrap_or_else(|| "recording".to_owned());
            for turn in turns {
                let (start, length) = (turn.start, turn.end - turn.start);
                writeln!(
                    text,
                    "SPEAKER {file} 1 {start:.3} {length:.3} <NA> <NA> {} <NA> <NA>",
                    Cast::nameless(turn.speaker)
                )?;
            }
        }
        Kinds::Json => {
            let round = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
            let turn = |turn: &Turn| json!({"start": round(turn.start), "end": round(turn.end), "speaker": Cast::nameless(turn.speaker)});
            let speakers = found.voices.iter().enumerate();
            let speakers: Vec<_> = speakers
                .map(|(at, voice)| json!({"speaker": Cast::nameless(at), "seconds": round(voice.seconds)}))
                .collect();
            let turns: Vec<_> = turns.iter().map(turn).collect();
            let all = json!({
                "file": path.display().to_string(), "duration": round(found.duration),
                "speakers": speakers, "turns": turns,
            });
            writeln!(text, "{all}")?;
        }
    }
    Ok(text)
}

/// A time as `1:02:03.4`.
fn clock(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round() as u64;
    let (hours, minutes, seconds) = (tenths / 36_000, tenths / 600 % 60, tenths / 10 % 60);
    format!("{hours}:{minutes:02}:{seconds:02}.{}", tenths % 10)
}
