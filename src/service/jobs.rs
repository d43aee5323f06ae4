//! Work that outlives the request that asked for it, and the process: what is to be done and what came of it lie in the
//! store. A job that was under way when the server stopped is done again from its beginning.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::files::Files;
use super::points::Points;
use super::records::Records;
use crate::types::store::{Change, Filter, Scalar};

static JOBS: Records<Job> = Records::new("stentor:jobs");

/// Jobs that run at a time: while one waits for a model another is read.
const AT_ONCE: usize = 2;
/// Jobs that wait at most.
const WAITING: usize = 10_000;
/// Times that a job is begun: one that ends the server each time is not begun for ever.
const TRIES: u32 = 3;
/// Jobs that are kept.
const KEPT: usize = 1_000_000;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Queued,
    Running,
    Done,
    Error,
    Cancelled,
}

impl Status {
    /// Nothing more comes of it.
    pub fn is_over(self) -> bool {
        matches!(self, Status::Done | Status::Error | Status::Cancelled)
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// 32 hexadecimal digits.
    pub id: String,
    /// What is to be done: whoever runs it knows.
    pub kind: String,
    pub status: Status,
    /// Unix milliseconds.
    pub created: u64,
    pub updated: u64,
    /// Public id of the API key that asked.
    pub owner: Option<String>,
    pub request: Value,
    #[serde(default)]
    pub result: Option<Value>,
    #[serde(default)]
    pub error: Option<String>,
    /// Of what it does so much is done, of so much. Only while it runs.
    #[serde(skip)]
    pub progress: Option<(usize, usize)>,
    /// Kept files that go when it is over.
    #[serde(default)]
    pub files: Vec<String>,
    #[serde(default)]
    pub tries: u32,
}

/// Does jobs.
pub trait Work: Send + Sync + 'static {
    /// What comes of a job. When it is cancelled this is dropped.
    fn run<'a>(&'a self, job: &'a Job, progress: &'a Progress) -> BoxFuture<'a, Result<Value, Error>>;
}

/// How far a job that runs is.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicUsize,
    total: AtomicUsize,
}

impl Progress {
    /// So much of so much.
    pub fn set(&self, done: usize, total: usize) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    fn get(&self) -> Option<(usize, usize)> {
        let total = self.total.load(Ordering::Relaxed);
        (total > 0).then(|| (self.done.load(Ordering::Relaxed), total))
    }
}

/// One that waits or runs.
#[derive(Clone)]
struct Open {
    cancel: CancellationToken,
    progress: Arc<Progress>,
}

/// The jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    points: Points,
    files: Files,
    /// How long what came of a job is kept.
    keep: Duration,
    places: Semaphore,
    open: Mutex<HashMap<String, Open>>,
    stopping: AtomicBool,
}

impl Jobs {
    /// Jobs in this store, whose files are among these; what comes of one is kept so long.
    pub fn new(points: Points, files: Files, keep: Duration) -> Jobs {
        let (places, open) = (Semaphore::new(AT_ONCE), Mutex::default());
        Jobs(Arc::new(Inner { points, files, keep, places, open, stopping: AtomicBool::new(false) }))
    }

    /// The server is being stopped: what fails from now on fails for that, and is done when it runs again.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the server is being stopped.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// How long what came of a job is kept.
    pub fn kept(&self) -> Duration {
        self.0.keep
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a job and has it done when it is its turn.
    ///
    /// # Errors
    /// Too many wait.
    pub async fn submit(
        &self,
        kind: &str,
        owner: Option<String>,
        request: Value,
        files: Vec<String>,
        work: Arc<dyn Work>,
    ) -> Result<Job, Error> {
        let queued = self.open().len();
        if queued >= WAITING {
            return Err(Error::Overloaded { queued, retry_after: Duration::from_secs(30) });
        }
        let now = millis();
        let job = Job {
            id: uuid::Uuid::new_v4().simple().to_string(),
            kind: kind.to_owned(),
            status: Status::Queued,
            created: now,
            updated: now,
            owner,
            request,
            result: None,
            error: None,
            progress: None,
            files,
            tries: 0,
        };
        self.note(&job).await?;
        self.start(job.clone(), work);
        Ok(job)
    }

    /// Goes on with what was not over when the server stopped; how many jobs those are.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn resume(&self, work: &Arc<dyn Work>) -> Result<usize, Error> {
        let status = |name: &str| Scalar::Text(name.to_owned());
        let unfinished = Filter::In(
            crate::types::store::Field::Payload("status".to_owned()),
            vec![status("queued"), status("running")],
        );
        let mut jobs: Vec<Job> = self.0.points.records(&JOBS, Some(unfinished), WAITING).await?;
        jobs.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        let count = jobs.len();
        for mut job in jobs {
            if job.tries < TRIES {
                self.start(job, work.clone());
            } else {
                job.status = Status::Error;
                job.error = Some(format!("the server stopped {TRIES} times while this was done"));
                self.end(job).await?;
            }
        }
        Ok(count)
    }

    /// A job; `None`: there is none of that id, or it was forgotten.
    pub async fn get(&self, id: &str) -> Result<Option<Job>, Error> {
        let job = self.0.points.record(&JOBS, id.to_owned()).await?;
        Ok(job.map(|job: Job| {
            let progress = self.open().get(id).and_then(|open| open.progress.get());
            Job { progress, ..job }
        }))
    }

    /// Ends a job where it stands; what it is then. One that is over stays what it is.
    pub async fn cancel(&self, id: &str) -> Result<Option<Job>, Error> {
        let open = self.open().get(id).cloned();
        if let Some(open) = open {
            open.cancel.cancel();
        }
        let Some(mut job) = self.get(id).await? else { return Ok(None) };
        if !job.status.is_over() {
            job.status = Status::Cancelled;
            self.end(job.clone()).await?;
        }
        Ok(Some(job))
    }

    /// Forgets jobs whose time is over.
    pub async fn sweep(&self) -> Result<(), Error> {
        let keep = u64::try_from(self.0.keep.as_millis()).unwrap_or(u64::MAX);
        let before = millis().saturating_sub(keep);
        let jobs: Vec<Job> = self.0.points.records(&JOBS, None, KEPT).await?;
        let old = jobs.into_iter().filter(|job| job.status.is_over() && job.updated < before);
        let ids: Vec<String> = old.map(|job| job.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.0.points.write(&JOBS, vec![JOBS.remove(ids)]).await
    }

    async fn note(&self, job: &Job) -> Result<(), Error> {
        let change: Change = JOBS.put(&job.id, job);
        self.0.points.write(&JOBS, vec![change]).await
    }

    /// Notes what came of a job, and deletes its files.
    async fn end(&self, mut job: Job) -> Result<(), Error> {
        job.updated = millis();
        let files = std::mem::take(&mut job.files);
        self.note(&job).await?;
        for file in files {
            self.0.files.remove(&file).await?;
        }
        Ok(())
    }

    /// Has a job done when it is its turn: turns are in the order in which they were asked for.
    fn start(&self, job: Job, work: Arc<dyn Work>) {
        let open = Open { cancel: CancellationToken::new(), progress: Arc::default() };
        self.open().insert(job.id.clone(), open.clone());
        let jobs = self.clone();
        tokio::spawn(async move {
            let id = job.id.clone();
            let cancelled = open.cancel.clone();
            // What the one who cancels notes stays.
            let done = cancelled.run_until_cancelled(jobs.run(job, &*work, &open.progress)).await;
            if let Some(Err(error)) = done {
                tracing::error!(id, detail = ?error, "what came of a job cannot be noted");
            }
            jobs.open().remove(&id);
        });
    }

    async fn run(&self, mut job: Job, work: &dyn Work, progress: &Progress) -> Result<(), Error> {
        // It is never closed.
        let Ok(_place) = self.0.places.acquire().await else { return Ok(()) };
        job.status = Status::Running;
        job.tries += 1;
        job.updated = millis();
        self.note(&job).await?;
        let outcome = std::panic::AssertUnwindSafe(work.run(&job, progress)).catch_unwind().await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(Error::Internal { detail: "a job panicked".to_owned() }));
        match outcome {
            Ok(result) => {
                job.status = Status::Done;
                job.result = Some(result);
            }
            Err(_) if self.is_stopping() => {
                job.status = Status::Queued;
                // That was no fault of its own.
                job.tries -= 1;
                return self.note(&job).await;
            }
            Err(error) => {
                if let Error::Internal { detail } = &error {
                    tracing::error!(job.id, job.kind, detail, "a job failed");
                }
                job.status = Status::Error;
                job.error = Some(error.to_string());
            }
        }
        self.end(job).await
    }
}

/// Unix milliseconds.
fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
