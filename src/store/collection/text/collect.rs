//! What a search of words collects: points by their numbers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use tantivy::collector::{Collector, SegmentCollector};
use tantivy::columnar::Column;
use tantivy::{DocId, Score, SegmentOrdinal, SegmentReader};

use crate::store::bits::Bits;

/// All numbers that match.
pub struct Numbers;

/// The best `k` among some.
pub struct Best {
    pub k: usize,
    pub among: Arc<Bits>,
}

pub struct OfSegment {
    numbers: Column<u64>,
    found: RoaringBitmap,
}

impl SegmentCollector for OfSegment {
    type Fruit = RoaringBitmap;

    fn collect(&mut self, doc: DocId, _: Score) {
        self.found.extend(self.numbers.first(doc).and_then(|number| u32::try_from(number).ok()));
    }

    fn harvest(self) -> RoaringBitmap {
        self.found
    }
}

impl Collector for Numbers {
    type Fruit = RoaringBitmap;
    type Child = OfSegment;

    fn for_segment(&self, _: SegmentOrdinal, segment: &SegmentReader) -> tantivy::Result<OfSegment> {
        let numbers = segment.fast_fields().u64("number")?;
        Ok(OfSegment { numbers, found: RoaringBitmap::new() })
    }

    fn requires_scoring(&self) -> bool {
        false
    }

    fn merge_fruits(&self, fruits: Vec<RoaringBitmap>) -> tantivy::Result<RoaringBitmap> {
        Ok(fruits.into_iter().fold(RoaringBitmap::new(), |all, some| all | some))
    }
}

/// A score as a heap orders it, the worst on top: bits of floats that are not negative are in their order, and of equal
/// ones the lower number is better.
type Scored = Reverse<(u32, Reverse<u32>)>;

pub struct BestOfSegment {
    numbers: Column<u64>,
    k: usize,
    among: Arc<Bits>,
    best: BinaryHeap<Scored>,
}

impl SegmentCollector for BestOfSegment {
    type Fruit = Vec<(f32, u32)>;

    fn collect(&mut self, doc: DocId, score: Score) {
        let number = self.numbers.first(doc).and_then(|number| u32::try_from(number).ok());
        let Some(number) = number.filter(|number| self.among.has(*number)) else { return };
        self.best.push(Reverse((score.max(0.0).to_bits(), Reverse(number))));
        if self.best.len() > self.k {
            self.best.pop();
        }
    }

    fn harvest(self) -> Vec<(f32, u32)> {
        let found = self.best.into_sorted_vec().into_iter();
        found.map(|Reverse((score, Reverse(number)))| (f32::from_bits(score), number)).collect()
    }
}

impl Collector for Best {
    type Fruit = Vec<(f32, u32)>;
    type Child = BestOfSegment;

    fn for_segment(&self, _: SegmentOrdinal, segment: &SegmentReader) -> tantivy::Result<BestOfSegment> {
        let numbers = segment.fast_fields().u64("number")?;
        Ok(BestOfSegment { numbers, k: self.k, among: self.among.clone(), best: BinaryHeap::new() })
    }

    fn requires_scoring(&self) -> bool {
        true
    }

    fn merge_fruits(&self, fruits: Vec<Vec<(f32, u32)>>) -> tantivy::Result<Vec<(f32, u32)>> {
        let mut all: Vec<(f32, u32)> = fruits.into_iter().flatten().collect();
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        all.truncate(self.k);
        Ok(all)
    }
}
