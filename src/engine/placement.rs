//! On which device a model goes, and which must leave for it. Pure: time and sizes are passed in.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::types::model::Footprint;

/// What is resident on one device and how much it may be.
#[derive(Debug)]
pub struct Ledger {
    budget: u64,
    resident: BTreeMap<String, Resident>,
}

#[derive(Debug, Clone, Copy)]
struct Resident {
    takes: Footprint,
    /// Order of last use: larger is later.
    used: u64,
    /// Never evicted for another model.
    pinned: bool,
}

/// The books of all devices, by their places among the engine's.
#[derive(Debug)]
pub struct Fleet(Vec<Ledger>);

/// Where a model goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub device: usize,
    /// The models that must leave before.
    pub leave: Vec<String>,
}

/// A model that cannot be made to fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{model} needs about {} MB and the device's budget is {} MB, of which {} MB are in use by models that \
     cannot leave now; unload one, or raise the budget (`memory_budget_bytes`)",
    needs >> 20, budget >> 20, held >> 20
)]
pub struct DoesNotFit {
    pub model: String,
    pub needs: u64,
    pub budget: u64,
    pub held: u64,
    /// Whether it would if nobody used the models that are there.
    pub for_now: bool,
}

impl Fleet {
    /// Empty devices of so many bytes each.
    pub fn new(budgets: impl IntoIterator<Item = u64>) -> Self {
        Fleet(budgets.into_iter().map(Ledger::new).collect())
    }

    /// The books of one device.
    pub fn ledger(&mut self, device: usize) -> Option<&mut Ledger> {
        self.0.get_mut(device)
    }

    /// The books of all.
    pub fn ledgers(&self) -> &[Ledger] {
        &self.0
    }

    /// Where a model goes that takes so much of each device; `None` where it may not be. That is where nobody has
    /// to leave for it, else where those who leave were not used for longest; of several such the device with the most
    /// room. Changes nothing.
    ///
    /// # Errors
    /// It fits nowhere: said of the device where it came nearest.
    pub fn place(
        &self,
        model: &str,
        takes: &[Option<Footprint>],
        busy: impl Fn(usize, &str) -> bool,
    ) -> Result<Placed, DoesNotFit> {
        let (mut best, mut nearest, mut for_now) = (None, None, false);
        for (device, (ledger, takes)) in self.0.iter().zip(takes).enumerate() {
            let Some(takes) = *takes else { continue };
            match ledger.make_room(model, takes, |id| busy(device, id)) {
                Ok(leave) => {
                    let latest = leave.iter().filter_map(|id| Some(ledger.resident.get(id)?.used)).max();
                    let free = ledger.budget.saturating_sub(ledger.used());
                    let rank = (latest, Reverse(free));
                    if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                        best = Some((rank, Placed { device, leave }));
                    }
                }
                Err(refused) => {
                    for_now |= refused.for_now;
                    let lacks = refused.held.saturating_add(refused.needs).saturating_sub(refused.budget);
                    if nearest.as_ref().is_none_or(|(least, _)| lacks < *least) {
                        nearest = Some((lacks, refused));
                    }
                }
            }
        }
        let nowhere = || DoesNotFit { model: model.to_owned(), needs: 0, budget: 0, held: 0, for_now };
        best.map(|(_, placed)| placed).ok_or_else(|| match nearest {
            Some((_, refused)) => DoesNotFit { for_now, ..refused },
            None => nowhere(),
        })
    }
}

impl Ledger {
    /// An empty device of `budget` bytes.
    pub fn new(budget: u64) -> Self {
        Ledger { budget, resident: BTreeMap::new() }
    }

    /// Bytes in use: what every model keeps, and the largest step of one of them.
    pub fn used(&self) -> u64 {
        in_use(self.resident.values().map(|r| &r.takes))
    }

    /// Bytes that may be in use.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Notes a model that was loaded; one already there changes its size.
    pub fn insert(&mut self, model: &str, takes: Footprint, used: u64, pinned: bool) {
        self.resident.insert(model.to_owned(), Resident { takes, used, pinned });
    }

    /// Notes a use.
    pub fn touch(&mut self, model: &str, used: u64) {
        if let Some(resident) = self.resident.get_mut(model) {
            resident.used = resident.used.max(used);
        }
    }

    /// Notes that a model is to stay.
    pub fn pin(&mut self, model: &str) {
        if let Some(resident) = self.resident.get_mut(model) {
            resident.pinned = true;
        }
    }

    /// Notes that a model left.
    pub fn remove(&mut self, model: &str) {
        self.resident.remove(model);
    }

    /// Which models must leave so that another fits: the least recently used first, none that is pinned
    /// or for which `busy` holds, and none more than needed. Changes nothing.
    pub fn make_room(
        &self,
        model: &str,
        takes: Footprint,
        busy: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, DoesNotFit> {
        let (mut movable, stay): (Vec<_>, Vec<_>) =
            self.resident.iter().partition(|(id, r)| !r.pinned && !busy(id));
        // The first to leave is the last of them.
        movable.sort_by_key(|(_, r)| Reverse(r.used));
        let there = |movable: &[(&String, &Resident)]| -> Vec<Footprint> {
            stay.iter().chain(movable).map(|(_, r)| r.takes).collect()
        };
        let mut leave = Vec::new();
        loop {
            let mut all = there(&movable);
            let held = in_use(&all);
            all.push(takes);
            let used = in_use(&all);
            if used <= self.budget {
                return Ok(leave);
            }
            let Some((id, _)) = movable.pop() else {
                let pinned = self.resident.values().filter(|r| r.pinned).map(|r| &r.takes);
                let for_now = in_use(pinned.chain([&takes])) <= self.budget;
                let (model, needs) = (model.to_owned(), used - held);
                return Err(DoesNotFit { model, needs, budget: self.budget, held, for_now });
            };
            leave.push(id.clone());
        }
    }
}

/// Bytes that models of one device take together: what each keeps, and the largest step once.
fn in_use<'a>(models: impl IntoIterator<Item = &'a Footprint>) -> u64 {
    let (kept, step) = (models.into_iter())
        .fold((0u64, 0), |(kept, step), takes| (kept.saturating_add(takes.kept()), takes.step.max(step)));
    kept.saturating_add(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(bytes: u64) -> Footprint {
        Footprint { weights: bytes, ..Footprint::default() }
    }

    #[test]
    fn the_least_recently_used_leaves_and_no_more_than_needed() {
        let mut ledger = Ledger::new(100);
        ledger.insert("old", kept(30), 1, false);
        ledger.insert("new", kept(30), 2, false);
        ledger.insert("pinned", kept(30), 0, true);
        assert_eq!(ledger.make_room("x", kept(10), |_| false), Ok(vec![]));
        assert_eq!(ledger.make_room("x", kept(40), |_| false), Ok(vec!["old".to_owned()]));
        ledger.touch("old", 3);
        assert_eq!(ledger.make_room("x", kept(40), |_| false), Ok(vec!["new".to_owned()]));
        assert_eq!(ledger.make_room("x", kept(40), |id| id == "new"), Ok(vec!["old".to_owned()]));
        let refused = ledger.make_room("x", kept(80), |_| false).unwrap_err();
        assert_eq!((refused.needs, refused.held), (80, 30));
    }

    #[test]
    fn a_model_goes_where_there_is_room_and_else_where_it_is_missed_least() {
        let mut fleet = Fleet::new([100, 100, 50]);
        let anywhere = |bytes: u64| [Some(kept(bytes)); 3];
        let place = |fleet: &Fleet, takes: &[Option<Footprint>]| fleet.place("x", takes, |_, _| false);
        let at = |device, leave: &[&str]| {
            Ok(Placed { device, leave: leave.iter().map(|id| (*id).to_owned()).collect() })
        };
        assert_eq!(place(&fleet, &anywhere(60)), at(0, &[]));
        fleet.ledger(0).unwrap().insert("a", kept(60), 5, false);
        assert_eq!(place(&fleet, &anywhere(60)), at(1, &[]));
        fleet.ledger(1).unwrap().insert("b", kept(80), 3, false);
        assert_eq!(place(&fleet, &anywhere(50)), at(2, &[]), "nobody leaves where there is room");
        assert_eq!(place(&fleet, &anywhere(60)), at(1, &["b"]), "it was not used for longer than a");
        assert_eq!(place(&fleet, &[Some(kept(60)), None, None]), at(0, &["a"]), "it may be nowhere else");
        assert_eq!(fleet.place("x", &anywhere(60), |_, id| id == "b"), at(0, &["a"]));
        let refused = place(&fleet, &anywhere(120)).unwrap_err();
        assert_eq!((refused.needs, refused.budget), (120, 100), "the device that came nearest");
        assert!(!refused.for_now);
        let refused = fleet.place("x", &anywhere(60), |_, _| true).unwrap_err();
        assert!(refused.for_now, "{refused:?}");
        assert!(place(&fleet, &[None; 3]).is_err());
    }

    #[test]
    fn models_of_one_device_need_the_largest_step_once() {
        let mut ledger = Ledger::new(100);
        let takes = |weights, step| Footprint { weights, cache: 10, step };
        ledger.insert("a", takes(20, 30), 0, true);
        assert_eq!(ledger.used(), 60);
        assert_eq!(ledger.make_room("x", takes(30, 30), |_| false), Ok(vec![]));
        assert!(ledger.make_room("x", takes(30, 31), |_| false).is_err());
        ledger.insert("b", takes(20, 40), 0, true);
        assert_eq!(ledger.used(), 100);
    }

    proptest! {
        #[test]
        fn what_is_granted_fits_and_nothing_busy_or_pinned_leaves(
            budget in 0u64..200,
            models in proptest::collection::vec(
                (0u64..60, 0u64..60, 0u64..9, any::<bool>(), any::<bool>()), 0..8,
            ),
            (bytes, step) in (0u64..200, 0u64..60),
        ) {
            let mut ledger = Ledger::new(budget);
            for (i, (bytes, step, used, pinned, _)) in models.iter().enumerate() {
                let takes = Footprint { cache: *bytes, step: *step, ..Footprint::default() };
                ledger.insert(&i.to_string(), takes, *used, *pinned);
            }
            let takes = Footprint { weights: bytes, step, ..Footprint::default() };
            let busy = |id: &str| models[id.parse::<usize>().unwrap()].4;
            match ledger.make_room("x", takes, busy) {
                Ok(leave) => {
                    for id in &leave {
                        let (.., pinned, busy) = models[id.parse::<usize>().unwrap()];
                        prop_assert!(!pinned && !busy);
                        ledger.remove(id);
                    }
                    ledger.insert("x", takes, 0, true);
                    prop_assert!(ledger.used() <= budget);
                }
                Err(refused) => {
                    let stuck = || models.iter().filter(|m| m.3 || m.4);
                    let kept: u64 = stuck().map(|m| m.0).sum();
                    let largest = stuck().map(|m| m.1).max().unwrap_or(0);
                    prop_assert!(kept + bytes + largest.max(step) > budget);
                    prop_assert_eq!(refused.held, kept + largest);
                    prop_assert_eq!(refused.held + refused.needs, kept + bytes + largest.max(step));
                    let idle = ledger.make_room("x", takes, |_| false);
                    prop_assert_eq!(refused.for_now, idle.is_ok());
                }
            }
        }
    }
}
