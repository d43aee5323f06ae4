//! Recordings under way.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};

use super::Total;
use super::show::{Shown, clock, speed};
use crate::app;
use crate::cli::Exit;
use crate::engine::{Engine, Stay};
use crate::service::transcript::{Shape, write};
use crate::service::{self, Context, Options, Service, Transcription, Upload};
use crate::types::asr;
use crate::types::speaker::Cast;

/// Recordings under way: one is read while another is heard, and the device does not wait.
const AT_ONCE: usize = 2;
/// Nobody else waits for what this process does, so there is no bound that anyone would reach.
const ENDLESS: u32 = 30 * 24 * 3600;

/// What is done with each recording.
pub(super) struct Job {
    pub request: asr::Request,
    pub shape: Shape,
    pub overwrite: bool,
    pub stdout: bool,
}

/// All recordings, until a signal stops it.
pub(super) async fn transcribe(
    engine: Engine,
    job: &Job,
    tasks: Vec<(PathBuf, PathBuf)>,
    total: &mut Total,
) -> anyhow::Result<()> {
    let shown = Shown::new();
    let count = tasks.len();
    let work = async {
        engine.preload(std::slice::from_ref(&job.request.model), Stay::Always).await?;
        let timeout = Duration::from_secs(u64::from(ENDLESS));
        let options = Options { timeout, audio_seconds: ENDLESS, ..Options::default() };
        let service = Service::new(engine.clone(), options);
        let begun = Instant::now();
        let mut ends = ends(&service, job, &shown, tasks);
        while let Some((path, end)) = ends.next().await {
            match end {
                Ok((audio, text)) => {
                    (total.done, total.audio) = (total.done + 1, total.audio + audio);
                    shown.print(&text)?;
                }
                Err(Failure::Whole(error)) => return Err(error),
                Err(Failure::File(error)) => {
                    total.failed += 1;
                    shown.note(&format!("{}: {error:#}", path.display()));
                }
            }
            total.took = begun.elapsed();
        }
        Ok(())
    };
    tokio::select! {
        done = work => done,
        stopped = app::stop_signal() => {
            stopped.context("stop signals cannot be caught")?;
            Err(Exit::stopped(format!("stopped; {} of {count} files are done", total.done)).into())
        }
    }
}

/// Why a recording was not transcribed.
enum Failure {
    /// It would be the same with every other one.
    Whole(anyhow::Error),
    File(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::File(error)
    }
}

impl From<service::Error> for Failure {
    fn from(error: service::Error) -> Failure {
        match error {
            service::Error::Invalid { param: "file", message } => Failure::File(anyhow::Error::msg(message)),
            // There is no log that has it.
            service::Error::Internal { detail } => Failure::File(anyhow::Error::msg(detail)),
            other => Failure::Whole(other.into()),
        }
    }
}

/// Seconds of audio, and what is to be printed.
type End = Result<(f64, String), Failure>;

/// The recordings as they end; those that are printed, in their order.
fn ends<'a>(
    service: &'a Service,
    job: &'a Job,
    shown: &'a Shown,
    tasks: Vec<(PathBuf, PathBuf)>,
) -> BoxStream<'a, (PathBuf, End)> {
    let work = stream::iter(tasks).map(move |(path, output)| async move {
        let end = one(service, job, shown, &path, &output).await;
        (path, end)
    });
    if job.stdout { work.buffered(AT_ONCE).boxed() } else { work.buffer_unordered(AT_ONCE).boxed() }
}

/// One recording, from its file to the file that is written.
async fn one(service: &Service, job: &Job, shown: &Shown, path: &Path, output: &Path) -> End {
    let begun = Instant::now();
    let mut bar = shown.begin(path);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let upload = Upload { file: File::open(path).map_err(anyhow::Error::from)?, name, mime: None };
    let heard = service.transcribe(Context::default(), job.request.clone(), upload).await?;
    let model = heard.model.clone();
    let transcript = Transcription::new(model, watched(heard, move |delta| bar.see(delta))).collect().await?;
    let mut text = write(&transcript, &job.shape, &Cast::default())?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let audio = transcript.duration;
    if job.stdout {
        return Ok((audio, text));
    }
    save(output, &text, job.overwrite).with_context(|| output.display().to_string())?;
    let (took, speed) = (clock(begun.elapsed().as_secs_f64()), speed(audio, begun.elapsed()));
    shown.note(&format!("{}: {} of audio in {took} ({speed})", output.display(), clock(audio)));
    Ok((audio, String::new()))
}

/// The deltas, each seen first.
fn watched(
    heard: Transcription,
    mut see: impl FnMut(&asr::Delta) + Send + 'static,
) -> impl Stream<Item = Result<asr::Delta, service::Error>> + Send + 'static {
    heard.inspect(move |delta| delta.iter().for_each(&mut see))
}

/// Writes the file whole or not at all.
fn save(path: &Path, text: &str, overwrite: bool) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".stentor-");
    // As any file of the user's, and not as secret as temporary ones.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    let kept = if overwrite { file.persist(path) } else { file.persist_noclobber(path) };
    kept.map(drop).map_err(|error| error.error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_whole_and_written_over_only_if_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/a.txt");
        save(&path, "one\n", false).unwrap();
        assert!(save(&path, "two\n", false).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        save(&path, "two\n", true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let other = dir.path().join("other");
            std::fs::write(&other, "").unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&other));
        }
    }
}
