//! Runs that others do and tell of here: what they tell is kept in order, and who watches is told at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::Error;
use super::points::Points;
use super::records::Records;
use crate::types::store::{Change, Filter};

static RUNS: Records<Run> = Records::new("stentor:runs");
static EVENTS: Records<Event> = Records::new("stentor:run_events");

/// Events of a run, and bytes of one.
const EVENTS_MOST: u64 = 10_000;
const EVENT_BYTES: usize = 1 << 20;
/// Runs that are kept.
const RUNS_MOST: usize = 10_000;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// 32 hexadecimal digits.
    pub id: String,
    pub title: String,
    /// Public id of the API key that began it.
    pub owner: Option<String>,
    /// Unix seconds of its last event.
    pub updated: f64,
    /// Events so far.
    pub events: u64,
    pub complete: bool,
    /// What it gave.
    #[serde(default)]
    pub result: Value,
}

/// What a run told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Event {
    run: String,
    number: u64,
    event: Map<String, Value>,
}

/// The runs. Cheap to clone.
#[derive(Clone)]
pub struct Runs {
    points: Points,
    /// How many events each of those has that are watched.
    watched: Arc<Mutex<HashMap<String, watch::Sender<u64>>>>,
    /// One change of a run at a time, so that its events have numbers of their own.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Runs {
    /// Runs in this store.
    pub fn new(points: Points) -> Runs {
        Runs { points, watched: Arc::default(), turn: Arc::default() }
    }

    /// Begins a run.
    ///
    /// # Errors
    /// As many are kept as the server takes.
    pub async fn begin(&self, title: String, owner: Option<String>) -> Result<Run, Error> {
        let known: Vec<Run> = self.points.records(&RUNS, None, RUNS_MOST).await?;
        if known.len() >= RUNS_MOST {
            let message = format!("{RUNS_MOST} runs are kept, the most the server takes; they go in time");
            return Err(Error::Full { message });
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let run = Run { id, title, owner, updated: 0.0, events: 0, complete: false, result: Value::Null };
        let mut event = Map::new();
        event.insert("title".to_owned(), run.title.as_str().into());
        self.write(run, "started", event).await
    }

    /// A run; `None`: there is none of that id that this owner began.
    pub async fn get(&self, id: &str, owner: &Option<String>) -> Result<Option<Run>, Error> {
        let run = self.points.record(&RUNS, id.to_owned()).await?;
        Ok(run.filter(|run: &Run| run.owner == *owner))
    }

    /// Tells how a run goes on.
    ///
    /// # Errors
    /// It is complete, or has told as much as is kept.
    pub async fn tell(
        &self,
        id: &str,
        owner: &Option<String>,
        payload: Map<String, Value>,
    ) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let run = self.open(id, owner).await?;
        self.write(run, "progress", payload).await.map(drop)
    }

    /// Ends a run, with what it gave.
    ///
    /// # Errors
    /// It is complete already.
    pub async fn complete(&self, id: &str, owner: &Option<String>, result: Value) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let run = self.open(id, owner).await?;
        self.write(Run { complete: true, result, ..run }, "complete", Map::new()).await.map(drop)
    }

    async fn open(&self, id: &str, owner: &Option<String>) -> Result<Run, Error> {
        let missing = || Error::Missing { what: "job", id: id.chars().take(64).collect() };
        let run = self.get(id, owner).await?.ok_or_else(missing)?;
        let refuse = |message: String| Err(Error::Conflict { message });
        match run.complete {
            true => refuse(format!("job `{}` is complete", run.id)),
            false if run.events >= EVENTS_MOST => {
                refuse(format!("job `{}` has told all that is kept", run.id))
            }
            false => Ok(run),
        }
    }

    /// Notes an event and what the run is then, and wakes who watches.
    async fn write(&self, mut run: Run, kind: &str, payload: Map<String, Value>) -> Result<Run, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut event = Map::new();
        event.insert("type".to_owned(), kind.into());
        event.insert("ts".to_owned(), now.into());
        // What callers tell is beside these, not in their place.
        event.extend(payload.into_iter().filter(|(name, _)| name != "type" && name != "ts"));
        let bytes = serde_json::to_string(&event).map_or(usize::MAX, |text| text.len());
        if bytes > EVENT_BYTES {
            let message = format!("an event has at most {EVENT_BYTES} bytes");
            return Err(Error::Invalid { param: "body", message });
        }
        let event = Event { run: run.id.clone(), number: run.events, event };
        let key = format!("{}/{:06}", run.id, event.number);
        run.events += 1;
        run.updated = now;
        let changes: Vec<Change> = vec![RUNS.put(&run.id, &run), EVENTS.put(&key, &event)];
        let points = self.points.clone();
        points
            .run(move |store| {
                RUNS.ensure(store)?;
                EVENTS.write(store, changes)
            })
            .await?;
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&run.id) {
            sender.send_replace(run.events);
        }
        Ok(run)
    }

    /// The events of a run from `from` on.
    pub async fn events(&self, id: &str, from: u64) -> Result<Vec<Map<String, Value>>, Error> {
        let most = usize::try_from(EVENTS_MOST).unwrap_or(usize::MAX) + 2;
        let mut events: Vec<Event> = self.points.records(&EVENTS, Some(Filter::is("run", id)), most).await?;
        events.retain(|event| event.number >= from);
        events.sort_by_key(|event| event.number);
        Ok(events.into_iter().map(|event| event.event).collect())
    }

    /// Tells whenever a run has more events.
    pub fn watch(&self, id: &str) -> watch::Receiver<u64> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|known, sender| known == id || sender.receiver_count() > 0);
        watched.entry(id.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Forgets runs that told nothing for so many seconds.
    ///
    /// # Errors
    /// The store cannot be read and written.
    pub async fn sweep(&self, keep: f64) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let runs: Vec<Run> = self.points.records(&RUNS, None, RUNS_MOST).await?;
        for run in runs.into_iter().filter(|run| run.updated + keep < now) {
            let events = EVENTS.remove_where(Filter::is("run", &run.id));
            self.points.write(&EVENTS, vec![events, RUNS.remove(vec![run.id])]).await?;
        }
        Ok(())
    }
}
