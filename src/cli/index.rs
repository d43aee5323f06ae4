//! `stentor index`: documents into the store. What is there already, and has not changed, costs a look; so a run that was
//! stopped goes on where it was.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt;
use futures::stream;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::desk::{Desk, Failure, Into, Taken};
use super::files::{self, Named, Wanted};
use super::{Exit, out, progress};
use crate::app;
use crate::config::Config;
use crate::service::rag::extensions;
use crate::types::model::Kind;
use crate::types::rag::Outcome;
use crate::types::store::Stemming;

/// Where documents go unless something else is said: as over HTTP.
pub const COLLECTION: &str = "pmx_docs";
/// Documents under way: one is read while another is embedded.
const AT_ONCE: usize = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders with some at any depth, or patterns such as 'notes/*.md'
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The collection that they go to; it is made where it is not there
    #[arg(long, value_name = "NAME", default_value = COLLECTION)]
    pub collection: String,
    /// Tags for all of them
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Let the chat model add tags
    #[arg(long)]
    pub auto_tags: bool,
    /// Whose endings are cut off words in a collection that is made: english, german and so on [default: nobody's]
    #[arg(long, value_name = "LANGUAGE")]
    pub language: Option<String>,
    /// An embedding model for a collection that is made [default: `models.embed`, else the first one installed]
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
}

/// What became of all of them.
#[derive(Debug, Default)]
struct Total {
    new: usize,
    changed: usize,
    same: usize,
    failed: usize,
    passages: u64,
    took: Duration,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let mut config = config.clone();
    config.models.embed = args.model.clone().or(config.models.embed);
    if let Some(language) = &args.language {
        ensure!(Stemming::parse(language).is_some(), "--language {language}: no such language is known");
    }
    let extensions = extensions();
    let wanted = Wanted { extensions: &extensions, what: "documents", recursive: true };
    let found = files::find(&args.paths, wanted)?;
    for problem in &found.problems {
        out::note(problem);
    }
    let mut total = Total { failed: found.problems.len(), ..Total::default() };
    if !found.files.is_empty() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(index(&config, &args, found.files, &mut total))?;
    }
    out::note(&total.line());
    match total.failed {
        0 => Ok(()),
        1 => bail!("one of the documents named could not be taken in"),
        failed => bail!("{failed} of the documents named could not be taken in"),
    }
}

/// All files, until a signal stops it.
async fn index(config: &Config, args: &Args, named: Vec<Named>, total: &mut Total) -> anyhow::Result<()> {
    let kinds: &[Kind] = if args.auto_tags { &[Kind::Embed, Kind::Chat] } else { &[Kind::Embed] };
    let bar = bar(named.len());
    let count = named.len();
    let work = async {
        let desk = Desk::open(config, kinds).await?;
        let begun = Instant::now();
        let ends = stream::iter(named).map(|Named { path, .. }| {
            let desk = &desk;
            async move {
                let name = name(&path);
                let into = Into {
                    collection: &args.collection,
                    tags: &args.tags,
                    auto_tags: args.auto_tags,
                    language: args.language.as_deref(),
                };
                let done = desk.index(&path, &name, into).await;
                (path, done)
            }
        });
        let mut ends = ends.buffer_unordered(AT_ONCE).boxed_local();
        while let Some((path, done)) = ends.next().await {
            match done {
                Ok(taken) => total.add(&taken, &path, &bar),
                Err(Failure::File(error)) => {
                    total.failed += 1;
                    bar.suspend(|| out::note(&format!("{}: {error:#}", path.display())));
                }
                Err(Failure::Whole(error)) => return Err(error),
            }
            bar.inc(1);
            total.took = begun.elapsed();
        }
        Ok(())
    };
    let done = tokio::select! {
        done = work => done,
        stopped = app::stop_signal() => {
            stopped.context("stop signals cannot be caught")?;
            let done = total.new + total.changed + total.same;
            Err(Exit::stopped(format!("stopped; {done} of {count} documents are taken in")).into())
        }
    };
    bar.finish_and_clear();
    done
}

/// What a file is called in answers, and known by: as it was named.
fn name(path: &Path) -> String {
    let text = path.display().to_string();
    text.strip_prefix("./").unwrap_or(&text).to_owned()
}

fn bar(files: usize) -> ProgressBar {
    if !progress::draws() || files < 2 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(files as u64), ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{wide_msg} {bar:24} {pos}/{len} {eta:>4}") {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar
}

impl Total {
    fn add(&mut self, taken: &Taken, path: &Path, bar: &ProgressBar) {
        match taken.outcome {
            Outcome::New => self.new += 1,
            Outcome::Changed => self.changed += 1,
            Outcome::Same => self.same += 1,
        }
        if taken.outcome != Outcome::Same {
            self.passages += taken.passages;
        }
        bar.set_message(path.display().to_string());
        if let Some(left_out) = &taken.left_out {
            bar.suspend(|| out::note(&format!("{}: left out: {left_out}", path.display())));
        }
    }

    fn line(&self) -> String {
        let parts = [
            (self.new, "new"),
            (self.changed, "changed"),
            (self.same, "there already"),
            (self.failed, "failed"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let files = self.new + self.changed + self.same;
        let mut line = match files + self.failed {
            0 => "Nothing was taken in".to_owned(),
            1 => format!("1 document: {}", parts.join(", ")),
            files => format!("{files} documents: {}", parts.join(", ")),
        };
        if self.passages > 0 {
            let seconds = self.took.as_secs_f64().max(1e-3);
            line.push_str(&format!(
                "; {} passages in {seconds:.1} s ({:.0} a second)",
                self.passages,
                self.passages as f64 / seconds
            ));
        }
        line
    }
}
