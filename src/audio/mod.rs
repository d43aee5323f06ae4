//! From a file that somebody sent to what a speech network hears.
//!
//! [`decode`] turns any common audio or video file into 16 kHz mono samples, a bounded chunk at a time;
//! [`MelExtractor`] turns those into log-mel energies; [`log_mel`] joins the two. Nothing holds a whole
//! recording but the energies themselves (58 MB an hour of 80 bins).

mod codec;
mod decode;
mod error;
mod mel;
mod mix;
mod mp4;
mod opus;
mod resample;
mod source;
mod vorbis;

#[cfg(test)]
mod tests;

use std::io::{Read, Seek};

pub use decode::{Decoded, Limits, decode};
pub use error::{Error, Stop, Warning};
pub use mel::MelExtractor;

use crate::types::asr::LogMel;

/// Decodes a file straight into log-mel energies of `bins` bins. `hint` is the file's name or MIME type.
pub fn log_mel<R>(
    source: R,
    hint: Option<&str>,
    limits: &Limits,
    bins: usize,
) -> Result<(LogMel, Decoded), Error>
where
    R: Read + Seek + Send + Sync + 'static,
{
    let mut mel = MelExtractor::new(bins);
    let decoded = decode(source, hint, limits, &mut |samples| {
        mel.push(samples);
        Ok(())
    })?;
    Ok((mel.finish(), decoded))
}
