//! The engine on several devices, on one that is lost, and on one with too little memory.

use std::sync::atomic::{AtomicBool, Ordering};

use super::job::{Event, Failure};
use super::lane::embed::RowLane;
use super::lane::llm::LlmLane;
use super::tests::{drain, front, input, installed, options, scheduler, until};
use super::worker::Opened;
use super::*;
use crate::model;
use crate::model::fake::{FAIL, FakeEmbed, FakeLlm, HUNGRY};
use crate::types::llm::FinishReason;
use crate::types::model::Footprint;

/// As large as its name says, in megabytes.
fn sized(id: &str, kind: Kind) -> Installed {
    let bytes = id.rsplit('-').next().unwrap().parse::<u64>().unwrap() << 20;
    Installed { bytes, ..installed(id, kind) }
}

fn open(m: &Installed, site: usize) -> Result<Opened, model::Error> {
    let takes = Footprint { weights: m.bytes, ..Footprint::default() };
    let metrics = ModelMetrics::new(&m.id, site);
    if m.kind == Kind::Embed {
        let tokenizer = model::embed::input::tests::tiny();
        let front = model::embed::Front { tokenizer, prompts: Default::default(), dimensions: 2 };
        let front = worker::AnyFront::Embed(Arc::new(front));
        let lane = RowLane::<Embed>::new(metrics, Box::new(FakeEmbed), sched::embed::Scheduler::new(64));
        return Ok(Opened { lane: Box::new(lane), front, takes });
    }
    let front = Arc::new(front());
    let scheduler = scheduler(front.context);
    let model = Box::new(FakeLlm { step: Duration::from_millis(2) });
    let lane = LlmLane::new(metrics, model, scheduler, None, front.stop.clone());
    Ok(Opened { lane: Box::new(lane), front: worker::AnyFront::Llm(front), takes })
}

/// An engine on devices named `a`, `b`, ... of 100 MB each.
fn engine(
    devices: &[&str],
    options: Options,
    answers: fn(&device::Device) -> candle_core::Result<()>,
) -> Result<Engine, Error> {
    let models = ["chat-60", "chat-50"].map(|id| sized(id, Kind::Chat));
    let models = [&models[..], &[sized("embed-60", Kind::Embed)]].concat();
    let devices = devices.iter().map(|id| device::Info { id: (*id).to_owned(), ..device::cpu() }).collect();
    let options = Options { memory_budget: Some(100 << 20), ..options };
    let setup = |site: usize, _| worker::Setup { open: Box::new(move |m, _| open(m, site)), answers };
    Engine::start_on(devices, models, options, setup)
}

fn well(_: &device::Device) -> candle_core::Result<()> {
    Ok(())
}

async fn say<const N: usize>(chat: &handle::Handle<Llm>, prompt: [u32; N]) -> Result<FinishReason, Failure> {
    drain(chat.submit(input(&prompt, 3), None).unwrap()).await.1
}

#[tokio::test]
async fn models_go_where_there_is_room_and_leave_where_they_are_missed_least() {
    let engine = engine(&["a", "b"], options(), well).unwrap();
    let ids = ["chat-60", "embed-60"].map(str::to_owned);
    let chat = engine.get::<Llm>(&ids[0]).await.unwrap();
    let embed = engine.get::<Embed>(&ids[1]).await.unwrap();
    assert_eq!(engine.loaded(), ids, "both are past one device's budget");
    assert_eq!(say(&chat, [10]).await, Ok(FinishReason::Length));
    // Both are in use.
    assert!(matches!(engine.get::<Llm>("chat-50").await, Err(Error::DoesNotFit(_))));
    drop(embed);
    drop(engine.get::<Llm>("chat-50").await.unwrap());
    assert_eq!(engine.loaded(), ["chat-50", "chat-60"], "nobody used it");
}

#[tokio::test]
async fn copies_share_the_work() {
    let devices = BTreeMap::from([("chat-60".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
    let engine = engine(&["a", "b", "c"], Options { devices, ..options() }, well).unwrap();
    let get = async || engine.get::<Llm>("chat-60").await.unwrap();
    let mut jobs = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..6 {
        let chat = get().await;
        keys.push(chat.key);
        jobs.push(chat.submit(input(&[10], 300), None).unwrap());
    }
    keys.sort();
    let of_first = keys.iter().filter(|key| **key == keys[0]).count();
    assert_eq!((of_first, keys.iter().collect::<std::collections::BTreeSet<_>>().len()), (3, 2));
    assert_eq!(engine.loaded(), ["chat-60"]);
}

#[tokio::test]
async fn what_is_not_there_is_said_before_anything_is_loaded() {
    let on = |model: &str, device: &str| {
        let devices = BTreeMap::from([(model.to_owned(), vec![device.to_owned()])]);
        engine(&["a"], Options { devices, ..options() }, well).err().unwrap().to_string()
    };
    assert_eq!(on("chat-60", "cuda:7"), "`chat-60` is to be on cuda:7, and there is only a");
    assert_eq!(on("nothing", "a"), "no model `nothing` is installed");
}

static GONE: AtomicBool = AtomicBool::new(false);

#[tokio::test]
async fn a_lost_device_ends_its_jobs_and_what_runs_elsewhere_goes_on() {
    let answers = |_: &device::Device| match GONE.load(Ordering::SeqCst) {
        true => candle_core::bail!("CUDA_ERROR_ILLEGAL_ADDRESS"),
        false => Ok(()),
    };
    let engine = engine(&["a", "b"], options(), answers).unwrap();
    let (lost, left) =
        (engine.get::<Llm>("chat-60").await.unwrap(), engine.get::<Llm>("chat-50").await.unwrap());
    assert!(matches!(say(&lost, [10, FAIL]).await, Err(Failure::Step(_))));
    assert_eq!(say(&lost, [10]).await, Ok(FinishReason::Length), "one step failed, and the device answers");
    let (there, here) =
        (lost.submit(input(&[10], 300), None).unwrap(), left.submit(input(&[10], 300), None).unwrap());
    GONE.store(true, Ordering::SeqCst);
    let fatal = lost.submit(input(&[10, FAIL], 3), None).unwrap();
    tokio::time::timeout(Duration::from_secs(10), engine.lost()).await.unwrap();
    assert_eq!(engine.state(), State::Stopping);
    assert!(drain(fatal).await.1.is_err());
    assert!(matches!(drain(there).await.1, Err(Failure::Stopped | Failure::Step(_))));
    assert!(matches!(lost.submit(input(&[10], 3), None).err(), Some(handle::Refused::Stopped)));
    assert_eq!(drain(here).await.1, Ok(FinishReason::Length));
}

#[tokio::test]
async fn too_little_memory_makes_steps_smaller_and_fails_what_is_too_large_alone() {
    let engine = engine(&["a"], options(), well).unwrap();
    let chat = engine.get::<Llm>("chat-60").await.unwrap();
    let mut prompt = [10; 50];
    prompt[20] = HUNGRY;
    assert_eq!(say(&chat, prompt).await, Ok(FinishReason::Length));
    assert_eq!(say(&chat, [10; 60]).await, Ok(FinishReason::Length));
    // A job's place is given back a moment after its end is told.
    until("only the engine's handle and this one are left", || Arc::strong_count(&chat.gate) == 2).await;
    drop(chat);
    let embed = engine.get::<Embed>("embed-60").await.unwrap();
    let submit = |rows: Vec<Vec<u32>>| embed.submit(lane::embed::Input { rows }, None).unwrap();
    let (mut many, mut large) = (submit(vec![vec![HUNGRY; 4]; 9]), submit(vec![vec![9], vec![HUNGRY; 12]]));
    let Some(Event::Done(vectors)) = many.recv().await else { panic!("no vectors") };
    assert_eq!(vectors, vec![vec![4.0, HUNGRY as f32]; 9]);
    assert!(matches!(large.recv().await, Some(Event::Failed(Failure::OutOfMemory))));
    until("nothing is left", || embed.gate.under_way() == 0).await;
}
