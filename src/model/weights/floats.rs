//! Floats of a file, widened to f32 as they are read.

use candle_core::quantized::GgmlDType;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::{Error, WeightsFile};

/// Bytes converted at a time.
const CHUNK: usize = 1 << 20;

/// Fills `values` with numbers of f32, f16 or bf16 that lie from `at` on; `field` names them in errors.
///
/// # Errors
/// A file that ends before, another type than these three, a value that is NaN or infinite.
pub(super) fn read(
    file: &WeightsFile,
    field: &str,
    dtype: GgmlDType,
    at: u64,
    values: &mut [f32],
) -> Result<(), Error> {
    match dtype {
        GgmlDType::F32 => {
            file.read_exact_at(bytemuck::cast_slice_mut(values), at, field)?;
            if cfg!(target_endian = "big") {
                values.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits().swap_bytes()));
            }
        }
        GgmlDType::F16 => widen(file, values, at, field, |halves, out| {
            halves.reinterpret_cast::<f16>().convert_to_f32_slice(out);
        })?,
        GgmlDType::BF16 => widen(file, values, at, field, |halves, out| {
            halves.reinterpret_cast::<bf16>().convert_to_f32_slice(out);
        })?,
        other => {
            let problem = format!("is of type {other:?}; f32, f16 and bf16 can be read");
            return Err(Error::unsupported(file.path(), field, problem));
        }
    }
    match first_not_finite(values) {
        None => Ok(()),
        Some(i) => Err(Error::malformed(file.path(), field, format!("value {i} is {}", values[i]))),
    }
}

/// Reads two-byte floats a piece at a time and widens them.
fn widen(
    file: &WeightsFile,
    out: &mut [f32],
    at: u64,
    field: &str,
    f: fn(&[u16], &mut [f32]),
) -> Result<(), Error> {
    let mut halves = vec![0u16; (CHUNK / 2).min(out.len())];
    let mut at = at;
    for part in out.chunks_mut(CHUNK / 2) {
        let halves = &mut halves[..part.len()];
        file.read_exact_at(bytemuck::cast_slice_mut(halves), at, field)?;
        if cfg!(target_endian = "big") {
            halves.iter_mut().for_each(|v| *v = v.swap_bytes());
        }
        f(halves, part);
        at += 2 * halves.len() as u64;
    }
    Ok(())
}

/// Where the first NaN or infinity is. Whole runs are looked at by their exponents alone, which compiles to a
/// vector loop.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    values.chunks(4096).enumerate().find_map(|(i, run)| {
        let bad = run.iter().fold(false, |bad, v| bad | (v.to_bits() & EXPONENT == EXPONENT));
        let first = if bad { run.iter().position(|v| !v.is_finite())? } else { return None };
        Some(i * 4096 + first)
    })
}
