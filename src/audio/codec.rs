//! One packet to samples, whatever the codec. Decoders of others that may panic on hostile packets are called
//! behind [`guarded`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::codecs::audio::well_known::{CODEC_ID_OPUS, CODEC_ID_VORBIS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::packet::Packet;

use super::error::Error;
use super::mix;
use super::opus::{self, OpusStream};
use super::vorbis;

/// Runs a third party's parser: a panic in it becomes an error, and the value it worked on must then be
/// reset or dropped.
pub(super) fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| Panicked)
}

/// A parser gave up on its input in the rudest way.
#[derive(Debug)]
pub(super) struct Panicked;

/// A decoder of one track.
pub(super) struct Codec {
    inner: Inner,
    params: AudioCodecParameters,
    interleaved: Vec<f32>,
}

enum Inner {
    Other(Box<dyn AudioDecoder>),
    Opus(Box<OpusStream>),
}

/// The form of the samples of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) rate: u32,
    pub(super) channels: usize,
    /// How long the packet lasts, in samples of its rate.
    pub(super) frames: usize,
}

impl Codec {
    /// A decoder for a track with these parameters.
    pub(super) fn new(params: &AudioCodecParameters) -> Result<Self, Error> {
        if let Some(channels) = params.channels.as_ref().map(|c| c.count())
            && channels > mix::MAX_CHANNELS
        {
            return Err(Error::Unsupported { what: format!("audio with {channels} channels") });
        }
        if let Some(rate) = params.sample_rate
            && !super::resample::RATES.contains(&rate)
        {
            return Err(Error::Unsupported { what: format!("audio at {rate} samples a second") });
        }
        let inner = new_inner(params)?;
        Ok(Codec { inner, params: params.clone(), interleaved: Vec::new() })
    }

    /// Short name of the codec.
    pub(super) fn name(&self) -> &'static str {
        match &self.inner {
            Inner::Other(decoder) => decoder.codec_info().short_name,
            Inner::Opus(_) => "opus",
        }
    }

    /// Whether packets are counted in Opus' clock, so that gaps between them can be told.
    pub(super) fn is_opus(&self) -> bool {
        matches!(self.inner, Inner::Opus(_))
    }

    /// Appends the samples of a packet, mixed to mono, to `mono`. After an error the decoder goes on with the
    /// next packet.
    pub(super) fn decode(&mut self, packet: &Packet, mono: &mut Vec<f32>) -> Result<Spec, String> {
        let before = mono.len();
        let outcome = guarded(|| match &mut self.inner {
            Inner::Opus(stream) => stream
                .decode(&packet.data, packet.trim_end.get(), mono)
                .map(|frames| Spec { rate: opus::RATE, channels: stream.channels(), frames })
                .map_err(str::to_owned),
            Inner::Other(decoder) => decode_other(decoder.as_mut(), packet, &mut self.interleaved, mono),
        });
        if let Ok(Ok(spec)) = outcome {
            return Ok(spec);
        }
        mono.truncate(before);
        match outcome {
            Ok(result) => result,
            Err(Panicked) => {
                self.renew();
                Err("the decoder failed".to_owned())
            }
        }
    }

    /// Replaces a decoder whose state can no longer be trusted.
    fn renew(&mut self) {
        match &mut self.inner {
            Inner::Opus(stream) => stream.reset(),
            Inner::Other(_) => {
                if let Ok(inner) = new_inner(&self.params) {
                    self.inner = inner;
                }
            }
        }
    }
}

fn new_inner(params: &AudioCodecParameters) -> Result<Inner, Error> {
    let damaged = |detail: &str| Error::Unsupported { what: format!("this audio stream ({detail})") };
    if params.codec == CODEC_ID_OPUS {
        let header = params.extra_data.as_deref().unwrap_or_default();
        return OpusStream::new(header).map(|s| Inner::Opus(Box::new(s))).map_err(damaged);
    }
    if params.codec == CODEC_ID_VORBIS && !params.extra_data.as_deref().is_none_or(vorbis::is_believable) {
        return Err(damaged("its codebooks claim too much memory"));
    }
    let registry = symphonia::default::get_codecs();
    if registry.get_audio_decoder(params.codec).is_none() {
        return Err(Error::Unsupported { what: format!("the audio codec ({})", params.codec) });
    }
    let made = guarded(|| registry.make_audio_decoder(params, &AudioDecoderOptions::default()));
    match made {
        Ok(Ok(decoder)) => Ok(Inner::Other(decoder)),
        Ok(Err(e)) => Err(damaged(&e.to_string())),
        Err(Panicked) => Err(damaged("its header is damaged")),
    }
}

fn decode_other(
    decoder: &mut dyn AudioDecoder,
    packet: &Packet,
    interleaved: &mut Vec<f32>,
    mono: &mut Vec<f32>,
) -> Result<Spec, String> {
    let buffer = match decoder.decode(packet) {
        Ok(buffer) => buffer,
        Err(SymphoniaError::ResetRequired) => {
            decoder.reset();
            return Err("the stream changed".to_owned());
        }
        Err(e) => return Err(e.to_string()),
    };
    let spec = buffer.spec();
    let (rate, channels, frames) = (spec.rate(), spec.channels().count(), buffer.frames());
    if channels > mix::MAX_CHANNELS {
        return Err(format!("{channels} channels"));
    }
    buffer.copy_to_vec_interleaved(interleaved);
    mix::down(interleaved, channels, mono);
    Ok(Spec { rate, channels, frames })
}
