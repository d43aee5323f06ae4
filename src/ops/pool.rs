//! From the vectors of a text's tokens to one vector of length 1.

use candle_core::{DType, Result, Tensor, bail};

use super::cpu;

/// Which of a row's token vectors make its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first, of the token that BERT calls `[CLS]`.
    First,
    /// The last: a network that looks back only has seen the whole row there.
    Last,
}

/// One vector a row, scaled to length 1, from `(tokens, width)`; row `i` is the tokens `starts[i]..starts[i + 1]`.
///
/// A vector of zeros stays zeros.
///
/// # Errors
/// A row without tokens, or `starts` that do not rise from 0 to `tokens`; on the CPU, an `x` that is not contiguous.
pub fn pool_rows(x: &Tensor, starts: &[usize], pooling: Pooling) -> Result<Vec<Vec<f32>>> {
    let (tokens, width) = x.dims2()?;
    let rising = starts.windows(2).all(|w| w[0] < w[1]);
    if starts.first() != Some(&0) || starts.last() != Some(&tokens) || !rising {
        bail!("pool: row starts must rise from 0 to {tokens}, each row with a token");
    }
    let taken = |w: &[usize]| match pooling {
        Pooling::Mean => w[0]..w[1],
        Pooling::First => w[0]..w[0] + 1,
        Pooling::Last => w[1] - 1..w[1],
    };
    if cpu::fused(&[x]) {
        return cpu::with(x, "pool", |x| {
            Ok(starts
                .windows(2)
                .map(|w| unit(mean(&x[taken(w).start * width..taken(w).end * width], width)))
                .collect())
        });
    }
    if starts.len() < 2 {
        return Ok(Vec::new());
    }
    let rows = match pooling {
        // One launch for all rows.
        Pooling::First | Pooling::Last => {
            let at: Vec<u32> = starts.windows(2).map(|w| taken(w).start as u32).collect();
            x.contiguous()?.index_select(&Tensor::new(at, x.device())?, 0)?
        }
        Pooling::Mean => {
            let mean =
                |w: &[usize]| x.narrow(0, taken(w).start, taken(w).len())?.to_dtype(DType::F32)?.mean(0);
            Tensor::stack(&starts.windows(2).map(mean).collect::<Result<Vec<_>>>()?, 0)?
        }
    };
    Ok(rows.to_dtype(DType::F32)?.to_vec2::<f32>()?.into_iter().map(unit).collect())
}

fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f32; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
    let count = (rows.len() / width.max(1)) as f32;
    sum.iter_mut().for_each(|s| *s /= count);
    sum
}

/// `v` divided by its Euclidean norm; the norm is at least 1e-12, as PyTorch's `normalize` has it.
pub(crate) fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let norm = v.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(1e-12);
    v.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    v
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn means_firsts_and_lasts_have_length_one() {
        let x = Tensor::new(&[[3.0f32, 0.0], [3.0, 8.0], [0.0, 5.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        for x in [x.clone(), x.to_dtype(DType::F64).unwrap()] {
            let mean = pool_rows(&x, &[0, 2, 3, 4], Pooling::Mean).unwrap();
            assert_eq!(mean, [[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]]);
            let first = pool_rows(&x, &[0, 2, 3, 4], Pooling::First).unwrap();
            assert_eq!(first, [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]);
            let last = pool_rows(&x, &[0, 1, 3, 4], Pooling::Last).unwrap();
            assert_eq!(last, [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]);
        }
        for starts in [&[0, 2, 2, 4][..], &[0, 3], &[1, 4], &[]] {
            assert!(pool_rows(&x, starts, Pooling::Mean).is_err());
        }
    }
}
