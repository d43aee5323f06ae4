//! The report for people.

use std::fmt::Write as _;

use super::ledger::{Ledger, Line};
use super::{AddressState, Device, Profile, Report};
use crate::cli::models::columns;
use crate::fetch::bytes_text;

/// The whole report; ends with a line break.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for (i, device) in report.devices.iter().enumerate() {
        row(&mut text, if i == 0 { "device" } else { "" }, &device_text(device));
    }
    for why in &report.gpus_left_out {
        row(&mut text, "no GPU", why);
    }
    row(&mut text, "memory", &memory(report));
    row(&mut text, "home", &home(report));
    row(&mut text, "settings", &settings(report));
    row(&mut text, "downloads", &downloads(report));
    row(&mut text, "address", &address(report));
    row(&mut text, "API keys", &keys(report));
    models(&mut text, report);
    if let Some(memory) = &report.memory {
        ledger(&mut text, memory);
    }
    profiles(&mut text, &report.profiles);
    if report.problems.is_empty() {
        text.push_str("\nNo problems were found.\n");
    } else {
        text.push_str("\nProblems:\n");
        for problem in &report.problems {
            let _ = writeln!(text, "  {problem}");
        }
    }
    text
}

fn row(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "{label:<10} {value}");
}

fn device_text(device: &Device) -> String {
    let mut parts = vec![format!("{}: {}", device.id, device.name)];
    if device.cores > 0 {
        parts.push(format!("{} core{}", device.cores, if device.cores == 1 { "" } else { "s" }));
    }
    if !device.features.is_empty() {
        parts.push(device.features.join(" "));
    } else if device.id == "cpu" && cfg!(target_arch = "x86_64") {
        parts.push("no AVX2: it computes slowly".to_owned());
    }
    let (all, available) = (bytes_text(device.memory_bytes), bytes_text(device.available_bytes));
    parts.push(format!("{all} of memory, {available} available"));
    parts.join(", ")
}

fn memory(report: &Report) -> String {
    let budget = bytes_text(report.budget_bytes);
    let why = match report.budget_origin.as_str() {
        "default" => "nine tenths of what is available".to_owned(),
        origin => format!("device.memory_budget_bytes, {origin}"),
    };
    let held = match report.address.state {
        AddressState::Stentor => "; what the running server holds is not available",
        _ => "",
    };
    format!("models may take {budget} ({why}{held})")
}

fn home(report: &Report) -> String {
    let Some(home) = &report.home else { return "cannot be used".to_owned() };
    let what = match (home.exists, report.models.len()) {
        (false, _) => "is made when it is first needed".to_owned(),
        (true, 0) => "no models".to_owned(),
        (true, 1) => format!("one model of {}", bytes_text(home.models_bytes)),
        (true, n) => format!("{n} models of {}", bytes_text(home.models_bytes)),
    };
    let writable = if home.writable { "" } else { ", not writable" };
    format!("{}: {what}, {} free{writable}", home.path.display(), bytes_text(home.free_bytes))
}

fn settings(report: &Report) -> String {
    match &report.config_file {
        Some(path) => path.display().to_string(),
        None => "no stentor.toml; `stentor config` prints every setting".to_owned(),
    }
}

fn downloads(report: &Report) -> String {
    match (&report.package_client, report.offline) {
        (_, true) => "none: offline".to_owned(),
        (Some(client), _) => format!("from model hubs, and as Python packages with `{client}`"),
        (None, _) => {
            "from model hubs only: install pip or uv for models that come as Python packages".to_owned()
        }
    }
}

fn address(report: &Report) -> String {
    let address = &report.address;
    let addr = &address.addr;
    match (address.state, &address.not_ready, &address.loaded) {
        (AddressState::Free, ..) => format!("{addr} is free"),
        (AddressState::Taken, ..) => format!("{addr} is taken by another program"),
        (AddressState::Unusable, ..) => format!("{addr} cannot be used"),
        (AddressState::Stentor, Some(reason), _) => format!("{addr}: stentor runs, not ready: {reason}"),
        (AddressState::Stentor, None, None) => {
            format!(
                "{addr}: stentor runs and is ready (STENTOR_API_KEY would let this ask what it has loaded)"
            )
        }
        (AddressState::Stentor, None, Some(ids)) if ids.is_empty() => {
            format!("{addr}: stentor runs and is ready")
        }
        (AddressState::Stentor, None, Some(ids)) => {
            format!("{addr}: stentor runs and is ready; loaded: {}", ids.join(", "))
        }
    }
}

fn keys(report: &Report) -> String {
    let keys = &report.keys;
    match (keys.count, keys.only_this_machine) {
        (None, _) => "cannot be read".to_owned(),
        (Some(0), true) => "none; only programs on this machine reach the address".to_owned(),
        (Some(0), false) if keys.no_auth => {
            "none, by no_auth: whoever reaches the address may use it".to_owned()
        }
        (Some(0), false) => "none, and others could reach the address".to_owned(),
        (Some(1), _) => "one".to_owned(),
        (Some(n), _) => n.to_string(),
    }
}

fn models(text: &mut String, report: &Report) {
    if report.models.is_empty() {
        text.push_str(
            "\nNo models are installed; `stentor up` fetches the starter models and serves them.\n",
        );
        return;
    }
    let loaded = |id: &String| report.address.loaded.as_ref().is_some_and(|ids| ids.contains(id));
    let mut rows = vec![["MODEL", "KIND", "FORMAT", "SIZE", "STATUS"].map(str::to_owned)];
    for model in &report.models {
        let status = if loaded(&model.id) { "loaded" } else { model.status };
        let (kind, format) = (model.kind.to_owned(), model.format.to_owned());
        rows.push([model.id.clone(), kind, format, bytes_text(model.bytes), status.to_owned()]);
    }
    let _ = write!(text, "\n{}", columns(&rows));
}

fn ledger(text: &mut String, ledger: &Ledger) {
    let what = match ledger.of.as_str() {
        "installed" => "the installed models".to_owned(),
        name => name.to_owned(),
    };
    let _ = writeln!(text, "\nMemory for {what}:");
    let mut rows = vec![["MODEL", "KIND", "PRECISION", "WEIGHTS", "CACHE", "STEP"].map(str::to_owned)];
    rows.extend(ledger.models.iter().map(|line: &Line| {
        let precision = line.precision.clone().unwrap_or_default();
        let size = |bytes: u64| if bytes == 0 { String::new() } else { bytes_text(bytes) };
        let name = format!("{}{}", line.id, if line.runs { "" } else { " *" });
        let [weights, cache, step] = [line.weights_bytes, line.cache_bytes, line.step_bytes].map(size);
        [name, line.kind.to_owned(), precision, weights, cache, step]
    }));
    text.push_str(&columns(&rows));
    if ledger.models.iter().any(|line| !line.runs) {
        text.push_str("* This version does not run it yet.\n");
    }
    text.push_str("Models take turns: of the steps of those on one device, the largest counts.\n");
    let (needs, budget) = (bytes_text(ledger.needs_bytes), bytes_text(ledger.budget_bytes));
    let _ = match ledger.budget_bytes.checked_sub(ledger.needs_bytes) {
        Some(left) if ledger.fits => {
            writeln!(text, "Together {needs} of {budget}: they fit, {} remain.", bytes_text(left))
        }
        Some(_) => writeln!(
            text,
            "Together {needs} of {budget}: that is enough, and no way to lay them out over the devices is found."
        ),
        None => writeln!(
            text,
            "Together {needs}, {} more than {budget}: they do not fit at once. Models not in use make room.",
            bytes_text(ledger.needs_bytes.saturating_sub(ledger.budget_bytes))
        ),
    };
}

fn profiles(text: &mut String, profiles: &[Profile]) {
    if profiles.is_empty() {
        return;
    }
    let mut rows = vec![["PROFILE", "NEEDS", "FITS", "FOR"].map(str::to_owned)];
    rows.extend(profiles.iter().map(|profile| {
        let fits = if profile.fits { "yes" } else { "no" };
        [profile.id.clone(), bytes_text(profile.needs_bytes), fits.to_owned(), profile.title.clone()]
    }));
    let _ = write!(text, "\n{}", columns(&rows));
}
