//! The engine with its real threads and channels, over models that do what a test asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::job::{Event, Failure};
use super::lane::embed::RowLane;
use super::lane::llm::{Delta, Input, LlmLane};
use super::worker::Opened;
use super::*;
use crate::model;
use crate::model::fake::{FAIL, FakeEmbed, FakeLlm, PANIC, SAY_STOP, STOP, VOCABULARY};
use crate::model::llm::guide::Guide;
use crate::text::{ChatTemplate, Family, Tokenizer, TokenizerSpec};
use crate::types::key::Owner;
use crate::types::llm::{Constraint, FinishReason, Sampling};
use crate::types::model::{Footprint, Format};

const STEP: Duration = Duration::from_millis(2);
const BLOCK: usize = 32;
const FAKE: Footprint = Footprint { weights: 60 << 20, cache: 0, step: 0 };

pub(super) fn installed(id: &str, kind: Kind) -> Installed {
    Installed {
        id: id.to_owned(),
        aliases: Vec::new(),
        kind,
        architecture: "fake".to_owned(),
        format: Format::Gguf,
        path: PathBuf::new(),
        bytes: 0,
        created: 0,
        owner: String::new(),
    }
}

pub(super) fn front() -> model::llm::Front {
    // A character each, '0' + id, but the one that ends.
    let name = |i: u8| if i == 0 { "<end>".to_owned() } else { char::from(b'0' + i).to_string() };
    let names: Vec<String> = (0..VOCABULARY as u8).map(name).collect();
    let kinds: Vec<i32> = (0..VOCABULARY).map(|i| if i == 0 { 3 } else { 1 }).collect();
    let spec = TokenizerSpec {
        tokens: names.iter().map(String::as_str).collect(),
        kinds: &kinds,
        eos: Some(STOP),
        ..TokenizerSpec::empty(Family::Spm)
    };
    model::llm::Front {
        tokenizer: Tokenizer::new(&spec).unwrap(),
        template: ChatTemplate::new(None, "", "").unwrap(),
        grammars: Default::default(),
        context: 512,
        stop: Arc::from([STOP]),
    }
}

/// What answers come from, 64 blocks.
pub(super) fn scheduler(context: usize) -> sched::llm::Scheduler {
    sched::llm::Scheduler::new(sched::llm::Limits {
        max_running: 8,
        prefill_tokens: 64,
        mixed_tokens: 32,
        context,
        blocks: 64,
        block_size: BLOCK,
        guesses: sched::llm::Guesses::Lookup,
    })
}

fn engine(options: Options) -> Engine {
    counted(options).0
}

/// With the number of times that a model was loaded.
fn counted(options: Options) -> (Engine, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let count = loads.clone();
    let models =
        vec![installed("chat", Kind::Chat), installed("embed", Kind::Embed), installed("broken", Kind::Chat)];
    let open = move |m: &Installed, _: &candle_core::Device| match m.id.as_str() {
        "chat" => {
            let front = Arc::new(front());
            let scheduler = scheduler(front.context);
            let lane = LlmLane::new(
                ModelMetrics::new("chat", 0),
                Box::new(FakeLlm { step: STEP }),
                scheduler,
                None,
                front.stop.clone(),
            );
            Ok(Opened { lane: Box::new(lane), front: worker::AnyFront::Llm(front), takes: FAKE })
        }
        "broken" => Err(model::Error::config("field", "cannot be")),
        _ => {
            let scheduler = sched::embed::Scheduler::new(100);
            let lane = RowLane::<Embed>::new(ModelMetrics::new("embed", 0), Box::new(FakeEmbed), scheduler);
            let tokenizer = crate::model::embed::input::tests::tiny();
            let front =
                Arc::new(model::embed::Front { tokenizer, prompts: Default::default(), dimensions: 2 });
            Ok(Opened { lane: Box::new(lane), front: worker::AnyFront::Embed(front), takes: FAKE })
        }
    };
    let opener = move |m: &Installed, device: &candle_core::Device| {
        count.fetch_add(1, Ordering::Relaxed);
        open(m, device)
    };
    (Engine::start_with(models, options, Box::new(opener)).unwrap(), loads)
}

pub(super) fn options() -> Options {
    Options {
        memory_budget: Some(1 << 30),
        queue: 4,
        cache_bytes: Some(1 << 20),
        load_wait: Duration::ZERO,
        ..Options::default()
    }
}

pub(super) fn input(prompt: &[u32], max_new: usize) -> Input {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Input { prompt: prompt.to_vec(), max_new, sampling, ..Input::default() }
}

/// Everything a job said: its tokens, and how it ended.
pub(super) async fn drain(
    mut events: tokio::sync::mpsc::Receiver<Event<Llm>>,
) -> (Vec<u32>, Result<FinishReason, Failure>) {
    let mut tokens = Vec::new();
    loop {
        match events.recv().await.expect("a job ends with Done or Failed") {
            Event::Delta(Delta::Prompt { .. }) => assert!(tokens.is_empty(), "said before the first token"),
            Event::Delta(Delta::Token(token, _)) => tokens.push(token),
            Event::Done(done) => {
                assert!(events.recv().await.is_none(), "nothing follows the end");
                return (tokens, Ok(done.reason));
            }
            Event::Failed(failure) => return (tokens, Err(failure)),
        }
    }
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether two pieces of parallel work run at the same time: each waits for the other, for a while.
fn two_threads_compute() -> bool {
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let meet = || {
        begun.fetch_add(1, Ordering::SeqCst);
        let end = Instant::now() + Duration::from_secs(5);
        while begun.load(Ordering::SeqCst) < 2 && Instant::now() < end {
            std::thread::yield_now();
        }
        begun.load(Ordering::SeqCst) == 2
    };
    let (first, second) = rayon::join(meet, meet);
    first && second
}

#[tokio::test]
async fn as_many_threads_compute_as_the_options_say() {
    let (send, computed) = std::sync::mpsc::channel();
    let opener = move |_: &Installed, _: &candle_core::Device| {
        send.send((rayon::current_num_threads(), two_threads_compute())).unwrap();
        Err(model::Error::config("field", "cannot be"))
    };
    let options = Options { threads: Some(2), ..options() };
    let engine = Engine::start_with(vec![installed("m", Kind::Chat)], options, Box::new(opener)).unwrap();
    assert!(engine.preload(&["m".to_owned()], Stay::Always).await.is_err());
    assert_eq!(computed.recv().unwrap(), (2, true));
}

#[tokio::test]
async fn jobs_end_by_length_or_by_a_stop_token_that_is_not_sent() {
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let long = chat.submit(input(&[10], 3), None).unwrap();
    let stop = chat.submit(input(&[10, SAY_STOP], 3), None).unwrap();
    assert_eq!(drain(long).await, (vec![19, 28, 37], Ok(FinishReason::Length)));
    assert_eq!(drain(stop).await, (vec![], Ok(FinishReason::Stop)));
}

#[tokio::test]
async fn ends_are_what_the_input_says() {
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let run = async |input| drain(chat.submit(input, None).unwrap()).await;
    // Its own tokens are 19, 28, 37, 46; one of them can end it.
    let stop = Input { stop: vec![37], ..input(&[10], 4) };
    assert_eq!(run(stop.clone()).await, (vec![19, 28], Ok(FinishReason::Stop)));
    // Not before three: then another token is the likeliest, the first of the equal ones that may come.
    let (tokens, _) = run(Input { min_new: 3, ..stop.clone() }).await;
    assert_eq!(tokens[..3], [19, 28, 1]);
    assert_eq!(run(Input { min_new: 2, ..stop }).await, (vec![19, 28], Ok(FinishReason::Stop)));
    // The model's own end: none at first, and none at all.
    let own = input(&[10, SAY_STOP], 3);
    let (tokens, end) = run(Input { min_new: 1, ..own.clone() }).await;
    assert_eq!((tokens.len(), end), (1, Ok(FinishReason::Stop)));
    let (tokens, end) = run(Input { ignore_stop: true, ..own }).await;
    assert_eq!((tokens[0], tokens.len(), end), (STOP, 3, Ok(FinishReason::Length)));
}

#[tokio::test]
async fn what_is_drawn_does_not_depend_on_who_else_is_there() {
    let engine = engine(Options { queue: 8, ..options() });
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let draw = |seed| {
        // Without those that end it or break the step.
        let logit_bias = (0..4).map(|token| (token, -100.0)).collect();
        let sampling = Sampling { temperature: 2.0, top_p: 0.9, logit_bias, ..Sampling::default() };
        Input { sampling, seed, ..input(&[10, 11], 40) }
    };
    let alone = drain(chat.submit(draw(5), None).unwrap()).await;
    let jobs: Vec<_> = [3, 4, 5, 5, 6].map(|seed| chat.submit(draw(seed), None).unwrap()).into();
    let together = futures::future::join_all(jobs.into_iter().map(drain)).await;
    assert_eq!((&together[2], &together[3]), (&alone, &alone));
    assert!(together[0] != alone && together[1] != together[0]);
}

fn held(chat: &handle::Handle<Llm>, regex: &str) -> Option<Guide> {
    let front = chat.front();
    let matcher = front.grammars.compile(&front.tokenizer, &Constraint::Regex(regex.to_owned()));
    Guide::new(None, Some(matcher.unwrap()))
}

#[tokio::test]
async fn an_answer_of_a_form_keeps_to_it_and_ends_with_it() {
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let held = |regex| Input { guide: held(&chat, regex), ..input(&[10], 10) };
    // Unheld it says 19, 28, 37; of what is allowed the first is the likeliest then.
    let text = |tokens: &[u32]| -> String { tokens.iter().map(|t| char::from(b'0' + *t as u8)).collect() };
    let (tokens, end) = drain(chat.submit(held("[A-C]L"), None).unwrap()).await;
    assert_eq!((text(&tokens).as_str(), end), ("CL", Ok(FinishReason::Stop)));
    // Complete at its last token: that is an end, not a cut.
    let exact = Input { max_new: 2, ..held("[A-C]L") };
    assert_eq!(drain(chat.submit(exact, None).unwrap()).await.1, Ok(FinishReason::Stop));
    let cut = Input { max_new: 1, ..held("[A-C]L") };
    assert_eq!(drain(chat.submit(cut, None).unwrap()).await.1, Ok(FinishReason::Length));
    // Where the grammar may end, the model may end.
    let may_end = Input { prompt: vec![10, SAY_STOP], ..held("(CL)*") };
    assert_eq!(drain(chat.submit(may_end, None).unwrap()).await, (vec![], Ok(FinishReason::Stop)));
    let must_go_on = Input { prompt: vec![10, SAY_STOP], ..held("C[LM]") };
    let (tokens, end) = drain(chat.submit(must_go_on, None).unwrap()).await;
    assert_eq!((text(&tokens).len(), end), (2, Ok(FinishReason::Stop)));
}

/// Eight of them want half as much again as the cache holds: they take each other's blocks, and go on where they
/// were, in their text and in their grammar.
#[tokio::test]
async fn a_preempted_answer_goes_on_in_its_grammar() {
    let engine = engine(Options { queue: 8, ..options() });
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let held = |first| Input { guide: held(&chat, "([8-@]{3}[A-i]{2}){78}"), ..input(&[first], 400) };
    let jobs: Vec<_> = (10..18).map(|first| chat.submit(held(first), None).unwrap()).collect();
    let together = futures::future::join_all(jobs.into_iter().map(drain)).await;
    for (first, (tokens, end)) in (10..).zip(together) {
        assert_eq!((tokens.len(), &end), (390, &Ok(FinishReason::Stop)));
        assert_eq!((tokens, end), drain(chat.submit(held(first), None).unwrap()).await, "as alone");
    }
}

#[tokio::test]
async fn a_step_that_fails_or_panics_ends_its_jobs_and_the_model_goes_on() {
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    for (poison, text) in [(FAIL, "asked to fail"), (PANIC, "asked to panic")] {
        let (tokens, end) = drain(chat.submit(input(&[10, poison], 3), None).unwrap()).await;
        assert!(tokens.is_empty());
        assert!(matches!(&end, Err(Failure::Step(why)) if why.contains(text)), "{end:?}");
        let after = drain(chat.submit(input(&[10], 2), None).unwrap()).await;
        assert_eq!(after, (vec![19, 28], Ok(FinishReason::Length)));
    }
    let embed = engine.get::<Embed>("embed").await.unwrap();
    let mut poisoned = embed.submit(lane::embed::Input { rows: vec![vec![PANIC]] }, None).unwrap();
    assert!(matches!(poisoned.recv().await, Some(Event::Failed(Failure::Step(_)))));
    let mut fine = embed.submit(lane::embed::Input { rows: vec![vec![9, 9], vec![5]] }, None).unwrap();
    let Some(Event::Done(vectors)) = fine.recv().await else { panic!("no vectors") };
    assert_eq!(vectors, [[2.0, 9.0], [1.0, 5.0]]);
}

#[tokio::test]
async fn a_reader_that_hangs_up_frees_its_place_within_a_step() {
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let jobs: Vec<_> = (0..4).map(|_| chat.submit(input(&[10], 400), None).unwrap()).collect();
    let refused = chat.submit(input(&[10], 1), None).err();
    assert_eq!(refused, Some(handle::Refused::Full { limit: 4 }));
    drop(jobs);
    until("the places are free", || chat.gate.under_way() == 0).await;
    let (tokens, _) = drain(chat.submit(input(&[10], 2), None).unwrap()).await;
    assert_eq!(tokens.len(), 2);
}

#[tokio::test]
async fn one_key_leaves_places_for_others() {
    let exposition = crate::obs::install_metrics().unwrap();
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let of = |key: &str| chat.clone().owned_by(Owner::key(key));
    let submit = |handle: &handle::Handle<Llm>| handle.submit(input(&[10], 400), None);
    let flood: Vec<_> = (0..3).map(|_| submit(&of("flood")).unwrap()).collect();
    assert_eq!(submit(&of("flood")).err(), Some(handle::Refused::FullForKey { limit: 3 }));
    let refused = "vllm:admission_rejections_total{model_name=\"chat\",engine=\"0\",reason=\"key_share\"} 1";
    assert!(exposition.render().lines().any(|line| line == refused));
    let other = submit(&of("other")).unwrap();
    assert_eq!(submit(&of("other")).err(), Some(handle::Refused::Full { limit: 4 }));
    drop((flood, other));
    until("the places are free", || chat.gate.under_way() == 0).await;
    // Without keys one may have all of them.
    let all: Vec<_> = (0..4).map(|_| submit(&chat).unwrap()).collect();
    assert_eq!(all.len(), 4);
    drop(all);
    until("the places are free", || chat.gate.under_way() == 0).await;
    let again: Vec<_> = (0..3).map(|_| submit(&of("flood")).unwrap()).collect();
    assert_eq!(again.len(), 3, "what is given back can be had again");
}

#[tokio::test]
async fn a_slow_reader_pauses_its_job_and_loses_nothing() {
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let slow = chat.submit(input(&[10], 200), None).unwrap();
    // Runs to its end while nobody reads the first, which stops at the channel's bound.
    let (fast, _) = drain(chat.submit(input(&[10], 150), None).unwrap()).await;
    assert_eq!(fast.len(), 150);
    assert!(slow.len() < 100, "{} events wait", slow.len());
    let (tokens, end) = drain(slow).await;
    assert_eq!((tokens.len(), end), (200, Ok(FinishReason::Length)));
    assert_eq!(tokens[..150], fast);
}

#[tokio::test]
async fn a_deadline_ends_a_job() {
    let engine = engine(options());
    let chat = engine.get::<Llm>("chat").await.unwrap();
    let late = chat.submit(input(&[10], 400), Some(Duration::from_millis(30))).unwrap();
    let (tokens, end) = drain(late).await;
    assert!(tokens.len() < 400 && matches!(end, Err(Failure::Deadline(_))), "{end:?}");
    let too_long = chat.submit(input(&[10; 600], 1), None).unwrap();
    assert!(matches!(drain(too_long).await.1, Err(Failure::TooLong { tokens: 600, limit: 511 })));
}

#[tokio::test]
async fn models_leave_for_others_when_nobody_uses_them() {
    let engine = engine(Options { memory_budget: Some(100 << 20), ..options() });
    let chat = engine.get::<Llm>("chat").await.unwrap();
    // Both together are past the budget, which shows only when the second is loaded; the first is in use.
    let refused = engine.get::<Embed>("embed").await.err();
    assert!(matches!(refused, Some(Error::DoesNotFit(_))), "{refused:?}");
    assert_eq!(engine.loaded(), ["chat"]);
    assert_eq!(drain(chat.submit(input(&[10], 1), None).unwrap()).await.0, [19]);
    drop(chat);
    drop(engine.get::<Embed>("embed").await.unwrap());
    assert_eq!(engine.loaded(), ["embed"]);
    // One that cannot be loaded drives nobody out.
    let broken = engine.get::<Llm>("broken").await.err();
    assert!(matches!(broken, Some(Error::Load { .. })), "{broken:?}");
    assert_eq!(engine.loaded(), ["embed"]);
    // What left comes back by itself.
    let chat = engine.get::<Llm>("chat").await.unwrap();
    assert_eq!(drain(chat.submit(input(&[10], 1), None).unwrap()).await.0, [19]);
    assert_eq!(engine.loaded(), ["chat"]);
}

/// One that nobody asked to keep is loaded at start, outlives the keep-alive time and leaves for another; one that somebody did
/// ask to keep does not, though a request had it loaded before.
#[tokio::test]
async fn what_is_loaded_at_start_leaves_for_others_unless_it_is_to_stay() {
    let keep_alive = Some(Duration::from_millis(10));
    let engine = engine(Options { memory_budget: Some(100 << 20), keep_alive, ..options() });
    let chat = ["chat".to_owned()];
    engine.preload(&chat, Stay::WhileRoom).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    engine.sweep().await;
    assert_eq!((engine.state(), engine.loaded()), (State::Ready, chat.to_vec()));
    drop(engine.get::<Embed>("embed").await.unwrap());
    assert_eq!(engine.loaded(), ["embed"]);
    drop(engine.get::<Llm>("chat").await.unwrap());
    engine.preload(&chat, Stay::Always).await.unwrap();
    let refused = engine.get::<Embed>("embed").await.err();
    assert!(matches!(refused, Some(Error::DoesNotFit(DoesNotFit { for_now: false, .. }))), "{refused:?}");
    assert_eq!(engine.loaded(), chat);
}

/// Two models that do not fit side by side serve those who ask for them in turn, and those who ask at once; what a model
/// really takes, which shows only when it is loaded, is not found out over and over.
#[tokio::test]
async fn who_asks_for_a_model_waits_for_those_who_use_what_is_in_its_way() {
    let budget = Some(100 << 20);
    let load_wait = Duration::from_secs(20);
    let (engine, loads) = counted(Options { memory_budget: budget, load_wait, ..options() });
    for _ in 0..3 {
        let chat = engine.get::<Llm>("chat").await.unwrap();
        let job = chat.submit(input(&[10], 30), None).unwrap();
        drop(chat);
        // It goes on saying what it has to say, and nobody is refused for that.
        let embed = tokio::spawn({
            let engine = engine.clone();
            async move { drop(engine.get::<Embed>("embed").await.unwrap()) }
        });
        assert_eq!(drain(job).await.0.len(), 30);
        embed.await.unwrap();
        assert_eq!(engine.loaded(), ["embed"]);
    }
    // The other one twice each time: by its files it would have fitted.
    assert_eq!(loads.load(Ordering::Relaxed), 9);
    let kept = engine.get::<Llm>("chat").await.unwrap();
    let refused = tokio::spawn({
        let engine = engine.clone();
        async move { engine.get::<Embed>("embed").await.err() }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    engine.begin_stop();
    assert!(matches!(refused.await.unwrap(), Some(Error::Stopped)), "a server that stops waits for nothing");
    drop(kept);
}

#[tokio::test]
async fn idle_models_leave_after_the_keep_alive_and_pinned_ones_stay() {
    let engine = engine(Options { keep_alive: Some(Duration::from_millis(20)), ..options() });
    engine.preload(&["chat".to_owned()], Stay::Always).await.unwrap();
    assert_eq!(engine.state(), State::Ready);
    let embed = engine.get::<Embed>("embed").await.unwrap();
    tokio::time::sleep(Duration::from_millis(40)).await;
    engine.sweep().await;
    assert_eq!(engine.loaded(), ["chat", "embed"], "a handle is a use");
    drop(embed);
    tokio::time::sleep(Duration::from_millis(40)).await;
    engine.sweep().await;
    assert_eq!(engine.loaded(), ["chat"]);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_the_reason_for_not_being_ready() {
    let engine = engine(options());
    assert!(engine.preload(&["broken".to_owned()], Stay::Always).await.is_err());
    assert!(matches!(engine.state(), State::Failed(why) if why.contains("field: cannot be")));
    assert!(matches!(engine.get::<Llm>("embed").await, Err(Error::Kind { .. })));
    assert!(matches!(engine.get::<Llm>("nothing").await, Err(Error::Unknown(_))));
}

#[tokio::test]
async fn many_callers_at_once_load_a_model_once() {
    let engine = engine(options());
    let callers = (0..16).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.get::<Llm>("chat").await.unwrap().key })
    });
    let keys: Vec<_> = futures::future::join_all(callers).await.into_iter().map(Result::unwrap).collect();
    assert!(keys.windows(2).all(|k| k[0] == k[1]));
}
