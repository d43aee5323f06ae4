//! Live transcription: samples as they are spoken, words as soon as they are sure.
//!
//! What is decided is [`ear`]'s, which has no clock and no threads: which audio is heard next, when a turn begins and
//! ends, what is dropped. Which words are sure is [`agreement`]'s, whether somebody speaks [`voice`]'s. [`driver`] runs
//! the jobs, and [`Decoder`] makes samples of what clients send.

mod agreement;
mod decoder;
mod driver;
mod ear;
#[cfg(test)]
mod tests;
mod voice;

use std::time::Duration;

use tokio::sync::mpsc;

pub use decoder::{Decoder, Encoding};

use super::{Context, Error, Service};
use crate::model::asr::Asr;
use crate::types::asr::{Task, Word};

/// Samples of a message to a session: a second holds no more than this many messages back.
const PIECE: usize = 8_000;
/// Messages that a session may be behind before its caller waits.
const INBOX: usize = 8;
/// Events that its caller may be behind before the session waits.
const EVENTS: usize = 64;

/// When a turn begins and ends by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turns {
    /// Probability of speech above which a turn begins, 0 to 1.
    pub threshold: f32,
    /// Audio before speech that belongs to it.
    pub padding: Duration,
    /// Silence that ends a turn.
    pub silence: Duration,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { threshold: 0.5, padding: Duration::from_millis(300), silence: Duration::from_millis(500) }
    }
}

/// How long a turn may last. It is ended at a pause after the first, and anywhere after the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Longest {
    pub pause: Duration,
    pub any: Duration,
}

/// What a caller asks of a session. Values are in range: whoever builds one has checked them.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Id or alias of the model.
    pub model: String,
    /// ISO 639-1 code; `None` detects it.
    pub language: Option<String>,
    /// Text that the transcript is to read as if it followed.
    pub prompt: Option<String>,
    /// `None`: the caller says where turns end, and the first sample begins one.
    pub turns: Option<Turns>,
    /// New audio after which what was said so far is looked at again; `None`: only at the end of turns.
    pub interval: Option<Duration>,
    pub longest: Longest,
    /// Texts followed side by side.
    pub beam_size: usize,
}

impl Options {
    /// Turns by voice activity, a look every second.
    pub fn new(model: impl Into<String>) -> Options {
        Options {
            model: model.into(),
            language: None,
            prompt: None,
            turns: Some(Turns::default()),
            interval: Some(Duration::from_secs(1)),
            longest: Longest { pause: Duration::from_secs(120), any: Duration::from_secs(300) },
            beam_size: 1,
        }
    }
}

/// What a session hears. Times are from the first sample on.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody began to speak; the padding before it is part of the turn.
    SpeechStarted { item: u64, ms: u64 },
    /// The silence that says so is part of the turn.
    SpeechStopped { item: u64, ms: u64 },
    /// The turn is over, and its last words are being looked for.
    Committed { item: u64 },
    /// The caller ended a turn where none was.
    Nothing,
    /// Text to append to the turn's. It never changes.
    Partial { item: u64, delta: String },
    /// What may follow the text so far; the next one replaces it.
    Tentative { item: u64, text: String },
    /// All of a turn: `text` is what its [`Partial`](Self::Partial)s add up to.
    Completed { item: u64, text: String, words: Vec<Word>, start: f64, end: f64 },
    /// So much audio waits to be heard: words are told without a second look until that is less.
    Behind { seconds: f64 },
    /// So much audio was never heard, because it came faster than the model hears.
    Dropped { seconds: f64 },
    /// A turn is over without its last words; without `item`, the session.
    Failed { item: Option<u64>, error: Error },
}

/// What a session is told.
#[derive(Debug)]
pub enum Command {
    /// Samples at 16 kHz.
    Push(Vec<f32>),
    Commit,
    Clear,
    Configure(Box<Options>),
    Finish,
}

/// The session is over: it failed, and said so, or was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session is over")]
pub struct Over;

/// A stream being transcribed. Dropping either half stops the work.
#[derive(Debug)]
pub struct Session {
    /// Id of the model that hears it.
    pub model: String,
    pub input: Input,
    /// What it hears; `None` is its end.
    pub events: mpsc::Receiver<Event>,
}

/// Where a session's audio goes. Every call waits while the session is behind.
#[derive(Debug)]
pub struct Input(mpsc::Sender<Command>);

impl Session {
    /// A session of `model`, and the ends that whoever hears it holds.
    pub fn open(model: String) -> (Session, mpsc::Receiver<Command>, mpsc::Sender<Event>) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let (outbox, events) = mpsc::channel(EVENTS);
        (Session { model, input: Input(sender), events }, inbox, outbox)
    }
}

impl Input {
    /// The next samples, at 16 kHz.
    pub async fn push(&self, samples: &[f32]) -> Result<(), Over> {
        for piece in samples.chunks(PIECE) {
            self.send(Command::Push(piece.to_vec())).await?;
        }
        Ok(())
    }

    /// The turn ends here.
    pub async fn commit(&self) -> Result<(), Over> {
        self.send(Command::Commit).await
    }

    /// Forgets the audio of the turn that has not ended.
    pub async fn clear(&self) -> Result<(), Over> {
        self.send(Command::Clear).await
    }

    /// Goes on with other options; the model stays.
    pub async fn configure(&self, options: Options) -> Result<(), Over> {
        self.send(Command::Configure(Box::new(options))).await
    }

    /// No more audio comes: the last turn ends, and after its words the events do.
    pub async fn finish(&self) -> Result<(), Over> {
        self.send(Command::Finish).await
    }

    async fn send(&self, command: Command) -> Result<(), Over> {
        self.0.send(command).await.map_err(|_| Over)
    }
}

impl Service {
    /// Begins to transcribe a stream.
    ///
    /// # Errors
    /// The model is not there or cannot be loaded, it does not know the language, or turns are wanted and no detector
    /// is installed.
    pub async fn live(&self, ctx: Context, options: Options) -> Result<Session, Error> {
        let handle = self.model::<Asr>(&ctx, &options.model).await?;
        super::transcribe::check(
            handle.front(),
            &options.model,
            options.language.as_deref(),
            Task::Transcribe,
        )?;
        let detector = match self.detector(&ctx, "turn_detection").await {
            Ok(detector) => Some(detector),
            Err(error) if options.turns.is_some() => return Err(error),
            Err(_) => None,
        };
        let (session, inbox, events) = Session::open(handle.id().to_owned());
        let driver = driver::Driver::new(handle, detector, options, self.options.timeout);
        tokio::spawn(driver.run(inbox, events));
        Ok(session)
    }
}
