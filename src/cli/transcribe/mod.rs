//! `stentor transcribe`: recordings to files, with the models in this process.

mod plan;
mod show;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::runtime::Runtime;

use super::installed::{find, helpers, speech};
use super::{files, out};
use crate::app;
use crate::config::Config;
use crate::engine::Engine;
use crate::service::transcript::{Format, Shape};
use crate::types::asr;
use crate::types::model::{Installed, Kind};
use plan::Plan;
pub(super) use plan::wanted as recordings;
use show::{clock, speed};
use work::{Job, transcribe};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recordings, folders with some, or patterns such as 'talks/*.mp3'
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value_t = Kinds::Txt)]
    pub format: Kinds,
    /// Find the time of each word: verbose_json has them, and srt and vtt are broken by them
    #[arg(long)]
    pub words: bool,
    /// ISO 639-1 code of what is spoken [default: heard]
    #[arg(long, value_name = "CODE")]
    pub language: Option<String>,
    /// Whether the words are written in their own language or in English
    #[arg(long, value_enum, default_value_t = Tasks::Transcribe)]
    pub task: Tasks,
    /// An installed model, or a folder with its files [default: `models.asr`, else the only one installed]
    #[arg(long, value_name = "ID|PATH")]
    pub model: Option<String>,
    /// Text that the transcripts are to read as if they followed
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Texts followed side by side; 1 is fastest
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub beam_size: u8,
    /// Write there instead of beside the recordings
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Write over files that are there
    #[arg(long)]
    pub overwrite: bool,
    /// Print instead of writing files
    #[arg(long, conflicts_with_all = ["output_dir", "overwrite"])]
    pub stdout: bool,
    /// Look into the folders of folders too
    #[arg(long)]
    pub recursive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kinds {
    Txt,
    Json,
    Srt,
    Vtt,
    #[value(name = "verbose_json")]
    VerboseJson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tasks {
    Transcribe,
    Translate,
}

impl From<Kinds> for Format {
    fn from(kind: Kinds) -> Format {
        match kind {
            Kinds::Txt => Format::Text,
            Kinds::Json => Format::Json,
            Kinds::Srt => Format::Srt,
            Kinds::Vtt => Format::Vtt,
            Kinds::VerboseJson => Format::Verbose,
        }
    }
}

impl Args {
    fn shape(&self) -> anyhow::Result<Shape> {
        ensure!(
            !self.words || !matches!(self.format, Kinds::Txt | Kinds::Json),
            "--words is for --format srt, vtt and verbose_json: the others have no times"
        );
        let task = match self.task {
            Tasks::Transcribe => asr::Task::Transcribe,
            Tasks::Translate => asr::Task::Translate,
        };
        Ok(Shape { words: self.words, ..Shape::new(self.format.into(), task) })
    }

    fn request(&self, model: &Installed, shape: &Shape) -> asr::Request {
        let mut request = asr::Request::new(&model.id, shape.task);
        request.language = self.language.as_ref().map(|code| code.to_ascii_lowercase());
        request.prompt.clone_from(&self.prompt);
        request.words = self.words;
        request.decoding.beam_size = usize::from(self.beam_size);
        request
    }
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let shape = args.shape()?;
    let found = files::find(&args.files, recordings(args.recursive))?;
    let Plan { tasks, kept, mut problems } = match args.stdout {
        // Every file is one of its own, and none is written.
        true => Plan {
            tasks: found.files.into_iter().map(|r| (r.path, PathBuf::new())).collect(),
            ..Plan::default()
        },
        false => {
            plan::plan(found.files, args.output_dir.as_deref(), shape.format.extension(), args.overwrite)
        }
    };
    problems.extend(found.problems);
    for problem in &problems {
        out::note(problem);
    }
    for path in &kept {
        out::note(&format!("{} is there and stays; --overwrite writes it again", path.display()));
    }
    let mut total = Total { failed: problems.len(), kept: kept.len(), ..Total::default() };
    if !tasks.is_empty() {
        let model = match &args.model {
            Some(name) => find(config, name, Kind::Asr)?,
            None => speech(config)?,
        };
        let (runtime, engine) = start(config, &model)?;
        let job = Job {
            request: args.request(&model, &shape),
            shape,
            overwrite: args.overwrite,
            stdout: args.stdout,
        };
        runtime.block_on(transcribe(engine, &job, tasks, &mut total))?;
    }
    total.tell();
    match total.failed {
        0 => Ok(()),
        1 => bail!("one of the files named could not be transcribed"),
        failed => bail!("{failed} of the files named could not be transcribed"),
    }
}

/// An engine that knows this model. The runtime only waits: the model computes on its device's thread.
fn start(config: &Config, model: &Installed) -> anyhow::Result<(Runtime, Engine)> {
    let mut options = app::engine_options(config);
    // They are of chat models, which this engine does not know.
    options.drafts.clear();
    // Where the detector hears no voice nothing is written down.
    let models = [vec![model.clone()], helpers(config, Kind::Vad)?].concat();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok((runtime, Engine::start(models, options)?))
}

/// What became of all of them.
#[derive(Debug, Default)]
struct Total {
    done: usize,
    kept: usize,
    failed: usize,
    /// Seconds.
    audio: f64,
    took: Duration,
}

impl Total {
    fn tell(&self) {
        let mut line = match self.done {
            0 => "Nothing was transcribed".to_owned(),
            done => {
                let files = if done == 1 { "1 file".to_owned() } else { format!("{done} files") };
                let (audio, took) = (clock(self.audio), clock(self.took.as_secs_f64()));
                format!("{files}, {audio} of audio in {took} ({})", speed(self.audio, self.took))
            }
        };
        for (count, what) in [(self.kept, "there already"), (self.failed, "failed")] {
            if count > 0 {
                line.push_str(&format!("; {count} {what}"));
            }
        }
        out::note(&line);
    }
}
