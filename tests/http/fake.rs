//! A backend without models: it repeats what it is asked, and does as the name of the model says.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use futures::future::BoxFuture;
use futures::{FutureExt, stream};
use stentor::http::{Backend, Settings, State, Stored, router};
use stentor::obs::{ModelMetrics, Outcome, install_metrics};
use stentor::service::files::{self, Files};
use stentor::service::jobs::Jobs;
use stentor::service::live::{self, Session};
use stentor::service::points::Points;
use stentor::service::rag::{Models, Ruler};
use stentor::service::responses::Responses;
use stentor::service::speakers::{self, Book};
use stentor::service::voices::{Company, Voices};
use stentor::service::{Card, Context, Error, Generation, Readiness, Transcription, Upload};
use stentor::types::llm::{Delta, FinishReason, Prompt, Scored, TokenLogprobs, ToolStart};
use stentor::types::model::Kind;
use stentor::types::speaker::{Diarization, Embedder, Part, Sample, Speakers};
use stentor::types::{Usage, asr, embed, llm, rerank};

pub use super::ask::*;
use super::rerank::ranks;
use super::stenographer::Stenographer;
use super::voices::Throats;

pub const CHAT: &str = "echo";
/// Writes a word every 10 ms for ever.
pub const ENDLESS: &str = "endless";
/// Writes 20 words, one every 50 ms.
pub const SLOW: &str = "slow";
/// Calls two tools.
pub const CALLS: &str = "calls";
/// Thinks, answers, and is cut off.
pub const THINKS: &str = "thinks";
/// Answers with the conversation that it was given.
pub const RECALLS: &str = "recalls";
/// Fails after its first word.
pub const BREAKS: &str = "breaks";

/// Embeds texts by their words: those that share some are near.
pub const BAG: &str = "bag";
const BAG_SIZE: usize = 256;

/// Hears one stretch of speech.
pub const EARS: &str = "org/ears";
/// Hears three.
pub const TALK: &str = "talk";
/// Hears one every 10 ms for ever.
pub const LECTURE: &str = "lecture";
/// Hears two, and nothing between them.
pub const ANTHEM: &str = "anthem";
/// Fails after the first.
pub const COUGH: &str = "cough";

#[derive(Default)]
pub struct Fake {
    /// Generations that were dropped before their end.
    pub dropped: Arc<AtomicUsize>,
    /// Generations that run.
    pub running: Arc<AtomicUsize>,
    pub not_ready: bool,
    /// What the last transcription was asked for.
    pub asked: Arc<Mutex<Option<asr::Request>>>,
    /// What knows voices.
    pub voices: Throats,
}

struct Running {
    dropped: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        if !self.ended {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Each word counts in a dimension of its own, nearly.
fn bag(text: &str) -> Vec<f32> {
    let mut vector = vec![0.001; BAG_SIZE];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 3) {
        let hash = word.to_lowercase().bytes().fold(17u32, |hash, b| hash.wrapping_mul(31) ^ u32::from(b));
        vector[hash as usize % BAG_SIZE] += 1.0;
    }
    vector
}

pub fn unknown(model: String) -> Error {
    Error::UnknownModel { model, available: vec![CHAT.into(), "vectors".into(), EARS.into()] }
}

/// Two calls, the first in two pieces.
fn calls(usage: Usage) -> Vec<Result<Delta, Error>> {
    let start = |id: &str| Some(ToolStart { id: id.to_owned(), name: "weather".to_owned() });
    let call =
        |call, start, text: &str| Ok(Delta::ToolCall { choice: 0, call, start, arguments: text.to_owned() });
    vec![
        call(0, start("call_a"), "{\"city\":"),
        call(0, None, "\"Oslo\"}"),
        call(1, start("call_b"), "{}"),
        Ok(Delta::Finished { choice: 0, reason: FinishReason::ToolCalls }),
        Ok(Delta::Usage(usage)),
    ]
}

/// Of a text that is one token, with as many others as were asked for; where it begins is told.
fn logprobs(choice: u32, text: &str, offset: u32, top: u32) -> Result<Delta, Error> {
    let scored = |token: &str, logprob| Scored { token: token.to_owned(), bytes: token.into(), logprob };
    let top = (0..top).map(|at| scored(&format!("t{at}"), -2.0 - at as f32)).collect();
    Ok(Delta::Logprobs { choice, tokens: vec![TokenLogprobs { chosen: scored(text, -0.5), top, offset }] })
}

/// A thought in two pieces, and an answer without its end.
fn thoughts(usage: Usage) -> Vec<Result<Delta, Error>> {
    let thought = |text: &str| Ok(Delta::Reasoning { choice: 0, text: text.to_owned() });
    vec![
        thought("Let me "),
        thought("think."),
        Ok(Delta::Text { choice: 0, text: "It is".to_owned() }),
        Ok(Delta::Finished { choice: 0, reason: FinishReason::Length }),
        Ok(Delta::Usage(Usage { reasoning_tokens: 1, ..usage })),
    ]
}

fn recall(turn: &llm::Message) -> String {
    let calls: String =
        turn.tool_calls.iter().map(|c| format!(" {}={}{}", c.id, c.name, c.arguments)).collect();
    let answers = turn.tool_call_id.iter().map(|id| format!(" to {id}")).collect::<String>();
    format!("{}: {}{calls}{answers}", turn.role.as_str(), turn.content)
}

/// The `id`th stretch of speech, 1.5 s long: two words, the first of two tokens.
fn segment(request: &asr::Request, id: u32, text: &str) -> asr::Segment {
    let start = f64::from(id) * 2.0;
    let mut segment = asr::Segment {
        id,
        seek: 0,
        start,
        end: start + 1.5,
        text: text.to_owned(),
        tokens: vec![1, 2],
        temperature: request.decoding.temperatures[0],
        avg_logprob: -0.5,
        compression_ratio: 1.0,
        no_speech_prob: 0.25,
        words: Vec::new(),
        logprobs: Vec::new(),
    };
    let (first, rest) = text.split_at(text[1..].find(' ').map_or(text.len(), |at| at + 1));
    if request.words {
        let word = |text: &str, start, end| asr::Word { text: text.into(), start, end, probability: 0.75 };
        segment.words = vec![word(first, start, start + 0.5), word(rest, start + 0.5, start + 1.5)];
    }
    if request.logprobs {
        let token = |text: &str, logprob| asr::TokenLogprob { token: 1, bytes: text.into(), logprob };
        let (two, more) = first.split_at(first.len().min(2));
        segment.logprobs = vec![token(two, -0.5), token(more, -0.25), token(rest, -1.0)];
    }
    segment
}

impl Fake {
    /// Segments, a pause before each, and the end.
    fn hears(
        &self,
        request: &asr::Request,
        segments: impl Iterator<Item = Result<asr::Segment, Error>> + Send + 'static,
        pause: Duration,
    ) -> Transcription {
        self.running.fetch_add(1, Ordering::SeqCst);
        let guard = Running { dropped: self.dropped.clone(), running: self.running.clone(), ended: false };
        let code = request.language.clone().unwrap_or_else(|| "en".into());
        let language = asr::Language { code, probability: 1.0 };
        let end = asr::Delta::End(asr::Ending { language, usage: Usage::default() });
        let deltas = [Ok(asr::Delta::Begin { duration: 1.5 })]
            .into_iter()
            .chain(segments.map(|segment| segment.map(asr::Delta::Segment)))
            .chain([Ok(end)]);
        let deltas = stream::unfold((deltas, guard), move |(mut deltas, mut guard)| async move {
            let delta = deltas.next();
            guard.ended |= matches!(delta, None | Some(Ok(asr::Delta::End(_)) | Err(_)));
            tokio::time::sleep(pause).await;
            Some((delta?, (deltas, guard)))
        });
        Transcription::new(request.model.clone(), deltas)
    }

    fn words(&self, words: Vec<Result<Delta, Error>>, pause: Duration) -> Generation {
        self.running.fetch_add(1, Ordering::SeqCst);
        let guard = Running { dropped: self.dropped.clone(), running: self.running.clone(), ended: false };
        let timer = Some(ModelMetrics::new(ENDLESS, 0).request(Instant::now()));
        let state = (words.into_iter(), guard, timer);
        let deltas = stream::unfold(state, move |(mut words, mut guard, mut timer)| async move {
            let word = words.next();
            if word.is_none() || matches!(word, Some(Ok(Delta::Usage(_)) | Err(_))) {
                guard.ended = true;
                if let Some(timer) = timer.take() {
                    timer.finish(Instant::now(), Outcome::Stop, 1);
                }
            }
            tokio::time::sleep(pause).await;
            Some((word?, (words, guard, timer)))
        });
        Generation::new(CHAT.into(), deltas)
    }
}

impl Models for Fake {
    fn generate(&self, _ctx: Context, request: llm::Request) -> BoxFuture<'_, Result<Generation, Error>> {
        async move {
            let text = match &request.prompt {
                Prompt::Chat(messages) => messages.last().map(|m| m.content.clone()).unwrap_or_default(),
                Prompt::Text(text) => text.clone(),
                Prompt::Tokens(ids) => format!("{ids:?}"),
            };
            let word = |text: &str| Ok(Delta::Text { choice: 0, text: text.to_owned() });
            let usage =
                Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: 1, ..Usage::default() };
            let end =
                [Ok(Delta::Finished { choice: 0, reason: FinishReason::Stop }), Ok(Delta::Usage(usage))];
            match request.model.as_str() {
                CHAT => {
                    let mut words = Vec::new();
                    for choice in 0..request.n {
                        for (text, offset) in [(text.as_str(), 0), ("!", text.len() as u32)] {
                            words.extend(request.logprobs.map(|top| logprobs(choice, text, offset, top)));
                            words.push(Ok(Delta::Text { choice, text: text.to_owned() }));
                        }
                        words.push(Ok(Delta::Finished { choice, reason: FinishReason::Stop }));
                    }
                    words.push(Ok(Delta::Usage(usage)));
                    Ok(self.words(words, Duration::ZERO))
                }
                ENDLESS => {
                    Ok(self.words((0..100_000).map(|_| word("word ")).collect(), Duration::from_millis(10)))
                }
                SLOW => {
                    let words = (0..20).map(|_| word("word ")).chain(end).collect();
                    Ok(self.words(words, Duration::from_millis(50)))
                }
                BREAKS => {
                    let failure = Error::Internal { detail: "secret detail".into() };
                    Ok(self.words(vec![word("one"), Err(failure)], Duration::ZERO))
                }
                THINKS => Ok(self.words(thoughts(usage), Duration::ZERO)),
                RECALLS => {
                    let Prompt::Chat(turns) = &request.prompt else { return Err(unknown(request.model)) };
                    let said = turns.iter().map(recall).collect::<Vec<_>>().join("; ");
                    Ok(self.words([word(&said)].into_iter().chain(end).collect(), Duration::ZERO))
                }
                CALLS => Ok(self.words(calls(usage), Duration::ZERO)),
                "panics" => panic!("secret panic"),
                "full" => Err(Error::Overloaded { queued: 64, retry_after: Duration::from_millis(1500) }),
                "long" => Err(Error::ContextLength { tokens: 9000, limit: 2048 }),
                "never" => {
                    std::future::pending::<()>().await;
                    Err(Error::Cancelled)
                }
                "vectors" => Err(Error::WrongKind {
                    model: "vectors".into(),
                    kind: "embed",
                    available: vec![CHAT.into()],
                }),
                _ => Err(unknown(request.model)),
            }
        }
        .boxed()
    }

    /// A token a character.
    fn tokenize(&self, _ctx: Context, request: llm::Tokenize) -> BoxFuture<'_, Result<llm::Tokens, Error>> {
        async move {
            if request.model != CHAT {
                return Err(unknown(request.model));
            }
            let mut text = match request.prompt {
                Prompt::Chat(turns) => turns.into_iter().map(|turn| turn.content).collect(),
                Prompt::Text(text) => text,
                Prompt::Tokens(_) => String::new(),
            };
            text.push_str(if request.add_generation_prompt { ">" } else { "" });
            text.push_str(if request.add_special_tokens { "$" } else { "" });
            let texts = request.texts.then(|| text.chars().map(String::from).collect());
            Ok(llm::Tokens { ids: text.chars().map(u32::from).collect(), texts, context: 2048 })
        }
        .boxed()
    }

    fn embed(&self, _ctx: Context, request: embed::Request) -> BoxFuture<'_, Result<embed::Response, Error>> {
        async move {
            if request.model == BAG {
                let vectors = request.inputs.iter().map(|input| match input {
                    embed::Input::Text(text) => bag(text),
                    embed::Input::Tokens(_) => bag(""),
                });
                let usage = Usage { prompt_tokens: 5, ..Usage::default() };
                return Ok(embed::Response { vectors: vectors.collect(), usage });
            }
            if request.model != "vectors" {
                return Err(unknown(request.model));
            }
            let size = request.dimensions.unwrap_or(2);
            let vectors = (0..request.inputs.len()).map(|at| vec![at as f32; size]).collect();
            Ok(embed::Response { vectors, usage: Usage { prompt_tokens: 5, ..Usage::default() } })
        }
        .boxed()
    }

    fn ruler(&self, _ctx: Context, model: String) -> BoxFuture<'_, Result<Ruler, Error>> {
        async move {
            if model != BAG {
                return Err(unknown(model));
            }
            let measure = Arc::new(|text: &str| text.split_whitespace().count() + 2);
            Ok(Ruler { model, dimensions: BAG_SIZE, max_tokens: 512, measure })
        }
        .boxed()
    }

    fn rerank(&self, _: Context, request: rerank::Request) -> BoxFuture<'_, Result<rerank::Response, Error>> {
        async move { ranks(&request) }.boxed()
    }
}

impl Voices for Fake {
    fn embedder(&self, ctx: Context) -> BoxFuture<'_, Result<Embedder, Error>> {
        self.voices.embedder(ctx)
    }

    fn samples(
        &self,
        ctx: Context,
        upload: Upload,
        parts: Vec<Part>,
    ) -> BoxFuture<'_, Result<Vec<Sample>, Error>> {
        self.voices.samples(ctx, upload, parts)
    }

    fn diarize(
        &self,
        ctx: Context,
        upload: Upload,
        speakers: Speakers,
    ) -> BoxFuture<'_, Result<Diarization, Error>> {
        self.voices.diarize(ctx, upload, speakers)
    }

    fn company(&self, ctx: Context) -> BoxFuture<'_, Result<Company, Error>> {
        self.voices.company(ctx)
    }
}

impl Backend for Fake {
    fn detokenize(
        &self,
        _ctx: Context,
        _model: String,
        tokens: Vec<u32>,
    ) -> BoxFuture<'_, Result<String, Error>> {
        async move { Ok(tokens.into_iter().filter_map(char::from_u32).collect()) }.boxed()
    }

    fn transcribe(
        &self,
        _ctx: Context,
        request: asr::Request,
        mut upload: Upload,
    ) -> BoxFuture<'_, Result<Transcription, Error>> {
        async move {
            *self.asked.lock().unwrap() = Some(request.clone());
            let mut text = Vec::new();
            upload.file.read_to_end(&mut text).map_err(|e| Error::Internal { detail: e.to_string() })?;
            let said = format!(" {} bytes of {}", text.len(), upload.name.unwrap_or_default());
            let parts = |texts: &'static [&str]| {
                let segment = |(id, text): (u32, &&str)| Ok(segment(&request, id, text));
                (0..).zip(texts).map(segment).collect::<Vec<_>>()
            };
            let segments = match request.model.as_str() {
                EARS | "whisper-1" | "whisper-large-v3" => vec![Ok(segment(&request, 0, &said))],
                TALK => parts(&[" One thing.", " ", " Another thing. "]),
                ANTHEM => parts(&[" La la.", " La la."]),
                COUGH => {
                    let failure = Error::Internal { detail: "secret detail".into() };
                    vec![Ok(segment(&request, 0, " One thing.")), Err(failure)]
                }
                LECTURE => {
                    let asked = request.clone();
                    let endless = (0..).map(move |id| Ok(segment(&asked, id, " and so on")));
                    return Ok(self.hears(&request, endless, Duration::from_millis(10)));
                }
                _ => return Err(unknown(request.model)),
            };
            Ok(self.hears(&request, segments.into_iter(), Duration::ZERO))
        }
        .boxed()
    }

    fn live(&self, _ctx: Context, options: live::Options) -> BoxFuture<'_, Result<Session, Error>> {
        async move {
            if ![EARS, "whisper-1", "whisper-large-v3", COUGH].contains(&options.model.as_str()) {
                return Err(unknown(options.model));
            }
            let (session, inbox, events) = Session::open(options.model.clone());
            self.running.fetch_add(1, Ordering::SeqCst);
            let guard =
                Running { dropped: self.dropped.clone(), running: self.running.clone(), ended: false };
            tokio::spawn(async move {
                let mut guard = guard;
                guard.ended = Stenographer::new(options).write(inbox, events).await.is_some();
            });
            Ok(session)
        }
        .boxed()
    }

    fn models(&self) -> Vec<Card> {
        let card = |id: &str, kind, aliases: &[&str]| Card {
            id: id.into(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            kind,
            created: 1_700_000_000,
            owner: "someone".into(),
            loaded: id == CHAT,
        };
        vec![
            card(CHAT, Kind::Chat, &[]),
            card("vectors", Kind::Embed, &["text-embedding"]),
            card(EARS, Kind::Asr, &["whisper-1", "whisper-large-v3"]),
            card("ranks", Kind::Rerank, &[]),
        ]
    }

    fn readiness(&self) -> Readiness {
        match self.not_ready {
            true => Readiness::NotReady("loading echo".into()),
            false => Readiness::Ready,
        }
    }
}

/// What all tests share: each has collections of its own. What reaches into all collections asks for [`kept_in`].
fn stored() -> Stored {
    static STORED: OnceLock<Stored> = OnceLock::new();
    let open = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("store-of-http-tests");
        let _ = std::fs::remove_dir_all(&folder);
        kept_in(&folder)
    };
    STORED.get_or_init(open).clone()
}

/// What is kept in a folder.
pub fn kept_in(folder: &Path) -> Stored {
    kept_with(folder, speakers::Options::default())
}

/// The same, with recordings of speakers or without.
pub fn kept_with(folder: &Path, options: speakers::Options) -> Stored {
    let points = Points::open(&folder.join("store")).unwrap();
    let limits = files::Limits { bytes: 1 << 20 };
    let files = Files::open(&folder.join("files"), points.clone(), limits).unwrap();
    let jobs = Jobs::new(points.clone(), files.clone(), Duration::from_secs(3600));
    let book = Book::open(points.clone(), files.clone(), options).unwrap();
    Stored { points, responses: Responses::none(), files, jobs, book }
}

pub fn state(fake: Fake, settings: Settings) -> State {
    State::new(Arc::new(fake), stored(), settings, install_metrics().unwrap())
}

/// One that keeps responses.
pub fn keeping(responses: &Responses, settings: Settings) -> Router {
    let stored = Stored { responses: responses.clone(), ..stored() };
    router(State::new(Arc::new(Fake::default()), stored, settings, install_metrics().unwrap()))
}

pub fn app(settings: Settings) -> Router {
    router(state(Fake::default(), settings))
}
