//! The thread that tidies: it links what is new, frees what is gone, brings words up to date and saves indexes. It and
//! the threads that it asks give way to all others: what is not linked yet is found all the same.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use rayon::ThreadPool;

use super::Inner;
use super::error::Error;
use super::writer::Command;

/// How long it steps aside for a write.
const ASIDE: Duration = Duration::from_micros(200);
/// How long it sleeps at most.
const NAP: Duration = Duration::from_secs(1);

/// How far its threads give way, from 0 to 19.
const NICE: i32 = 15;

/// Runs until the store is closed.
pub fn run(inner: &Inner, woken: &Receiver<()>, queue: &SyncSender<Command>) {
    give_way();
    let named = rayon::ThreadPoolBuilder::new().thread_name(|at| format!("store-link-{at}"));
    match named.start_handler(|_| give_way()).build() {
        Ok(pool) => tidy(inner, woken, queue, &pool),
        Err(error) => tracing::error!(%error, "nothing is linked, and searches take long"),
    }
}

fn give_way() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(%error, "a thread that links does not give way");
    }
}

fn tidy(inner: &Inner, woken: &Receiver<()>, queue: &SyncSender<Command>, pool: &ThreadPool) {
    loop {
        for collection in inner.all() {
            while !inner.is_closing() && pool.install(|| collection.link()) {
                while inner.writing.load(Ordering::Relaxed) && !inner.is_closing() {
                    std::thread::sleep(ASIDE);
                }
            }
            if inner.is_closing() {
                break;
            }
            pool.install(|| collection.compact());
            if let Err(error) = collection.keep_up(&inner.truth) {
                tracing::warn!(collection = collection.name, %error, "words are not up to date");
            }
        }
        if inner.is_closing() {
            return;
        }
        if let Err(error) = save(inner, queue, false) {
            tracing::warn!(%error, "an index is not saved");
        }
        if woken.recv_timeout(NAP) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Saves what changed much; with `any`, what changed at all.
pub fn save(inner: &Inner, queue: &SyncSender<Command>, any: bool) -> Result<(), Error> {
    for collection in inner.all() {
        if collection.wants_saving(any) {
            let upto = collection.save(&inner.truth)?;
            // Unheard, the changes are noted a while longer.
            let _ = queue.try_send(Command::Forget(collection.number, upto));
        }
    }
    Ok(())
}
