//! Thinking, end to end, over a model that answers each token with the next one of its vocabulary.

use std::path::PathBuf;

use futures::StreamExt;

use super::*;
use crate::engine::lane::llm::LlmLane;
use crate::engine::worker::{AnyFront, Opened};
use crate::engine::{self, Engine, sched};
use crate::model::fake::{FakeLlm, STOP, VOCABULARY};
use crate::obs::ModelMetrics;
use crate::service::Options;
use crate::text::{ChatTemplate, Family, Tokenizer, TokenizerSpec};
use crate::types::llm::{FinishReason, Message, Role, Sampling};
use crate::types::model::{Format, Installed, Kind};

const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}\
    {% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}";

/// '0' + id, but the one that ends and the last two, which frame thoughts.
fn front() -> Front {
    let name = |i: u8| match i {
        0 => "<end>".to_owned(),
        62 => TAGS.0.to_owned(),
        63 => TAGS.1.to_owned(),
        _ => char::from(b'0' + i).to_string(),
    };
    let names: Vec<String> = (0..VOCABULARY as u8).map(name).collect();
    let kinds: Vec<i32> = (0..VOCABULARY).map(|i| if matches!(i, 0 | 62 | 63) { 3 } else { 1 }).collect();
    let spec = TokenizerSpec {
        tokens: names.iter().map(String::as_str).collect(),
        kinds: &kinds,
        eos: Some(STOP),
        add_bos: Some(false),
        add_space_prefix: Some(false),
        ..TokenizerSpec::empty(Family::Spm)
    };
    Front {
        tokenizer: Tokenizer::new(&spec).unwrap(),
        template: ChatTemplate::new(Some(TEMPLATE), "", "").unwrap(),
        grammars: Default::default(),
        context: 128,
        stop: Arc::from([STOP]),
    }
}

fn service() -> Service {
    let model = Installed {
        id: "thinker".to_owned(),
        aliases: Vec::new(),
        kind: Kind::Chat,
        architecture: "fake".to_owned(),
        format: Format::Gguf,
        path: PathBuf::new(),
        bytes: 0,
        created: 0,
        owner: String::new(),
    };
    let opener = |_: &Installed, _: &candle_core::Device| {
        let front = Arc::new(front());
        let limits = sched::llm::Limits {
            max_running: 4,
            prefill_tokens: 64,
            mixed_tokens: 32,
            context: front.context,
            blocks: 16,
            block_size: 32,
            guesses: sched::llm::Guesses::Lookup,
        };
        let fake = Box::new(FakeLlm { step: std::time::Duration::ZERO });
        let scheduler = sched::llm::Scheduler::new(limits);
        let lane = LlmLane::new(ModelMetrics::new("thinker", 0), fake, scheduler, None, front.stop.clone());
        let takes = crate::types::model::Footprint::default();
        Ok(Opened { lane: Box::new(lane), front: AnyFront::Llm(front), takes })
    };
    let options =
        engine::Options { memory_budget: Some(1 << 30), cache_bytes: Some(1 << 20), ..Default::default() };
    Service::new(Engine::start_with(vec![model], options, Box::new(opener)).unwrap(), Options::default())
}

fn request() -> Request {
    let prompt = Prompt::Chat(vec![Message::new(Role::User, "A")]);
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Request { sampling, max_tokens: Some(6), ..Request::new("thinker".to_owned(), prompt) }
}

/// What is thought and answered, why it ended, and the tokens of both and of the first.
async fn ask(thinking: Thinking, form: Option<&str>) -> (String, String, FinishReason, (u32, u32)) {
    let request = Request {
        constraint: form.map(|regex| ("guided_regex", Constraint::Regex(regex.to_owned()))),
        thinking,
        ..request()
    };
    let service = service();
    let mut answer = service.generate(Context::default(), request).await.unwrap();
    let (mut thought, mut said, mut ended) = (String::new(), String::new(), None);
    while let Some(delta) = answer.next().await {
        match delta.unwrap() {
            Delta::Reasoning { text, .. } => thought.push_str(&text),
            Delta::Text { text, .. } => said.push_str(&text),
            Delta::Finished { reason, .. } => ended = Some(reason),
            Delta::Usage(usage) => {
                return (thought, said, ended.unwrap(), (usage.completion_tokens, usage.reasoning_tokens));
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }
    panic!("no usage")
}

#[tokio::test]
async fn thoughts_are_told_apart_bounded_and_counted() {
    let think = |budget| Thinking { enabled: None, budget };
    let of =
        |thought: &str, said: &str, reason, tokens| (thought.to_owned(), said.to_owned(), reason, tokens);
    // It goes on from the mark that the template wrote; nothing but the budget would ever close it.
    assert_eq!(ask(think(None), None).await, of("ENW`i@", "", FinishReason::Length, (6, 6)));
    assert_eq!(ask(think(Some(3)), None).await, of("ENW", "FO", FinishReason::Length, (6, 4)));
    assert_eq!(ask(think(Some(0)), None).await, of("", "FOXa8", FinishReason::Length, (6, 1)));
    // The form begins where thinking ends.
    assert_eq!(ask(think(Some(2)), Some("[A-C]L")).await, of("EN", "AL", FinishReason::Stop, (5, 3)));
    let off = Thinking { enabled: Some(false), budget: None };
    assert_eq!(ask(off, Some("F[N-P]")).await, of("", "FO", FinishReason::Stop, (2, 0)));
}

/// The tokens that are reported with their log-probabilities and offsets, and the text that is shown, in order.
async fn scores(request: Request) -> (Vec<(String, f32, u32)>, Vec<String>) {
    let service = service();
    let mut answer = service.generate(Context::default(), request).await.unwrap();
    let (mut tokens, mut shown, mut finished) = (Vec::new(), Vec::new(), false);
    while let Some(delta) = answer.next().await {
        match delta.unwrap() {
            Delta::Logprobs { tokens: more, .. } => {
                assert!(!finished, "all tokens come before the end");
                assert!(more.iter().all(|t| t.top.len() == 2 && t.top[0].logprob > t.top[1].logprob));
                tokens.extend(more.into_iter().map(|t| (t.chosen.token, t.chosen.logprob, t.offset)));
            }
            Delta::Text { text, .. } | Delta::Reasoning { text, .. } => {
                shown.push(text);
                let told = tokens.iter().filter(|t| t.0.len() == 1).map(|t| t.0.as_str());
                assert_eq!(shown.concat(), told.collect::<String>(), "tokens come no later than their text");
            }
            Delta::Finished { .. } => finished = true,
            _ => {}
        }
    }
    (tokens, shown)
}

#[tokio::test]
async fn tokens_come_with_the_probabilities_that_the_model_gave_them() {
    // The fake is as sure of its next token as e^9 is to 63 others.
    let sure = -(1.0 + 63.0 * (-9f64).exp()).ln() as f32;
    let close = |a: f32, b: f32| (a - b).abs() < 1e-5;
    let text = Request { logprobs: Some(2), prompt: Prompt::Text("A".into()), ..request() };
    let hot = Sampling { temperature: 0.0, presence_penalty: 1.5, ..Sampling::default() };
    let (tokens, shown) = scores(Request { sampling: hot, ..text.clone() }).await;
    assert_eq!(shown.concat(), "JS\\e<E");
    let places: Vec<_> = tokens.iter().map(|(name, _, offset)| (name.as_str(), *offset)).collect();
    assert_eq!(places, [("J", 0), ("S", 1), ("\\", 2), ("e", 3), ("<", 4), ("E", 5)]);
    assert!(tokens.iter().all(|t| close(t.1, sure)), "{tokens:?}");
    // What a stop string takes away is not reported.
    let (tokens, shown) = scores(Request { stop: vec!["\\e".into()], ..text }).await;
    assert_eq!((tokens.len(), shown.concat().as_str()), (2, "JS"));
    // A token that is forced, as the mark which closes thinking, is as unlikely as the model found it.
    let thinking = Thinking { enabled: None, budget: Some(2) };
    let (tokens, shown) = scores(Request { logprobs: Some(2), thinking, ..request() }).await;
    assert_eq!(shown.concat(), "ENFOX");
    let names: Vec<_> = tokens.iter().map(|t| t.0.as_str()).collect();
    assert_eq!(names, ["E", "N", "</think>", "F", "O", "X"]);
    assert!(close(tokens[2].1, sure - 9.0) && close(tokens[3].1, sure), "{tokens:?}");
}
