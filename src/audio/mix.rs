//! Any number of channels to one.

/// No recorder gives more; a header that asks for more is not believed.
pub(super) const MAX_CHANNELS: usize = 32;
/// Beyond this a float sample is damage, and would overflow the filters behind.
const LOUDEST: f32 = 16.0;

/// Appends the mean of the channels of each frame of `interleaved` to `out`. Samples that are not numbers
/// become silence.
pub(super) fn down(interleaved: &[f32], channels: usize, out: &mut Vec<f32>) {
    let clean = |s: f32| if s.is_finite() { s.clamp(-LOUDEST, LOUDEST) } else { 0.0 };
    match channels {
        0 => {}
        1 => out.extend(interleaved.iter().map(|&s| clean(s))),
        2 => out.extend(interleaved.chunks_exact(2).map(|lr| 0.5 * (clean(lr[0]) + clean(lr[1])))),
        n => {
            let scale = 1.0 / n as f32;
            out.extend(interleaved.chunks_exact(n).map(|f| f.iter().map(|&s| clean(s)).sum::<f32>() * scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::down;

    #[test]
    fn means_and_cleans() {
        let mut out = Vec::new();
        down(&[1.0, 0.0, f32::NAN, 1.0, f32::INFINITY, -1e30], 2, &mut out);
        assert_eq!(out, [0.5, 0.5, -8.0]);
        out.clear();
        down(&[3.0, 0.0, 0.0, 6.0], 3, &mut out);
        assert_eq!(out, [1.0]);
        down(&[1.0], 0, &mut out);
        assert_eq!(out.len(), 1);
    }
}
