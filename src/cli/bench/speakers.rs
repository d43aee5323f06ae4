//! `stentor bench speakers`: whether recordings of one person are told from those of others.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::{Common, Report, rounded};
use crate::cli::installed::helpers;
use crate::cli::transcribe::recordings;
use crate::cli::{diarize, files};
use crate::config::Config;
use crate::service::voices::dot;
use crate::service::{Context, Service, Upload};
use crate::types::model::Kind;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with a folder for each person, and their recordings in it
    #[arg(long, value_name = "DIR")]
    pub audio: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Serialize)]
struct Line {
    case: &'static str,
    recordings: usize,
    people: usize,
    seconds: f64,
    rtfx: f64,
    /// Percent, where as many pairs of one person are missed as of two are taken for one.
    eer: f64,
    /// The cosine there.
    threshold: f64,
    least_same: f64,
    most_different: f64,
    mean_same: f64,
    mean_different: f64,
    sd_different: f64,
}

/// Runs the command: every recording is compared with every other.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let Some(model) = helpers(config, Kind::Speaker)?.into_iter().next() else {
        anyhow::bail!("no speaker model is installed; fetch one with `stentor pull campplus`");
    };
    let found = files::find(std::slice::from_ref(&args.audio), recordings(true))?;
    let who = |path: &Path| path.parent().and_then(Path::file_name).map(std::ffi::OsStr::to_owned);
    let (runtime, service) = diarize::start(config)?;
    let report = Report::begin(&args.common, &model)?;
    let (start, mut seconds) = (Instant::now(), 0.0);
    let mut voices = Vec::new();
    for file in &found.files {
        let (length, embedding) = runtime.block_on(embed(&service, &file.path))?;
        seconds += length;
        voices.push((who(&file.path), embedding));
    }
    let took = start.elapsed().as_secs_f64();
    let (mut same, mut different) = (Vec::new(), Vec::new());
    for (at, (one, a)) in voices.iter().enumerate() {
        for (other, b) in &voices[..at] {
            if one == other { &mut same } else { &mut different }.push(f64::from(dot(a, b)));
        }
    }
    ensure!(
        !same.is_empty() && !different.is_empty(),
        "{} has no two people with two recordings of one of them",
        args.audio.display()
    );
    let mut people: Vec<_> = voices.iter().map(|(who, _)| who).collect();
    people.dedup();
    let line = judge(same, different);
    let line = Line {
        recordings: voices.len(),
        people: people.len(),
        seconds: rounded(took, 2),
        rtfx: rounded(seconds / took, 1),
        ..line
    };
    let name = format!("equal error rate of {} recordings", line.recordings);
    report.case(&line, &name, line.eer, "%")
}

/// What a recording's voice is embedded as, and its seconds.
async fn embed(service: &Service, path: &Path) -> anyhow::Result<(f64, Vec<f32>)> {
    let named = || path.display().to_string();
    let file = File::open(path).with_context(named)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let upload = Upload { file, name, mime: None };
    let mut samples = service.samples(Context::default(), upload, Vec::new()).await.with_context(named)?;
    let sample = samples.pop().filter(|sample| !sample.embedding.is_empty());
    let sample = sample.with_context(|| format!("{}: no speech is heard", named()))?;
    Ok((sample.seconds, sample.embedding))
}

/// What the cosines of pairs of one person and of two say.
fn judge(mut same: Vec<f64>, mut different: Vec<f64>) -> Line {
    same.sort_by(f64::total_cmp);
    different.sort_by(f64::total_cmp);
    let (least, most) = (same[0], different[different.len() - 1]);
    let missed = |at: f64| same.partition_point(|score| *score < at) as f64 / same.len() as f64;
    let taken =
        |at: f64| 1.0 - different.partition_point(|score| *score < at) as f64 / different.len() as f64;
    // Between the two, where they do not overlap; else where both errors are nearest to each other.
    let (threshold, eer) = if least > most {
        ((least + most) / 2.0, 0.0)
    } else {
        let apart = |at: f64| (missed(at) - taken(at)).abs();
        let all = same.iter().chain(&different).copied();
        let at = all.min_by(|a, b| apart(*a).total_cmp(&apart(*b))).unwrap_or(least);
        (at, 50.0 * (missed(at) + taken(at)))
    };
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let centre = mean(&different);
    let variance =
        different.iter().map(|score| (score - centre).powi(2)).sum::<f64>() / different.len() as f64;
    Line {
        case: "speakers",
        recordings: 0,
        people: 0,
        seconds: 0.0,
        rtfx: 0.0,
        eer: rounded(eer, 2),
        threshold: rounded(threshold, 3),
        least_same: rounded(least, 3),
        most_different: rounded(most, 3),
        mean_same: rounded(mean(&same), 3),
        mean_different: rounded(centre, 3),
        sd_different: rounded(variance.sqrt(), 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_equal_where_the_rates_are() {
        let line = judge(vec![0.9, 0.7, 0.8], vec![0.1, 0.3]);
        assert_eq!((line.eer, line.threshold, line.least_same, line.most_different), (0.0, 0.5, 0.7, 0.3));
        let line = judge(vec![0.2, 0.6, 0.7, 0.8], vec![0.1, 0.3, 0.4, 0.65]);
        assert_eq!(line.eer, 25.0);
    }
}
