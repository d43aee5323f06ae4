//! `stentor doctor`: what this machine has, whether what is set up works, and which models fit.
//!
//! Nothing is changed, fetched or loaded. What is broken is a line in [`Report::problems`] with its remedy, and
//! makes the exit status 8.

mod ledger;
mod show;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::PathBuf;

use serde::Serialize;

use super::{Exit, out, running};
use crate::app::{self, Machine};
use crate::config::Config;
use crate::fetch::{self, Disk, Entry, Library, Status, bytes_text};
use crate::types::model::Installed;
use ledger::{Books, Ledger};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Reckon the memory for this profile or model [default: the installed models, else starter]
    #[arg(long, value_name = "PROFILE|ID")]
    pub profile: Option<String>,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// All that was found, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    /// The server takes the first.
    devices: Vec<Device>,
    /// Bytes of the first device that loaded models may take together.
    /// Why there are no more GPUs.
    gpus_left_out: Vec<String>,
    budget_bytes: u64,
    /// Where the budget comes from: `default` (nine tenths of what is available), or a file, variable or flag.
    budget_origin: String,
    home: Option<Home>,
    /// `None`: there is none.
    config_file: Option<PathBuf>,
    offline: bool,
    /// The command that fetches Python wheels. Not looked for when offline.
    package_client: Option<String>,
    address: Address,
    keys: Keys,
    models: Vec<Model>,
    memory: Option<Ledger>,
    profiles: Vec<Profile>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Device {
    id: String,
    name: String,
    /// 0 for a GPU.
    cores: usize,
    features: Vec<&'static str>,
    memory_bytes: u64,
    available_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Home {
    path: PathBuf,
    exists: bool,
    writable: bool,
    free_bytes: u64,
    /// Of installed models, those registered elsewhere included.
    models_bytes: u64,
}

/// Whether the server could listen, or does.
#[derive(Debug, Serialize)]
struct Address {
    addr: String,
    state: AddressState,
    /// Why the server that answers there is not ready.
    not_ready: Option<String>,
    /// What the server that answers there holds in memory; `None` where none told.
    loaded: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum AddressState {
    Free,
    /// A server of this program answers.
    Stentor,
    /// Another program listens.
    Taken,
    Unusable,
}

#[derive(Debug, Serialize)]
struct Keys {
    /// `None`: they cannot be read.
    count: Option<usize>,
    no_auth: bool,
    /// Only programs on this machine reach the address.
    only_this_machine: bool,
}

#[derive(Debug, Serialize)]
struct Model {
    id: String,
    kind: &'static str,
    format: &'static str,
    bytes: u64,
    status: &'static str,
    note: Option<String>,
}

/// Whether a profile's models fit together.
#[derive(Debug, Serialize)]
struct Profile {
    id: String,
    title: String,
    needs_bytes: u64,
    fits: bool,
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let report = examine(config, args.profile.as_deref())?;
    match args.json {
        true => out::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
        false => out::print(&show::text(&report))?,
    }
    match report.problems.len() {
        0 => Ok(()),
        1 => Err(Exit::broken("one problem was found".to_owned()).into()),
        n => Err(Exit::broken(format!("{n} problems were found")).into()),
    }
}

/// Looks at everything.
///
/// # Errors
/// A profile that is not known. What is broken is no error, but in the report.
fn examine(config: &Config, profile: Option<&str>) -> Result<Report, fetch::Error> {
    let mut problems = Vec::new();
    let machine = app::machine(config);
    if machine.budget() == 0 {
        problems
            .push("the memory that is available cannot be told; set device.memory_budget_bytes".to_owned());
    }
    let address = address(config, &mut problems);
    let keys = keys(config, &mut problems);
    let package_client = if config.offline { None } else { fetch::package_client() };
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        devices: machine.devices.iter().map(device).collect(),
        gpus_left_out: machine.left_out.clone(),
        budget_bytes: machine.budget(),
        budget_origin: config.origin("device.memory_budget_bytes").to_string(),
        home: None,
        config_file: config.file().is_file().then(|| config.file().to_owned()),
        offline: config.offline,
        package_client,
        address,
        keys,
        models: Vec::new(),
        memory: None,
        profiles: Vec::new(),
        problems,
    };
    match Library::open(&config.home) {
        Ok(library) => add_models(&mut report, config, &machine, &library, profile)?,
        Err(error) => report.problems.push(error.to_string()),
    }
    report.home = home(config, &report.models, &mut report.problems);
    Ok(report)
}

fn device(info: &app::Device) -> Device {
    Device {
        id: info.id.clone(),
        name: info.name.clone(),
        cores: info.cores,
        features: info.features.clone(),
        memory_bytes: info.memory,
        available_bytes: info.available,
    }
}

fn home(config: &Config, models: &[Model], problems: &mut Vec<String>) -> Option<Home> {
    let path = config.home.clone();
    let disk = match Disk::of(&path) {
        Ok(disk) => disk,
        Err(error) => {
            problems.push(format!("the home folder cannot be used: {error}; set STENTOR_HOME to another"));
            return None;
        }
    };
    if let Some(error) = &disk.refused {
        problems.push(format!(
            "nothing can be written to the home folder {} ({error}): give this user the right to, or set \
             STENTOR_HOME to another folder",
            path.display()
        ));
    }
    if disk.is_full() {
        problems.push(format!(
            "the disk of {} has only {} free: free some, or set STENTOR_HOME to a larger disk",
            path.display(),
            bytes_text(disk.free)
        ));
    }
    let models_bytes = models.iter().map(|m| m.bytes).fold(0, u64::saturating_add);
    let (exists, writable) = (disk.exists, disk.refused.is_none());
    Some(Home { path, exists, writable, free_bytes: disk.free, models_bytes })
}

fn address(config: &Config, problems: &mut Vec<String>) -> Address {
    let addr = config.addr;
    let mut address =
        Address { addr: addr.to_string(), state: AddressState::Free, not_ready: None, loaded: None };
    let Err(error) = TcpListener::bind(addr) else { return address };
    if error.kind() != ErrorKind::AddrInUse {
        address.state = AddressState::Unusable;
        problems.push(format!("cannot listen on {addr}: {error}; choose another address ({ADDRESS})"));
    } else if let Some(running) = running::server(addr) {
        address.state = AddressState::Stentor;
        if let Some(reason) = &running.not_ready {
            problems.push(format!("the server on {addr} is not ready: {reason}; its log says more"));
        }
        (address.not_ready, address.loaded) = (running.not_ready, running.loaded);
    } else {
        address.state = AddressState::Taken;
        problems.push(format!(
            "{addr} is taken by another program: stop that one, or choose another address ({ADDRESS})"
        ));
    }
    address
}

/// How an address is chosen.
const ADDRESS: &str = "--addr, STENTOR_ADDR or `addr` in stentor.toml";

fn keys(config: &Config, problems: &mut Vec<String>) -> Keys {
    let keys = config.api_keys();
    match &keys {
        Ok(keys) => problems.extend(config.check_listen(keys).err().map(|e| e.to_string())),
        Err(error) => problems.push(error.to_string()),
    }
    Keys {
        count: keys.ok().map(|keys| keys.len()),
        no_auth: config.no_auth,
        only_this_machine: config.addr.ip().to_canonical().is_loopback(),
    }
}

/// What is installed, and what of it and of the profiles fits.
fn add_models(
    report: &mut Report,
    config: &Config,
    machine: &Machine,
    library: &Library,
    profile: Option<&str>,
) -> Result<(), fetch::Error> {
    let (entries, installed) = match library.status().and_then(|all| Ok((all, library.installed()?))) {
        Ok(found) => found,
        Err(error) => {
            report.problems.push(error.to_string());
            return Ok(());
        }
    };
    let here = entries.iter().filter(|entry| entry.status != Status::Missing);
    for entry in here {
        report.problems.extend(damage(entry, library));
        report.models.push(model(entry));
    }
    if !installed.is_empty() {
        report.problems.extend(names_without_model(config, library, &installed));
    }
    let books = Books { config, machine, library, installed: &installed };
    let memory = match profile {
        Some(name) => books.named(name)?,
        None if installed.is_empty() => books.named("starter")?,
        None => books.installed(),
    };
    report.problems.extend(too_large(&memory, profile.is_some()));
    report.memory = Some(memory);
    for profile in library.catalog().profiles() {
        let ledger = books.named(&profile.id)?;
        let (id, title) = (profile.id.clone(), profile.title.clone());
        report.profiles.push(Profile { id, title, needs_bytes: ledger.needs_bytes, fits: ledger.fits });
    }
    Ok(())
}

fn model(entry: &Entry) -> Model {
    Model {
        id: entry.id.clone(),
        kind: entry.kind.as_str(),
        format: entry.format.as_str(),
        bytes: entry.bytes,
        status: entry.status.as_str(),
        note: entry.note.clone(),
    }
}

fn damage(entry: &Entry, library: &Library) -> Option<String> {
    let (id, note) = (&entry.id, entry.note.as_ref()?);
    // An imported model never has the id of a manifest.
    let mend = match library.catalog().get(id) {
        Some(_) => format!("`stentor pull {id}` mends it"),
        None => format!("put its files back and import it again, or forget it with `stentor rm {id}`"),
    };
    Some(format!("{id} is damaged: {note}; {mend}"))
}

/// Settings that name models which are not here.
fn names_without_model(config: &Config, library: &Library, installed: &[Installed]) -> Vec<String> {
    let known = |name: &str| installed.iter().any(|m| m.id == name || m.aliases.iter().any(|a| a == name));
    let m = &config.models;
    let mut problems: Vec<String> =
        app::preload(config, library, installed).err().map(|e| e.to_string()).into_iter().collect();
    let defaults = [("models.chat", &m.chat), ("models.embed", &m.embed), ("models.asr", &m.asr)];
    for (setting, name) in defaults {
        if let Some(name) = name.as_ref().filter(|name| !known(name)) {
            problems.push(format!(
                "{setting} names `{name}`, which is not installed ({}); fetch it with `stentor pull {name}`",
                config.origin(setting)
            ));
        }
    }
    for (alias, id) in m.aliases.iter().filter(|(_, id)| !installed.iter().any(|m| m.id == **id)) {
        problems.push(format!(
            "models.aliases: `{alias}` stands for `{id}`, which is no installed model's id ({}); fetch it with \
             `stentor pull {id}`",
            config.origin("models.aliases")
        ));
    }
    problems
}

/// What was asked for and does not fit together; of installed models, which take turns, each that does not fit
/// alone.
fn too_large(memory: &Ledger, asked: bool) -> Vec<String> {
    let remedy = "use a smaller one, or raise device.memory_budget_bytes if there is more memory";
    if asked && !memory.fits {
        let budget = bytes_text(memory.budget_bytes);
        let needs = bytes_text(memory.needs_bytes);
        return vec![format!("{} needs {needs} of memory and may take {budget}: {remedy}", memory.of)];
    }
    let large =
        memory.models.iter().filter(|line| memory.of == "installed" && line.needs() > memory.largest_bytes);
    let budget = bytes_text(memory.largest_bytes);
    let problem = |line: &ledger::Line| {
        format!("{} needs {} of memory and may take {budget}: {remedy}", line.id, bytes_text(line.needs()))
    };
    large.map(problem).collect()
}
