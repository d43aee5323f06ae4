//! What a chat model makes of a conversation while it goes on: now and then, and after everybody else's requests.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::start::Start;
use crate::http::State;
use crate::service::Context;
use crate::types::llm::{Delta, Message, Prompt, Request, Role};
use crate::types::model::Kind;

/// Batches with words between two summaries.
const EVERY: usize = 4;
/// Bytes of the conversation that are summed up: the last ones.
const HEARD: usize = 6_000;
/// Everything else goes first.
const LAST: i32 = 1_000_000;
const MAX_TOKENS: u32 = 160;
/// For a summary under way when the session ends.
const PATIENCE: Duration = Duration::from_secs(5);
const TASK: &str = "You follow a live conversation. Sum up in at most two sentences what it is about and what was \
                    agreed. Answer with the summary alone, in the language of the conversation.";

/// Summaries of one session.
pub(super) struct Insights {
    state: State,
    ctx: Context,
    model: String,
    heard: String,
    /// Batches since the last one.
    batches: usize,
    under_way: Option<BoxFuture<'static, Option<Value>>>,
}

impl Insights {
    /// Where they are wanted and there is a chat model.
    pub fn new(state: &State, ctx: &Context, start: &Start) -> Option<Insights> {
        let wanted = start.insight_model.as_ref().or(state.settings().default_chat.as_ref());
        let model = wanted.filter(|_| start.enable_insights)?;
        let cards = state.backend().models();
        let is = |name: &String| name == model;
        let known = cards.iter().any(|c| c.kind == Kind::Chat && (is(&c.id) || c.aliases.iter().any(is)));
        known.then(|| Insights {
            state: state.clone(),
            ctx: ctx.clone(),
            model: model.clone(),
            heard: String::new(),
            batches: 0,
            under_way: None,
        })
    }

    /// What was said next.
    pub fn batch(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.heard.push_str(text);
        self.heard.push(' ');
        if self.heard.len() > HEARD {
            let mut from = self.heard.len() - HEARD;
            while !self.heard.is_char_boundary(from) {
                from += 1;
            }
            self.heard.drain(..from);
        }
        self.batches += 1;
        if self.batches >= EVERY && self.under_way.is_none() {
            self.batches = 0;
            let request = request(&self.model, &self.heard);
            self.under_way = Some(sum_up(self.state.clone(), self.ctx.clone(), request).boxed());
        }
    }

    /// The next one; it may never come.
    pub async fn next(&mut self) -> Value {
        loop {
            let Some(under_way) = &mut self.under_way else { return std::future::pending().await };
            let made = under_way.await;
            self.under_way = None;
            if let Some(insight) = made {
                return insight;
            }
        }
    }

    /// The one under way, if it comes soon.
    pub async fn last(mut self) -> Option<Value> {
        let under_way = self.under_way.take()?;
        tokio::time::timeout(PATIENCE, under_way).await.ok().flatten()
    }
}

fn request(model: &str, heard: &str) -> Request {
    let turns = vec![Message::new(Role::System, TASK), Message::new(Role::User, heard.trim())];
    let mut request = Request::new(model.to_owned(), Prompt::Chat(turns));
    request.sampling.temperature = 0.0;
    request.max_tokens = Some(MAX_TOKENS);
    request.priority = LAST;
    request.thinking.enabled = Some(false);
    request
}

/// A failure is no reason to disturb who speaks.
async fn sum_up(state: State, ctx: Context, request: Request) -> Option<Value> {
    let failed = |error: crate::service::Error| {
        tracing::warn!(%error, "a conversation was not summed up");
    };
    let mut answer = state.backend().generate(ctx, request).await.map_err(failed).ok()?;
    let mut text = String::new();
    while let Some(delta) = answer.next().await {
        if let Delta::Text { text: more, .. } = delta.map_err(failed).ok()? {
            text.push_str(&more);
        }
    }
    let text = text.trim();
    let generated_at = OffsetDateTime::now_utc().format(&Rfc3339).ok()?;
    (!text.is_empty()).then(|| {
        json!({"event": "insight", "type": "live_summary", "request_id": uuid::Uuid::new_v4().to_string(),
            "text": text, "confidence": null, "model": answer.model, "provider": "stentor",
            "generated_at": generated_at})
    })
}
