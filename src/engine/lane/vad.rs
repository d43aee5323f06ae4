//! Voice activity detection.
//!
//! A job is a piece of a stream and done in one step, which takes those of several callers together: first come, first
//! served.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Lane, Look};
use crate::engine::job::{Event, Failure, Job, Modality};
use crate::engine::sched::turns::Kind;
use crate::engine::worker::AnyJob;
use crate::model::Model;
use crate::model::vad::{Row, Vad, VadState};
use crate::obs::{ModelMetrics, Outcome, RequestTimer};
use crate::types::model;

/// What a job starts from.
pub use crate::model::vad::Row as Input;

/// Frames of a step, and the most that a job may have: two minutes of audio. More does not make a step faster, and
/// delays other models.
pub const MAX_FRAMES: usize = 4096;
/// How long a piece waits beside text that a model writes: live sessions send ten a second.
const PATIENCE: Duration = Duration::from_millis(100);

impl Modality for Vad {
    const KIND: model::Kind = model::Kind::Vad;
    type Input = Input;
    /// Nothing is known before the end.
    type Delta = std::convert::Infallible;
    /// The probability of speech in every frame, and what the stream goes on with.
    type Done = (Vec<f32>, VadState);
    /// Its frames are [`FRAME`](crate::model::vad::FRAME) samples: nothing else is to be known.
    type Front = ();
}

/// A detector on its device.
pub struct VadLane {
    metrics: ModelMetrics,
    model: Box<dyn Model<Vad>>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    job: Box<Job<Vad>>,
    timer: RequestTimer,
}

/// A step: the jobs in it, and their inputs, taken out of them.
pub struct Plan {
    jobs: Vec<Waiting>,
    rows: Vec<Row>,
}

impl VadLane {
    /// A lane without jobs.
    pub fn new(metrics: ModelMetrics, model: Box<dyn Model<Vad>>) -> Self {
        VadLane { metrics, model, waiting: VecDeque::new() }
    }
}

fn break_off(Waiting { mut job, timer }: Waiting, failure: &Failure) {
    timer.finish(Instant::now(), Outcome::Error, 0);
    job.events.send(Event::Failed(failure.clone()));
}

/// Why a job can never run.
fn refusal(input: &Input) -> Option<String> {
    match input.check() {
        Err(error) => Some(error.to_string()),
        Ok(()) if input.frames() > MAX_FRAMES => {
            Some(format!("{} frames are too many at once: give at most {MAX_FRAMES}", input.frames()))
        }
        Ok(()) => None,
    }
}

impl Lane for VadLane {
    type Plan = Plan;
    type Output = Vec<(Vec<f32>, VadState)>;

    fn submit(&mut self, job: AnyJob) {
        let AnyJob::Vad(job) = job else { return job.reject() };
        let timer = self.metrics.request(job.queued);
        let refusal = refusal(&job.input);
        let waiting = Waiting { job, timer };
        match refusal {
            Some(reason) => break_off(waiting, &Failure::Rejected(reason)),
            None => self.waiting.push_back(waiting),
        }
    }

    fn look(&mut self, now: Instant) -> Look {
        let before = self.waiting.len();
        self.waiting.retain_mut(|w| !w.job.is_over(now));
        if self.waiting.len() != before {
            self.metrics.set_load(0, self.waiting.len());
        }
        match self.waiting.front() {
            Some(first) => Look::Ready { kind: Kind::Rows, overdue: now >= first.job.queued + PATIENCE },
            None => Look::Idle,
        }
    }

    fn plan(&mut self, now: Instant, _room: Option<Duration>) -> Option<Plan> {
        let mut frames = 0;
        let fit = self.waiting.iter().take_while(|w| {
            frames += w.job.input.frames();
            frames <= MAX_FRAMES
        });
        let fit = fit.count();
        let mut jobs: Vec<Waiting> = self.waiting.drain(..fit).collect();
        self.metrics.set_load(jobs.len(), self.waiting.len());
        jobs.iter_mut().for_each(|w| w.timer.start(now));
        let rows: Vec<Row> = jobs.iter_mut().map(|w| std::mem::take(&mut w.job.input)).collect();
        (!jobs.is_empty()).then_some(Plan { jobs, rows })
    }

    fn run(&mut self, plan: &Plan) -> Result<Vec<(Vec<f32>, VadState)>, Failure> {
        self.metrics.listened(plan.rows.iter().map(Row::frames).sum());
        self.model.step(&plan.rows).map_err(|e| Failure::of(&e))
    }

    fn commit(&mut self, plan: Plan, output: Vec<(Vec<f32>, VadState)>) {
        let now = Instant::now();
        for (Waiting { mut job, timer }, done) in plan.jobs.into_iter().zip(output) {
            timer.finish(now, Outcome::Stop, 0);
            job.events.send(Event::Done(done));
        }
    }

    fn fail(&mut self, plan: Plan, failure: &Failure) {
        plan.jobs.into_iter().for_each(|w| break_off(w, failure));
    }

    fn shrink(&mut self, plan: Plan) -> Option<Plan> {
        // It computes on the CPU.
        Some(plan)
    }

    fn num_jobs(&self) -> usize {
        self.waiting.len()
    }

    fn fail_all(&mut self, failure: &Failure) {
        self.waiting.drain(..).for_each(|w| break_off(w, failure));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::job::Outbox;
    use crate::engine::lane::{AnyLane, Turn};
    use crate::model::fake::FakeVad;
    use crate::model::vad::FRAME;
    use crate::obs::install_metrics;
    use crate::types::key::Owner;

    fn lane(model: &str) -> VadLane {
        VadLane::new(ModelMetrics::new(model, 0), Box::new(FakeVad))
    }

    fn submit(lane: &mut VadLane, input: Input) -> mpsc::Receiver<Event<Vad>> {
        let (sender, receiver) = mpsc::channel(4);
        let now = Instant::now();
        let job = Job {
            input,
            owner: Owner::default(),
            deadline: Some(now + Duration::from_secs(60)),
            queued: now,
            span: tracing::Span::none(),
            events: Outbox::new(sender),
            ticket: None,
        };
        AnyLane::submit(lane, job.into());
        receiver
    }

    /// A stream's piece whose samples are all this.
    fn piece(frames: usize, value: f32) -> Input {
        Row { samples: vec![value; frames * FRAME], ..Row::default() }
    }

    fn step(lane: &mut VadLane) -> Turn {
        AnyLane::step(lane, Instant::now(), None)
    }

    fn done(receiver: &mut mpsc::Receiver<Event<Vad>>) -> (Vec<f32>, VadState) {
        match receiver.try_recv() {
            Ok(Event::Done(done)) => done,
            other => panic!("not done: {other:?}"),
        }
    }

    fn failure(receiver: &mut mpsc::Receiver<Event<Vad>>) -> Failure {
        match receiver.try_recv() {
            Ok(Event::Failed(failure)) => failure,
            other => panic!("no failure: {other:?}"),
        }
    }

    #[test]
    fn a_step_takes_what_fits_in_the_order_it_came() {
        let exposition = install_metrics().unwrap();
        let mut lane = lane("fitting");
        let mut jobs: Vec<_> = [(MAX_FRAMES - 3, 0.1), (2, 0.2), (2, 0.3), (1, 0.4)]
            .into_iter()
            .map(|(frames, value)| submit(&mut lane, piece(frames, value)))
            .collect();
        assert_eq!(step(&mut lane), Turn::Worked);
        assert_eq!(done(&mut jobs[0]).0.len(), MAX_FRAMES - 3);
        let (speech, state) = done(&mut jobs[1]);
        assert_eq!((speech, state.context[63], state.h[0]), (vec![0.2; 2], 0.2, 2.0));
        assert!(jobs[2].try_recv().is_err() && jobs[3].try_recv().is_err(), "nobody is passed by");
        assert_eq!((step(&mut lane), step(&mut lane)), (Turn::Worked, Turn::Idle));
        assert_eq!((done(&mut jobs[2]).0, done(&mut jobs[3]).0), (vec![0.3; 2], vec![0.4]));
        let text = exposition.render();
        for (metric, labels, value) in [
            ("stentor_vad_frames_total", "", MAX_FRAMES + 2),
            ("vllm:request_success_total", ",finished_reason=\"stop\"", 4),
            ("vllm:num_requests_waiting", "", 0),
        ] {
            let line = format!("{metric}{{model_name=\"fitting\",engine=\"0\"{labels}}} {value}");
            assert!(text.lines().any(|l| l == line), "{line}");
        }
    }

    #[test]
    fn a_stream_goes_on_with_the_state_it_is_given_back() {
        let mut lane = lane("going-on");
        let mut first = submit(&mut lane, piece(3, 0.5));
        step(&mut lane);
        let (_, state) = done(&mut first);
        let mut second = submit(&mut lane, Input { state, ..piece(4, 0.5) });
        step(&mut lane);
        assert_eq!(done(&mut second).1.h[0], 7.0);
    }

    #[test]
    fn what_cannot_run_is_refused_and_what_nobody_waits_for_is_dropped() {
        let mut lane = lane("refusing");
        for (input, reason) in [
            (piece(0, 0.0), "0 samples are no whole frames"),
            (Row { samples: vec![0.0; 700], ..Row::default() }, "700 samples are no whole frames"),
            (piece(MAX_FRAMES + 1, 0.0), "4097 frames are too many at once: give at most 4096"),
            (piece(1, f32::NAN), "sample 0 is NaN"),
        ] {
            let mut refused = submit(&mut lane, input);
            let Failure::Rejected(why) = failure(&mut refused) else { panic!("not refused") };
            assert!(why.contains(reason), "{why}");
        }
        assert_eq!(lane.num_jobs(), 0);
        drop(submit(&mut lane, piece(1, 0.0)));
        let mut late = submit(&mut lane, piece(1, 0.0));
        let much_later = Instant::now() + Duration::from_secs(61);
        assert_eq!(AnyLane::step(&mut lane, much_later, None), Turn::Idle);
        assert!(matches!(failure(&mut late), Failure::Deadline(_)));
        let mut left = submit(&mut lane, piece(1, 0.0));
        AnyLane::fail_all(&mut lane, &Failure::Stopped);
        assert_eq!((failure(&mut left), lane.num_jobs()), (Failure::Stopped, 0));
    }

    #[test]
    fn a_step_that_panics_ends_its_jobs_and_the_model_goes_on() {
        let mut lane = lane("panicking");
        let mut poisoned = submit(&mut lane, piece(1, FakeVad::PANIC));
        step(&mut lane);
        assert!(matches!(failure(&mut poisoned), Failure::Step(why) if why.contains("asked to panic")));
        let mut fine = submit(&mut lane, piece(1, 0.7));
        step(&mut lane);
        assert_eq!(done(&mut fine).0, [0.7]);
    }
}
