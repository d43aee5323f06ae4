//! The configuration: flags over environment over `stentor.toml` over defaults, validated once.
//!
//! Every setting is a row of [`settings::SETTINGS`]: its dotted name in the file, its bounds and its help.
//! The environment variable of `limits.queue_depth` is `STENTOR_LIMITS_QUEUE_DEPTH`. Each value remembers
//! where it came from, so that `stentor config` can say it and an error can name the place.

mod api_keys;
mod file;
mod print;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use api_keys::{NewKey, new_key, parse_keys};

use crate::types::key::ApiKey;
use crate::types::model::{Precision, Quantise};

/// Flags that every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Folder for models and state [env: STENTOR_HOME] [default: the XDG data folder's `stentor`]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Never touch the network [env: STENTOR_OFFLINE]
    #[arg(long, global = true)]
    pub offline: bool,
    /// Read this file instead of `stentor.toml` in the home folder [env: STENTOR_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A level (error, warn, info, debug, trace) or a filter such as `stentor=debug` [env: STENTOR_LOG_LEVEL]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [env: STENTOR_LOG_FORMAT]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for models and state; created on first use.
    pub home: PathBuf,
    /// Never touch the network.
    pub offline: bool,
    /// Where to listen.
    pub addr: SocketAddr,
    /// Answer without API keys.
    pub no_auth: bool,
    /// File of hashed API keys; without it `api-keys` in the home folder, if it is there.
    pub api_key_file: Option<PathBuf>,
    /// Names besides the loopback ones and the bind address that a `Host` header may carry.
    pub allowed_hosts: Vec<String>,
    /// Exact origins whose pages may call the API from a browser.
    pub cors_origins: Vec<String>,
    /// `host` or `host:port`: where clients may have files fetched from and results sent to.
    pub remote_hosts: Vec<String>,
    /// What LibreChat signs its tokens with.
    pub librechat_secret: Option<String>,
    pub limits: Limits,
    pub log: Log,
    pub models: Models,
    pub responses: Responses,
    pub files: Files,
    pub jobs: Jobs,
    pub speakers: Speakers,
    pub device: Device,
    /// Keys given in the environment, hashed as soon as they were read.
    env_keys: Vec<ApiKey>,
    origins: BTreeMap<&'static str, Origin>,
    /// The file that was read, or would be if it were there.
    file: PathBuf,
}

/// What one client, or all of them together, may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub json_body_bytes: u64,
    pub audio_body_bytes: u64,
    /// Longest recording, in seconds of audio.
    pub audio_seconds: u32,
    /// Requests that may wait for one model.
    pub queue_depth: usize,
    pub max_connections: usize,
    /// Live transcriptions open at the same time.
    pub live_sessions: usize,
    /// From the first byte of a request to the last of its answer.
    pub request_timeout: Duration,
    /// How long running requests may take to finish after a stop signal.
    pub shutdown_grace: Duration,
}

/// How log lines look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A level or a filter (`stentor=debug,hyper=warn`).
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Which models serve what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Models {
    /// Model ids or profile names to load before the server is ready.
    pub preload: Vec<String>,
    /// Name that callers use -> model id.
    pub aliases: BTreeMap<String, String>,
    /// How long an idle model stays loaded; `None` is for ever.
    pub keep_alive: Option<Duration>,
    /// How long a request waits for memory that models in use take.
    pub load_wait: Duration,
    /// Bytes of each chat model's key-value cache; `None`: an eighth of the memory budget.
    pub kv_cache_bytes: Option<u64>,
    /// How it keeps keys and values.
    pub kv_cache: KvCache,
    /// Whether chat models guess what they say next from what was said, where that pays.
    pub speculate: bool,
    /// From a chat model's id to that of the smaller one that guesses for it instead.
    pub drafts: BTreeMap<String, String>,
    /// From a model's id to those of the devices that it may be on.
    pub devices: BTreeMap<String, Vec<String>>,
    /// What the matrices of chat models are rounded to that are floats in their files.
    pub quantise: Quantise,
    /// How the decoders of speech models are kept.
    pub precision: Precision,
    /// Used where a request names no model.
    pub chat: Option<String>,
    pub embed: Option<String>,
    pub asr: Option<String>,
    /// Puts passages in order that were found for a question.
    pub rerank: Option<String>,
}

/// Responses that are kept, so that later requests can go on from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responses {
    /// How many; 0 keeps none.
    pub keep: usize,
    /// Bytes of all of them together.
    pub keep_bytes: u64,
}

/// Files that callers leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Bytes of all of them together.
    pub keep_bytes: u64,
}

/// Work that outlives its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// How long what came of a job is kept.
    pub keep: Duration,
}

/// Speakers who are known by voice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speakers {
    /// Whether their recordings are kept, so that another speaker model can embed them anew.
    pub keep_audio: bool,
}

/// How much of the machine to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub kind: DeviceKind,
    /// Memory for weights and caches on each device; `None` is what the device has.
    pub memory_budget_bytes: Option<u64>,
    /// Threads of the CPU device; `None` is one a physical core.
    pub threads: Option<usize>,
}

/// Which device models run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A GPU where this build and this machine have one, else the CPU.
    Auto,
    Cpu,
    Cuda,
}

/// How a chat model's keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvCache {
    F32,
    F16,
    /// 8 bits a number: twice the conversations in the same memory.
    Q8,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Env(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot tell where to keep models: set STENTOR_HOME, or HOME")]
    NoHome,
    #[error("the home folder {} is a file: choose a folder with --home or STENTOR_HOME", path.display())]
    HomeIsFile { path: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: not TOML: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}:{line}: unknown setting `{key}`{}", path.display(), nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    Unknown { path: PathBuf, line: usize, key: String, nearest: Option<&'static str> },
    #[error("{origin}: `{key}` {message}")]
    Value { origin: Origin, key: &'static str, message: String },
    #[error("{}:{line}: {message}", path.display())]
    KeyFile { path: PathBuf, line: usize, message: String },
    #[error("{variable} is not usable: {message}")]
    EnvKey { variable: &'static str, message: String },
    #[error(
        "refusing to listen on {addr} without API keys: make one with `stentor key NAME`, or set \
         STENTOR_API_KEY, or pass --no-auth if everyone who can reach this address may use the server"
    )]
    Public { addr: SocketAddr },
    #[error("--no-auth and API keys ({source_of_keys}) contradict each other: remove one of them")]
    Contradiction { source_of_keys: String },
    #[error(
        "the key name `{name}` is not usable: 1 to 64 of a-z A-Z 0-9 . _ -, and not one already in the file"
    )]
    KeyName { name: String },
    #[error("the system has no random numbers to give: {message}")]
    Random { message: String },
}

/// Looks a variable up; a parameter so that tests need not change the process's environment.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// The folder of the store.
    pub fn store(&self) -> PathBuf {
        self.home.join("store")
    }

    /// Merges the sources.
    ///
    /// # Errors
    /// Names the flag, the variable, or the file and line that is wrong.
    pub fn load(overrides: &Overrides) -> Result<Config, Error> {
        Self::load_with(overrides, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn load_with(overrides: &Overrides, env: Environment<'_>) -> Result<Config, Error> {
        let path = overrides.config.clone().or_else(|| env("STENTOR_CONFIG").map(PathBuf::from));
        let given_home = overrides.home.clone().or_else(|| env("STENTOR_HOME").map(PathBuf::from));
        let mut config = Config::defaults(PathBuf::new());
        match &path {
            Some(path) => config.read_file(path, true)?,
            None => {
                let home = given_home.clone().or_else(|| default_home(env)).ok_or(Error::NoHome)?;
                if home.is_file() {
                    return Err(Error::HomeIsFile { path: home });
                }
                config.read_file(&home.join("stentor.toml"), false)?;
                if !config.home.as_os_str().is_empty() && config.home != home {
                    let origin = config.origin("home");
                    let message = "differs from the folder this file is in; use --home or --config".into();
                    return Err(Error::Value { origin, key: "home", message });
                }
                config.home = home;
            }
        }
        if config.home.as_os_str().is_empty() {
            config.home = match given_home {
                Some(home) => home,
                None => default_home(env).ok_or(Error::NoHome)?,
            };
        }
        config.apply_environment(env)?;
        config.apply_overrides(overrides)?;
        if config.home.is_file() {
            return Err(Error::HomeIsFile { path: config.home });
        }
        config.env_keys = api_keys::from_environment(env)?;
        Ok(config)
    }

    fn defaults(home: PathBuf) -> Config {
        Config {
            home,
            offline: false,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            no_auth: false,
            api_key_file: None,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            remote_hosts: Vec::new(),
            librechat_secret: None,
            limits: Limits {
                json_body_bytes: 32 << 20,
                audio_body_bytes: 512 << 20,
                audio_seconds: 4 * 3600,
                queue_depth: 256,
                max_connections: 1024,
                live_sessions: 64,
                request_timeout: Duration::from_secs(1800),
                shutdown_grace: Duration::from_secs(45),
            },
            log: Log { format: LogFormat::Text, level: "info".into() },
            models: Models {
                preload: Vec::new(),
                aliases: BTreeMap::new(),
                keep_alive: Some(Duration::from_secs(300)),
                load_wait: Duration::from_secs(30),
                kv_cache_bytes: None,
                kv_cache: KvCache::F16,
                speculate: true,
                drafts: BTreeMap::new(),
                devices: BTreeMap::new(),
                quantise: Quantise::Q8_0,
                precision: Precision::F16,
                chat: None,
                embed: None,
                asr: None,
                rerank: None,
            },
            responses: Responses { keep: 10_000, keep_bytes: 1 << 30 },
            files: Files { keep_bytes: 16 << 30 },
            jobs: Jobs { keep: Duration::from_secs(7 * 24 * 3600) },
            speakers: Speakers { keep_audio: false },
            device: Device { kind: DeviceKind::Auto, memory_budget_bytes: None, threads: None },
            env_keys: Vec::new(),
            origins: BTreeMap::new(),
            file: PathBuf::new(),
        }
    }

    fn apply_environment(&mut self, env: Environment<'_>) -> Result<(), Error> {
        for setting in settings::SETTINGS {
            let name = setting.variable();
            if let Some(text) = env(&name) {
                let origin = Origin::Env(name);
                let value = setting.parse(&text).map_err(|message| Error::Value {
                    origin: origin.clone(),
                    key: setting.name,
                    message,
                })?;
                self.set(setting, value, origin)?;
            }
        }
        Ok(())
    }

    fn apply_overrides(&mut self, overrides: &Overrides) -> Result<(), Error> {
        if let Some(home) = &overrides.home {
            self.set_flag("home", "--home", home.display().to_string())?;
            self.home = home.clone();
        }
        if overrides.offline {
            self.set_flag("offline", "--offline", true)?;
        }
        if let Some(level) = &overrides.log_level {
            self.set_flag("log.level", "--log-level", level.clone())?;
        }
        if let Some(format) = &overrides.log_format {
            self.set_flag("log.format", "--log-format", format.clone())?;
        }
        Ok(())
    }

    /// Sets the setting `name` to what the flag `flag` says, within the same bounds as the file.
    ///
    /// # Errors
    /// Names the flag if the value is out of bounds.
    pub fn set_flag(
        &mut self,
        name: &str,
        flag: &'static str,
        value: impl Into<toml::Value>,
    ) -> Result<(), Error> {
        match settings::find(name) {
            Some(setting) => self.set(setting, value.into(), Origin::Flag(flag)),
            None => Ok(()),
        }
    }

    fn set(
        &mut self,
        setting: &'static settings::Setting,
        value: toml::Value,
        origin: Origin,
    ) -> Result<(), Error> {
        match (setting.set)(self, value) {
            Ok(()) => {
                self.origins.insert(setting.name, origin);
                Ok(())
            }
            Err(message) => Err(Error::Value { origin, key: setting.name, message }),
        }
    }

    /// Where the value of the setting `name` came from.
    pub fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }

    /// The file that is read, which need not be there.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file of hashed keys: the one configured, else `api-keys` in the home folder.
    pub fn key_file(&self) -> PathBuf {
        self.api_key_file.clone().unwrap_or_else(|| self.home.join("api-keys"))
    }

    /// Every accepted key: the environment's and the key file's.
    ///
    /// # Errors
    /// The file is configured and absent, cannot be read, or has a line that is not a key.
    pub fn api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        let mut keys = self.env_keys.clone();
        let path = self.key_file();
        match std::fs::read_to_string(&path) {
            Ok(text) => keys.extend(parse_keys(&path, &text)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.api_key_file.is_none() => {}
            Err(source) => return Err(Error::Read { path, source }),
        }
        Ok(keys)
    }

    /// Whether it is safe to listen on [`addr`](Self::addr) with these keys.
    ///
    /// # Errors
    /// A public address without keys, unless `no_auth` says so; `no_auth` together with keys.
    pub fn check_listen(&self, keys: &[ApiKey]) -> Result<(), Error> {
        if self.no_auth && !keys.is_empty() {
            let source_of_keys = if self.env_keys.is_empty() {
                self.key_file().display().to_string()
            } else {
                "STENTOR_API_KEY or STENTOR_API_KEYS".into()
            };
            return Err(Error::Contradiction { source_of_keys });
        }
        if keys.is_empty() && !self.no_auth && !self.addr.ip().to_canonical().is_loopback() {
            return Err(Error::Public { addr: self.addr });
        }
        Ok(())
    }

    fn read_file(&mut self, path: &Path, required: bool) -> Result<(), Error> {
        self.file = path.to_owned();
        for entry in file::read(path, required)? {
            let origin = Origin::File { path: path.to_owned(), line: entry.line };
            self.set(entry.setting, entry.value, origin)?;
        }
        Ok(())
    }
}

/// `$XDG_DATA_HOME/stentor`, else `$HOME/.local/share/stentor`. A relative XDG path is to be ignored, says
/// the XDG base directory specification.
fn default_home(env: Environment<'_>) -> Option<PathBuf> {
    let xdg = env("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    xdg.or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .map(|data| data.join("stentor"))
}
