//! `stentor speakers`: who is known by voice.

mod desk;

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::models::columns;
use super::out;
use crate::config::Config;
use desk::{Desk, Enrol};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Enrol a speaker by recordings, or add some to one of that name
    Enroll(EnrollArgs),
    /// List the speakers
    List {
        /// Only those who have it
        #[arg(long, value_name = "TAG")]
        tag: Option<String>,
        /// Print a JSON list instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Say whose voice is in a recording
    Identify(IdentifyArgs),
    /// Delete a speaker, with all recordings and vectors
    Rm {
        #[arg(value_name = "ID|NAME")]
        speaker: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct EnrollArgs {
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Recordings in which only this person speaks: two seconds of speech at least
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The speaker's id [default: that of the speaker of this name, else a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Tags, in the place of those that there are
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Put the recordings in the place of those that there are
    #[arg(long)]
    pub replace: bool,
    /// Take recordings that seem to be of different people
    #[arg(long)]
    pub force: bool,
    /// Print the speaker as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct IdentifyArgs {
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Speakers that are shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub top_k: u8,
    /// Score from which a voice is that of a speaker, -1 to 1 [default: the model's own]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, value_parser = threshold)]
    pub threshold: Option<f32>,
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
}

/// A speaker, as the server answers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    id: String,
    name: String,
    tags: Vec<String>,
    /// Unix seconds.
    created_at: u64,
    updated_at: u64,
    model: String,
    samples: Vec<Sample>,
}

/// A recording of a speaker.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sample {
    id: String,
    seconds: f64,
    speech_seconds: f64,
}

/// Whose a voice is, as the server answers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Who {
    model: String,
    threshold: f32,
    enrolled: usize,
    stale: usize,
    data: Vec<Voice>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Voice {
    id: Option<String>,
    name: String,
    speech_seconds: f64,
    matches: Vec<Match>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Match {
    id: String,
    name: String,
    score: f32,
}

fn threshold(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number| (-1.0..=1.0).contains(number));
    number.ok_or_else(|| "it must be from -1 to 1".to_owned())
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let desk = Desk::open(config).await?;
        match args.what {
            What::Enroll(args) => enroll(&desk, args).await,
            What::List { tag, json } => list(&desk, tag.as_deref(), json).await,
            What::Identify(args) => identify(&desk, args).await,
            What::Rm { speaker } => rm(&desk, &speaker).await,
        }
    })
}

async fn enroll(desk: &Desk, args: EnrollArgs) -> anyhow::Result<()> {
    ensure!(!args.name.trim().is_empty(), "a speaker has a name");
    let id = match args.id {
        Some(id) => Some(id),
        None => named(&desk.list().await?, args.name.trim())?.map(|known| known.id.clone()),
    };
    let enrol = Enrol {
        id,
        name: args.name,
        tags: args.tags,
        replace: args.replace,
        force: args.force,
        files: args.files,
    };
    let known = desk.enrol(enrol).await?;
    if args.json {
        return json(&known);
    }
    let count = known.samples.len();
    let recordings = if count == 1 { "1 recording".to_owned() } else { format!("{count} recordings") };
    out::print(&format!("{} ({}): {recordings}, {:.1} s of speech\n", known.name, known.id, known.speech()))
}

async fn list(desk: &Desk, tag: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let mut all = desk.list().await?;
    all.retain(|known| tag.is_none_or(|tag| known.tags.iter().any(|has| has == tag)));
    if as_json {
        return json(&all);
    }
    if all.is_empty() {
        return out::print("nobody is known; `stentor speakers enroll NAME FILE` enrols somebody\n");
    }
    let mut rows = vec![["NAME", "ID", "RECORDINGS", "SPEECH", "TAGS"].map(str::to_owned)];
    for known in &all {
        rows.push([
            known.name.clone(),
            known.id.clone(),
            known.samples.len().to_string(),
            format!("{:.1} s", known.speech()),
            known.tags.join(","),
        ]);
    }
    out::print(&columns(&rows))
}

async fn identify(desk: &Desk, args: IdentifyArgs) -> anyhow::Result<()> {
    let who = desk.identify(&args.file, usize::from(args.top_k), args.threshold).await?;
    if args.json {
        return json(&who);
    }
    if who.stale > 0 {
        out::note(&format!(
            "{} speakers were enrolled with another model and cannot be recognised; enrol them again",
            who.stale
        ));
    }
    out::print(&told(&who)?)
}

/// What was found, in words: who it is first, then who else it may be.
fn told(who: &Who) -> anyhow::Result<String> {
    let voice = who.data.first().context("the server is of another version than this program")?;
    let mut text = format!("{}\n", voice.name);
    if voice.matches.is_empty() {
        text.push_str("  nobody is known to compare with\n");
    }
    for (at, Match { id, name, score }) in voice.matches.iter().enumerate() {
        let below = if *score < who.threshold { " below the threshold" } else { "" };
        let mark = if at == 0 { format!(" (threshold {:.2})", who.threshold) } else { String::new() };
        text.push_str(&format!("  {score:.2}  {name} ({id}){below}{mark}\n"));
    }
    Ok(text)
}

async fn rm(desk: &Desk, speaker: &str) -> anyhow::Result<()> {
    let all = desk.list().await?;
    let known = match all.iter().find(|known| known.id == speaker) {
        Some(known) => known,
        None => {
            named(&all, speaker)?.with_context(|| format!("no speaker has the id or name `{speaker}`"))?
        }
    };
    desk.remove(&known.id).await?;
    out::print(&format!("{} ({}): deleted\n", known.name, known.id))
}

/// The one speaker of this name.
///
/// # Errors
/// There are several.
fn named<'a>(all: &'a [Known], name: &str) -> anyhow::Result<Option<&'a Known>> {
    let mut found = all.iter().filter(|known| known.name == name);
    let (first, second) = (found.next(), found.next());
    if let (Some(first), Some(second)) = (first, second) {
        let more = found.count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        bail!("several speakers are called `{name}`: {}, {}{more}; name one by its id", first.id, second.id);
    }
    Ok(first)
}

fn json(value: &impl Serialize) -> anyhow::Result<()> {
    out::print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

impl Known {
    /// Seconds of speech of all samples.
    fn speech(&self) -> f64 {
        self.samples.iter().map(|sample| sample.speech_seconds).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, name: &str) -> Known {
        let (id, name, model) = (id.to_owned(), name.to_owned(), String::new());
        Known { id, name, tags: Vec::new(), created_at: 0, updated_at: 0, model, samples: Vec::new() }
    }

    #[test]
    fn a_name_that_several_have_is_none() {
        let all = [known("1", "Anna"), known("2", "Ben"), known("3", "Ben"), known("4", "Ben")];
        assert_eq!(named(&all, "Anna").unwrap().unwrap().id, "1");
        assert!(named(&all, "Carl").unwrap().is_none());
        let said = named(&all, "Ben").unwrap_err().to_string();
        assert!(said.contains("2, 3 and 1 more") && said.contains("by its id"), "{said}");
    }

    #[test]
    fn what_was_found_is_told() {
        let one = |name: &str, score| Match { id: format!("id-{name}"), name: name.to_owned(), score };
        let voice = |name: &str, matches| Voice { id: None, name: name.into(), speech_seconds: 3.0, matches };
        let who = |voice| Who { model: "m".into(), threshold: 0.5, enrolled: 2, stale: 0, data: vec![voice] };
        let text = told(&who(voice("Anna", vec![one("Anna", 0.81), one("Ben", 0.2)]))).unwrap();
        assert_eq!(
            text,
            "Anna\n  0.81  Anna (id-Anna) (threshold 0.50)\n  0.20  Ben (id-Ben) below the threshold\n"
        );
        assert!(told(&who(voice("unknown", Vec::new()))).unwrap().contains("nobody is known"));
    }
}
