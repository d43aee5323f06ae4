//! Any audio file to 16 kHz mono, a bounded chunk at a time.
//!
//! symphonia takes containers apart and decodes all but Opus. Everything a file says is doubted: its content
//! decides what it is, its lengths only serve to notice that it was cut short, limits are checked while
//! decoding, and third-party parsers run behind a guard against panics, a budget of reads
//! ([`source`](super::source)) and a bound on packets that yield nothing.

use std::io::{Read, Seek};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use super::codec::{Codec, Panicked, Spec, guarded};
use super::error::{Error, Stop, Warning};
use super::resample::{CHUNK, Resampler, Sink};
use super::{mp4, opus, source};
use crate::types::asr::SAMPLE_RATE;

/// Packets in a row that yield no sample before the rest of the file counts as garbage.
const MAX_FRUITLESS: u32 = 500;
/// Packets in a row of other tracks before the audio counts as over: two hours of video.
const MAX_FOREIGN: u32 = 250_000;
/// Times that a stream may change its sample rate or begin anew.
const MAX_CHANGES: u32 = 1000;
/// Gaps between Opus packets up to this long are filled with silence; larger ones are jumps of the clock.
const MAX_GAP_SECONDS: f64 = 2.0;
/// Gaps below this are rounding of time stamps.
const MIN_GAP_SECONDS: f64 = 0.04;
/// A file may be this much shorter than its header says: encoders count delay and padding differently.
const LENGTH_TOLERANCE_SECONDS: f64 = 0.25;

/// What a file may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Seconds of audio, however few bytes they take.
    pub max_seconds: u64,
}

impl Default for Limits {
    /// Four hours.
    fn default() -> Self {
        Limits { max_seconds: 4 * 3600 }
    }
}

/// What was decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Samples at 16 kHz that the sink was given.
    pub samples: u64,
    /// Their length.
    pub seconds: f64,
    /// Samples a second of the file.
    pub source_rate: u32,
    /// Channels of the file.
    pub channels: usize,
    pub codec: &'static str,
    pub container: &'static str,
    /// Packets left out because they could not be decoded.
    pub skipped_packets: u64,
    /// What was wrong with the file, if it could be decoded all the same.
    pub warning: Option<Warning>,
}

/// Decodes a file into 16 kHz mono samples within [-1, 1] and gives them to `sink` in order, at most 4096 at
/// once; the whole recording is never held. `hint` is the file's name or MIME type and only ever breaks ties.
///
/// The sink ends the work by returning [`Stop`]. A file damaged after its beginning yields what could be
/// decoded and a [`Warning`]; one that yields nothing, or mostly garbage, is an [`Error`].
pub fn decode<R>(
    source: R,
    hint: Option<&str>,
    limits: &Limits,
    sink: &mut dyn FnMut(&[f32]) -> Result<(), Stop>,
) -> Result<Decoded, Error>
where
    R: Read + Seek + Send + Sync + 'static,
{
    let mut source = source::open(source)?;
    let facts = source.facts();
    let delay = if facts.container == Some("mp4") { mp4::audio_delay(&mut source)? } else { None };
    let format = probe(source, hint, facts.container)?;
    let container = format.format_info().short_name;
    let (track, codec) = choose_track(format.as_ref(), container)?;
    let mut run = Run {
        container,
        codec_name: codec.name(),
        promised: if facts.length_known { promised_seconds(&track) } else { None },
        clock: seconds_per_tick(&track),
        track: track.id,
        codec,
        format,
        resampler: None,
        limit: limits.max_seconds.saturating_mul(u64::from(SAMPLE_RATE)),
        limit_seconds: limits.max_seconds,
        given: 0,
        mono: Vec::new(),
        trim: delay,
        first: None,
        next_tick: None,
        good: 0,
        skipped: 0,
        changes: 0,
        detail: String::new(),
    };
    let end = run.packets(sink)?;
    run.flush(sink)?;
    run.report(end)
}

fn probe<R>(
    source: source::Source<R>,
    hint: Option<&str>,
    looks_like: Option<&'static str>,
) -> Result<Box<dyn FormatReader>, Error>
where
    R: Read + Seek + Send + Sync + 'static,
{
    let mut probe_hint = Hint::new();
    if let Some(hint) = hint {
        match hint.rsplit_once('.') {
            Some((_, extension)) => probe_hint.with_extension(&extension.to_ascii_lowercase()),
            None => probe_hint.mime_type(hint),
        };
    }
    let stream = MediaSourceStream::new(Box::new(source), Default::default());
    let probed = guarded(|| {
        symphonia::default::get_probe().probe(
            &probe_hint,
            stream,
            FormatOptions::default(),
            MetadataOptions::default(),
        )
    });
    let detail = match probed {
        Ok(Ok(format)) => return Ok(format),
        Ok(Err(e)) => e.to_string(),
        Err(Panicked) => "its header is damaged".to_owned(),
    };
    Err(match looks_like {
        Some(container) => Error::Corrupt { container, at_seconds: 0.0, detail },
        None => Error::Unsupported { what: "this kind of file".to_owned() },
    })
}

/// The default audio track, or else the first that can be decoded.
fn choose_track(format: &dyn FormatReader, container: &'static str) -> Result<(Track, Codec), Error> {
    let default = format.default_track(TrackType::Audio).map(|t| t.id);
    let mut tracks: Vec<&Track> =
        format.tracks().iter().filter(|t| t.track_type() == Some(TrackType::Audio)).collect();
    tracks.sort_by_key(|t| Some(t.id) != default);
    let mut failed = None;
    for track in tracks {
        let Some(CodecParameters::Audio(params)) = &track.codec_params else { continue };
        match Codec::new(params) {
            Ok(codec) => return Ok((track.clone(), codec)),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    if let Some(e) = failed {
        return Err(e);
    }
    if format.tracks().iter().any(|t| t.codec_params.is_none()) {
        return Err(Error::Unsupported { what: format!("the codec in this {container} file") });
    }
    Err(Error::NoAudioTrack { container })
}

/// Seconds that the header promises.
fn promised_seconds(track: &Track) -> Option<f64> {
    let Some(CodecParameters::Audio(params)) = &track.codec_params else { return None };
    if let (Some(frames), Some(rate)) = (track.num_frames, params.sample_rate) {
        return Some(frames as f64 / f64::from(rate.max(1)));
    }
    Some(track.duration?.get() as f64 * seconds_per_tick(track)?)
}

fn seconds_per_tick(track: &Track) -> Option<f64> {
    track.time_base.map(|tb| f64::from(tb.numer.get()) / f64::from(tb.denom.get()))
}

/// How a file came to its end.
enum End {
    Clean,
    Damaged(String),
}

/// One file being decoded.
struct Run {
    container: &'static str,
    codec_name: &'static str,
    format: Box<dyn FormatReader>,
    track: u32,
    codec: Codec,
    /// Seconds a tick of the track's time stamps.
    clock: Option<f64>,
    promised: Option<f64>,
    resampler: Option<Resampler>,
    /// Most samples to give.
    limit: u64,
    limit_seconds: u64,
    /// Samples given by resamplers that are done.
    given: u64,
    mono: Vec<f32>,
    /// Seconds still to be dropped from the front.
    trim: Option<f64>,
    /// Form of the first packet.
    first: Option<Spec>,
    /// Where the next Opus packet should begin, in seconds.
    next_tick: Option<f64>,
    good: u64,
    skipped: u64,
    changes: u32,
    /// Why the last bad packet was bad.
    detail: String,
}

impl Run {
    /// Samples given so far.
    fn samples(&self) -> u64 {
        self.given + self.resampler.as_ref().map_or(0, Resampler::given)
    }

    fn seconds(&self) -> f64 {
        self.samples() as f64 / f64::from(SAMPLE_RATE)
    }

    /// Decodes packets until there are none, or none worth having.
    fn packets(&mut self, sink: Sink<'_>) -> Result<End, Error> {
        let (mut fruitless, mut foreign) = (0u32, 0u32);
        loop {
            if fruitless >= MAX_FRUITLESS {
                return Ok(End::Damaged(format!("{fruitless} packets in a row: {}", self.detail)));
            }
            let packet = match guarded(|| self.format.next_packet()) {
                Ok(Ok(Some(packet))) => packet,
                Ok(Ok(None)) => return Ok(End::Clean),
                Ok(Err(SymphoniaError::ResetRequired)) => match self.restart() {
                    Ok(()) => continue,
                    Err(e) => return Ok(End::Damaged(e.to_string())),
                },
                Ok(Err(SymphoniaError::DecodeError(detail))) => {
                    self.skip(detail);
                    fruitless += 1;
                    continue;
                }
                Ok(Err(SymphoniaError::IoError(e))) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Ok(End::Damaged("the file was cut short".to_owned()));
                }
                Ok(Err(e)) => return Ok(End::Damaged(e.to_string())),
                Err(Panicked) => return Ok(End::Damaged("its structure makes no sense".to_owned())),
            };
            if packet.track_id != self.track {
                foreign += 1;
                if foreign >= MAX_FOREIGN {
                    return Ok(End::Damaged("no audio follows".to_owned()));
                }
                continue;
            }
            foreign = 0;
            fruitless = if self.packet(&packet, sink)? { 0 } else { fruitless + 1 };
        }
    }

    /// Decodes one packet and hands its samples on. False if it yielded none.
    fn packet(&mut self, packet: &Packet, sink: Sink<'_>) -> Result<bool, Error> {
        self.mono.clear();
        let spec = match self.codec.decode(packet, &mut self.mono) {
            Ok(spec) => spec,
            Err(detail) => {
                self.skip(&detail);
                return Ok(false);
            }
        };
        if spec.frames == 0 {
            return Ok(false);
        }
        self.tune(spec, sink)?;
        self.fill_gap(packet, spec, sink)?;
        self.good += 1;
        let mono = std::mem::take(&mut self.mono);
        let result = self.give(&mono, spec.rate, sink);
        self.mono = mono;
        result.map(|()| true)
    }

    /// Makes the resampler fit the packet's rate.
    fn tune(&mut self, spec: Spec, sink: Sink<'_>) -> Result<(), Error> {
        self.first.get_or_insert(spec);
        if self.resampler.as_ref().is_some_and(|r| r.rate() == spec.rate) {
            return Ok(());
        }
        self.changes += 1;
        if self.changes > MAX_CHANGES {
            return Err(self.corrupt("its sample rate keeps changing".to_owned()));
        }
        self.flush(sink)?;
        self.resampler = Some(Resampler::new(spec.rate)?);
        Ok(())
    }

    /// Gives silence for Opus packets that were lost, or never sent because nobody spoke: what follows keeps
    /// its time.
    fn fill_gap(&mut self, packet: &Packet, spec: Spec, sink: Sink<'_>) -> Result<(), Error> {
        if !self.codec.is_opus() {
            return Ok(());
        }
        let Some(clock) = self.clock else { return Ok(()) };
        let at = packet.pts.get() as f64 * clock;
        let length = spec.frames as f64 / f64::from(opus::RATE);
        if let Some(expected) = self.next_tick
            && (MIN_GAP_SECONDS..=MAX_GAP_SECONDS).contains(&(at - expected))
        {
            let missing = ((at - expected) * f64::from(opus::RATE)) as usize;
            let silence = [0.0f32; CHUNK];
            for start in (0..missing).step_by(CHUNK) {
                self.give(&silence[..CHUNK.min(missing - start)], spec.rate, sink)?;
            }
            self.next_tick = Some(at + length);
            return Ok(());
        }
        // Within rounding, count samples rather than stamps: errors of stamps must not add up.
        self.next_tick = match self.next_tick {
            Some(expected) if (at - expected).abs() < MIN_GAP_SECONDS => Some(expected + length),
            _ => Some(at + length),
        };
        Ok(())
    }

    /// Drops what is left of the delay, resamples the rest and hands it on.
    fn give(&mut self, mut mono: &[f32], rate: u32, sink: Sink<'_>) -> Result<(), Error> {
        if let Some(trim) = self.trim {
            let drop = ((trim * f64::from(rate)).round() as usize).min(mono.len());
            mono = mono.get(drop..).unwrap_or_default();
            let left = trim - drop as f64 / f64::from(rate);
            self.trim = (left * f64::from(rate) >= 0.5).then_some(left);
        }
        let already = self.given;
        let (limit, limit_seconds) = (self.limit, self.limit_seconds);
        let Some(resampler) = self.resampler.as_mut() else { return Ok(()) };
        // The limit is on what is taken in, so that it trips before the excess is resampled.
        let coming = (mono.len() as u64).saturating_mul(u64::from(SAMPLE_RATE)) / u64::from(rate.max(1));
        if already + resampler.given() + coming > limit {
            return Err(Error::TooLong { limit_seconds });
        }
        resampler.push(mono, sink)
    }

    fn flush(&mut self, sink: Sink<'_>) -> Result<(), Error> {
        if let Some(mut resampler) = self.resampler.take() {
            resampler.finish(sink)?;
            self.given += resampler.given();
        }
        Ok(())
    }

    /// A new stream begins in the same file: chained Ogg, as radio recordings are.
    fn restart(&mut self) -> Result<(), Error> {
        self.changes += 1;
        if self.changes > MAX_CHANGES {
            return Err(self.corrupt("it keeps beginning anew".to_owned()));
        }
        let (track, codec) = choose_track(self.format.as_ref(), self.container)?;
        self.track = track.id;
        self.clock = seconds_per_tick(&track);
        self.codec = codec;
        self.next_tick = None;
        self.promised = None;
        Ok(())
    }

    fn skip(&mut self, detail: &str) {
        self.skipped += 1;
        self.detail.clear();
        self.detail.push_str(detail);
    }

    fn corrupt(&self, detail: String) -> Error {
        Error::Corrupt { container: self.container, at_seconds: self.seconds(), detail }
    }

    /// Judges the whole: an error if nothing or mostly garbage came of it.
    fn report(self, end: End) -> Result<Decoded, Error> {
        let (samples, seconds) = (self.samples(), self.seconds());
        if samples == 0 || (self.skipped > self.good && self.skipped >= 50) {
            return Err(match end {
                End::Damaged(detail) => self.corrupt(detail),
                End::Clean if self.skipped > 0 => self.corrupt(self.detail.clone()),
                End::Clean => Error::ZeroLength { container: self.container },
            });
        }
        let short = self.promised.filter(|&p| seconds + LENGTH_TOLERANCE_SECONDS < p);
        let warning = match (end, short) {
            (_, Some(promised)) => {
                Some(Warning::Truncated { at_seconds: seconds, promised_seconds: promised })
            }
            (End::Damaged(detail), None) => Some(Warning::Damaged { at_seconds: seconds, detail }),
            (End::Clean, None) if self.skipped > 0 => Some(Warning::Skipped { packets: self.skipped }),
            (End::Clean, None) => None,
        };
        Ok(Decoded {
            samples,
            seconds,
            source_rate: self.first.map_or(0, |s| s.rate),
            channels: self.first.map_or(0, |s| s.channels),
            codec: self.codec_name,
            container: self.container,
            skipped_packets: self.skipped,
            warning,
        })
    }
}
