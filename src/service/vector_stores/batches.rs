//! Files that were put into a store together, and how far those of a store are.

use super::{Member, Stage, VectorStores};
use crate::service::Error;

/// How many files are how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub in_progress: usize,
    pub completed: usize,
    pub failed: usize,
    pub cancelled: usize,
    /// Bytes of those that are indexed.
    pub bytes: u64,
}

impl Counts {
    /// Of these files.
    pub fn of(members: &[Member]) -> Counts {
        let mut counts = Counts::default();
        for member in members {
            match member.stage {
                Stage::InProgress => counts.in_progress += 1,
                Stage::Completed => {
                    counts.completed += 1;
                    counts.bytes += member.bytes;
                }
                Stage::Failed => counts.failed += 1,
                Stage::Cancelled => counts.cancelled += 1,
            }
        }
        counts
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.in_progress + self.completed + self.failed + self.cancelled
    }

    /// How far they are together.
    pub fn stage(&self) -> Stage {
        match self {
            Counts { in_progress: 1.., .. } => Stage::InProgress,
            Counts { cancelled: 1.., .. } => Stage::Cancelled,
            Counts { completed: 0, failed: 1.., .. } => Stage::Failed,
            _ => Stage::Completed,
        }
    }
}

impl VectorStores {
    /// The files of a batch.
    ///
    /// # Errors
    /// There is no such batch.
    pub async fn batch(&self, store: &str, batch: &str) -> Result<Vec<Member>, Error> {
        let members = self.members(store, Some(batch)).await?;
        if members.is_empty() {
            return Err(super::missing("batch of files", batch));
        }
        Ok(members)
    }

    /// Leaves those files of a batch out that are not indexed yet; the files then.
    ///
    /// # Errors
    /// There is no such batch.
    pub async fn cancel_batch(&self, store: &str, batch: &str) -> Result<Vec<Member>, Error> {
        for member in self.batch(store, batch).await? {
            self.stop(&member).await?;
            self.change_member(store, &member.file, |member| {
                if member.stage == Stage::InProgress {
                    member.stage = Stage::Cancelled;
                }
            })
            .await?;
        }
        self.batch(store, batch).await
    }
}
