//! Telephone speech: ITU-T G.711, 8 bits a sample.

/// A mu-law byte as a sample within [-1, 1]: sign, exponent, mantissa, all inverted, with a bias of 33.
pub fn mu_law(byte: u8) -> f32 {
    let bits = !byte;
    let exponent = (bits >> 4) & 7;
    let magnitude = (((i32::from(bits & 15) << 3) + 132) << exponent) - 132;
    let value = if bits & 0x80 == 0 { magnitude } else { -magnitude };
    value as f32 / 32768.0
}

/// An A-law byte as a sample within [-1, 1]: every other bit inverted.
pub fn a_law(byte: u8) -> f32 {
    let bits = byte ^ 0x55;
    let exponent = (bits >> 4) & 7;
    let mantissa = (i32::from(bits & 15) << 4) + 8;
    let magnitude = if exponent == 0 { mantissa } else { (mantissa + 256) << (exponent - 1) };
    let value = if bits & 0x80 == 0 { -magnitude } else { magnitude };
    value as f32 / 32768.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corners_are_those_of_the_recommendation() {
        let mu = |byte| (mu_law(byte) * 32768.0) as i32;
        assert_eq!([mu(0xff), mu(0x7f), mu(0x80), mu(0x00), mu(0xfe)], [0, 0, 32124, -32124, 8]);
        let a = |byte| (a_law(byte) * 32768.0) as i32;
        assert_eq!([a(0xd5), a(0x55), a(0xaa), a(0x2a), a(0xd4)], [8, -8, 32256, -32256, 24]);
    }

    #[test]
    fn louder_codes_are_louder_samples() {
        for law in [mu_law, a_law] {
            let mut values: Vec<f32> = (0..=255).map(law).collect();
            values.sort_by(f32::total_cmp);
            assert!(values.iter().all(|v| v.abs() <= 1.0));
            let sum: f32 = values.iter().sum();
            assert!(sum.abs() < 1e-3, "as many loud ones on either side: {sum}");
        }
    }
}
