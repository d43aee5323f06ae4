//! Who is known, in memory: one matrix of centroids a speaker model, and whose row is whose.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Speaker;
use super::score::{COHORT_LEAST, COHORT_MOST, Spread, normalised};
use crate::store::flat::dot;
use crate::types::speaker::Embedder;

/// Of all speakers, this many with the highest cosines are compared with the cohort.
const CANDIDATES: usize = 32;

/// A speaker that is like a voice.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    pub id: String,
    pub name: String,
    /// -1 to 1; see the threshold beside it.
    pub score: f32,
}

/// The speakers.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    known: HashMap<String, Held>,
    groups: Vec<Group>,
    /// Of all speakers together.
    samples: usize,
}

#[derive(Debug)]
struct Held {
    speaker: Arc<Speaker>,
    group: usize,
    row: usize,
}

/// The speakers that one model embedded.
#[derive(Debug)]
struct Group {
    model: String,
    version: String,
    dim: usize,
    /// Centroids, one after the other.
    rows: Vec<f32>,
    /// Whose they are.
    ids: Vec<String>,
}

impl Shelf {
    /// Takes a speaker in, in the place of the one that has its id.
    pub fn put(&mut self, speaker: Speaker, centroid: &[f32]) {
        self.remove(&speaker.id);
        let group = self.group_for(&speaker, centroid.len());
        let Some(rows) = self.groups.get_mut(group) else { return };
        rows.rows.extend_from_slice(centroid);
        rows.ids.push(speaker.id.clone());
        self.samples += speaker.samples.len();
        let row = rows.ids.len() - 1;
        self.known.insert(speaker.id.clone(), Held { speaker: Arc::new(speaker), group, row });
    }

    /// Takes a speaker out. The last row of its matrix takes the place of its row.
    pub fn remove(&mut self, id: &str) {
        let Some(held) = self.known.remove(id) else { return };
        self.samples -= held.speaker.samples.len();
        let Some(group) = self.groups.get_mut(held.group) else { return };
        let dim = group.dim;
        group.ids.swap_remove(held.row);
        let last = group.ids.len();
        group.rows.copy_within(last * dim..(last + 1) * dim, held.row * dim);
        group.rows.truncate(last * dim);
        if let Some(moved) = group.ids.get(held.row).and_then(|id| self.known.get_mut(id)) {
            moved.row = held.row;
        }
    }

    fn group_for(&mut self, speaker: &Speaker, dim: usize) -> usize {
        let same = |group: &Group| {
            group.dim == dim && group.model == speaker.model && group.version == speaker.version
        };
        self.groups.iter().position(same).unwrap_or_else(|| {
            let (model, version) = (speaker.model.clone(), speaker.version.clone());
            self.groups.push(Group { model, version, dim, rows: Vec::new(), ids: Vec::new() });
            self.groups.len() - 1
        })
    }

    /// A speaker.
    pub fn get(&self, id: &str) -> Option<Arc<Speaker>> {
        self.known.get(id).map(|held| held.speaker.clone())
    }

    /// All speakers that have this tag, or all, in no order.
    pub fn list(&self, tag: Option<&str>) -> Vec<Arc<Speaker>> {
        let all = self.known.values().map(|held| &held.speaker);
        let has = |speaker: &&Arc<Speaker>| tag.is_none_or(|tag| speaker.tags.iter().any(|t| t == tag));
        all.filter(has).cloned().collect()
    }

    /// How many speakers there are, and samples of all of them.
    pub fn size(&self) -> (usize, usize) {
        (self.known.len(), self.samples)
    }

    /// How many this model embedded, and how many another one did.
    pub fn count(&self, embedder: &Embedder) -> (usize, usize) {
        let fresh = self.groups.iter().filter(|group| group.is_of(embedder));
        let fresh = fresh.map(|group| group.ids.len()).sum();
        (fresh, self.known.len() - fresh)
    }

    /// Speakers that another model embedded, and whose audio is kept, at most so many; without those of `failed`.
    pub fn renewable(&self, embedder: &Embedder, failed: &HashSet<String>, most: usize) -> Vec<Arc<Speaker>> {
        let stale = self.groups.iter().filter(|group| !group.is_of(embedder)).flat_map(|group| &group.ids);
        let speakers = stale.filter_map(|id| self.known.get(id)).map(|held| &held.speaker);
        let kept = |speaker: &&Arc<Speaker>| {
            speaker.samples.iter().all(|sample| sample.audio.is_some()) && !failed.contains(&speaker.id)
        };
        speakers.filter(kept).take(most).cloned().collect()
    }

    /// The `most` speakers that are most like a voice, the best first, and whether their scores are compared with a
    /// cohort. `voice` is of length 1.
    pub fn nearest(&self, embedder: &Embedder, voice: &[f32], most: usize) -> (Vec<Match>, bool) {
        let of = |group: &&Group| group.is_of(embedder) && group.dim == voice.len() && !group.ids.is_empty();
        let Some(group) = self.groups.iter().find(of) else { return (Vec::new(), false) };
        let (mut scored, normalised) = group.nearest(embedder, voice, most);
        // Which row a speaker has is chance: the same scores are in the same order each time.
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| group.ids[a.0].cmp(&group.ids[b.0])));
        scored.truncate(most);
        let matches = scored.into_iter().filter_map(|(row, score)| {
            let speaker = &self.known.get(group.ids.get(row)?)?.speaker;
            let score = score.clamp(-1.0, 1.0);
            Some(Match { id: speaker.id.clone(), name: speaker.name.clone(), score })
        });
        (matches.collect(), normalised)
    }
}

impl Group {
    fn is_of(&self, embedder: &Embedder) -> bool {
        self.model == embedder.model && self.version == embedder.version
    }

    fn row(&self, row: usize) -> &[f32] {
        self.rows.get(row * self.dim..(row + 1) * self.dim).unwrap_or_default()
    }

    /// Rows and their scores, those that may be among the `most` best.
    fn nearest(&self, embedder: &Embedder, voice: &[f32], most: usize) -> (Vec<(usize, f32)>, bool) {
        let cosines: Vec<f32> =
            self.rows.chunks_exact(self.dim.max(1)).map(|row| dot(voice, row).clamp(-1.0, 1.0)).collect();
        let mut scored: Vec<(usize, f32)> = cosines.iter().copied().enumerate().collect();
        let candidates = most.max(CANDIDATES);
        if scored.len() > candidates {
            scored.select_nth_unstable_by(candidates, |a, b| b.1.total_cmp(&a.1));
            scored.truncate(candidates);
        }
        if cosines.len() <= COHORT_LEAST {
            return (scored, false);
        }
        let step = cosines.len().div_ceil(COHORT_MOST);
        let cohort: Vec<usize> = (0..cosines.len()).step_by(step).collect();
        for (candidate, score) in &mut scored {
            let others = || cohort.iter().copied().filter(|row| row != candidate);
            let voice = Spread::top(others().filter_map(|row| cosines.get(row).copied()).collect());
            let centroid = self.row(*candidate);
            let speaker = Spread::top(others().map(|row| dot(centroid, self.row(row))).collect());
            let expected = Spread::expected(embedder.strangers, others().count());
            *score = normalised(*score, voice, speaker, expected);
        }
        (scored, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 64;

    fn embedder() -> Embedder {
        let strangers = (0.0, 1.0 / (DIM as f32).sqrt());
        Embedder { model: "m".into(), version: "1".into(), threshold: 0.6, strangers }
    }

    /// A direction that a number determines; none is like another.
    fn direction(seed: u64) -> Vec<f32> {
        let uniform = |at: u64| {
            let mut z = (seed * 4096 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let normal = |at: usize| (0..4).map(|part| uniform(at as u64 * 4 + part)).sum();
        super::super::vector::unit(&(0..DIM).map(normal).collect::<Vec<f32>>()).unwrap()
    }

    fn speaker(number: u64, version: &str) -> Speaker {
        Speaker {
            id: format!("s{number}"),
            name: format!("name {number}"),
            tags: Vec::new(),
            created_at: number,
            updated_at: number,
            model: "m".into(),
            version: version.into(),
            dim: DIM,
            samples: Vec::new(),
        }
    }

    #[test]
    fn rows_follow_their_speakers() {
        let mut shelf = Shelf::default();
        (0..20).for_each(|number| shelf.put(speaker(number, "1"), &direction(number)));
        (0..20).step_by(3).for_each(|number| shelf.remove(&format!("s{number}")));
        shelf.put(speaker(1, "1"), &direction(100));
        shelf.put(speaker(2, "2"), &direction(2));
        shelf.remove("nobody");
        for number in 0..20 {
            let (found, normalised) = shelf.nearest(&embedder(), &direction(number), 1);
            let own = found[0].id == format!("s{number}") && found[0].score > 0.99;
            assert_eq!((own, normalised), (number % 3 != 0 && number > 2, false), "{number}: {found:?}");
        }
        assert_eq!(shelf.nearest(&embedder(), &direction(100), 1).0[0].id, "s1");
        assert_eq!((shelf.count(&embedder()), shelf.size().0), ((12, 1), 13));
    }

    /// Prints how long one is looked for, which `benches/README.md` has.
    #[test]
    fn everybody_is_found_among_ten_thousand() {
        const WIDE: usize = 192;
        let wide = |number: u64| {
            let parts: Vec<f32> = (0..3).flat_map(|part| direction(3 * number + part)).collect();
            super::super::vector::unit(&parts[..WIDE]).unwrap()
        };
        let mut shelf = Shelf::default();
        (0..10_000)
            .for_each(|number| shelf.put(Speaker { dim: WIDE, ..speaker(number, "1") }, &wide(number)));
        let mut took = Vec::new();
        for number in (0..10_000).step_by(499) {
            let voice = wide(number);
            let begun = std::time::Instant::now();
            let (found, normalised) = shelf.nearest(&embedder(), &voice, 5);
            took.push(begun.elapsed());
            assert_eq!((found[0].id.clone(), found.len(), normalised), (format!("s{number}"), 5, true));
        }
        took.sort();
        println!(
            "one of 10,000: {:?} in the median, {:?} at most",
            took[took.len() / 2],
            took[took.len() - 1]
        );
    }

    #[test]
    fn a_book_of_thousands_has_the_scale_of_a_small_one() {
        let mut shelf = Shelf::default();
        (0..2500).for_each(|number| shelf.put(speaker(number, "1"), &direction(number)));
        for number in [7, 700, 2400] {
            let (own, noise) = (direction(number), direction(number + 10_000));
            let voice: Vec<f32> = own.iter().zip(noise).map(|(a, b)| 0.8 * a + 0.6 * b).collect();
            let (found, normalised) = shelf.nearest(&embedder(), &voice, 3);
            assert!(normalised && found[0].id == format!("s{number}"), "{found:?}");
            assert!((found[0].score - dot(&voice, &own)).abs() < 0.12, "{found:?}");
            assert!(found[1].score < 0.55, "{found:?}");
        }
    }
}
