//! Texts to embed: stretches of one long text, chosen as Python's `random.Random(0)` chooses them.

use std::path::Path;

use anyhow::{Context as _, ensure};

/// Where Debian and its like keep the licence that the other engines' script takes its words from.
const GPL: &str = "/usr/share/common-licenses/GPL-3";
/// Fewest words a file must have, and how many the built-in passage is repeated to.
const MIN_WORDS: usize = 1000;
const BUILT_IN_WORDS: usize = 5000;
/// Prose, for the usual number of tokens a word.
const PASSAGE: &str = "every river that reaches the sea carries with it the sand of mountains long since worn \
    away and the people who live along its banks have learned to read the colour of the water as others read \
    a newspaper for it tells them when the snow has melted when the harvest upstream has failed and whether \
    the bridge below the old mill will stand another winter without repairs from the engineers of the county";

/// A long text's words, and what chooses among them.
pub struct Words {
    words: Vec<String>,
    source: String,
    random: Mersenne,
}

impl Words {
    /// The words of `file`, else of the default text.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Words> {
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let path = file.unwrap_or(Path::new(GPL));
        let (words, source) = match std::fs::read_to_string(path) {
            Ok(text) => (split(&text), path.display().to_string()),
            Err(error) if file.is_some() => return Err(error).with_context(|| path.display().to_string()),
            Err(_) => {
                let words =
                    PASSAGE.split_whitespace().map(str::to_owned).cycle().take(BUILT_IN_WORDS).collect();
                (words, "a built-in passage: texts differ from the other engines' script".to_owned())
            }
        };
        ensure!(words.len() >= MIN_WORDS, "{source} has {} words; {MIN_WORDS} are needed", words.len());
        Ok(Words { words, source, random: Mersenne::new(0) })
    }

    /// Where the words come from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// `count` texts of `low..high` words each, all places drawn first to last as the script draws them.
    pub fn texts(&mut self, count: usize, low: usize, high: usize) -> Vec<String> {
        let places = self.words.len().saturating_sub(high);
        let mut text = || {
            let from = self.random.below(places);
            let len = low + self.random.below(high.saturating_sub(low));
            self.words.iter().skip(from).take(len).map(String::as_str).collect::<Vec<_>>().join(" ")
        };
        (0..count).map(|_| text()).collect()
    }
}

const N: usize = 624;
const M: usize = 397;

/// MT19937 (Matsumoto and Nishimura 1998), seeded and drawn from as CPython's `random.Random` does.
struct Mersenne {
    state: [u32; N],
    at: usize,
}

impl Mersenne {
    /// `random.Random(seed)` for a seed of 32 bits: the reference's `init_by_array` with one word.
    fn new(seed: u32) -> Mersenne {
        let mut state = [0u32; N];
        let mut last = 19_650_218u32;
        state[0] = last;
        for (i, s) in state.iter_mut().enumerate().skip(1) {
            last = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
            *s = last;
        }
        let mix = |previous: u32| previous ^ (previous >> 30);
        let mut i = 1;
        let advance = |i: &mut usize, state: &mut [u32; N]| {
            *i += 1;
            if *i == N {
                state[0] = state[N - 1];
                *i = 1;
            }
        };
        for _ in 0..N {
            state[i] = (state[i] ^ mix(state[i - 1]).wrapping_mul(1_664_525)).wrapping_add(seed);
            advance(&mut i, &mut state);
        }
        for _ in 0..N - 1 {
            state[i] = (state[i] ^ mix(state[i - 1]).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            advance(&mut i, &mut state);
        }
        state[0] = 0x8000_0000;
        Mersenne { state, at: N }
    }

    fn next(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `randrange(n)`: draws of as many bits as `n` has, until one is below it. `n` is below 2^32; of 0, 0.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        if bits == 0 {
            return 0;
        }
        loop {
            let draw = (self.next() >> (32 - bits.min(32))) as usize;
            if draw < n {
                return draw;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_python() {
        // python3 -c 'import random; r = random.Random(0); print([r.randrange(n) for n in (5000, 12, 1, 624, 2**31)])'
        let mut random = Mersenne::new(0);
        let draws = [5000, 12, 1, 624, 1 << 31].map(|n| random.below(n));
        assert_eq!(draws, [3155, 6, 0, 265, 2087043557]);
        // python3 -c 'import random; r = random.Random(0); print([r.randrange(1000) for _ in range(2000)][-1])'
        let mut random = Mersenne::new(0);
        assert_eq!((0..2000).map(|_| random.below(1000)).last(), Some(550));
    }

    #[test]
    fn texts_have_the_lengths_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("words.txt");
        std::fs::write(&file, "one two\nthree ".repeat(400)).unwrap();
        let mut words = Words::read(Some(&file)).unwrap();
        let texts = words.texts(100, 8, 20);
        assert_eq!(texts.len(), 100);
        assert!(texts.iter().all(|t| (8..20).contains(&t.split(' ').count())));
        std::fs::write(&file, "too short").unwrap();
        assert!(Words::read(Some(&file)).is_err());
        assert!(Words::read(Some(&dir.path().join("none"))).is_err());
    }
}
