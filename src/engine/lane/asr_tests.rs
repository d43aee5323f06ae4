//! Which window is computed next, with a network that writes `abcde` to whatever it hears.

use std::sync::Mutex;

use tokio::sync::mpsc;

use super::*;
use crate::engine::job::Outbox;
use crate::engine::lane::{AnyLane, Turn};
use crate::model::asr::output::testing::{EOT, T, VOCAB, recording, vocab};
use crate::model::{self, Size, asr::Want};
use crate::types::asr::{Request, Task};
use crate::types::key::Owner;
use crate::types::model::Footprint;

/// What a step was, by slots.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Encode(usize),
    Decode(Vec<usize>),
}

struct Scripted(Arc<Mutex<Vec<Step>>>);

impl Model<Asr> for Scripted {
    fn step(&mut self, batch: &Batch) -> Result<Vec<RowOutput>, model::Error> {
        let (step, outputs) = match batch {
            Batch::Encode(windows) => (Step::Encode(windows[0].0), Vec::new()),
            Batch::Decode(step) => {
                let slots = step.rows.iter().map(|row| row.slot).collect();
                (Step::Decode(slots), step.rows.iter().map(Scripted::next).collect())
            }
        };
        self.0.lock().unwrap().push(step);
        Ok(outputs)
    }

    fn footprint(&self, _: Size) -> Footprint {
        Footprint::default()
    }
}

impl Scripted {
    /// `<|0.00|>abcde<|1.00|>`, then the end.
    fn next(row: &Row) -> RowOutput {
        let next = match row.tokens.last().copied() {
            Some(T) => 0,
            Some(letter @ 0..4) => letter + 1,
            Some(4) => T + 50,
            Some(token) if token == T + 50 => EOT,
            _ => T,
        };
        let logits = |token: u32| (0..VOCAB as u32).map(|t| if t == token { 20.0 } else { 0.0 }).collect();
        RowOutput::Logits { last: logits(next), probe: matches!(row.want, Want::Probe(_)).then(|| logits(0)) }
    }
}

struct Watched {
    lane: AsrLane,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Watched {
    fn new(windows: usize) -> Watched {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let (rows, blocks) = (windows, windows * 30);
        let front = Front { vocab: vocab(), mels: 1, context: 448, windows, rows, blocks };
        let scheduler = Scheduler::new(windows, rows, blocks, 16);
        let model = Box::new(Scripted(steps.clone()));
        Watched {
            lane: AsrLane::new(ModelMetrics::new("scripted", 0), model, Arc::new(front), scheduler),
            steps,
        }
    }

    /// A recording of one window.
    fn submit(&mut self, priority: i32) -> mpsc::Receiver<Event<Asr>> {
        let (sender, receiver) = mpsc::channel(16);
        let now = Instant::now();
        let mut request = Request::new("", Task::Transcribe);
        request.language = Some("en".into());
        (request.decoding.beam_size, request.decoding.best_of) = (1, 1);
        let input = Input { mel: recording(200), cut: Cut::Whole, options: Options::new(&request), priority };
        let job = Job {
            input,
            owner: Owner::default(),
            deadline: None,
            queued: now,
            span: tracing::Span::none(),
            events: Outbox::new(sender),
            ticket: None,
        };
        AnyLane::submit(&mut self.lane, job.into());
        receiver
    }

    fn step(&mut self) -> Option<Step> {
        match AnyLane::step(&mut self.lane, Instant::now(), None) {
            Turn::Worked => self.steps.lock().unwrap().last().cloned(),
            _ => None,
        }
    }
}

fn text(mut events: mpsc::Receiver<Event<Asr>>) -> String {
    let mut text = String::new();
    while let Ok(Event::Delta(segment)) = events.try_recv() {
        text.push_str(&segment.text);
    }
    text
}

#[test]
fn windows_are_encoded_in_the_order_of_their_turns_not_of_their_slots() {
    let mut watched = Watched::new(3);
    let first = watched.submit(0);
    let (second, third) = (watched.submit(0), watched.submit(0));
    assert_eq!(watched.step(), Some(Step::Encode(0)));
    // Its slot goes to one that came later than those which wait.
    drop(first);
    let fourth = watched.submit(0);
    let order: Vec<_> = (0..3).filter_map(|_| watched.step()).collect();
    assert_eq!(order, [Step::Encode(1), Step::Encode(2), Step::Encode(0)]);
    while watched.step().is_some() {}
    assert_eq!([second, third, fourth].map(text), ["abcde", "abcde", "abcde"]);
}

#[test]
fn what_is_urgent_is_encoded_first_and_decoded_before_others_are_encoded() {
    let mut watched = Watched::new(4);
    let patient = [0, 0, 0].map(|priority| watched.submit(priority));
    assert_eq!(watched.step(), Some(Step::Encode(0)));
    let urgent = watched.submit(-1);
    assert_eq!(watched.step(), Some(Step::Encode(3)));
    // The prompt, a time, five letters, a time: the other window that is encoded goes along.
    for _ in 0..8 {
        assert_eq!(watched.step(), Some(Step::Decode(vec![0, 3])));
    }
    assert_eq!(text(urgent), "abcde");
    assert_eq!(watched.step(), Some(Step::Encode(1)));
    while watched.step().is_some() {}
    assert_eq!(patient.map(text), ["abcde", "abcde", "abcde"]);
}
