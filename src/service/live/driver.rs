//! Runs a session: takes what its caller sends while there is room for it, has the detector and the model hear what
//! the [`Ear`] hands out, one job of each at a time, and tells what comes of it. It ends when either of the caller's
//! halves is dropped; what was under way is dropped with it.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::ear::{Ear, Pass};
use super::{Command, Event, Options};
use crate::audio::MelExtractor;
use crate::engine::handle::Handle;
use crate::engine::job;
use crate::engine::lane::{asr, vad};
use crate::model::asr::Asr;
use crate::model::asr::output::{self, Cut};
use crate::model::vad::{Vad, VadState};
use crate::service::resolve::joined;
use crate::service::{Error, ErrorKind};
use crate::types::asr::{HOP, Request, SAMPLE_RATE, Segment, Task, Word};

/// Before what was refused is tried again, and before a full ear is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// Refusals of a turn's last pass before it is given up: ten seconds.
const REFUSALS: u32 = 40;
/// The last words of a turn go before other recordings, whose callers wait for more than a line.
const URGENT: i32 = -1;

/// So many times as long as a pass within a turn took, from the asking to the answer, no other one is begun: what the
/// sessions of a busy server leave to each other, and to the last passes of their turns.
const LEISURE: u32 = 3;

/// Tokens that a window may come to for each second of it, and besides: twice what a whole window has room for. Text that
/// repeats itself, as small networks' texts of cut words do, ends there and not at 224.
const TOKENS_A_SECOND: usize = 15;
const TOKENS_BESIDES: usize = 16;

type Hearing = BoxFuture<'static, Result<Vec<Word>, Error>>;

/// A session at work.
pub(super) struct Driver {
    ear: Ear,
    options: Options,
    model: Handle<Asr>,
    detector: Option<Handle<Vad>>,
    state: VadState,
    listening: Option<mpsc::Receiver<job::Event<Vad>>>,
    hearing: Option<Hearing>,
    /// Whether what is being heard ends its turn, and since when it is.
    last: bool,
    since: Instant,
    /// Until then nothing is heard within a turn.
    leisure_until: Instant,
    refusals: u32,
    /// Not before this is anything heard.
    rest_until: Option<Instant>,
    /// The end of a turn, until the detector has heard what came before it.
    waiting: Option<Command>,
    finishing: bool,
    clock: Instant,
    timeout: Duration,
}

/// What happened next.
enum Next {
    Told(Option<Command>),
    Listened(Option<Box<job::Event<Vad>>>),
    Heard(Result<Vec<Word>, Error>),
    Paused,
    Gone,
}

impl Driver {
    pub fn new(
        model: Handle<Asr>,
        detector: Option<Handle<Vad>>,
        options: Options,
        timeout: Duration,
    ) -> Driver {
        Driver {
            ear: Ear::new(options.clone(), detector.is_some()),
            options,
            model,
            detector,
            state: VadState::default(),
            listening: None,
            hearing: None,
            last: false,
            since: Instant::now(),
            leisure_until: Instant::now(),
            refusals: 0,
            rest_until: None,
            waiting: None,
            finishing: false,
            clock: Instant::now(),
            timeout,
        }
    }

    pub async fn run(mut self, mut inbox: mpsc::Receiver<Command>, events: mpsc::Sender<Event>) {
        if let Err(error) = self.hear_all(&mut inbox, &events).await {
            let _ = events.send(Event::Failed { item: None, error }).await;
        }
    }

    async fn hear_all(
        &mut self,
        inbox: &mut mpsc::Receiver<Command>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Error> {
        loop {
            self.begin()?;
            while let Some(event) = self.ear.take_event() {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            if self.finishing && self.waiting.is_none() && self.ear.is_done() {
                return Ok(());
            }
            match self.next(inbox, events).await {
                Next::Gone | Next::Told(None) => return Ok(()),
                Next::Told(Some(command)) => self.obey(command)?,
                Next::Listened(answer) => self.listened(answer.map(|answer| *answer))?,
                Next::Heard(result) => self.heard(result)?,
                Next::Paused => {}
            }
        }
    }

    async fn next(&mut self, inbox: &mut mpsc::Receiver<Command>, events: &mpsc::Sender<Event>) -> Next {
        let resting = self.rest_until.is_some();
        let open = !self.finishing && self.waiting.is_none();
        let takes = open && self.ear.wants(self.clock.elapsed());
        tokio::select! {
            () = events.closed() => Next::Gone,
            command = inbox.recv(), if takes => Next::Told(command),
            answer = answer(&mut self.listening) => Next::Listened(answer.map(Box::new)),
            result = result(&mut self.hearing) => Next::Heard(result),
            () = tokio::time::sleep(PAUSE), if resting || (open && !takes) => Next::Paused,
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Push(samples) => self.ear.push(&samples, self.clock.elapsed()),
            Command::Clear => self.ear.clear(),
            Command::Commit | Command::Finish | Command::Configure(_) => self.waiting = Some(command),
        }
        Ok(())
    }

    /// Does what had to wait for the detector.
    fn catch_up(&mut self) -> Result<(), Error> {
        if !self.ear.is_caught_up() {
            return Ok(());
        }
        match self.waiting.take() {
            Some(Command::Commit) => self.ear.commit(),
            Some(Command::Finish) => {
                self.finishing = true;
                self.ear.finish();
            }
            Some(Command::Configure(options)) => self.configure(*options)?,
            _ => {}
        }
        Ok(())
    }

    fn configure(&mut self, options: Options) -> Result<(), Error> {
        if options.turns.is_some() && self.detector.is_none() {
            let message =
                "turns by voice need a detector and none is installed: run `stentor pull silero-vad`";
            return Err(Error::Invalid { param: "turn_detection", message: message.to_owned() });
        }
        let language = options.language.as_deref();
        crate::service::transcribe::check(self.model.front(), self.model.id(), language, Task::Transcribe)?;
        self.ear.configure(options.clone());
        self.options = options;
        Ok(())
    }

    /// Hands out what can be heard now.
    fn begin(&mut self) -> Result<(), Error> {
        if self.listening.is_none()
            && let Some(detector) = &self.detector
            && let Some(samples) = self.ear.take_frames()
        {
            let input = vad::Input { state: std::mem::take(&mut self.state), samples };
            self.listening = Some(detector.submit(input, Some(self.timeout))?);
        }
        self.catch_up()?;
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.rest_until = None;
        if self.hearing.is_some() && self.ear.is_superseded() {
            self.hearing = None;
            self.ear.put_back();
        }
        if self.hearing.is_none()
            && let Some(pass) = self.ear.next_pass(Instant::now() >= self.leisure_until)
        {
            (self.last, self.since) = (pass.last, Instant::now());
            self.hearing = Some(hear(self.model.clone(), &self.options, self.timeout, pass));
        }
        Ok(())
    }

    fn listened(&mut self, answer: Option<job::Event<Vad>>) -> Result<(), Error> {
        self.listening = None;
        match answer {
            Some(job::Event::Done((probabilities, state))) => {
                self.state = state;
                self.ear.speech(&probabilities);
                Ok(())
            }
            Some(job::Event::Delta(never)) => match never {},
            Some(job::Event::Failed(failure)) => Err(failure.into()),
            None => Err(lost()),
        }
    }

    fn heard(&mut self, result: Result<Vec<Word>, Error>) -> Result<(), Error> {
        self.hearing = None;
        match result {
            Ok(words) => {
                self.refusals = 0;
                if !self.last {
                    self.leisure_until = Instant::now() + LEISURE * self.since.elapsed();
                }
                self.ear.heard(words);
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) if error.kind() == ErrorKind::Overloaded && self.may_wait() => {
                self.rest_until = Some(Instant::now() + PAUSE);
                self.ear.put_back();
            }
            Err(error) => {
                tracing::warn!(model = self.model.id(), ?error, "a window of a live session was not heard");
                self.refusals = 0;
                self.ear.failed(error);
            }
        }
        Ok(())
    }

    /// Whether a refused pass is tried again. One within a turn always is, with the audio that came meanwhile.
    fn may_wait(&mut self) -> bool {
        self.refusals += u32::from(self.last);
        self.refusals < REFUSALS
    }
}

/// The answer of the detector; never, where it was asked nothing.
async fn answer(listening: &mut Option<mpsc::Receiver<job::Event<Vad>>>) -> Option<job::Event<Vad>> {
    match listening {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// What is being heard; never, where nothing is.
async fn result(hearing: &mut Option<Hearing>) -> Result<Vec<Word>, Error> {
    match hearing {
        Some(hearing) => hearing.await,
        None => std::future::pending().await,
    }
}

fn lost() -> Error {
    Error::Internal { detail: "the worker dropped the job".to_owned() }
}

/// The words of a window.
fn hear(model: Handle<Asr>, options: &Options, timeout: Duration, pass: Pass) -> Hearing {
    let asked = asked(&model, options, &pass);
    let priority = if pass.last { URGENT } else { 0 };
    let cut = Cut::Voiced(std::iter::once(0..(pass.until / HOP).max(1)).collect());
    async move {
        let bins = model.front().mels;
        let features = tokio::task::spawn_blocking(move || {
            let mut mel = MelExtractor::new(bins);
            mel.push(&pass.samples);
            mel.finish()
        });
        let mel = joined(features.await)?;
        let input = asr::Input { mel, cut, options: asked, priority };
        let mut events = model.submit(input, Some(timeout))?;
        let mut words = Vec::new();
        loop {
            match events.recv().await {
                Some(job::Event::Delta(segment)) => words.extend(said(segment)),
                Some(job::Event::Done(_)) => return Ok(words),
                Some(job::Event::Failed(failure)) => return Err(failure.into()),
                None => return Err(lost()),
            }
        }
    }
    .boxed()
}

fn asked(model: &Handle<Asr>, options: &Options, pass: &Pass) -> output::Options {
    let mut request = Request::new(model.id(), Task::Transcribe);
    request.language.clone_from(&options.language);
    request.prompt = Some(pass.context.clone()).filter(|text| !text.trim().is_empty());
    request.words = true;
    request.decoding.beam_size = options.beam_size.max(1);
    request.decoding.best_of = 1;
    // Within a turn a further try costs more than the next look at the same audio.
    request.decoding.temperatures = if pass.last { vec![0.0, 0.4] } else { vec![0.0] };
    let tokens = pass.samples.len() * TOKENS_A_SECOND / SAMPLE_RATE as usize;
    request.decoding.max_new_tokens = Some(TOKENS_BESIDES + tokens);
    request.decoding.language_windows = 1;
    output::Options::new(&request)
}

/// A segment's words; one that has none is one.
fn said(segment: Segment) -> Vec<Word> {
    if !segment.words.is_empty() || segment.text.trim().is_empty() {
        return segment.words;
    }
    let (text, start, end) = (segment.text, segment.start, segment.end);
    vec![Word { text, start, end, probability: segment.avg_logprob.exp() }]
}
