//! Guessing what a sequence says next, and how many guesses a step should check.
//!
//! A step that computes a sequence's last token can compute guessed ones behind it (Leviathan et al. 2023): those that
//! turn out to be what the sequence says anyway are had for the price of a wider step. What is said does not depend on
//! the guesses: tokens are sampled from (seed, position, logits) as without them.
//!
//! [`Lookup`] guesses that what followed the last few tokens before will follow them again (Saxena 2023). [`Pace`]
//! learns what wider steps cost, and [`choose`] checks guesses only where that and the share of guesses that came true
//! make the batch faster.

use std::collections::HashMap;

/// Tokens that are looked up. Shorter runs come back by chance.
const RUN: usize = 3;
/// Guesses checked in one step of one sequence.
pub const MOST: usize = 8;

/// Where a sequence's runs of [`RUN`] tokens came last.
#[derive(Debug, Default)]
pub struct Lookup {
    /// From a run to the position behind it.
    seen: HashMap<[u32; RUN], usize>,
    /// Runs that end before this position are in `seen`.
    indexed: usize,
}

impl Lookup {
    /// What may follow `tokens`, which only ever grow: `most` tokens, or none. Where the continuation reaches the end
    /// it starts over, as text that repeats itself does.
    pub fn guess(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        let Some(last) = tokens.last_chunk::<RUN>() else { return Vec::new() };
        while self.indexed + RUN < tokens.len() {
            if let Some(run) = tokens[self.indexed..].first_chunk::<RUN>() {
                self.seen.insert(*run, self.indexed + RUN);
            }
            self.indexed += 1;
        }
        match self.seen.get(last) {
            Some(&from) => tokens[from..].iter().copied().cycle().take(most).collect(),
            None => Vec::new(),
        }
    }
}

/// The share of a sequence's guesses that came true, recent ones before others. A guess is compared with what is said
/// whether it was checked or not, so this is known of sequences that do not speculate, at no cost.
#[derive(Debug, Clone, Copy)]
pub struct Luck(f64);

impl Default for Luck {
    fn default() -> Self {
        Luck(0.5)
    }
}

impl Luck {
    /// Of a model that guesses, before it has: high enough for it to be tried.
    const MODEL: f64 = 0.8;

    /// Of a sequence for which a model guesses.
    pub fn of_model() -> Self {
        Luck(Self::MODEL)
    }

    /// What a guess moves it by.
    const STEP: f64 = 0.2;

    /// A guess came true, or not.
    pub fn note(&mut self, hit: bool) {
        self.0 += Self::STEP * (f64::from(u8::from(hit)) - self.0);
    }

    /// The model was not asked: what is known of it grows old, so that it is tried again after some hundred tokens.
    pub fn forget(&mut self) {
        self.0 += 0.001 * (Self::MODEL - self.0);
    }

    /// The probability that the next guess comes true.
    pub fn share(self) -> f64 {
        self.0
    }
}

/// What a step costs by its rows: a line through the steps of late, by least squares with weights that fall by
/// [`KEEP`](Self::KEEP) a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
    /// Of the line, as a share of a step's mean cost; kept while all steps are of one width.
    slope: Option<f64>,
}

impl Pace {
    const KEEP: f64 = 0.97;
    /// What a row is taken to add to a step of one row before there is any step to learn from, as a share of that step:
    /// what two cores with AVX-512 were measured to need with small models.
    const GUESS: f64 = 0.2;

    /// A step that decoded `rows` tokens took so long.
    pub fn note(&mut self, rows: usize, seconds: f64) {
        let rows = rows as f64;
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.seconds, seconds),
            (&mut self.rows_rows, rows * rows),
            (&mut self.rows_seconds, rows * seconds),
        ] {
            *sum = *sum * Self::KEEP + new;
        }
        let (mean, spread) = self.rows();
        if spread > 0.5 && self.seconds > 0.0 {
            let slope = (self.rows_seconds / self.weight - mean * self.seconds / self.weight) / spread;
            // Wider steps are never cheaper, whatever the clock says.
            self.slope = Some((slope / (self.seconds / self.weight)).max(0.0));
        }
    }

    /// Mean and variance of the rows.
    fn rows(&self) -> (f64, f64) {
        let mean = self.rows / self.weight;
        (mean, self.rows_rows / self.weight - mean * mean)
    }

    /// A step of `rows` of a model that guesses for one that has `pace`; a quarter of its step until there was one.
    pub fn cost_beside(&self, pace: &Pace, rows: usize) -> f64 {
        if self.weight > 0.0 { self.cost(rows) } else { pace.cost(rows) / 4.0 }
    }

    /// A step of `rows`, in seconds up to a constant factor.
    pub fn cost(&self, rows: usize) -> f64 {
        if self.weight == 0.0 {
            return 1.0 + Self::GUESS * (rows as f64 - 1.0);
        }
        let (mean, _) = self.rows();
        let slope = self.slope.unwrap_or(Self::GUESS / (1.0 + Self::GUESS * (mean - 1.0)));
        // Not below a tenth of the mean: a line through noise may cross zero.
        (1.0 + slope * (rows as f64 - mean)).max(0.1) * self.seconds / self.weight
    }
}

/// How many guesses of each sequence a step should check. `each` has the luck and the guesses of the sequences that
/// decode; `level` is what guessing one token further takes, for all of them; `room` bounds the step's rows. All zero
/// unless the batch gains a twentieth and nobody in it loses a fiftieth: a wider step is a slower one for those whose
/// guesses do not come true.
pub fn choose(pace: &Pace, level: f64, each: &[(Luck, usize)], room: usize) -> Vec<usize> {
    let mut counts = vec![0; each.len()];
    // A further guess counts if all before it come true.
    let mut gains: Vec<(f64, usize, usize)> = (each.iter().enumerate())
        .flat_map(|(at, &(luck, guesses))| {
            (1..=guesses.min(MOST)).map(move |depth| (luck.share().powi(depth as i32), at, depth))
        })
        .collect();
    gains.sort_by(|a, b| b.0.total_cmp(&a.0));
    gains.truncate(room.saturating_sub(each.len()));
    let alone = pace.cost(each.len());
    let mut said = vec![1.0; each.len()];
    let (mut levels, mut best) = (0, (1.05 * each.len() as f64 / alone, 0));
    for (count, &(gain, at, depth)) in (1..).zip(&gains) {
        said[at] += gain;
        levels = levels.max(depth);
        let cost = pace.cost(each.len() + count) + level * levels as f64;
        let rate = said.iter().sum::<f64>() / cost;
        let least = said.iter().copied().fold(f64::INFINITY, f64::min);
        if rate > best.0 && least * alone >= 0.98 * cost {
            best = (rate, count);
        }
    }
    for &(_, at, _) in &gains[..best.1] {
        counts[at] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed_and_starts_over_at_the_end() {
        let mut lookup = Lookup::default();
        assert!(lookup.guess(&[1, 2], 4).is_empty());
        assert!(lookup.guess(&[1, 2, 3, 4, 5], 4).is_empty());
        assert_eq!(lookup.guess(&[1, 2, 3, 4, 5, 1, 2, 3], 4), [4, 5, 1, 2]);
        // The latest place counts, and a run is not its own continuation.
        assert_eq!(lookup.guess(&[1, 2, 3, 4, 5, 1, 2, 3, 9, 1, 2, 3], 2), [9, 1]);
        assert_eq!(Lookup::default().guess(&[7; 5], 3), [7; 3]);
    }

    fn luck(share: f64) -> Luck {
        Luck(share)
    }

    #[test]
    fn guesses_are_checked_only_where_they_pay() {
        let mut pace = Pace::default();
        // A row adds a tenth of what the first costs: bound by reading weights.
        (0..50).for_each(|i| pace.note(1 + i % 8, 0.9 + 0.1 * (1 + i % 8) as f64));
        assert_eq!(choose(&pace, 0.0, &[(luck(0.9), 8)], 64), [8]);
        assert_eq!(choose(&pace, 0.0, &[(luck(0.02), 8)], 64), [0]);
        let mixed = choose(&pace, 0.0, &[(luck(0.9), 8), (luck(0.6), 2)], 64);
        assert!(mixed[0] > mixed[1] && mixed[1] > 0, "{mixed:?}");
        // One that has nothing to gain would wait for the others' guesses.
        assert_eq!(choose(&pace, 0.0, &[(luck(0.9), 8), (luck(0.02), 8), (luck(0.9), 8)], 64), [0; 3]);
        // A model that guesses has to be cheap.
        assert!(choose(&pace, 0.1, &[(luck(0.9), 8)], 64)[0] > 2);
        assert_eq!(choose(&pace, 1.0, &[(luck(0.9), 8)], 64), [0]);
        assert!(
            choose(&pace, 0.0, &[(luck(0.9), 8); 3], 5).iter().sum::<usize>() <= 2,
            "no more rows than there is room"
        );
        // Every row costs the same: nothing is gained by more of them.
        let mut pace = Pace::default();
        (0..50).for_each(|i| pace.note(1 + i % 8, (1 + i % 8) as f64));
        assert_eq!(choose(&pace, 0.0, &[(luck(0.95), 8), (luck(0.95), 8)], 64), [0, 0]);
    }

    #[test]
    fn a_line_is_learned_and_kept_while_all_steps_are_alike() {
        let mut pace = Pace::default();
        let cost = |rows: usize| 0.010 + 0.002 * rows as f64;
        (0..40).for_each(|i| pace.note(1 + i % 4, cost(1 + i % 4)));
        assert!((pace.cost(8) / cost(8) - 1.0).abs() < 0.05, "{}", pace.cost(8));
        (0..400).for_each(|_| pace.note(2, cost(2)));
        assert!((pace.cost(8) / cost(8) - 1.0).abs() < 0.1, "{}", pace.cost(8));
        // The same machine, half as fast: what is known of the shape stays.
        (0..400).for_each(|_| pace.note(2, 2.0 * cost(2)));
        assert!((pace.cost(8) / (2.0 * cost(8)) - 1.0).abs() < 0.1, "{}", pace.cost(8));
    }

    #[test]
    fn luck_follows_what_came_true() {
        let mut luck = Luck::default();
        (0..40).for_each(|_| luck.note(false));
        assert!(luck.share() < 0.02);
        (0..40).for_each(|_| luck.note(true));
        assert!(luck.share() > 0.98);
    }
}
