//! The schedulers alone: whatever arrives, stalls and leaves, invariants hold and everything ends.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::JobId;
use super::llm::{Guesses, Limits, Plan, Row, Scheduler, Start};
use super::queue::Claim;
use crate::types::key::Owner;
use crate::types::llm::{FinishReason, Sampling};

const STOP: u32 = 7;

pub(super) fn limits(blocks: usize) -> Limits {
    Limits {
        max_running: 4,
        prefill_tokens: 24,
        mixed_tokens: 8,
        context: 64,
        blocks,
        block_size: 4,
        guesses: Guesses::Nobody,
    }
}

/// A prompt that no other begins like.
pub(super) fn start(prompt: usize, max_new: usize) -> Start {
    static UNIQUE: AtomicU32 = AtomicU32::new(1 << 16);
    let first = UNIQUE.fetch_add(1 << 8, Ordering::Relaxed);
    start_of((first..).take(prompt).collect(), max_new)
}

fn start_of(prompt: Vec<u32>, max_new: usize) -> Start {
    let (sampling, stop, claim) = (Sampling::default(), Arc::from([STOP]), Claim::default());
    Start { prompt, max_new, sampling, seed: 0, stop, guessable: true, claim }
}

pub(super) fn claim(owner: u32, priority: i32) -> Claim {
    Claim { owner: Owner::key(&format!("key-{owner}")), priority }
}

/// What a model that depends on the sequence alone would say after `tokens`, of which `generated` are its own.
fn next_token(id: JobId, tokens: usize, generated: usize) -> u32 {
    let length = tokens as u64;
    // Never the stop token before 5 are generated; then at times. Every other one repeats itself.
    match generated >= 5 && (id.0 * 31 + length).is_multiple_of(11) {
        true => STOP,
        false => 100 + ((id.0 * 17 + length) % if id.0.is_multiple_of(2) { 3 } else { 50 }) as u32,
    }
}

pub(super) fn run(scheduler: &mut Scheduler, plan: &Plan) -> Vec<super::llm::Outcome> {
    let said: Vec<Vec<u32>> = (plan.rows.iter().filter(|r| r.samples))
        .map(|row| {
            let sequence = scheduler.running(row.id).unwrap();
            let guesses = sequence.checked(row);
            let mut said = Vec::new();
            for i in 0..=guesses.len() {
                said.push(next_token(row.id, sequence.tokens.len() + i, sequence.generated().len() + i));
                if guesses.get(i) != said.last() {
                    break;
                }
            }
            said
        })
        .collect();
    scheduler.commit(plan, &said)
}

#[test]
fn a_prompt_is_computed_in_chunks_beside_decoding_rows() {
    let mut scheduler = Scheduler::new(limits(64));
    scheduler.submit(JobId(1), start(3, 50)).unwrap();
    let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
    assert_eq!(plan.rows, [Row { id: JobId(1), start: 0, len: 3, samples: true, guesses: 0 }]);
    run(&mut scheduler, &plan);
    scheduler.submit(JobId(2), start(10, 5)).unwrap();
    let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
    let decode = Row { id: JobId(1), start: 3, len: 1, samples: true, guesses: 0 };
    assert_eq!(plan.rows, [decode, Row { id: JobId(2), start: 0, len: 8, samples: false, guesses: 0 }]);
    run(&mut scheduler, &plan);
    let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
    assert_eq!(plan.rows[1], Row { id: JobId(2), start: 8, len: 2, samples: true, guesses: 0 });
}

#[test]
fn a_stalled_reader_pauses_its_own_sequence_only() {
    let mut scheduler = Scheduler::new(limits(64));
    scheduler.submit(JobId(1), start(2, 9)).unwrap();
    scheduler.submit(JobId(2), start(2, 9)).unwrap();
    let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
    run(&mut scheduler, &plan);
    let plan = scheduler.plan(usize::MAX, |id| id == JobId(1)).unwrap();
    assert_eq!(plan.rows.iter().map(|r| r.id).collect::<Vec<_>>(), [JobId(2)]);
    assert!(scheduler.plan(usize::MAX, |_| true).is_none());
}

#[test]
fn a_cancelled_sequence_has_given_its_blocks_back_at_the_next_plan() {
    let mut scheduler = Scheduler::new(limits(2));
    scheduler.submit(JobId(1), start(7, 1)).unwrap();
    scheduler.submit(JobId(2), start(7, 1)).unwrap();
    let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
    assert_eq!(plan.rows.len(), 1);
    scheduler.cancel(JobId(1));
    assert_eq!(scheduler.plan(usize::MAX, |_| false).unwrap().rows[0].id, JobId(2));
    // Committing the plan of a sequence that has gone does nothing.
    assert!(scheduler.commit(&plan, &[vec![5]]).is_empty());
    scheduler.check_integrity().unwrap();
}

#[test]
fn what_cannot_ever_fit_is_refused_and_what_fits_is_cut() {
    let mut scheduler = Scheduler::new(limits(4));
    assert_eq!(scheduler.capacity(), 16);
    assert_eq!(scheduler.submit(JobId(1), start(16, 1)), Err(15));
    assert_eq!(scheduler.submit(JobId(1), start(0, 1)), Err(15));
    scheduler.submit(JobId(1), start(15, 1000)).unwrap();
    let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
    let outcome = run(&mut scheduler, &plan)[0];
    assert_eq!((outcome.finish, outcome.generated), (Some(FinishReason::Length), 1));
    assert_eq!(scheduler.num_running() + scheduler.num_waiting(), 0);
}

/// Runs everything to its end; gives the prompt tokens that were computed and those that were found.
fn finish(scheduler: &mut Scheduler) -> (usize, usize) {
    let (mut computed, mut found) = (0, 0);
    while let Some(plan) = scheduler.plan(usize::MAX, |_| false) {
        computed += plan.rows.iter().map(|r| r.len).sum::<usize>();
        for outcome in run(scheduler, &plan) {
            found += if outcome.generated == 1 { outcome.cached } else { 0 };
        }
        scheduler.check_integrity().unwrap();
    }
    (computed, found)
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let mut scheduler = Scheduler::new(limits(64));
    let first: Vec<u32> = (0..18).collect();
    scheduler.submit(JobId(1), start_of(first.clone(), 1)).unwrap();
    assert_eq!(finish(&mut scheduler), (18, 0));
    // Four whole blocks of 4 are found; the rest, and what the user says next, is new.
    let second = [first, (30..40).collect()].concat();
    scheduler.submit(JobId(2), start_of(second.clone(), 1)).unwrap();
    assert_eq!(finish(&mut scheduler), (12, 16));
    // The last token is computed always: its logits are what is asked for.
    scheduler.submit(JobId(3), start_of(second, 1)).unwrap();
    assert_eq!(finish(&mut scheduler), (4, 24));
    // The same tokens after another beginning are something else.
    let other = [vec![99], (1..18).collect()].concat();
    scheduler.submit(JobId(4), start_of(other, 1)).unwrap();
    assert_eq!(finish(&mut scheduler), (18, 0));
}

#[test]
fn what_repeats_itself_is_guessed_and_takes_fewer_steps() {
    let steps = |guesses| {
        let mut scheduler = Scheduler::new(Limits { guesses, ..limits(64) });
        scheduler.submit(JobId(0), Start { stop: Arc::default(), ..start(4, 50) }).unwrap();
        let mut steps = 0;
        while let Some(plan) = scheduler.plan(usize::MAX, |_| false) {
            run(&mut scheduler, &plan);
            scheduler.took(&plan, 1.0 + 0.1 * plan.rows[0].guesses as f64);
            steps += 1;
        }
        (steps, scheduler.speculated())
    };
    assert_eq!(steps(Guesses::Nobody).0, 50);
    let (steps, speculated) = steps(Guesses::Lookup);
    // Every eleventh token breaks the pattern.
    assert!(steps < 40, "{steps} steps, {speculated:?}");
    assert_eq!(
        speculated.accepted + steps,
        50,
        "a token a step, and those that were guessed: {speculated:?}"
    );
}

#[test]
fn nobody_is_preempted_for_a_guess() {
    // Two that repeat themselves, and blocks for their tokens but not for guesses.
    let mut scheduler = Scheduler::new(Limits { guesses: Guesses::Lookup, ..limits(8) });
    for id in [0, 2] {
        scheduler.submit(JobId(id), Start { stop: Arc::default(), ..start(4, 12) }).unwrap();
    }
    finish(&mut scheduler);
    assert_eq!(scheduler.preemptions(), 0);
}

#[test]
fn answers_to_one_prompt_compute_it_once() {
    let mut scheduler = Scheduler::new(limits(64));
    let prompt: Vec<u32> = (0..41).collect();
    for id in 0..4 {
        scheduler.submit(JobId(id), start_of(prompt.clone(), 1)).unwrap();
    }
    // 41 by the first, and by each other the one that is past the whole blocks.
    assert_eq!(finish(&mut scheduler), (41 + 3, 3 * 40));
}

#[test]
fn what_was_used_last_is_kept_when_room_is_needed() {
    let mut scheduler = Scheduler::new(limits(8));
    let prompt = |family: u32| (0..16).map(|i| family * 100 + i).collect::<Vec<u32>>();
    for (id, family) in [1, 2, 1].into_iter().enumerate() {
        scheduler.submit(JobId(id as u64), start_of(prompt(family), 1)).unwrap();
        finish(&mut scheduler);
    }
    // Of the eight blocks five go to this one: the second prompt's four, and the end of the first's.
    scheduler.submit(JobId(3), start_of((500..520).collect(), 1)).unwrap();
    finish(&mut scheduler);
    scheduler.submit(JobId(4), start_of([prompt(1), vec![7]].concat(), 1)).unwrap();
    let (_, found) = finish(&mut scheduler);
    assert_eq!(found, 12);
}

#[test]
fn the_least_urgent_is_preempted_and_of_equals_the_newest() {
    for (old, first_out) in [(0, JobId(2)), (5, JobId(1))] {
        let mut scheduler = Scheduler::new(limits(6));
        scheduler.submit(JobId(1), Start { claim: claim(1, old), ..start(7, 12) }).unwrap();
        for _ in 0..2 {
            let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
            run(&mut scheduler, &plan);
        }
        scheduler.submit(JobId(2), Start { claim: claim(2, 0), ..start(7, 12) }).unwrap();
        while scheduler.preemptions() == 0 {
            let plan = scheduler.plan(usize::MAX, |_| false).unwrap();
            run(&mut scheduler, &plan);
        }
        assert_eq!(scheduler.waiting().map(|s| s.id).collect::<Vec<_>>(), [first_out]);
        finish(&mut scheduler);
    }
}

#[derive(Debug, Clone)]
enum Act {
    Submit { prompt: usize, family: u32, max_new: usize, claim: Claim },
    Cancel(u64),
    Stall(u64),
    Step,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (1usize..40, 0u32..3, 1usize..30, 0u32..3, -1i32..2).prop_map(
            |(prompt, family, max_new, owner, priority)| {
                Act::Submit { prompt, family, max_new, claim: claim(owner, priority) }
            }
        ),
        1 => (0u64..12).prop_map(Act::Cancel),
        1 => (0u64..12).prop_map(Act::Stall),
        6 => Just(Act::Step),
    ];
    proptest::collection::vec(act, 1..80)
}

/// A prompt that shares its first 10 tokens with all others and the next 12 with its family.
fn family_prompt(len: usize, family: u32, id: u64) -> Vec<u32> {
    let token = |i: usize| match i {
        0..10 => 10 + i as u32,
        10..22 => 1_000 * (family + 1) + i as u32,
        _ => 1_000_000 + id as u32 * 100 + i as u32,
    };
    (0..len).map(token).collect()
}

/// What the cache would hold: at each position of each block, a hash of all tokens up to there.
type Cells = BTreeMap<(u32, usize), u64>;

fn up_to(tokens: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    tokens.hash(&mut hasher);
    hasher.finish()
}

/// A sequence's tokens, and the guesses that a row checks.
fn with_guesses(scheduler: &Scheduler, row: &Row) -> Vec<u32> {
    let sequence = scheduler.running(row.id).unwrap();
    assert_eq!(sequence.checked(row).len(), row.guesses, "lookup has guessed what is planned");
    [&sequence.tokens, sequence.checked(row)].concat()
}

/// Checks a plan, and that every position it reads holds what the same tokens would have written there.
fn check_plan(scheduler: &Scheduler, plan: &Plan, limits: Limits, cells: &mut Cells) {
    let rows: BTreeSet<JobId> = plan.rows.iter().map(|r| r.id).collect();
    assert_eq!(rows.len(), plan.rows.len(), "a sequence twice in {plan:?}");
    assert!(rows.len() <= limits.max_running);
    let prefill: usize = plan.rows.iter().filter(|r| r.len > 1).map(|r| r.len).sum();
    assert!(prefill <= limits.prefill_tokens);
    let size = limits.block_size;
    for row in &plan.rows {
        let sequence = scheduler.running(row.id).expect("a planned sequence holds blocks");
        let end = row.start + row.len + row.guesses;
        assert!(sequence.table.len() * size >= end, "{row:?} has no blocks");
        assert!(end < limits.context, "{row:?} leaves no position for what it says");
        assert_eq!(row.samples, row.start + row.len == sequence.tokens.len());
        let tokens = with_guesses(scheduler, row);
        for at in row.start..end {
            cells.insert((sequence.table[at / size], at % size), up_to(&tokens[..=at]));
        }
    }
    for row in &plan.rows {
        let sequence = scheduler.running(row.id).unwrap();
        let tokens = with_guesses(scheduler, row);
        for at in 0..row.start + row.len + row.guesses {
            let cell = cells.get(&(sequence.table[at / size], at % size));
            assert_eq!(cell, Some(&up_to(&tokens[..=at])), "{row:?} reads another's position {at}");
        }
    }
}

/// Who waited and who held blocks before a plan.
struct Before {
    waited: BTreeMap<JobId, Claim>,
    ran: BTreeMap<JobId, Claim>,
}

impl Before {
    fn new(scheduler: &Scheduler, alive: &BTreeSet<JobId>) -> Before {
        let waited = scheduler.waiting().map(|s| (s.id, s.claim().clone())).collect();
        let ran = alive.iter().filter_map(|id| Some((*id, scheduler.running(*id)?.claim().clone())));
        Before { waited, ran: ran.collect() }
    }

    /// Checks who was let in and who had to leave for others. `known` are those that were let in before.
    fn check_turns(&self, scheduler: &Scheduler, plan: &Plan, known: &mut BTreeSet<JobId>) {
        let admitted = plan.rows.iter().filter_map(|row| Some((row.id, self.waited.get(&row.id)?)));
        for (id, claim) in admitted {
            let new = known.insert(id);
            for left in scheduler.waiting() {
                assert!(claim.priority <= left.claim().priority, "{id:?} before a more urgent {:?}", left.id);
                let earlier = left.claim() == claim && left.id < id && !known.contains(&left.id);
                assert!(!new || !earlier, "{id:?} before {:?} of the same owner", left.id);
            }
        }
        for preempted in scheduler.waiting().filter(|s| self.ran.contains_key(&s.id)) {
            let stayed = self.ran.iter().filter(|(id, _)| scheduler.running(**id).is_some());
            for (id, claim) in stayed {
                let (priority, other) = (preempted.claim().priority, claim.priority);
                assert!(other <= priority, "{:?} left for a less urgent {id:?}", preempted.id);
            }
        }
    }
}

/// Guesses, preemption and company change nothing of what is said after prompts of these lengths.
fn check_texts(texts: &BTreeMap<JobId, Vec<u32>>, prompts: &BTreeMap<JobId, usize>) {
    for (id, text) in texts {
        let alone: Vec<u32> = (0..text.len()).map(|i| next_token(*id, prompts[id] + i, i)).collect();
        assert_eq!(*text, alone);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_everything_ends(acts in acts(), blocks in 1usize..24, lookup: bool) {
        let guesses = if lookup { Guesses::Lookup } else { Guesses::Nobody };
        let limits = Limits { guesses, ..limits(blocks) };
        let mut scheduler = Scheduler::new(limits);
        let (mut alive, mut stalled, mut cells) = (BTreeSet::new(), BTreeSet::new(), Cells::new());
        let mut texts: BTreeMap<JobId, Vec<u32>> = BTreeMap::new();
        let mut prompts = BTreeMap::new();
        let (mut next, mut known) = (0, BTreeSet::new());
        let mut step = |scheduler: &mut Scheduler, alive: &mut BTreeSet<JobId>, stalled: &BTreeSet<JobId>| {
            let before = Before::new(scheduler, alive);
            let paused: Vec<JobId> = stalled.iter().copied().filter(|id| before.ran.contains_key(id)).collect();
            let preemptions = scheduler.preemptions();
            let Some(plan) = scheduler.plan(usize::MAX, |id| stalled.contains(&id)) else { return false };
            check_plan(scheduler, &plan, limits, &mut cells);
            before.check_turns(scheduler, &plan, &mut known);
            assert!(plan.rows.iter().all(|r| alive.contains(&r.id)));
            // A paused sequence comes back only as an arrival does, after it was preempted.
            let resumed = plan.rows.iter().any(|r| paused.contains(&r.id));
            assert!(!resumed || scheduler.preemptions() > preemptions, "a stalled reader's sequence goes on");
            for outcome in run(scheduler, &plan) {
                texts.entry(outcome.id).or_default().push(outcome.token);
                if outcome.finish.is_some() {
                    alive.remove(&outcome.id);
                }
            }
            true
        };
        for act in acts {
            match act {
                Act::Submit { prompt, family, max_new, claim } => {
                    prompts.insert(JobId(next), prompt);
                    let start = Start { claim, ..start_of(family_prompt(prompt, family, next), max_new) };
                    if scheduler.submit(JobId(next), start).is_ok() {
                        alive.insert(JobId(next));
                    }
                    next += 1;
                }
                Act::Cancel(id) => {
                    scheduler.cancel(JobId(id));
                    alive.remove(&JobId(id));
                }
                Act::Stall(id) => drop(stalled.remove(&JobId(id)) || stalled.insert(JobId(id))),
                Act::Step => drop(step(&mut scheduler, &mut alive, &stalled)),
            }
            scheduler.check_integrity().map_err(TestCaseError::fail)?;
        }
        // With every reader awake, all that is left ends, in bounded time, preempted or not.
        let none = BTreeSet::new();
        for steps in 0.. {
            if alive.is_empty() { break; }
            prop_assert!(step(&mut scheduler, &mut alive, &none), "nothing planned and {alive:?} unfinished");
            prop_assert!(steps < 20_000);
            scheduler.check_integrity().map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(scheduler.usage(), 0.0);
        check_texts(&texts, &prompts);
    }

    #[test]
    fn embedding_batches_hold_every_row_once_within_the_budget(
        jobs in proptest::collection::vec(proptest::collection::vec(1usize..50, 1..20), 1..8),
        budget in 1usize..80,
        cancelled in 0u64..10,
    ) {
        let mut scheduler = super::embed::Scheduler::new(budget);
        for (i, lens) in jobs.iter().enumerate() {
            scheduler.submit(JobId(i as u64), lens.clone());
        }
        scheduler.cancel(JobId(cancelled));
        let (mut seen, mut complete) = (BTreeSet::new(), BTreeSet::new());
        while let Some(plan) = scheduler.plan(usize::MAX) {
            let tokens: usize = plan.rows.iter().map(|r| jobs[r.id.0 as usize][r.index]).sum();
            prop_assert!(tokens <= budget || plan.rows.len() == 1);
            for row in &plan.rows {
                prop_assert!(row.id.0 != cancelled && seen.insert((row.id, row.index)));
            }
            for id in scheduler.commit(&plan) {
                prop_assert!(complete.insert(id));
            }
        }
        prop_assert_eq!(scheduler.num_jobs(), 0);
        let left: Vec<_> = (0..jobs.len() as u64).filter(|i| *i != cancelled).collect();
        prop_assert_eq!(complete.len(), left.len());
        prop_assert_eq!(seen.len(), left.iter().map(|i| jobs[*i as usize].len()).sum::<usize>());
    }
}

#[test]
fn one_query_does_not_wait_for_a_bulk_job() {
    let mut scheduler = super::embed::Scheduler::new(100);
    scheduler.submit(JobId(0), vec![50; 1000]);
    let first = scheduler.plan(usize::MAX).unwrap();
    scheduler.submit(JobId(1), vec![10]);
    scheduler.commit(&first);
    let second = scheduler.plan(usize::MAX).unwrap();
    assert_eq!(scheduler.commit(&second), [JobId(1)]);
}
