//! What becomes of speakers once they are enrolled.

use std::sync::Arc;

use super::{Book, ENTRIES, Entry, SAMPLES, Speaker, missing, name, tags, wrong};
use crate::service::rag::now;
use crate::service::{Context, Error};

/// What is changed of a speaker; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    pub name: Option<String>,
    pub tags: Option<Vec<String>>,
}

impl Book {
    /// Changes what a speaker is called and filed under; what it is then.
    ///
    /// # Errors
    /// There is none of that id, or the name or a tag is none.
    pub async fn change(&self, id: &str, changed: Changed) -> Result<Arc<Speaker>, Error> {
        let new_name = changed.name.as_deref().map(name).transpose()?;
        let new_tags = changed.tags.map(tags).transpose()?;
        let turn = self.turn().await;
        let mut entry = self.entry(id).await?.ok_or_else(|| missing(id))?;
        let speaker = &mut entry.speaker;
        speaker.name = new_name.unwrap_or_else(|| speaker.name.clone());
        speaker.tags = new_tags.unwrap_or_else(|| speaker.tags.clone());
        speaker.updated_at = now();
        self.put(turn, entry).await
    }

    /// Makes several speakers one: `into` gets the samples and the tags of the others, which are no more then.
    ///
    /// # Errors
    /// One of them is not there, they are of different models, or have more samples together than are kept of one.
    pub async fn merge(&self, ctx: &Context, into: &str, others: Vec<String>) -> Result<Arc<Speaker>, Error> {
        let param = "speakers";
        if others.is_empty() || others.len() > SAMPLES || others.iter().any(|other| other == into) {
            let message =
                format!("`speakers` must name 1 to {SAMPLES} speakers, and not the one they become");
            return Err(wrong(param, message));
        }
        let turn = self.turn().await;
        let mut entry = self.entry(into).await?.ok_or_else(|| missing(into))?;
        let mut gone: Vec<String> = Vec::new();
        for other in others {
            if gone.contains(&other) {
                return Err(wrong(param, format!("`speakers` names `{other}` twice")));
            }
            let merged = self.entry(&other).await?.ok_or_else(|| missing(&other))?.speaker;
            let speaker = &mut entry.speaker;
            if (&merged.model, &merged.version) != (&speaker.model, &speaker.version) {
                let message = format!(
                    "`{other}` and `{into}` were enrolled with different models; enrol one of them again"
                );
                return Err(Error::Conflict { message });
            }
            speaker.samples.extend(merged.samples);
            speaker.tags.extend(merged.tags);
            gone.push(other);
        }
        let speaker = &mut entry.speaker;
        if speaker.samples.len() > SAMPLES {
            let count = speaker.samples.len();
            let message = format!("they have {count} samples together, and a speaker has {SAMPLES} at most");
            return Err(wrong(param, message));
        }
        speaker.tags = tags(std::mem::take(&mut speaker.tags))?;
        speaker.updated_at = now();
        let entry = Entry::of(entry.speaker);
        let changes = vec![ENTRIES.put(&entry.speaker.id, &entry), ENTRIES.remove(gone.clone())];
        let (centroid, speaker) = (entry.centroid.0, entry.speaker.with(|noted| noted.sample));
        let answer = Arc::new(speaker.clone());
        let ctx = ctx.clone();
        let show = move |shelf: &mut super::Shelf| {
            for id in &gone {
                shelf.remove(id);
                audit(&ctx, id, "merged into another speaker");
            }
            shelf.put(speaker, &centroid);
        };
        self.commit(turn, changes, show).await?;
        Ok(answer)
    }

    /// Takes a speaker out, with its recordings.
    ///
    /// # Errors
    /// There is none of that id.
    pub async fn remove(&self, ctx: &Context, id: &str) -> Result<(), Error> {
        let turn = self.turn().await;
        let entry = self.entry(id).await?.ok_or_else(|| missing(id))?;
        let (gone, ctx) = (entry.speaker.id.clone(), ctx.clone());
        let changes = vec![ENTRIES.remove(vec![gone.clone()])];
        let show = move |shelf: &mut super::Shelf| {
            shelf.remove(&gone);
            audit(&ctx, &gone, "deleted");
        };
        self.commit(turn, changes, show).await?;
        self.forget(entry.audio().cloned()).await
    }
}

/// Notes that a voice is no more, and who wanted that; not whose it was.
fn audit(ctx: &Context, speaker_id: &str, what: &str) {
    let (request_id, key_id) = (ctx.request_id.as_str(), ctx.key_id.as_deref());
    tracing::info!(target: "audit", speaker_id, request_id, key_id, what, "speaker");
}
