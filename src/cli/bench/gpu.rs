//! `stentor bench gpu`: whether a GPU computes what the CPU does, and how fast, with random weights in the shapes of real
//! models, so that nothing is fetched.
//!
//! What fails is told and counted, and the rest goes on: the command ends with an error where a case failed or where
//! something is computed otherwise than on the CPU.

mod chat;
mod embeddings;
mod mixed;
mod shelf;
mod speech;

use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum as _;
use serde::Serialize;
use tokio::runtime::Runtime;

use self::shelf::Shelf;
use super::{Report, rounded};
use crate::cli::out;
use crate::config::Config;
use crate::device;
use crate::engine::{Engine, Stay};
use crate::ops;
use crate::types::model::Installed;

/// Each case is timed so often, and the best time counts.
const RUNS: usize = 3;

/// What can be checked and timed by itself, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Operations of speech and embedding models, which are only checked
    Operations,
    /// Chat models
    Chat,
    /// Embedding models
    Embeddings,
    /// Speech models
    Speech,
    /// An answer while the same device transcribes and embeds, which is only timed
    Mixed,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Part::Operations => "operations",
            Part::Chat => "chat",
            Part::Speech => "speech",
            Part::Embeddings => "embeddings",
            Part::Mixed => "mixed",
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Chat models that are timed, as random weights in their shapes; the first one answers in the mixed load
    #[arg(
        long,
        value_name = "SHAPE:QUANT",
        value_delimiter = ',',
        default_value = "qwen2.5-7b:q4_k_m,llama-3-8b:q4_k_m,llama-3-8b:q8_0"
    )]
    pub models: Vec<String>,
    /// Check what is computed and time nothing
    #[arg(long)]
    pub check: bool,
    /// Only these parts [default: all]
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Print a JSON object a case
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Card {
    case: &'static str,
    name: String,
    capability: String,
    memory: u64,
    copy_gb_s: f64,
    product_tflop_s: f64,
}

#[derive(Serialize)]
struct Operation {
    case: &'static str,
    operation: String,
    worst: f64,
    allowed: f64,
    ok: bool,
}

/// How far a tiny model's values on the GPU are from those on the CPU.
#[derive(Serialize)]
struct Checked {
    case: &'static str,
    /// The model, and what of it was compared where that is not its logits.
    model: String,
    /// The largest difference, and the root of the mean square of all.
    worst: f64,
    typical: f64,
    allowed: f64,
    allowed_typical: f64,
    ok: bool,
}

impl Checked {
    fn new(model: String, worst: (f64, f64), typical: (f64, f64), ok: bool) -> Checked {
        Checked {
            case: "check",
            model,
            worst: rounded(worst.0, 5),
            typical: rounded(typical.0, 6),
            allowed: worst.1,
            allowed_typical: typical.1,
            ok,
        }
    }
}

/// What models were reckoned to take of the card's memory, steps included, and what tensors had at most once these were
/// loaded.
#[derive(Serialize)]
struct Memory<'a> {
    case: &'static str,
    model: &'a str,
    reckoned_mb: f64,
    most_mb: f64,
}

/// A case that failed.
#[derive(Serialize)]
struct Failed<'a> {
    case: &'static str,
    model: &'a str,
    /// Rows, windows or texts, or what ran beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<String>,
    error: String,
}

/// One run of the command.
struct Run<'a> {
    config: &'a Config,
    info: device::Info,
    limits: ops::Limits,
    report: Report,
    shelf: Shelf,
    /// Operations and models that are not computed as on the CPU.
    wrong: usize,
    /// Cases that failed.
    failed: usize,
}

/// Runs the command.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let info = device::choose(device::Choice::Cuda)?;
    let report = Report { json: args.json };
    let limits = on_its_thread(&info, |gpu| Ok(ops::limits(gpu)?))?;
    tell_card(&info, limits, &report)?;
    let shelf = Shelf::new()?;
    let mut run = Run { config, info, limits, report, shelf, wrong: 0, failed: 0 };
    for part in Part::value_variants() {
        if args.only.is_empty() || args.only.contains(part) {
            run.part(*part, args)?;
        }
    }
    match (run.wrong, run.failed) {
        (0, 0) => Ok(()),
        (wrong, 0) => bail!("{wrong} operations and models are not computed as on the CPU"),
        (0, failed) => bail!("{failed} cases failed"),
        (wrong, failed) => {
            bail!("{wrong} operations and models are not computed as on the CPU, and {failed} cases failed")
        }
    }
}

fn tell_card(info: &device::Info, limits: ops::Limits, report: &Report) -> anyhow::Result<()> {
    let device::Kind::Cuda { capability: (major, minor), .. } = info.kind else { bail!("a GPU is needed") };
    let card = Card {
        case: "card",
        name: info.name.clone(),
        capability: format!("{major}.{minor}"),
        memory: info.memory,
        copy_gb_s: rounded(limits.copy / 1e9, 0),
        product_tflop_s: rounded(limits.product / 1e12, 1),
    };
    report.case(&card, &format!("{}: copies", card.name), card.copy_gb_s, "GB/s")?;
    if !report.json {
        out::stream(&format!("  {:<36}{:>10.1} TFLOP/s\n", "products of halves", card.product_tflop_s))?;
    }
    Ok(())
}

impl Run<'_> {
    /// An engine as the configuration has it, on the GPU, with these models loaded. Nothing is guessed: what is timed is
    /// every token.
    fn start(&self, models: Vec<Installed>) -> anyhow::Result<(Runtime, Engine)> {
        let mut options = crate::app::engine_options(self.config);
        options.device = device::Choice::Cuda;
        options.context = chat::CONTEXT;
        options.guesses = false;
        options.drafts.clear();
        let ids: Vec<String> = models.iter().map(|model| model.id.clone()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let engine = Engine::start(models, options)?;
        runtime.block_on(engine.preload(&ids, Stay::Always))?;
        device::most_used(&self.info);
        Ok((runtime, engine))
    }

    /// Tells what the engine's models took, after their cases.
    fn memory(&self, model: &str, (runtime, engine): (&Runtime, &Engine)) -> anyhow::Result<()> {
        let Some(most) = device::most_used(&self.info) else { return Ok(()) };
        let reckoned = runtime.block_on(engine.reckoned()).into_iter().fold(0, u64::saturating_add);
        let mb = |bytes: u64| rounded(bytes as f64 / 1e6, 0);
        let line = Memory { case: "memory", model, reckoned_mb: mb(reckoned), most_mb: mb(most) };
        let told = format!("{model}: memory at most, of {} MB reckoned", line.reckoned_mb);
        self.report.case(&line, &told, line.most_mb, "MB")
    }

    /// Checks a part and then times it: what a fault leaves of the device spoils no part before.
    fn part(&mut self, part: Part, args: &Args) -> anyhow::Result<()> {
        let times = !args.check;
        match part {
            Part::Operations => self.operations(),
            Part::Chat => {
                chat::check(self)?;
                let timed = args.models.iter().filter(|_| times);
                timed.enumerate().try_for_each(|(at, spec)| {
                    let done = chat::time(self, spec);
                    self.attempt(Part::Chat, spec, None, done)?;
                    // The first one serves again.
                    if at > 0 {
                        self.shelf.forget(spec);
                    }
                    Ok(())
                })
            }
            Part::Embeddings => {
                embeddings::check(self)?;
                if times { embeddings::time(self) } else { Ok(()) }
            }
            Part::Speech => {
                speech::check(self)?;
                if times { speech::time(self) } else { Ok(()) }
            }
            Part::Mixed => match args.models.first().filter(|_| times) {
                Some(chat) => mixed::time(self, chat),
                None => Ok(()),
            },
        }
    }

    /// Tells and counts a case that failed; what it gave where it did not.
    fn attempt<T>(
        &mut self,
        part: Part,
        model: &str,
        size: Option<&str>,
        result: anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        let error = match result {
            Ok(done) => return Ok(Some(done)),
            Err(error) => format!("{error:#}"),
        };
        self.failed += 1;
        let told = format!("{model}{}: FAILED: {error}", size.map(|s| format!(", {s}")).unwrap_or_default());
        if self.report.json {
            out::note(&told);
            let size = size.map(str::to_owned);
            let line = Failed { case: part.as_str(), model, size, error };
            out::stream(&format!("{}\n", serde_json::to_string(&line)?))?;
        } else {
            out::stream(&format!("  {told}\n"))?;
        }
        Ok(None)
    }

    /// Tells whether a tiny model is computed as on the CPU; `line` is all that is known of it.
    fn checked(&mut self, checked: &Checked, line: &impl Serialize, unit: &str) -> anyhow::Result<()> {
        self.wrong += usize::from(!checked.ok);
        let told = format!(
            "{}: {}",
            checked.model,
            if checked.ok { "as the CPU, at worst" } else { "WRONG, at worst" }
        );
        self.report.case(line, &told, checked.worst, unit)
    }

    /// Tells whether operations of speech and embedding models are computed as on the CPU.
    fn operations(&mut self) -> anyhow::Result<()> {
        let found = on_its_thread(&self.info, |gpu| Ok(ops::agree(gpu)?));
        let found = self.attempt(Part::Operations, "all", None, found)?;
        for ops::Agreement { name, worst, allowed } in found.unwrap_or_default() {
            let ok = worst <= allowed;
            self.wrong += usize::from(!ok);
            let told = format!("{name}: {}", if ok { "as the CPU, at worst" } else { "WRONG, at worst" });
            let line = Operation { case: "operation", operation: name, worst, allowed, ok };
            self.report.case(&line, &told, worst, "of the largest")?;
        }
        Ok(())
    }
}

/// A device belongs to one thread, which ends with what is done on it.
fn on_its_thread<R: Send>(
    info: &device::Info,
    f: impl FnOnce(&device::Device) -> anyhow::Result<R> + Send,
) -> anyhow::Result<R> {
    let run = || {
        let gpu = device::open(info)?;
        ops::prepare(&gpu)?;
        f(&gpu)
    };
    match std::thread::scope(|scope| scope.spawn(run).join()) {
        Ok(done) => done,
        Err(_) => bail!("the device's thread ended by a panic"),
    }
}

/// The least time of some runs, each of which is given its number.
async fn best_of<F: Future<Output = anyhow::Result<Duration>>>(
    run: impl Fn(usize) -> F,
) -> anyhow::Result<Duration> {
    let mut best = Duration::MAX;
    for at in 0..RUNS {
        best = best.min(run(at).await?);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gpu_it_says_so() {
        if device::choose(device::Choice::Cuda).is_err() {
            let args = Args { models: Vec::new(), check: true, only: Vec::new(), json: true };
            let config = Config::load(&crate::config::Overrides::default()).unwrap();
            let said = run(&config, &args).unwrap_err().to_string();
            assert!(said.starts_with("no GPU can be used"), "{said}");
        }
    }

    #[test]
    fn what_fails_is_counted_and_the_rest_goes_on() {
        let config = Config::load(&crate::config::Overrides::default()).unwrap();
        let limits = ops::Limits { copy: 1.0, product: 1.0 };
        let mut run = Run {
            config: &config,
            info: device::cpu(),
            limits,
            report: Report { json: true },
            shelf: Shelf::new().unwrap(),
            wrong: 0,
            failed: 0,
        };
        let failed = anyhow::anyhow!("no room").context("a model");
        assert!(run.attempt::<()>(Part::Speech, "m", Some("8 windows"), Err(failed)).unwrap().is_none());
        assert_eq!(run.attempt(Part::Speech, "m", None, Ok(7)).unwrap(), Some(7));
        assert_eq!((run.failed, run.wrong), (1, 0));
        let wrong = Checked::new("m".to_owned(), (0.3, 0.2), (0.1, 0.2), false);
        run.checked(&wrong, &wrong, "standard deviations").unwrap();
        assert_eq!((run.failed, run.wrong), (1, 1));
    }
}
