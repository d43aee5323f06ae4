//! The commands. Each is a file with its arguments and a `run`; errors end as one line on stderr.

pub mod bench;
pub mod config;
pub mod doctor;
pub mod import;
pub mod key;
pub mod models;
pub mod pull;
pub mod rm;
pub mod serve;
pub mod up;
pub mod verify;

use clap::{Parser, Subcommand};

use crate::config::{Config, Overrides};

/// One process that serves chat, embeddings and speech models over OpenAI-style HTTP.
#[derive(Debug, Parser)]
#[command(name = "stentor", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch the starter models if they are missing, then serve
    Up(serve::Args),
    /// Serve the installed models
    Serve(serve::Args),
    /// Download models or a profile of models
    Pull(pull::Args),
    /// List models: present, missing, damaged, loaded
    Models(models::Args),
    /// Compare installed files with their checksums
    Verify(verify::Args),
    /// Register a model that is already on this machine, in place
    Import(import::Args),
    /// Remove a model from the home folder
    Rm(rm::Args),
    /// Show this machine's devices, memory and disk, and which models fit
    Doctor(doctor::Args),
    /// Make an API key
    Key(key::Args),
    /// Print the effective configuration
    Config(config::Args),
    /// Measure speed
    Bench(bench::Args),
}

/// Runs the parsed command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let config = Config::load(&cli.overrides)?;
    match cli.command {
        Command::Up(args) => up::run(&config, args),
        Command::Serve(args) => serve::run(&config, args),
        Command::Pull(args) => pull::run(&config, args),
        Command::Models(args) => models::run(&config, args),
        Command::Verify(args) => verify::run(&config, args),
        Command::Import(args) => import::run(&config, args),
        Command::Rm(args) => rm::run(&config, args),
        Command::Doctor(args) => doctor::run(&config, args),
        Command::Key(args) => key::run(&config, args),
        Command::Config(args) => config::run(&config, args),
        Command::Bench(args) => bench::run(&config, args),
    }
}
