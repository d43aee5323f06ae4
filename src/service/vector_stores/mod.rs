//! Vector stores: collections of kept files that are indexed one after the other and searched as one. What a store is
//! and which files are in it are records; the passages are a collection of the store's id.

mod batches;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::files::Files;
use super::jobs::{Jobs, Progress, Work};
use super::points::Points;
use super::rag::shelf::key;
use super::rag::{Place, Rag, now};
use super::records::Records;
use super::{Context, Error};
use crate::types::rag::{NewDocument, PassageSize};
use crate::types::store::{Filter, Stemming};

pub use batches::Counts;

/// What jobs that index a file are called.
pub const INDEX: &str = "index";
/// Stores, and files of one, at most.
const STORES: usize = 1000;
const FILES: usize = 100_000;
const DAY: u64 = 24 * 3600;
/// Begins the ids of stores.
const PREFIX: &str = "vs_";
/// Seconds within which one use is noted.
const USE_NOTED: u64 = 60;

static KNOWN: Records<VectorStore> = Records::new("stentor:vector_stores");
static MEMBERS: Records<Member> = Records::new("stentor:vector_store_files");

/// A vector store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VectorStore {
    /// `vs_` and 32 hexadecimal digits; its collection's name.
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    pub metadata: Map<String, Value>,
    /// Unix seconds.
    pub created: u64,
    /// When it was searched or changed last.
    pub active: u64,
    /// Days without use after which it goes.
    #[serde(default)]
    pub expires_after: Option<u64>,
    /// Its embedding model.
    pub model: String,
    pub stemming: Stemming,
}

/// How far a file of a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

/// A file of a store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub store: String,
    pub file: String,
    pub stage: Stage,
    /// Unix seconds.
    pub created: u64,
    /// Why it could not be indexed.
    #[serde(default)]
    pub error: Option<String>,
    pub attributes: Map<String, Value>,
    #[serde(default)]
    pub size: Option<PassageSize>,
    /// With which others it came.
    #[serde(default)]
    pub batch: Option<String>,
    /// Of the file.
    #[serde(default)]
    pub bytes: u64,
    /// What indexes it.
    #[serde(default)]
    pub job: Option<String>,
}

/// A file to put into a store.
#[derive(Debug, Clone, Default)]
pub struct NewMember {
    pub file: String,
    pub attributes: Map<String, Value>,
    pub size: Option<PassageSize>,
}

/// The vector stores. Cheap to clone.
#[derive(Clone)]
pub struct VectorStores {
    points: Points,
    rag: Rag,
    files: Files,
    jobs: Jobs,
}

fn missing(what: &'static str, id: &str) -> Error {
    Error::Missing { what, id: id.chars().take(128).collect() }
}

impl VectorStore {
    /// When it goes if nobody uses it; Unix seconds.
    pub fn expires(&self) -> Option<u64> {
        Some(self.active.saturating_add(self.expires_after?.saturating_mul(DAY)))
    }
}

impl VectorStores {
    /// Stores of these files, indexed by these jobs.
    pub fn new(points: Points, rag: Rag, files: Files, jobs: Jobs) -> VectorStores {
        VectorStores { points, rag, files, jobs }
    }

    /// Makes a store, empty.
    ///
    /// # Errors
    /// There are as many as the server takes; the model cannot be asked.
    pub async fn create(&self, ctx: &Context, mut new: VectorStore) -> Result<VectorStore, Error> {
        if self.list().await?.len() >= STORES {
            let message =
                format!("the server has {STORES} vector stores already, the most it takes; delete some");
            return Err(Error::Full { message });
        }
        new.id = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
        (new.created, new.active) = (now(), now());
        new.model = self.rag.ensure(ctx, &place(&new, None)).await?.model;
        self.points.write(&KNOWN, vec![KNOWN.put(&new.id, &new)]).await?;
        Ok(new)
    }

    /// A store.
    ///
    /// # Errors
    /// There is none of that id, or its time is over.
    pub async fn get(&self, id: &str) -> Result<VectorStore, Error> {
        let store: Option<VectorStore> = self.points.record(&KNOWN, id.to_owned()).await?;
        match store {
            Some(store) if store.expires().is_some_and(|expires| expires <= now()) => {
                self.remove(id).await?;
                Err(missing("vector store", id))
            }
            Some(store) => Ok(store),
            None => Err(missing("vector store", id)),
        }
    }

    /// Notes that a store is used; other collections are searched without a note. Not each time: a search is not to wait
    /// for the disk.
    ///
    /// # Errors
    /// It is the id of a store, and there is none.
    pub async fn touch(&self, id: &str) -> Result<(), Error> {
        if !id.starts_with(PREFIX) {
            return Ok(());
        }
        let store = self.get(id).await?;
        if now().saturating_sub(store.active) >= USE_NOTED {
            self.change(id, |_| ()).await?;
        }
        Ok(())
    }

    /// All stores, the newest first.
    pub async fn list(&self) -> Result<Vec<VectorStore>, Error> {
        let mut all: Vec<VectorStore> = self.points.records(&KNOWN, None, STORES).await?;
        let now = now();
        all.retain(|store| store.expires().is_none_or(|expires| expires > now));
        all.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(all)
    }

    /// Changes a store, which is a use of it; what it is then.
    ///
    /// # Errors
    /// There is none of that id.
    pub async fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut VectorStore) + Send,
    ) -> Result<VectorStore, Error> {
        let mut store = self.get(id).await?;
        change(&mut store);
        store.active = now();
        self.points.write(&KNOWN, vec![KNOWN.put(&store.id, &store)]).await?;
        Ok(store)
    }

    /// Takes a store out, with what was indexed in it; the files stay. Whether it was there.
    pub async fn remove(&self, id: &str) -> Result<bool, Error> {
        let store: Option<VectorStore> = self.points.record(&KNOWN, id.to_owned()).await?;
        if store.is_none() {
            return Ok(false);
        }
        for member in self.members(id, None).await? {
            self.stop(&member).await?;
        }
        let members = MEMBERS.remove_where(Filter::is("store", id));
        self.points.write(&MEMBERS, vec![members, KNOWN.remove(vec![id.to_owned()])]).await?;
        self.rag.remove_collection(id).await?;
        Ok(true)
    }

    /// Puts files into a store; `work` indexes them, a job each. One that is there already is indexed again.
    ///
    /// # Errors
    /// There is no such store, or one of the files is not there: none is put then.
    pub async fn add(
        &self,
        ctx: &Context,
        store: &str,
        files: Vec<NewMember>,
        batch: Option<String>,
        work: &Arc<dyn Work>,
    ) -> Result<Vec<Member>, Error> {
        let store = self.change(store, |_| ()).await?;
        let mut members = Vec::with_capacity(files.len());
        for NewMember { file, attributes, size } in files {
            let kept = self.files.get(&file).await?.ok_or_else(|| missing("file", &file))?;
            members.push(Member {
                store: store.id.clone(),
                file,
                stage: Stage::InProgress,
                created: now(),
                error: None,
                attributes,
                size,
                batch: batch.clone(),
                bytes: kept.bytes,
                job: None,
            });
        }
        for member in &mut members {
            self.note(member).await?;
            let request = json!({"store": member.store, "file": member.file});
            let job = self.jobs.submit(INDEX, ctx.key_id.clone(), request, Vec::new(), work.clone()).await?;
            member.job = Some(job.id);
            let (job, key) = (member.job.clone(), member.file.clone());
            // It may be indexed by now.
            self.change_member(&store.id, &key, |member| member.job = job).await?;
        }
        Ok(members)
    }

    /// Does what a job of the kind [`INDEX`] asks for.
    ///
    /// # Errors
    /// The file cannot be indexed, which is noted with it.
    pub async fn index(&self, ctx: &Context, request: &Value, progress: &Progress) -> Result<Value, Error> {
        let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
        let (store, file) = (text("store"), text("file"));
        let done = self.index_file(ctx, store, file, progress).await;
        if done.is_err() && self.jobs.is_stopping() {
            // It is done when the server runs again.
            return done;
        }
        let (stage, error) = match &done {
            Ok(_) => (Stage::Completed, None),
            Err(error) => (Stage::Failed, Some(error.to_string())),
        };
        self.change_member(store, file, |member| (member.stage, member.error) = (stage, error)).await?;
        done
    }

    async fn index_file(
        &self,
        ctx: &Context,
        store: &str,
        file: &str,
        progress: &Progress,
    ) -> Result<Value, Error> {
        let store = self.get(store).await?;
        let member = self.member(&store.id, file).await?;
        let (kept, upload) = self.files.content(file).await?;
        let document = self.rag.take(upload).await?;
        let document =
            NewDocument { id: Some(kept.id), name: kept.name, attributes: member.attributes, ..document };
        let set = |done, total| progress.set(done, total);
        let indexed = self.rag.index(ctx, &place(&store, member.size), document, &set).await?;
        Ok(json!({"passages": indexed.entry.passages, "embedded": indexed.embedded}))
    }

    /// A file of a store.
    ///
    /// # Errors
    /// It is not in it.
    pub async fn member(&self, store: &str, file: &str) -> Result<Member, Error> {
        let member = self.points.record(&MEMBERS, key(store, file)).await?;
        member.ok_or_else(|| missing("file of this vector store", file))
    }

    /// The files of a store, or of one batch of them; the newest first.
    pub async fn members(&self, store: &str, batch: Option<&str>) -> Result<Vec<Member>, Error> {
        let mut filters = vec![Filter::is("store", store)];
        filters.extend(batch.map(|batch| Filter::is("batch", batch)));
        let mut all: Vec<Member> = self.points.records(&MEMBERS, Some(Filter::All(filters)), FILES).await?;
        all.sort_by(|a, b| (b.created, &b.file).cmp(&(a.created, &a.file)));
        Ok(all)
    }

    /// Gives a file of a store other attributes.
    ///
    /// # Errors
    /// It is not in it.
    pub async fn describe(
        &self,
        store: &str,
        file: &str,
        attributes: Map<String, Value>,
    ) -> Result<Member, Error> {
        self.member(store, file).await?;
        self.rag.change(store, file, |entry| entry.attributes.clone_from(&attributes)).await?;
        self.change_member(store, file, |member| member.attributes = attributes).await?;
        self.member(store, file).await
    }

    /// Takes a file out of a store; it is kept. Whether it was in it.
    pub async fn remove_file(&self, store: &str, file: &str) -> Result<bool, Error> {
        let member: Option<Member> = self.points.record(&MEMBERS, key(store, file)).await?;
        let Some(member) = member else { return Ok(false) };
        self.stop(&member).await?;
        self.rag.remove(store, file).await?;
        self.points.write(&MEMBERS, vec![MEMBERS.remove(vec![key(store, file)])]).await?;
        Ok(true)
    }

    /// Takes a file out of every store that it is in.
    pub async fn forget(&self, file: &str) -> Result<(), Error> {
        let members: Vec<Member> =
            self.points.records(&MEMBERS, Some(Filter::is("file", file)), STORES).await?;
        for member in members {
            self.remove_file(&member.store, file).await?;
        }
        Ok(())
    }

    /// The passages of a file in a store, in their order.
    ///
    /// # Errors
    /// It is not in it.
    pub async fn content(&self, store: &str, file: &str) -> Result<Vec<String>, Error> {
        self.member(store, file).await?;
        self.rag.texts(store, file).await
    }

    /// Stops what indexes a file.
    async fn stop(&self, member: &Member) -> Result<(), Error> {
        if let (Stage::InProgress, Some(job)) = (member.stage, &member.job) {
            self.jobs.cancel(job).await?;
        }
        Ok(())
    }

    async fn note(&self, member: &Member) -> Result<(), Error> {
        let key = key(&member.store, &member.file);
        self.points.write(&MEMBERS, vec![MEMBERS.put(&key, member)]).await
    }

    /// Changes a record that is there.
    async fn change_member(
        &self,
        store: &str,
        file: &str,
        change: impl FnOnce(&mut Member) + Send,
    ) -> Result<(), Error> {
        // Not the document's turn, which whoever indexes it has until it is indexed.
        let _turn = self.rag.turn(&format!("member {}", key(store, file))).await;
        match self.points.record(&MEMBERS, key(store, file)).await? {
            Some(mut member) => {
                change(&mut member);
                self.note(&member).await
            }
            None => Ok(()),
        }
    }
}

fn place(store: &VectorStore, size: Option<PassageSize>) -> Place {
    Place {
        collection: store.id.clone(),
        model: Some(store.model.clone()),
        size,
        stemming: store.stemming,
        tagger: None,
    }
}
