//! Voices without models: a recording is a line of text that says who speaks in it.
//!
//! `voice=anna seconds=5 speech=4 snr=30 others=0.1`, all but the first as they are if absent (5, as `seconds`, none, 0);
//! or turns in seconds, `anna@0-4 ben@4-9.5`.

use std::io::Read;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use stentor::service::voices::{Company, Told, Voices};
use stentor::service::{Context, Error, Upload};
use stentor::types::speaker::{Diarization, Embedder, Part, Sample, Speakers, Turn, Voice};

pub const DIM: usize = 192;
const RATE: f64 = 16_000.0;

/// What embeds voices. Cheap to clone; another version makes other vectors.
#[derive(Clone)]
pub struct Throats(Arc<Mutex<Option<Embedder>>>);

impl Default for Throats {
    fn default() -> Throats {
        let embedder = Embedder {
            model: "org/throats".into(),
            version: "1".into(),
            threshold: 0.5,
            strangers: (0.0, 0.07),
        };
        Throats(Arc::new(Mutex::new(Some(embedder))))
    }
}

struct Recording {
    turns: Vec<(String, f64, f64)>,
    seconds: f64,
    speech: f64,
    snr: Option<f32>,
    others: f32,
    text: String,
}

impl Throats {
    /// From now on the model is of this version; without one there is no model.
    pub fn become_version(&self, version: Option<&str>) {
        let mut embedder = self.0.lock().unwrap();
        let version = version.map(str::to_owned);
        let old = embedder.take().unwrap_or_else(|| Throats::default().get().unwrap());
        *embedder = version.map(|version| Embedder { version, ..old });
    }

    fn get(&self) -> Result<Embedder, Error> {
        let none = || Error::Unavailable { reason: "no speaker model".into() };
        self.0.lock().unwrap().clone().ok_or_else(none)
    }
}

/// Numbers that a text and a place in it determine, about normal.
fn noise(seed: &str, at: usize) -> f32 {
    // SplitMix64, from a state that FNV-1a makes of the text.
    let fnv = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let state = seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, fnv);
    let uniform = |number: u64| {
        let mut z = state.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..4).map(|part| uniform(at as u64 * 4 + part + 1)).sum()
}

/// The vector of a voice, nearly: a recording of it is a little off.
pub fn vector(version: &str, voice: &str, recording: &str) -> Vec<f32> {
    let seed = format!("{version}/{voice}");
    let at = |at| noise(&seed, at) + 0.25 * noise(recording, at);
    let values: Vec<f32> = (0..DIM).map(at).collect();
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.into_iter().map(|value| value / length).collect()
}

fn read(mut upload: Upload) -> Result<Recording, Error> {
    let mut text = String::new();
    let read = upload.file.read_to_string(&mut text);
    let wrong = || Error::Invalid { param: "file", message: "this is no recording".into() };
    read.map_err(|_| wrong())?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str| value(name).map(|text| text.parse::<f64>().unwrap());
    let mut turns: Vec<(String, f64, f64)> = Vec::new();
    for (voice, span) in words.iter().filter_map(|word| word.split_once('@')) {
        let (start, end) = span.split_once('-').unwrap();
        turns.push((voice.to_owned(), start.parse().unwrap(), end.parse().unwrap()));
    }
    let seconds = number("seconds").unwrap_or_else(|| turns.iter().map(|t| t.2).fold(5.0, f64::max));
    if let Some(voice) = value("voice") {
        turns.push((voice.to_owned(), 0.0, seconds));
    }
    if turns.is_empty() {
        return Err(wrong());
    }
    let speech = number("speech").unwrap_or_else(|| turns.iter().map(|turn| turn.2 - turn.1).sum());
    let snr = number("snr").map(|snr| snr as f32);
    let others = number("others").unwrap_or(0.0) as f32;
    Ok(Recording { turns, seconds, speech, snr, others, text })
}

impl Recording {
    /// Who is heard most in a part of it, and for how long.
    fn heard(&self, start: f64, end: f64) -> Option<(&str, f64)> {
        let within = |turn: &(String, f64, f64)| (turn.2.min(end) - turn.1.max(start)).max(0.0);
        let most = self.turns.iter().max_by(|a, b| within(a).total_cmp(&within(b)))?;
        Some((most.0.as_str(), within(most))).filter(|(_, seconds)| *seconds > 0.0)
    }

    fn sample(&self, version: &str, part: Option<Part>) -> Sample {
        let (start, end) = match part {
            Some(part) => (part.start as f64 / RATE, part.end as f64 / RATE),
            None => (0.0, self.seconds),
        };
        let heard = self.heard(start, end).filter(|_| self.speech > 0.0);
        let embedding = heard.map(|(voice, _)| vector(version, voice, &format!("{}{start}", self.text)));
        Sample {
            seconds: end - start,
            speech: part.map_or(self.speech, |_| heard.map_or(0.0, |(_, seconds)| seconds)),
            snr_db: self.snr,
            others: self.others,
            embedding: embedding.unwrap_or_default(),
        }
    }
}

impl Voices for Throats {
    fn embedder(&self, _: Context) -> BoxFuture<'_, Result<Embedder, Error>> {
        async move { self.get() }.boxed()
    }

    fn samples(
        &self,
        _: Context,
        upload: Upload,
        parts: Vec<Part>,
    ) -> BoxFuture<'_, Result<Vec<Sample>, Error>> {
        async move {
            let version = self.get()?.version;
            let recording = read(upload)?;
            // As models do, it takes a moment.
            tokio::task::yield_now().await;
            Ok(match parts.is_empty() {
                true => vec![recording.sample(&version, None)],
                false => parts.into_iter().map(|part| recording.sample(&version, Some(part))).collect(),
            })
        }
        .boxed()
    }

    fn diarize(
        &self,
        _: Context,
        upload: Upload,
        speakers: Speakers,
    ) -> BoxFuture<'_, Result<Diarization, Error>> {
        async move {
            let version = self.get()?.version;
            let recording = read(upload)?;
            let mut voices: Vec<(&str, Voice)> = Vec::new();
            let mut turns = Vec::new();
            for (voice, start, end) in &recording.turns {
                let known = voices.iter().position(|(name, _)| name == voice);
                let speaker = known.unwrap_or(voices.len()).min(speakers.most.saturating_sub(1));
                if speaker == voices.len() {
                    let embedding = vector(&version, voice, &recording.text);
                    voices.push((voice, Voice { embedding, seconds: 0.0 }));
                }
                voices[speaker].1.seconds += end - start;
                turns.push(Turn { start: *start, end: *end, speaker });
            }
            let voices = voices.into_iter().map(|(_, voice)| voice).collect();
            Ok(Diarization { duration: recording.seconds, exclusive: turns.clone(), turns, voices })
        }
        .boxed()
    }

    /// Whatever is said: the first second is of one, the rest of another.
    fn company(&self, _: Context) -> BoxFuture<'_, Result<Company, Error>> {
        async move {
            let version = self.get()?.version;
            let (company, mut told) = Company::open();
            tokio::spawn(async move {
                let mut seconds = 0.0;
                while let Some(told) = told.recv().await {
                    match told {
                        Told::Samples(samples) => seconds += samples.len() as f64 / RATE,
                        Told::Asked(reply) => {
                            let _ = reply.send(Ok(two(&version, seconds)));
                        }
                    }
                }
            });
            Ok(company)
        }
        .boxed()
    }
}

fn two(version: &str, seconds: f64) -> Diarization {
    let turns = vec![
        Turn { start: 0.0, end: 1.0, speaker: 0 },
        Turn { start: 1.0, end: seconds.max(1.0), speaker: 1 },
    ];
    let voice = |name| Voice { embedding: vector(version, name, "live"), seconds: 1.0 };
    let voices = vec![voice("anna"), voice("ben")];
    Diarization { duration: seconds, exclusive: turns.clone(), turns, voices }
}
