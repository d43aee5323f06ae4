//! The table of settings: name, help, bounds, and how each reaches its field.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::{Config, DeviceKind, KvCache, LogFormat};
use crate::types::model::{Precision, Quantise};

/// What a value looks like; decides how an environment variable's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Bool,
    Int,
    Text,
    /// Comma-separated in the environment.
    List,
    /// `name=value` pairs, comma-separated in the environment.
    Map,
}

/// One setting.
pub(super) struct Setting {
    /// Dotted name in the file.
    pub name: &'static str,
    pub help: &'static str,
    pub shape: Shape,
    /// Checks the value and stores it; the error completes the sentence "`name` ...".
    pub set: fn(&mut Config, Value) -> Result<(), String>,
    /// The value as the file would have it; `None` where it is not set.
    pub get: fn(&Config) -> Option<Value>,
}

impl Setting {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("STENTOR_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Reads an environment variable's text.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(match self.shape {
            Shape::Text => Value::String(text.to_owned()),
            Shape::Int => Value::Integer(text.trim().parse().map_err(|_| "must be a whole number")?),
            Shape::Bool => match text.trim().to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Value::Boolean(true),
                "0" | "false" | "no" | "off" => Value::Boolean(false),
                _ => return Err("must be true or false".into()),
            },
            Shape::List => Value::Array(items().map(|item| Value::String(item.to_owned())).collect()),
            Shape::Map => {
                let mut map = toml::Table::new();
                for item in items() {
                    let (name, value) = item.split_once('=').ok_or("must be name=value pairs")?;
                    map.insert(name.trim().to_owned(), Value::String(value.trim().to_owned()));
                }
                Value::Table(map)
            }
        })
    }
}

/// The setting of that name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

const GIB: i64 = 1 << 30;
/// Longest list or map, longest text: far above any use, so that a file cannot make the server slow.
const MAX_ITEMS: usize = 1000;
const MAX_TEXT: usize = 4096;

/// All settings, in the order that `stentor config` prints them: plain ones first, then a table at a time.
#[rustfmt::skip]
pub(super) const SETTINGS: &[Setting] = &[
    Setting { name: "home", shape: Shape::Text,
        help: "folder for models and state",
        set: |c, v| { c.home = path(v)?; Ok(()) },
        get: |c| Some(c.home.display().to_string().into()) },
    Setting { name: "offline", shape: Shape::Bool,
        help: "never touch the network",
        set: |c, v| { c.offline = boolean(v)?; Ok(()) },
        get: |c| Some(c.offline.into()) },
    Setting { name: "addr", shape: Shape::Text,
        help: "where to listen, HOST:PORT",
        set: |c, v| { c.addr = addr(v)?; Ok(()) },
        get: |c| Some(c.addr.to_string().into()) },
    Setting { name: "no_auth", shape: Shape::Bool,
        help: "answer without API keys, even on a public address",
        set: |c, v| { c.no_auth = boolean(v)?; Ok(()) },
        get: |c| Some(c.no_auth.into()) },
    Setting { name: "api_key_file", shape: Shape::Text,
        help: "file of hashed API keys; else `api-keys` in the home folder",
        set: |c, v| { c.api_key_file = Some(path(v)?); Ok(()) },
        get: |c| c.api_key_file.as_ref().map(|p| p.display().to_string().into()) },
    Setting { name: "allowed_hosts", shape: Shape::List,
        help: "host names that requests may use besides localhost and the bind address",
        set: |c, v| { c.allowed_hosts = list(v, host)?; Ok(()) },
        get: |c| Some(c.allowed_hosts.clone().into()) },
    Setting { name: "cors_origins", shape: Shape::List,
        help: "exact origins whose pages may call the API, such as https://chat.example.org",
        set: |c, v| { c.cors_origins = list(v, origin)?; Ok(()) },
        get: |c| Some(c.cors_origins.clone().into()) },
    Setting { name: "remote_hosts", shape: Shape::List,
        help: "hosts, with :PORT where it is not the usual one, that clients may name in file_url and callback_url",
        set: |c, v| { c.remote_hosts = list(v, host_and_port)?; Ok(()) },
        get: |c| Some(c.remote_hosts.clone().into()) },
    Setting { name: "librechat.jwt_secret", shape: Shape::Text,
        help: "the JWT_SECRET of the LibreChat that asks below /librechat; it is not shown",
        set: |c, v| { c.librechat_secret = Some(text(v)?); Ok(()) },
        get: |c| c.librechat_secret.as_ref().map(|_| "(hidden)".into()) },
    Setting { name: "limits.json_body_bytes", shape: Shape::Int,
        help: "largest JSON body",
        set: |c, v| { c.limits.json_body_bytes = int(v, 1024, GIB)? as u64; Ok(()) },
        get: |c| Some((c.limits.json_body_bytes as i64).into()) },
    Setting { name: "limits.audio_body_bytes", shape: Shape::Int,
        help: "largest audio upload",
        set: |c, v| { c.limits.audio_body_bytes = int(v, 1024, 64 * GIB)? as u64; Ok(()) },
        get: |c| Some((c.limits.audio_body_bytes as i64).into()) },
    Setting { name: "limits.audio_seconds", shape: Shape::Int,
        help: "longest recording, in seconds of audio",
        set: |c, v| { c.limits.audio_seconds = int(v, 1, 7 * 24 * 3600)? as u32; Ok(()) },
        get: |c| Some(i64::from(c.limits.audio_seconds).into()) },
    Setting { name: "limits.queue_depth", shape: Shape::Int,
        help: "requests that may wait for one model; more are answered 429",
        set: |c, v| { c.limits.queue_depth = int(v, 1, 100_000)? as usize; Ok(()) },
        get: |c| Some((c.limits.queue_depth as i64).into()) },
    Setting { name: "limits.max_connections", shape: Shape::Int,
        help: "open connections; more wait to be accepted",
        set: |c, v| { c.limits.max_connections = int(v, 1, 100_000)? as usize; Ok(()) },
        get: |c| Some((c.limits.max_connections as i64).into()) },
    Setting { name: "limits.live_sessions", shape: Shape::Int,
        help: "live transcriptions open at the same time; more are answered 429",
        set: |c, v| { c.limits.live_sessions = int(v, 1, 100_000)? as usize; Ok(()) },
        get: |c| Some((c.limits.live_sessions as i64).into()) },
    Setting { name: "limits.request_timeout_s", shape: Shape::Int,
        help: "seconds from a request's first byte to its answer's last",
        set: |c, v| { c.limits.request_timeout = seconds(v, 1, 24 * 3600)?; Ok(()) },
        get: |c| Some((c.limits.request_timeout.as_secs() as i64).into()) },
    Setting { name: "limits.shutdown_grace_s", shape: Shape::Int,
        help: "seconds that running requests may take to finish after a stop signal",
        set: |c, v| { c.limits.shutdown_grace = seconds(v, 0, 3600)?; Ok(()) },
        get: |c| Some((c.limits.shutdown_grace.as_secs() as i64).into()) },
    Setting { name: "log.format", shape: Shape::Text,
        help: "text or json",
        set: |c, v| { c.log.format = match text(v)?.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return Err("must be text or json".into()) }; Ok(()) },
        get: |c| Some(match c.log.format { LogFormat::Text => "text", LogFormat::Json => "json" }.into()) },
    Setting { name: "log.level", shape: Shape::Text,
        help: "error, warn, info, debug, trace, or a filter such as stentor=debug,hyper=warn",
        set: |c, v| { c.log.level = level(v)?; Ok(()) },
        get: |c| Some(c.log.level.clone().into()) },
    Setting { name: "models.preload", shape: Shape::List,
        help: "model ids or profiles to load before the server is ready",
        set: |c, v| { c.models.preload = match v {
            Value::String(one) => list(Value::Array(vec![one.into()]), Ok)?,
            many => list(many, Ok)? }; Ok(()) },
        get: |c| Some(c.models.preload.clone().into()) },
    Setting { name: "models.keep_alive_s", shape: Shape::Int,
        help: "seconds that an idle model stays loaded; -1 is for ever",
        set: |c, v| { c.models.keep_alive = match int(v, -1, 365 * 24 * 3600)? {
            -1 => None, s => Some(Duration::from_secs(s as u64)) }; Ok(()) },
        get: |c| Some(c.models.keep_alive.map_or(-1, |d| d.as_secs() as i64).into()) },
    Setting { name: "models.load_wait_s", shape: Shape::Int,
        help: "seconds that a request waits for a model while those that would have to leave for it are in use",
        set: |c, v| { c.models.load_wait = Duration::from_secs(int(v, 0, 3600)? as u64); Ok(()) },
        get: |c| Some((c.models.load_wait.as_secs() as i64).into()) },
    Setting { name: "models.kv_cache_bytes", shape: Shape::Int,
        help: "memory for the conversations of each chat model; else an eighth of the memory budget",
        set: |c, v| { c.models.kv_cache_bytes = Some(int(v, 1 << 20, i64::MAX)? as u64); Ok(()) },
        get: |c| c.models.kv_cache_bytes.map(|b| (b as i64).into()) },
    Setting { name: "models.kv_cache", shape: Shape::Text,
        help: "how conversations are kept on a CPU: f16; q8 takes half of that; f32 twice",
        set: |c, v| { c.models.kv_cache = match text(v)?.as_str() {
            "f32" => KvCache::F32,
            "f16" => KvCache::F16,
            "q8" => KvCache::Q8,
            other => return Err(format!("is {other}; it must be f16, q8 or f32")) }; Ok(()) },
        get: |c| Some(match c.models.kv_cache {
            KvCache::F32 => "f32", KvCache::F16 => "f16", KvCache::Q8 => "q8" }.into()) },
    Setting { name: "models.speculate", shape: Shape::Bool,
        help: "let chat models guess from what was said, where that is faster; answers are the same",
        set: |c, v| { c.models.speculate = boolean(v)?; Ok(()) },
        get: |c| Some(c.models.speculate.into()) },
    Setting { name: "models.drafts", shape: Shape::Map,
        help: "smaller chat models that guess for larger ones of the same vocabulary: large = \"small\"",
        set: |c, v| { c.models.drafts = map(v)?; Ok(()) },
        get: |c| Some(table(&c.models.drafts)) },
    Setting { name: "models.devices", shape: Shape::Map,
        help: "devices that a model may be on, as `stentor doctor` lists them; one copy on each: id = \"cuda:0 cuda:1\"",
        set: |c, v| { c.models.devices = lists(v)?; Ok(()) },
        get: |c| Some(table(&c.models.devices.iter().map(|(id, on)| (id.clone(), on.join(" "))).collect())) },
    Setting { name: "models.quantise", shape: Shape::Text,
        help: "what chat models of safetensors folders are rounded to as they are loaded: q8_0, or none (halves)",
        set: |c, v| { c.models.quantise = Quantise::parse(&text(v)?).ok_or("must be q8_0 or none")?; Ok(()) },
        get: |c| Some(c.models.quantise.as_str().into()) },
    Setting { name: "models.asr_precision", shape: Shape::Text,
        help: "how decoders of speech models are kept: f16; int8 is faster and less exact; f32 takes twice as much",
        set: |c, v| { c.models.precision = Precision::parse(&text(v)?).ok_or("must be f16, bf16, int8 or f32")?; Ok(()) },
        get: |c| Some(c.models.precision.as_str().into()) },
    Setting { name: "models.chat", shape: Shape::Text,
        help: "chat model for requests that name none",
        set: |c, v| { c.models.chat = Some(text(v)?); Ok(()) },
        get: |c| c.models.chat.clone().map(Value::String) },
    Setting { name: "models.embed", shape: Shape::Text,
        help: "embedding model for requests that name none",
        set: |c, v| { c.models.embed = Some(text(v)?); Ok(()) },
        get: |c| c.models.embed.clone().map(Value::String) },
    Setting { name: "models.asr", shape: Shape::Text,
        help: "speech model for requests that name none",
        set: |c, v| { c.models.asr = Some(text(v)?); Ok(()) },
        get: |c| c.models.asr.clone().map(Value::String) },
    Setting { name: "models.rerank", shape: Shape::Text,
        help: "reranker that puts the passages in order which are found in documents; none does if it is not set",
        set: |c, v| { c.models.rerank = Some(text(v)?); Ok(()) },
        get: |c| c.models.rerank.clone().map(Value::String) },
    Setting { name: "models.aliases", shape: Shape::Map,
        help: "further names for models: name = \"model id\"",
        set: |c, v| { c.models.aliases = map(v)?; Ok(()) },
        get: |c| Some(table(&c.models.aliases)) },
    Setting { name: "responses.keep", shape: Shape::Int,
        help: "responses kept in the home folder for later requests; 0 keeps none and removes those there are",
        set: |c, v| { c.responses.keep = int(v, 0, 1_000_000)? as usize; Ok(()) },
        get: |c| Some((c.responses.keep as i64).into()) },
    Setting { name: "responses.keep_bytes", shape: Shape::Int,
        help: "disk space for them; what was not used for longest goes first",
        set: |c, v| { c.responses.keep_bytes = int(v, 0, 1 << 40)? as u64; Ok(()) },
        get: |c| Some((c.responses.keep_bytes as i64).into()) },
    Setting { name: "files.keep_bytes", shape: Shape::Int,
        help: "disk space for the files that callers leave with /v1/files and with jobs",
        set: |c, v| { c.files.keep_bytes = int(v, 0, 1 << 50)? as u64; Ok(()) },
        get: |c| Some((c.files.keep_bytes as i64).into()) },
    Setting { name: "jobs.keep_s", shape: Shape::Int,
        help: "seconds that what came of a job can be asked for",
        set: |c, v| { c.jobs.keep = seconds(v, 60, 365 * 24 * 3600)?; Ok(()) },
        get: |c| Some((c.jobs.keep.as_secs() as i64).into()) },
    Setting { name: "speakers.keep_audio", shape: Shape::Bool,
        help: "keep the recordings that speakers are enrolled by, so that another speaker model can embed them anew",
        set: |c, v| { c.speakers.keep_audio = boolean(v)?; Ok(()) },
        get: |c| Some(c.speakers.keep_audio.into()) },
    Setting { name: "device.kind", shape: Shape::Text,
        help: if cfg!(feature = "cuda") { "auto, cpu or cuda; auto is a GPU where there is one" } else { "auto or cpu" },
        set: |c, v| { c.device.kind = device_kind(&text(v)?)?; Ok(()) },
        get: |c| Some(match c.device.kind {
            DeviceKind::Auto => "auto", DeviceKind::Cpu => "cpu", DeviceKind::Cuda => "cuda" }.into()) },
    Setting { name: "device.memory_budget_bytes", shape: Shape::Int,
        help: "memory for weights and caches on each device; else what the device has",
        set: |c, v| { c.device.memory_budget_bytes = Some(int(v, 1 << 20, i64::MAX)? as u64); Ok(()) },
        get: |c| c.device.memory_budget_bytes.map(|b| (b as i64).into()) },
    Setting { name: "device.threads", shape: Shape::Int,
        help: "threads of the CPU device; else one a physical core",
        set: |c, v| { c.device.threads = Some(int(v, 1, 1024)? as usize); Ok(()) },
        get: |c| c.device.threads.map(|t| (t as i64).into()) },
];

fn boolean(value: Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".into())
}

fn int(value: Value, min: i64, max: i64) -> Result<i64, String> {
    let n = value.as_integer().ok_or_else(|| format!("must be a whole number from {min} to {max}"))?;
    if n < min || n > max {
        return Err(format!("is {n}; it must be from {min} to {max}"));
    }
    Ok(n)
}

fn seconds(value: Value, min: i64, max: i64) -> Result<Duration, String> {
    Ok(Duration::from_secs(int(value, min, max)?.unsigned_abs()))
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.trim().is_empty() => Err("is empty".into()),
        Value::String(text) if text.len() > MAX_TEXT => Err(format!("is longer than {MAX_TEXT} bytes")),
        Value::String(text) if text.chars().any(char::is_control) => Err("has control characters".into()),
        Value::String(text) => Ok(text),
        _ => Err("must be a string".into()),
    }
}

fn path(value: Value) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text(value)?))
}

fn list(value: Value, each: fn(String) -> Result<String, String>) -> Result<Vec<String>, String> {
    let Value::Array(items) = value else { return Err("must be a list of strings".into()) };
    if items.len() > MAX_ITEMS {
        return Err(format!("has more than {MAX_ITEMS} entries"));
    }
    items.into_iter().map(|item| each(text(item)?)).collect()
}

fn map(value: Value) -> Result<BTreeMap<String, String>, String> {
    let Value::Table(table) = value else { return Err("must be a table of name = \"model id\"".into()) };
    if table.len() > MAX_ITEMS {
        return Err(format!("has more than {MAX_ITEMS} entries"));
    }
    table
        .into_iter()
        .map(|(name, id)| match text(id) {
            Ok(id) => Ok((name, id)),
            Err(message) => Err(format!("has the entry `{name}`, which {message}")),
        })
        .collect()
}

/// Names behind each name, apart by spaces; each once.
fn lists(value: Value) -> Result<BTreeMap<String, Vec<String>>, String> {
    let split = |(name, text): (String, String)| {
        let mut list: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        list.sort();
        list.dedup();
        match list.is_empty() {
            true => Err(format!("has the entry `{name}`, which names none")),
            false => Ok((name, list)),
        }
    };
    map(value)?.into_iter().map(split).collect()
}

fn table(map: &BTreeMap<String, String>) -> Value {
    Value::Table(map.iter().map(|(name, id)| (name.clone(), Value::String(id.clone()))).collect())
}

/// `HOST:PORT`. `localhost` is taken as 127.0.0.1; other names are not looked up, as an address that
/// changes under the server would defeat the check for a public bind.
fn addr(value: Value) -> Result<SocketAddr, String> {
    let text = text(value)?;
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| format!("has the port `{port}`, which is not a number"))?;
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        format!("is `{text}`; it must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080")
    })
}

/// A host name or IP address, without scheme, port or path, in lower case.
fn host(text: String) -> Result<String, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(bare.to_ascii_lowercase());
    }
    let good = text.len() <= 253 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if good {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("has the entry `{text}`; each must be a bare host name, without scheme, port or `*`"))
    }
}

/// A host, and a port where it is not the usual one.
fn host_and_port(text: String) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => match port.parse::<u16>() {
            Ok(port) => Ok(format!("{}:{port}", host(name.to_owned())?)),
            Err(_) => Err(format!("has the entry `{text}`, whose port is none")),
        },
        _ => host(text),
    }
}

/// `scheme://host[:port]`, exactly as browsers send it.
fn origin(text: String) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let good = rest.is_some_and(|authority| {
        !authority.is_empty() && authority.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c))
    });
    if good {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("has the entry `{text}`; each must be an exact origin such as https://chat.example.org"))
    }
}

fn device_kind(text: &str) -> Result<DeviceKind, String> {
    match text {
        "auto" => Ok(DeviceKind::Auto),
        "cpu" => Ok(DeviceKind::Cpu),
        "cuda" if cfg!(feature = "cuda") => Ok(DeviceKind::Cuda),
        "cuda" => Err("is cuda, which this build does not have; `cargo build --release --features cuda` \
                       makes one that does"
            .into()),
        other if cfg!(feature = "cuda") => Err(format!("is {other}; it must be auto, cpu or cuda")),
        other => Err(format!("is {other}; it must be auto or cpu")),
    }
}

fn level(value: Value) -> Result<String, String> {
    let text = text(value)?;
    match tracing_subscriber::EnvFilter::builder().parse(&text) {
        Ok(_) => Ok(text),
        Err(e) => Err(format!("is not a level or filter: {e}")),
    }
}
