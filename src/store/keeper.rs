//! The thread that tidies: it links what is new, frees what is gone, brings words up to date and saves indexes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::Inner;
use super::error::Error;
use super::writer::Command;

/// How long it sleeps at most.
const NAP: Duration = Duration::from_secs(1);

/// Runs until the store is closed.
pub fn run(inner: &Inner, woken: &Receiver<()>, queue: &SyncSender<Command>) {
    loop {
        for collection in inner.all() {
            while !inner.is_closing() && collection.link() {}
            if inner.is_closing() {
                break;
            }
            collection.compact();
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
