//! `stentor ask`: an answer from the documents, with the sources that it cites.

use super::desk::{Asked, Desk, Source};
use super::out;
use crate::config::Config;
use crate::types::model::Kind;

/// Characters of a source that are shown.
const SHOWN: usize = 160;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "QUESTION")]
    pub question: String,
    /// The collection that is asked
    #[arg(long, value_name = "NAME", default_value = super::index::COLLECTION)]
    pub collection: String,
    /// Passages that the answer may be made from
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub top_k: u8,
    /// Only documents that have one of these
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// A chat model [default: `models.chat`, else the first one installed]
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// Print the answer and its sources as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let mut config = config.clone();
    config.models.chat = args.model.clone().or(config.models.chat);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = Asked {
        question: args.question,
        collection: args.collection,
        k: usize::from(args.top_k),
        tags: args.tags,
        model: args.model,
    };
    runtime.block_on(async {
        let desk = Desk::open(&config, &[Kind::Embed, Kind::Chat]).await?;
        let mut answer = String::new();
        let mut say = |text: &str| {
            answer.push_str(text);
            if args.json { Ok(()) } else { out::stream(text) }
        };
        let sources = desk.ask(&asked, &mut say).await?;
        match args.json {
            true => json(&answer, &sources),
            false => list(&sources),
        }
    })
}

fn json(answer: &str, sources: &[Source]) -> anyhow::Result<()> {
    let source = |source: &Source| {
        serde_json::json!({"source": source.source, "page": source.page, "score": source.score,
            "snippet": source.snippet})
    };
    let sources: Vec<_> = sources.iter().map(source).collect();
    out::print(&format!("{}\n", serde_json::json!({"answer": answer.trim(), "sources": sources})))
}

fn list(sources: &[Source]) -> anyhow::Result<()> {
    let mut text = "\n".to_owned();
    if !sources.is_empty() {
        text.push('\n');
    }
    for (at, source) in sources.iter().enumerate() {
        let page = source.page.map(|page| format!(", page {page}")).unwrap_or_default();
        let words: String = source.snippet.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut shown: String = words.chars().take(SHOWN).collect();
        if shown.len() < words.len() {
            shown.push('…');
        }
        text.push_str(&format!("[{}] {}{page} ({:.2})\n    {shown}\n", at + 1, source.source, source.score));
    }
    out::print(&text)
}
