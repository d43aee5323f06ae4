//! The commands. Each is a file with its arguments and a `run`; errors end as one line on stderr.

pub mod ask;
pub mod bench;
pub mod config;
pub mod desk;
pub mod diarize;
pub mod doctor;
pub mod files;
pub mod import;
pub mod index;
pub mod installed;
pub mod key;
pub mod models;
pub mod out;
pub mod progress;
pub mod pull;
pub mod rm;
pub mod running;
pub mod serve;
pub mod speakers;
pub mod store;
pub mod transcribe;
pub mod up;
pub mod verify;

use clap::{Parser, Subcommand};

use crate::config::{Config, Overrides};

/// One process that serves chat, embeddings and speech models over OpenAI-style HTTP.
#[derive(Debug, Parser)]
#[command(name = "stentor", version, max_term_width = 100, after_help = EXIT_STATUS)]
pub struct Cli {
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch the starter models if they are missing, then serve
    Up(up::Args),
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
    /// Write down what is said in recordings
    Transcribe(transcribe::Args),
    /// Tell who speaks when in recordings
    Diarize(diarize::Args),
    /// Take in documents, to be found and answered from
    Index(index::Args),
    /// Answer a question from the documents, with sources
    Ask(ask::Args),
    /// Enrol, list, recognise and delete speakers
    Speakers(speakers::Args),
    /// Look at, copy and mend what the store holds
    Store(store::Args),
    /// Measure speed
    Bench(bench::Args),
}

/// Runs the parsed command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let config = Config::load(&cli.overrides)?;
    let done = match cli.command {
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
        Command::Transcribe(args) => transcribe::run(&config, args),
        Command::Diarize(args) => diarize::run(&config, args),
        Command::Index(args) => index::run(&config, args),
        Command::Ask(args) => ask::run(&config, args),
        Command::Speakers(args) => speakers::run(&config, args),
        Command::Store(args) => store::run(&config, args),
        Command::Bench(args) => bench::run(&config, args),
    };
    match done {
        Err(error) if error.is::<out::Unread>() => Ok(()),
        done => done,
    }
}

/// The error as one line with its causes, each told once: many texts name their cause themselves.
pub fn explain(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// An error of a command with its own exit status.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Exit {
    code: u8,
    text: String,
}

impl Exit {
    /// `verify` found damaged files.
    pub fn damaged(text: String) -> Exit {
        Exit { code: 7, text }
    }

    /// `doctor` found problems.
    pub fn broken(text: String) -> Exit {
        Exit { code: 8, text }
    }

    /// Another process holds what the command needs.
    pub fn held(text: String) -> Exit {
        Exit { code: 6, text }
    }

    /// A signal ended it; 128 and the number of Ctrl-C's, as shells have it.
    pub fn stopped(text: String) -> Exit {
        Exit { code: 130, text }
    }
}

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed, 2 wrong arguments, 3 a name is unknown or taken, \
    4 no source gave a file, 5 the disk is full, 6 another process holds the home folder, 7 verify found damage, \
    8 doctor found a problem, 130 stopped by Ctrl-C";

/// The exit status for an error, as the help text lists them.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        return exit.code;
    }
    let fetch = match error.downcast_ref::<crate::app::Error>() {
        Some(crate::app::Error::Fetch(error)) => Some(error),
        _ => error.downcast_ref::<crate::fetch::Error>(),
    };
    fetch.map_or(1, crate::fetch::Error::exit_code)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let config =
            crate::config::Error::Read { path: "/x".into(), source: std::io::Error::other("out of luck") };
        let error = anyhow::Error::from(config);
        assert_eq!(explain(&error), "cannot read /x: out of luck");
        assert_eq!(explain(&error.context("doing things")), "doing things: cannot read /x: out of luck");
        let silent: anyhow::Result<()> = Err(std::io::Error::other("out of luck")).context("a file");
        assert_eq!(explain(&silent.unwrap_err()), "a file: out of luck");
    }
}
