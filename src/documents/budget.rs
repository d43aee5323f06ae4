//! What is left of the limits while a file is read, its attachments included.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{Error, Kind, Limits};

/// The limits, and what was used of them.
pub(super) struct Budget<'a> {
    pub(super) limits: &'a Limits,
    unpacked: Cell<usize>,
    text: Cell<usize>,
    attachments: Cell<usize>,
    depth: Cell<usize>,
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Budget {
            limits,
            unpacked: Cell::new(0),
            text: Cell::new(0),
            attachments: Cell::new(0),
            depth: Cell::new(0),
        }
    }

    /// The size of a file before anything is done with it.
    pub(super) fn size(&self, bytes: usize) -> Result<(), Error> {
        match bytes {
            0 => Err(Error::Empty),
            _ if bytes > self.limits.bytes => Err(Error::TooLarge { bytes, limit: self.limits.bytes }),
            _ => Ok(()),
        }
    }

    /// Whether there is time left; `place` says how far it got.
    pub(super) fn check(&self, kind: Kind, place: impl FnOnce() -> String) -> Result<(), Error> {
        if self.is_late() { Err(Error::TookTooLong { kind, place: place() }) } else { Ok(()) }
    }

    pub(super) fn is_late(&self) -> bool {
        self.limits.until.is_some_and(|until| Instant::now() >= until)
    }

    /// How many bytes may still be unpacked.
    pub(super) fn room(&self) -> usize {
        self.limits.unpacked.saturating_sub(self.unpacked.get())
    }

    /// Counts bytes that `place` unpacked to.
    pub(super) fn unpack(&self, bytes: usize, place: &str) -> Result<(), Error> {
        if bytes > self.room() {
            return Err(Error::Bomb { place: place.to_owned(), limit: self.limits.unpacked });
        }
        self.unpacked.set(self.unpacked.get() + bytes);
        Ok(())
    }

    /// Counts a block of text.
    pub(super) fn text(&self, text: &str) -> Result<(), Error> {
        /// What a block takes beside its text.
        const LEAST: usize = 32;
        let limit = self.limits.text;
        let used = self.text.get().saturating_add(text.chars().count().max(LEAST));
        if used > limit {
            return Err(Error::TooMuchText { limit });
        }
        self.text.set(used);
        Ok(())
    }

    /// Counts an attachment.
    pub(super) fn attachment(&self) -> Result<(), Error> {
        let count = self.attachments.get() + 1;
        if count > self.limits.attachments {
            return Err(Error::TooManyAttachments { limit: self.limits.attachments });
        }
        self.attachments.set(count);
        Ok(())
    }

    /// Runs `f` one mail deeper.
    pub(super) fn deeper<T>(&self, f: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        if self.depth.get() >= self.limits.nesting {
            return Err(Error::TooDeep { limit: self.limits.nesting });
        }
        self.depth.set(self.depth.get() + 1);
        let result = f();
        self.depth.set(self.depth.get() - 1);
        result
    }
}

/// Runs a third party's parser, a panic in which becomes an error; what it worked on is dropped.
pub(super) fn guarded<T>(kind: Kind, place: &str, f: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| Error::broken(kind, place, "the parser gave up on it"))
}
