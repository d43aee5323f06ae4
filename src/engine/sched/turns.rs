//! Whose step is next on a device that several models share.
//!
//! A step cannot be interrupted, so what one model computes is what readers of another wait for. Readers of text that is
//! being written ([`Kind::Stream`]) see every such wait; everybody else waits for an end, and sees the sum. Hence:
//!
//! * Models that write take turns, a step each: a *round*. After each, others may have [`SHARE`] of the time that the round
//!   took. What they do not use is kept for them.
//! * A step that fits into one round's share goes with a round. The rest is saved up, and spent at once after
//!   [`SPACING`] rounds: of the waits between words less than one in twenty is longer than the share allows, so that
//!   their 95th percentile stays within 1 + [`SHARE`] times what it is without others. Longer steps overdraw, and are
//!   waited for as much longer.
//! * Work that a person waits for has a time by which it is to begin. Past that it may take as long after each round as the
//!   round did, a step at least, and what it takes is counted.
//! * Where nobody writes, whoever had the least time is next, so that long steps of one do not starve short ones of another.
//!
//! Pure: times are passed in, models are keys.

use std::collections::BTreeMap;
use std::time::Duration;

/// Time of others for each second of rounds.
pub const SHARE: f64 = 0.4;
/// Rounds from one burst of longer steps to the next: 1 in 24 is less than the 1 in 20 beyond a 95th percentile.
pub const SPACING: u32 = 24;
/// What a step of one among several should take where it can be cut to size.
const QUANTUM: Duration = Duration::from_millis(100);
/// Weight of the last step in what the next is expected to take.
const NEWEST: f64 = 0.25;

/// What a model's next step is. Those of one kind take about as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The next token of answers that are being written.
    Stream,
    /// Prompts of answers that have not begun.
    Prompt,
    /// Sound that is to be heard.
    Encode,
    /// The next token of transcripts.
    Decode,
    /// Rows that are done after it.
    Rows,
}

/// A model that has a step to compute.
#[derive(Debug, Clone, Copy)]
pub struct Offer<K> {
    pub key: K,
    pub kind: Kind,
    /// Whether somebody waits for it for longer than they should.
    pub overdue: bool,
}

/// Whose step is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn<K> {
    pub key: K,
    /// What it should take at most, where it can be cut to size.
    pub room: Option<Duration>,
}

/// What is known of one model. Times within are in seconds.
#[derive(Debug, Default, Clone)]
struct Account {
    /// Time it has had for what is not [`Kind::Stream`]; not behind [`Turns::clock`] while it has steps.
    had: f64,
    /// Whether it had a step when it was last asked.
    active: bool,
    /// What its steps take.
    costs: BTreeMap<Kind, f64>,
    /// Whether it wrote in this round.
    wrote: bool,
}

/// The books of one device. Times within are in seconds.
#[derive(Debug)]
pub struct Turns<K> {
    accounts: BTreeMap<K, Account>,
    /// Time that others may take: what they have saved, or, below 0, what they overdrew.
    saved: f64,
    /// What the steps of this round took, and what those of a round usually take.
    round: f64,
    usual: f64,
    /// What others have had since the last round.
    since: f64,
    /// Rounds since the last burst.
    rounds: u32,
    bursting: bool,
    /// What whoever was last chosen for having had the least had had then.
    clock: f64,
}

impl<K: Ord + Copy> Default for Turns<K> {
    fn default() -> Self {
        let (saved, round, usual, since, clock) = (0.0, 0.0, 0.0, 0.0, 0.0);
        Turns { accounts: BTreeMap::new(), saved, round, usual, since, rounds: 0, bursting: false, clock }
    }
}

impl<K: Ord + Copy> Turns<K> {
    /// Whose step is next, of those who have one, a model once at most; `None` where nobody has.
    pub fn next(&mut self, offers: &[Offer<K>]) -> Option<Turn<K>> {
        self.note(offers);
        let (streams, others): (Vec<Offer<K>>, Vec<Offer<K>>) =
            offers.iter().partition(|offer| offer.kind == Kind::Stream);
        let Some(first) = streams.first() else {
            self.break_off();
            let room = (others.len() > 1).then_some(QUANTUM);
            return self.least(&others, |_| true).map(|key| Turn { key, room });
        };
        let wrote = |key: &K| self.accounts.get(key).is_some_and(|account| account.wrote);
        let within = self.accounts.values().any(|account| account.wrote);
        match streams.iter().find(|offer| !wrote(&offer.key)) {
            Some(next) if within => return Some(Turn { key: next.key, room: None }),
            Some(_) => {}
            None => self.end_round(),
        }
        if let Some(turn) = self.between(&others) {
            return Some(turn);
        }
        self.since = 0.0;
        Some(Turn { key: first.key, room: None })
    }

    /// A step has taken so long.
    pub fn took(&mut self, key: K, kind: Kind, time: Duration) {
        let seconds = time.as_secs_f64();
        let account = self.accounts.entry(key).or_default();
        let cost = account.costs.entry(kind).or_insert(seconds);
        *cost += (seconds - *cost) * NEWEST;
        if kind == Kind::Stream {
            account.wrote = true;
            self.round += seconds;
        } else {
            account.had += seconds;
            self.saved -= seconds;
            self.since += seconds;
        }
    }

    /// The model is gone.
    pub fn forget(&mut self, key: K) {
        self.accounts.remove(&key);
    }

    /// Whoever comes new, or back, begins with those who are there: nobody saves up turns while there is nothing to do.
    fn note(&mut self, offers: &[Offer<K>]) {
        for offer in offers {
            self.accounts.entry(offer.key).or_default();
        }
        for (key, account) in &mut self.accounts {
            let active = offers.iter().any(|offer| offer.key == *key);
            if active && !account.active {
                account.had = account.had.max(self.clock);
            }
            account.active = active;
        }
    }

    /// Nobody writes any more.
    fn break_off(&mut self) {
        self.accounts.values_mut().for_each(|account| account.wrote = false);
        (self.saved, self.round, self.since) = (0.0, 0.0, 0.0);
        self.end_burst();
    }

    fn end_round(&mut self) {
        self.accounts.values_mut().for_each(|account| account.wrote = false);
        let old = if self.usual > 0.0 { self.usual } else { self.round };
        self.usual = old + (self.round - old) * NEWEST;
        let most = SHARE * self.usual * f64::from(SPACING);
        self.saved = (self.saved + SHARE * self.round).min(most);
        self.round = 0.0;
        self.rounds = self.rounds.saturating_add(1);
        self.end_burst();
    }

    fn end_burst(&mut self) {
        if std::mem::take(&mut self.bursting) {
            self.rounds = 0;
        }
    }

    /// Who of the others goes between two rounds.
    fn between(&mut self, others: &[Offer<K>]) -> Option<Turn<K>> {
        let share = SHARE * self.usual;
        let room = |seconds: f64| Some(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        let may = self.since <= 0.0 || self.since < self.usual;
        if let Some(key) = self.least(others, |offer| offer.overdue && may) {
            return Some(Turn { key, room: room(self.usual.max(QUANTUM.as_secs_f64() / 2.0)) });
        }
        // The one whose turn it is, or none: shorter steps of others would use up what its longer one is saved up for.
        let key = self.least(others, |_| true)?;
        let offer = others.iter().find(|offer| offer.key == key)?;
        let left = (share - self.since).min(self.saved);
        let cost = self.accounts.get(&key).and_then(|account| account.costs.get(&offer.kind));
        if cost.is_some_and(|cost| *cost <= left) {
            return Some(Turn { key, room: room(left) });
        }
        // What is left of a burst at last is less than is worth a step, and is kept.
        let may = if self.bursting { self.saved > share } else { self.saved > 0.0 && self.rounds >= SPACING };
        self.bursting |= may;
        may.then(|| Turn { key, room: room(self.saved.max(share)) })
    }

    /// Who had the least time, of those that `may`.
    fn least(&mut self, offers: &[Offer<K>], may: impl Fn(&Offer<K>) -> bool) -> Option<K> {
        let had = |key: &K| self.accounts.get(key).map_or(0.0, |account| account.had);
        let may = offers.iter().filter(|offer| may(offer));
        let key = may.min_by(|a, b| had(&a.key).total_cmp(&had(&b.key)))?.key;
        self.clock = self.clock.max(had(&key));
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A model that always has a step.
    #[derive(Debug, Clone, Copy)]
    struct Load {
        kind: Kind,
        ms: f64,
        /// Whether steps shrink to the room they are given, to a tenth at most.
        shrinks: bool,
    }

    fn load(kind: Kind, ms: f64) -> Load {
        Load { kind, ms, shrinks: false }
    }

    /// What each had of so many seconds, and the waits between two steps of the first, in milliseconds.
    fn simulate(loads: &[Load], seconds: f64) -> (Vec<f64>, Vec<f64>) {
        let mut turns = Turns::default();
        let (mut now, mut had, mut waits, mut last) = (0.0, vec![0.0; loads.len()], Vec::new(), 0.0);
        let offers: Vec<Offer<usize>> = loads
            .iter()
            .enumerate()
            .map(|(key, load)| Offer { key, kind: load.kind, overdue: false })
            .collect();
        while now < seconds * 1e3 {
            let turn = turns.next(&offers).unwrap();
            let Load { kind, ms, shrinks } = loads[turn.key];
            let room = turn.room.map_or(f64::INFINITY, |room| room.as_secs_f64() * 1e3);
            let took = if shrinks { ms.min(room.max(ms / 10.0)) } else { ms };
            now += took;
            had[turn.key] += took;
            if turn.key == 0 {
                waits.push(now - last);
                last = now;
            }
            turns.took(turn.key, kind, Duration::from_secs_f64(took / 1e3));
        }
        (had, waits)
    }

    fn percentile_95(mut waits: Vec<f64>) -> f64 {
        waits.sort_by(f64::total_cmp);
        waits[waits.len() * 95 / 100]
    }

    #[test]
    fn alone_everybody_has_all_time() {
        for kind in [Kind::Stream, Kind::Rows] {
            let turn = Turns::default().next(&[Offer { key: 'a', kind, overdue: false }]).unwrap();
            assert_eq!(turn, Turn { key: 'a', room: None });
        }
        assert_eq!(Turns::<char>::default().next(&[]), None);
    }

    proptest! {
        /// The promise: whatever steps of others take, 95 of 100 waits for the next word stay within 1.5 times what they
        /// are without others, and others have the share that they are due.
        #[test]
        fn words_come_in_time_and_others_have_their_share(
            stream in 1.0..50.0f64,
            others in prop::collection::vec((1.0..400.0f64, any::<bool>()), 1..4),
        ) {
            let mut loads = vec![load(Kind::Stream, stream)];
            let kinds = [Kind::Encode, Kind::Decode, Kind::Rows];
            loads.extend(others.iter().zip(kinds).map(|(&(ms, shrinks), kind)| Load { kind, ms, shrinks }));
            let (had, waits) = simulate(&loads, 400.0);
            prop_assert!(percentile_95(waits) <= 1.5 * stream);
            let rest: f64 = had[1..].iter().sum();
            let due = SHARE / (1.0 + SHARE);
            prop_assert!((rest / (rest + had[0]) - due).abs() < 0.03, "{had:?}");
            for (at, time) in had.iter().enumerate().skip(1) {
                let (least, most) = (0.5 * rest / others.len() as f64 - 2e3, loads[at].ms);
                prop_assert!(*time > least.max(most), "{at} of {had:?}");
            }
        }

        /// Where nobody writes, all have the same time, however long their steps are.
        #[test]
        fn time_is_shared_and_not_steps(costs in prop::collection::vec(1.0..500.0f64, 2..5)) {
            let loads: Vec<Load> = costs.iter().map(|&ms| load(Kind::Rows, ms)).collect();
            let (had, _) = simulate(&loads, 60.0);
            let longest = costs.iter().copied().fold(0.0, f64::max);
            for time in &had {
                prop_assert!((time - had[0]).abs() <= 2.0 * longest, "{had:?}");
            }
        }
    }

    #[test]
    fn those_who_write_take_turns() {
        let loads = [load(Kind::Stream, 5.0), load(Kind::Stream, 20.0), load(Kind::Decode, 3.0)];
        let (had, waits) = simulate(&loads, 20.0);
        assert!((had[1] / had[0] - 4.0).abs() < 0.1, "{had:?}");
        assert!(percentile_95(waits) <= 1.5 * 25.0);
    }

    #[test]
    fn what_is_overdue_goes_first_and_is_counted() {
        let mut turns = Turns::default();
        let stream = Offer { key: 0, kind: Kind::Stream, overdue: false };
        let late = Offer { key: 1, kind: Kind::Decode, overdue: true };
        let bulk = Offer { key: 2, kind: Kind::Encode, overdue: false };
        let ms = Duration::from_millis;
        for _ in 0..3 {
            assert_eq!(turns.next(&[stream, bulk]).unwrap().key, 0);
            turns.took(0, Kind::Stream, ms(10));
        }
        assert_eq!(turns.next(&[stream, bulk, late]).unwrap().key, 1);
        turns.took(1, Kind::Decode, ms(1000));
        for _ in 0..SPACING * 4 {
            assert_eq!(turns.next(&[stream, bulk]).unwrap().key, 0, "what was overdrawn is waited for");
            turns.took(0, Kind::Stream, ms(10));
        }
    }

    #[test]
    fn what_is_overdue_shares_the_time_with_what_is_written() {
        let mut turns = Turns::default();
        let offers = [
            Offer { key: 0, kind: Kind::Stream, overdue: false },
            Offer { key: 1, kind: Kind::Decode, overdue: true },
        ];
        let mut had = [0, 0];
        for _ in 0..1000 {
            let key = turns.next(&offers).unwrap().key;
            let ms = [10, 4][key];
            turns.took(key, offers[key].kind, Duration::from_millis(ms));
            had[key] += ms;
        }
        let share = had[1] as f64 / (had[0] + had[1]) as f64;
        assert!((0.45..0.6).contains(&share), "{had:?}");
    }

    #[test]
    fn who_was_away_has_saved_nothing() {
        let mut turns = Turns::default();
        let offer = |key| Offer { key, kind: Kind::Rows, overdue: false };
        let mut next = |offers: &[Offer<u8>]| {
            let key = turns.next(offers).unwrap().key;
            turns.took(key, Kind::Rows, Duration::from_millis(10));
            key
        };
        for _ in 0..100 {
            next(&[offer(0)]);
        }
        let keys: Vec<u8> = (0..10).map(|_| next(&[offer(0), offer(1)])).collect();
        assert_eq!(keys.iter().filter(|key| **key == 1).count(), 5, "{keys:?}");
    }
}
