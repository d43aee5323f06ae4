//! Tags that a chat model makes for a document.

use futures::StreamExt;
use serde_json::json;

use super::Rag;
use crate::documents::Document;
use crate::service::{Context, Error};
use crate::types::llm::{Constraint, Delta, Message, Prompt, Request, Role, Sampling};

/// Tags of a document.
const MOST: u32 = 8;
/// Characters of the document's beginning that the model is shown: a page or two.
const SHOWN: usize = 4000;
/// Tokens that so many tags take at most.
const TOKENS: u32 = 160;

const TASK: &str = "You file documents. Give up to 8 short tags for the document: topics, names, kinds of document. \
    Each tag is one or two words in the document's language, in lower case. Answer with a JSON list of strings.";

impl Rag {
    /// Tags for a document. Where the model gives none that can be read, there are none: the document counts.
    pub(super) async fn tags_of(
        &self,
        ctx: &Context,
        model: String,
        name: &str,
        document: &Document,
    ) -> Vec<String> {
        let tags = self.ask_for_tags(ctx, model, name, document).await;
        tags.unwrap_or_else(|error| {
            tracing::warn!(name, %error, "a document gets no tags of a model's making");
            Vec::new()
        })
    }

    async fn ask_for_tags(
        &self,
        ctx: &Context,
        model: String,
        name: &str,
        document: &Document,
    ) -> Result<Vec<String>, Error> {
        let beginning: String = document.text().chars().take(SHOWN).collect();
        let turns = vec![
            Message::new(Role::System, TASK),
            Message::new(Role::User, format!("{name}\n\n{beginning}")),
        ];
        let tag = json!({"type": "string", "minLength": 1, "maxLength": 40});
        let schema = json!({"type": "array", "items": tag, "minItems": 1, "maxItems": MOST});
        let request = Request {
            constraint: Some(("tags", Constraint::JsonSchema(schema))),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: Some(TOKENS),
            ..Request::new(model, Prompt::Chat(turns))
        };
        let mut deltas = self.models.generate(ctx.clone(), request).await?;
        let mut text = String::new();
        while let Some(delta) = deltas.next().await {
            if let Delta::Text { text: more, .. } = delta? {
                text.push_str(&more);
            }
        }
        Ok(read(&text))
    }
}

/// The tags of a list; of one that was cut off, those that are whole.
fn read(text: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = text.trim_start().strip_prefix('[').unwrap_or_default();
    while let Some(at) = rest.find('"') {
        rest = rest.get(at..).unwrap_or_default();
        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let Some(Ok(tag)) = strings.next() else { break };
        rest = rest.get(strings.byte_offset()..).unwrap_or_default();
        tags.push(tag.trim().to_lowercase());
    }
    tags.truncate(MOST as usize);
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_was_cut_off_gives_what_is_whole() {
        assert_eq!(read(r#"["Invoice", "a \"b\"", "münchen"]"#), ["invoice", "a \"b\"", "münchen"]);
        assert_eq!(read(r#"[ "one", "tw"#), ["one"]);
        assert_eq!(read("none"), [""; 0]);
        assert_eq!(read("[]"), [""; 0]);
    }
}
