//! Who of those that wait is next: the most urgent first; among the equally urgent the owner that was served least;
//! of one owner's the first.
//!
//! Service is counted in tokens, and owners are held against each other within one priority (the virtual token
//! counter of Sheng et al., "Fairness in Serving Large Language Models", 2024). An owner that comes back after it
//! waited for nothing starts no lower than those that wait: what it did not use is not owed to it. And while nothing
//! waits nobody is served at another's cost, so the counts begin anew. While two owners both have work waiting, what
//! they are served differs by no more than what one of them had been let in for.

use std::collections::{BTreeMap, VecDeque};

use crate::types::key::Owner;

/// Whose a sequence is, and how urgent: lower numbers go first.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub priority: i32,
    pub owner: Owner,
}

/// The share of one owner in one priority.
#[derive(Debug)]
struct Share<T> {
    waiting: VecDeque<T>,
    /// Tokens it was served, or what it was lifted to.
    served: u64,
    /// When it began to wait; settles ties.
    since: u64,
    /// Its items that wait or were taken and have not left.
    live: usize,
}

/// What waits in one priority.
#[derive(Debug)]
struct Class<T> {
    shares: BTreeMap<Owner, Share<T>>,
    /// What the share that is next had been served when it was looked at last; it never falls while something waits.
    floor: u64,
}

impl<T> Class<T> {
    fn next(&self) -> Option<(&Owner, &Share<T>)> {
        let waiting = self.shares.iter().filter(|(_, share)| !share.waiting.is_empty());
        waiting.min_by_key(|(_, share)| (share.served, share.since))
    }

    /// The class's share of `owner`, to which something is about to come.
    fn join(&mut self, owner: &Owner, now: u64) -> &mut Share<T> {
        match self.next().map(|(_, share)| share.served) {
            Some(least) => self.floor = self.floor.max(least),
            None => {
                self.floor = 0;
                self.shares.retain(|_, share| share.live > 0);
                self.shares.values_mut().for_each(|share| share.served = 0);
            }
        }
        let new = || Share { waiting: VecDeque::new(), served: 0, since: now, live: 0 };
        let share = self.shares.entry(owner.clone()).or_insert_with(new);
        if share.waiting.is_empty() {
            share.served = share.served.max(self.floor);
            share.since = now;
        }
        share
    }

    /// Forgets the shares that would come back as if they had never been here.
    fn prune(&mut self) {
        let floor = self.floor;
        self.shares.retain(|_, share| share.live > 0 || share.served > floor);
    }

    fn is_over(&self) -> bool {
        self.shares.values().all(|share| share.live == 0)
    }
}

/// What waits, in the order of its turns.
#[derive(Debug)]
pub struct FairQueue<T> {
    classes: BTreeMap<i32, Class<T>>,
    /// Items that came, ever.
    arrivals: u64,
    len: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        FairQueue { classes: BTreeMap::new(), arrivals: 0, len: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Takes a new item, behind those of its owner.
    pub fn push(&mut self, claim: &Claim, item: T) {
        self.arrivals += 1;
        self.len += 1;
        let new = || Class { shares: BTreeMap::new(), floor: 0 };
        let class = self.classes.entry(claim.priority).or_insert_with(new);
        let share = class.join(&claim.owner, self.arrivals);
        share.live += 1;
        share.waiting.push_back(item);
    }

    /// Takes the next item out. It is its owner's until it [leaves](Self::leave).
    pub fn pop(&mut self) -> Option<T> {
        let class = self.classes.values_mut().find(|class| class.next().is_some())?;
        let (owner, _) = class.next()?;
        let owner = owner.clone();
        let item = class.shares.get_mut(&owner)?.waiting.pop_front()?;
        self.len -= 1;
        Some(item)
    }

    /// Puts back what was taken out, before everything of its owner.
    pub fn put_back(&mut self, claim: &Claim, item: T) {
        if let Some(share) = self.share(claim) {
            share.waiting.push_front(item);
            self.len += 1;
        }
    }

    /// Notes that an owner was served so many tokens.
    pub fn charge(&mut self, claim: &Claim, tokens: usize) {
        if let Some(share) = self.share(claim) {
            share.served = share.served.saturating_add(tokens as u64);
        }
    }

    /// Notes that an item which was taken out has ended.
    pub fn leave(&mut self, claim: &Claim) {
        if let Some(share) = self.share(claim) {
            share.live = share.live.saturating_sub(1);
        }
        if let Some(class) = self.classes.get_mut(&claim.priority) {
            class.prune();
            if class.is_over() {
                self.classes.remove(&claim.priority);
            }
        }
    }

    /// Takes out the first item for which `is_it` holds, for good.
    pub fn remove(&mut self, mut is_it: impl FnMut(&T) -> bool) {
        let mut shares = self.classes.iter_mut().flat_map(|(&priority, class)| {
            class.shares.iter_mut().map(move |(owner, share)| (priority, owner, share))
        });
        let found = shares.find_map(|(priority, owner, share)| {
            let at = share.waiting.iter().position(&mut is_it)?;
            share.waiting.remove(at);
            Some(Claim { priority, owner: owner.clone() })
        });
        if let Some(claim) = found {
            self.len -= 1;
            self.leave(&claim);
        }
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Everything that waits, with its claim.
    pub fn iter(&self) -> impl Iterator<Item = (Claim, &T)> {
        self.classes.iter().flat_map(|(&priority, class)| {
            class.shares.iter().flat_map(move |(owner, share)| {
                share.waiting.iter().map(move |item| (Claim { priority, owner: owner.clone() }, item))
            })
        })
    }

    fn share(&mut self, claim: &Claim) -> Option<&mut Share<T>> {
        self.classes.get_mut(&claim.priority)?.shares.get_mut(&claim.owner)
    }

    /// Checks the books against the claims of those that were taken out and have not left.
    pub fn check_integrity<'a>(&self, taken: impl Iterator<Item = &'a Claim>) -> Result<(), String> {
        let mut live: BTreeMap<Claim, usize> = BTreeMap::new();
        for claim in taken.cloned().chain(self.iter().map(|(claim, _)| claim)) {
            *live.entry(claim).or_default() += 1;
        }
        let mut waiting = 0;
        for (&priority, class) in &self.classes {
            if class.is_over() {
                return Err(format!("priority {priority} is kept for nobody"));
            }
            for (owner, share) in &class.shares {
                waiting += share.waiting.len();
                let counted = live.remove(&Claim { priority, owner: owner.clone() }).unwrap_or(0);
                if counted != share.live {
                    return Err(format!("{owner:?} has {counted} sequences, and {} are counted", share.live));
                }
            }
        }
        match live.into_keys().next() {
            Some(claim) => Err(format!("{claim:?} has sequences and no share")),
            None if waiting != self.len => Err(format!("{waiting} wait, and {} are counted", self.len)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(owner: &str, priority: i32) -> Claim {
        Claim { priority, owner: Owner::key(owner) }
    }

    /// Takes and serves so many items of 10 tokens each.
    fn serve(queue: &mut FairQueue<&'static str>, count: usize) -> String {
        let mut served = String::new();
        for _ in 0..count {
            let Some(item) = queue.pop() else { break };
            let claim = claim(&item[..1], 0);
            queue.charge(&claim, 10);
            queue.leave(&claim);
            served.push_str(&item[..1]);
            queue.check_integrity(std::iter::empty()).unwrap();
        }
        served
    }

    #[test]
    fn owners_take_turns_and_each_keeps_its_order() {
        let mut queue = FairQueue::default();
        for item in ["a1", "a2", "a3", "b1", "b2", "c1"] {
            queue.push(&claim(&item[..1], 0), item);
        }
        let mut order = Vec::new();
        while let Some(item) = queue.pop() {
            queue.charge(&claim(&item[..1], 0), 10);
            order.push(item);
        }
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn what_was_not_used_is_not_owed() {
        let mut queue = FairQueue::default();
        (0..20).for_each(|_| queue.push(&claim("a", 0), "a"));
        assert_eq!(serve(&mut queue, 10), "aaaaaaaaaa");
        // It waited for nothing while the other was served ten times: now they take turns.
        (0..5).for_each(|_| queue.push(&claim("b", 0), "b"));
        assert_eq!(serve(&mut queue, 6), "ababab");
        assert_eq!(serve(&mut queue, 20).len(), 9);
        assert_eq!(queue.classes.len(), 0, "nothing is kept of those who have gone");
    }

    #[test]
    fn what_was_served_while_nothing_waited_does_not_count() {
        let mut queue = FairQueue::default();
        queue.push(&claim("a", 0), "a");
        assert_eq!(queue.pop(), Some("a"));
        // It is still being served, alone.
        queue.charge(&claim("a", 0), 100_000);
        (0..3).for_each(|_| queue.push(&claim("b", 0), "b"));
        (0..3).for_each(|_| queue.push(&claim("a", 0), "a"));
        assert_eq!(queue.pop(), Some("b"));
        queue.charge(&claim("b", 0), 10);
        assert_eq!(queue.pop(), Some("a"));
    }

    #[test]
    fn an_owner_that_was_served_more_waits_until_the_others_have_as_much() {
        let mut queue = FairQueue::default();
        queue.push(&claim("a", 0), "a");
        queue.push(&claim("b", 0), "b");
        queue.push(&claim("b", 0), "b");
        assert_eq!(queue.pop(), Some("a"));
        queue.charge(&claim("a", 0), 35);
        queue.leave(&claim("a", 0));
        // Not a new one: it is remembered while others wait.
        queue.push(&claim("a", 0), "a");
        (0..4).for_each(|_| queue.push(&claim("b", 0), "b"));
        assert_eq!(serve(&mut queue, 7), "bbbbabb");
    }

    #[test]
    fn the_urgent_go_first_and_what_is_put_back_is_next_of_its_owner() {
        let mut queue = FairQueue::default();
        queue.push(&claim("a", 5), "late");
        queue.push(&claim("a", 0), "first");
        queue.push(&claim("a", 0), "second");
        queue.push(&claim("b", -1), "urgent");
        assert_eq!(queue.pop(), Some("urgent"));
        let first = queue.pop().unwrap();
        assert_eq!(first, "first");
        queue.check_integrity([claim("b", -1), claim("a", 0)].iter()).unwrap();
        queue.put_back(&claim("a", 0), first);
        assert_eq!((queue.pop(), queue.pop(), queue.len()), (Some("first"), Some("second"), 1));
        queue.remove(|item| *item == "late");
        assert!(queue.is_empty() && queue.pop().is_none());
    }
}
