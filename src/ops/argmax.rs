//! The largest value of each row: greedy decoding's choice.

use candle_core::{Result, Tensor, bail};

/// Index of the largest value, the lowest on a tie; values that are not numbers never win, nor does -infinity: 0 where
/// there is nothing else.
pub fn argmax(values: &[f32]) -> u32 {
    // Maxima of lanes side by side, then where the largest is: loops that vectorise, which one comparison does not.
    const LANES: usize = 32;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    let top = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    let holds = |chunk: &[f32]| chunk.iter().fold(false, |any, v| any | (*v == top));
    let from = chunks.iter().position(|chunk| holds(chunk)).unwrap_or(chunks.len()) * LANES;
    let at = values[from..].iter().position(|v| *v == top);
    // With nothing but what is no number, or infinitely unlikely, the first.
    at.filter(|_| top > f32::NEG_INFINITY).map_or(0, |at| (from + at) as u32)
}

/// [`argmax`] of each row of `x` (rows, n) f32, where they lie: (rows) u32.
///
/// # Errors
/// Not two dimensions, not f32; on a device, rows with gaps.
pub fn argmax_rows(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    #[cfg(feature = "cuda")]
    if let Some(device) = super::gpu::cuda::of(x.device()) {
        use super::gpu::cuda::{address, run, unset};
        let out = unset::<u32>(device, rows)?;
        let found = unset::<u32>(device, (rows, PARTS, 2))?;
        run(device, &launches((address(x)?, rows, width), address(&found)?, address(&out)?))?;
        return Ok(out);
    }
    if rows == 0 || width == 0 {
        bail!("argmax: no values in {:?}", x.shape());
    }
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let best: Vec<u32> = values.chunks_exact(width).map(argmax).collect();
    Tensor::from_vec(best, rows, x.device())
}

/// Blocks that share a row of a vocabulary: one alone reads it in 54 µs on an H100, a fortieth of a step.
#[cfg(any(test, feature = "cuda"))]
const PARTS: usize = 32;

/// `rows` of `width` values at `x`; what is `found` of each part takes 8 bytes.
#[cfg(any(test, feature = "cuda"))]
fn launches((x, rows, width): (u64, usize, usize), found: u64, out: u64) -> [super::gpu::Launch; 2] {
    use super::gpu::Launch;
    [
        Launch::new("argmax_parts", [PARTS, rows, 1], 256).address(x).count(width).address(found),
        Launch::new("argmax_join", [rows, 1, 1], 32).address(found).count(PARTS).address(out),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gpu::host::{at, at_mut, run};
    use crate::ops::testing::noise;

    #[test]
    fn the_first_of_the_largest_and_never_nan() {
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 0);
        assert_eq!((argmax(&[]), argmax(&[f32::NEG_INFINITY; 70])), (0, 0));
        for at in 0..100 {
            let mut values = vec![f32::NAN; 100];
            values[at..].fill(-1.0);
            values[(at + 40).min(99)] = 2.0;
            values[99] = 2.0;
            assert_eq!(argmax(&values), (at as u32 + 40).min(99));
        }
    }

    #[test]
    fn the_kernel_of_a_gpu_chooses_the_same() {
        for width in [1, 31, 1024, 5000] {
            let mut values = noise(4 * width, width as u64);
            // A tie, and rows with nothing to choose from.
            values[width - 1] = 3.0;
            values[width / 2] = 3.0;
            values[width..2 * width].fill(f32::NAN);
            values[2 * width..3 * width].fill(f32::NEG_INFINITY);
            values[4 * width - 1] = f32::MIN;
            values[3 * width..4 * width - 1].fill(f32::NEG_INFINITY);
            let (mut got, mut found) = (vec![u32::MAX; 4], vec![u64::MAX; 4 * PARTS]);
            run(&launches((at(&values), 4, width), at_mut(&mut found), at_mut(&mut got)));
            let want: Vec<u32> = values.chunks_exact(width).map(argmax).collect();
            assert_eq!(got, want);
        }
    }
}
