//! The schedulers alone: whatever arrives, stalls and leaves, invariants hold and everything ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::JobId;
use super::llm::{Limits, Plan, Row, Scheduler, Start};
use crate::types::llm::{FinishReason, Sampling};

const STOP: u32 = 7;

fn limits(blocks: usize) -> Limits {
    Limits { max_running: 4, prefill_tokens: 24, mixed_tokens: 8, context: 64, blocks, block_size: 4 }
}

fn start(prompt: usize, max_new: usize) -> Start {
    Start {
        prompt: vec![1; prompt],
        max_new,
        sampling: Sampling::default(),
        seed: 0,
        stop: Arc::from([STOP]),
    }
}

/// What a model that depends on the sequence alone would say.
fn next_token(scheduler: &Scheduler, id: JobId) -> u32 {
    let sequence = scheduler.running(id).unwrap();
    let length = sequence.tokens.len() as u64;
    // Never the stop token before 5 are generated; then at times.
    match sequence.generated().len() >= 5 && (id.0 * 31 + length).is_multiple_of(11) {
        true => STOP,
        false => 100 + ((id.0 * 17 + length) % 50) as u32,
    }
}

fn run(scheduler: &mut Scheduler, plan: &Plan) -> Vec<super::llm::Outcome> {
    let sampled: Vec<u32> =
        plan.rows.iter().filter(|r| r.samples).map(|r| next_token(scheduler, r.id)).collect();
    scheduler.commit(plan, &sampled)
}

#[test]
fn a_prompt_is_computed_in_chunks_beside_decoding_rows() {
    let mut scheduler = Scheduler::new(limits(64));
    scheduler.submit(JobId(1), start(3, 50)).unwrap();
    let plan = scheduler.plan(|_| false).unwrap();
    assert_eq!(plan.rows, [Row { id: JobId(1), start: 0, len: 3, samples: true }]);
    run(&mut scheduler, &plan);
    scheduler.submit(JobId(2), start(10, 5)).unwrap();
    let plan = scheduler.plan(|_| false).unwrap();
    let decode = Row { id: JobId(1), start: 3, len: 1, samples: true };
    assert_eq!(plan.rows, [decode, Row { id: JobId(2), start: 0, len: 8, samples: false }]);
    run(&mut scheduler, &plan);
    let plan = scheduler.plan(|_| false).unwrap();
    assert_eq!(plan.rows[1], Row { id: JobId(2), start: 8, len: 2, samples: true });
}

#[test]
fn a_stalled_reader_pauses_its_own_sequence_only() {
    let mut scheduler = Scheduler::new(limits(64));
    scheduler.submit(JobId(1), start(2, 9)).unwrap();
    scheduler.submit(JobId(2), start(2, 9)).unwrap();
    let plan = scheduler.plan(|_| false).unwrap();
    run(&mut scheduler, &plan);
    let plan = scheduler.plan(|id| id == JobId(1)).unwrap();
    assert_eq!(plan.rows.iter().map(|r| r.id).collect::<Vec<_>>(), [JobId(2)]);
    assert!(scheduler.plan(|_| true).is_none());
}

#[test]
fn a_cancelled_sequence_has_given_its_blocks_back_at_the_next_plan() {
    let mut scheduler = Scheduler::new(limits(2));
    scheduler.submit(JobId(1), start(7, 1)).unwrap();
    scheduler.submit(JobId(2), start(7, 1)).unwrap();
    let plan = scheduler.plan(|_| false).unwrap();
    assert_eq!(plan.rows.len(), 1);
    scheduler.cancel(JobId(1));
    assert_eq!(scheduler.plan(|_| false).unwrap().rows[0].id, JobId(2));
    // Committing the plan of a sequence that has gone does nothing.
    assert!(scheduler.commit(&plan, &[5]).is_empty());
    scheduler.check_integrity().unwrap();
}

#[test]
fn what_cannot_ever_fit_is_refused_and_what_fits_is_cut() {
    let mut scheduler = Scheduler::new(limits(4));
    assert_eq!(scheduler.capacity(), 16);
    assert_eq!(scheduler.submit(JobId(1), start(16, 1)), Err(15));
    assert_eq!(scheduler.submit(JobId(1), start(0, 1)), Err(15));
    scheduler.submit(JobId(1), start(15, 1000)).unwrap();
    let plan = scheduler.plan(|_| false).unwrap();
    let outcome = run(&mut scheduler, &plan)[0];
    assert_eq!((outcome.finish, outcome.generated), (Some(FinishReason::Length), 1));
    assert_eq!(scheduler.num_running() + scheduler.num_waiting(), 0);
}

#[derive(Debug, Clone)]
enum Act {
    Submit { prompt: usize, max_new: usize },
    Cancel(u64),
    Stall(u64),
    Step,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (1usize..40, 1usize..30).prop_map(|(prompt, max_new)| Act::Submit { prompt, max_new }),
        1 => (0u64..12).prop_map(Act::Cancel),
        1 => (0u64..12).prop_map(Act::Stall),
        6 => Just(Act::Step),
    ];
    proptest::collection::vec(act, 1..80)
}

/// Checks a plan against what was computed so far, and notes what it computes.
fn check_plan(scheduler: &Scheduler, plan: &Plan, limits: Limits, computed: &mut BTreeMap<JobId, usize>) {
    let rows: BTreeSet<JobId> = plan.rows.iter().map(|r| r.id).collect();
    assert_eq!(rows.len(), plan.rows.len(), "a sequence twice in {plan:?}");
    assert!(rows.len() <= limits.max_running);
    let prefill: usize = plan.rows.iter().filter(|r| r.len > 1).map(|r| r.len).sum();
    assert!(prefill <= limits.prefill_tokens);
    for row in &plan.rows {
        let sequence = scheduler.running(row.id).expect("a planned sequence holds blocks");
        // From where it is, or from the start after a preemption.
        let at = computed.entry(row.id).or_insert(0);
        assert!(row.start == *at || row.start == 0, "{row:?} after {at}");
        assert!(sequence.table.len() * limits.block_size >= row.start + row.len, "{row:?} has no blocks");
        assert_eq!(row.samples, row.start + row.len == sequence.tokens.len());
        *at = row.start + row.len;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_everything_ends(acts in acts(), blocks in 1usize..24) {
        let limits = limits(blocks);
        let mut scheduler = Scheduler::new(limits);
        let (mut alive, mut stalled, mut computed) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let mut texts: BTreeMap<JobId, Vec<u32>> = BTreeMap::new();
        let mut next = 0;
        let mut step = |scheduler: &mut Scheduler, alive: &mut BTreeSet<JobId>, stalled: &BTreeSet<JobId>| {
            let Some(plan) = scheduler.plan(|id| stalled.contains(&id)) else { return false };
            check_plan(scheduler, &plan, limits, &mut computed);
            assert!(plan.rows.iter().all(|r| alive.contains(&r.id) && (r.start == 0 || !stalled.contains(&r.id))));
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
                Act::Submit { prompt, max_new } => {
                    if scheduler.submit(JobId(next), start(prompt, max_new)).is_ok() {
                        alive.insert(JobId(next));
                    }
                    next += 1;
                }
                Act::Cancel(id) => {
                    scheduler.cancel(JobId(id));
                    alive.remove(&JobId(id));
                }
                Act::Stall(id) => {
                    if !stalled.remove(&JobId(id)) {
                        stalled.insert(JobId(id));
                    }
                }
                Act::Step => {
                    step(&mut scheduler, &mut alive, &stalled);
                }
            }
            scheduler.check_integrity().map_err(TestCaseError::fail)?;
        }
        // With every reader awake, all that is left ends, in bounded time, preempted or not.
        let none = BTreeSet::new();
        let mut steps = 0;
        while !alive.is_empty() {
            prop_assert!(step(&mut scheduler, &mut alive, &none), "nothing planned and {alive:?} unfinished");
            steps += 1;
            prop_assert!(steps < 20_000);
            scheduler.check_integrity().map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(scheduler.usage(), 0.0);
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
        while let Some(plan) = scheduler.plan() {
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
    let first = scheduler.plan().unwrap();
    scheduler.submit(JobId(1), vec![10]);
    scheduler.commit(&first);
    let second = scheduler.plan().unwrap();
    assert_eq!(scheduler.commit(&second), [JobId(1)]);
}
