//! From the bytes that clients send to samples at 16 kHz.

use crate::audio::{self, Resampler, a_law, mu_law};
use crate::service::Error;

/// How samples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// 16 bits, little-endian, so many a second.
    Pcm16 { rate: u32 },
    /// G.711 at 8 kHz.
    MuLaw,
    /// G.711 at 8 kHz.
    ALaw,
}

impl Encoding {
    fn rate(self) -> u32 {
        match self {
            Encoding::Pcm16 { rate } => rate,
            Encoding::MuLaw | Encoding::ALaw => 8_000,
        }
    }
}

/// One stream of bytes.
pub struct Decoder {
    encoding: Encoding,
    resampler: Resampler,
}

impl Decoder {
    /// # Errors
    /// No such sample rate can be heard.
    pub fn new(encoding: Encoding) -> Result<Decoder, Error> {
        let resampler = Resampler::new(encoding.rate()).map_err(failed)?;
        Ok(Decoder { encoding, resampler })
    }

    /// What the next bytes add; a few hundredths of a second stay in the filter.
    ///
    /// # Errors
    /// The bytes are no whole samples.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        let samples: Vec<f32> = match self.encoding {
            Encoding::Pcm16 { .. } => {
                let (pairs, rest) = bytes.as_chunks::<2>();
                if !rest.is_empty() {
                    let message = format!("{} bytes are no whole samples of 16 bits", bytes.len());
                    return Err(Error::Invalid { param: "audio", message });
                }
                pairs.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32768.0).collect()
            }
            Encoding::MuLaw => bytes.iter().copied().map(mu_law).collect(),
            Encoding::ALaw => bytes.iter().copied().map(a_law).collect(),
        };
        let mut out = Vec::with_capacity(samples.len());
        let mut sink = |part: &[f32]| {
            out.extend_from_slice(part);
            Ok(())
        };
        self.resampler.push(&samples, &mut sink).map_err(failed)?;
        Ok(out)
    }

    /// What is left in the filter; what comes next begins anew.
    ///
    /// # Errors
    /// The filter failed.
    pub fn flush(&mut self) -> Result<Vec<f32>, Error> {
        let mut out = Vec::new();
        let mut sink = |part: &[f32]| {
            out.extend_from_slice(part);
            Ok(())
        };
        self.resampler.finish(&mut sink).map_err(failed)?;
        self.resampler = Resampler::new(self.encoding.rate()).map_err(failed)?;
        Ok(out)
    }
}

fn failed(error: audio::Error) -> Error {
    match error {
        audio::Error::Unsupported { what } => {
            let message = format!("{what} cannot be heard");
            Error::Invalid { param: "audio", message }
        }
        other => Error::Internal { detail: format!("a stream of audio: {other}") },
    }
}
