//! A set of numbers from 0 on, a bit each.

/// The set; its members are counted.
#[derive(Debug, Clone, Default)]
pub struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    /// Whether the number is a member.
    #[inline]
    pub fn has(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Makes it a member; false where it was one.
    pub fn insert(&mut self, number: u32) -> bool {
        let at = number as usize / 64;
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        let (word, bit) = (&mut self.words[at], 1 << (number % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(is_new);
        is_new
    }

    /// Makes it no member; false where it was none.
    pub fn remove(&mut self, number: u32) -> bool {
        let was = self.has(number);
        if was {
            self.words[number as usize / 64] &= !(1 << (number % 64));
            self.count -= 1;
        }
        was
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(&word, at)| {
            let next = |left: &u64| Some(left & left.wrapping_sub(1)).filter(|left| *left != 0);
            std::iter::successors(Some(word).filter(|word| *word != 0), next)
                .map(move |left| at * 64 + left.trailing_zeros())
        })
    }
}

impl FromIterator<u32> for Bits {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Bits {
        let mut bits = Bits::default();
        numbers.into_iter().for_each(|number| {
            bits.insert(number);
        });
        bits
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_like_any_other(steps in prop::collection::vec((any::<bool>(), 0u32..300), 0..400)) {
            let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
            for (insert, number) in steps {
                if insert {
                    prop_assert_eq!(bits.insert(number), set.insert(number));
                } else {
                    prop_assert_eq!(bits.remove(number), set.remove(&number));
                }
                prop_assert_eq!(bits.count(), set.len());
            }
            prop_assert!((0..400).all(|number| bits.has(number) == set.contains(&number)));
            prop_assert!(bits.iter().eq(set.iter().copied()));
            prop_assert!(bits.iter().collect::<Bits>().iter().eq(set));
        }
    }
}
