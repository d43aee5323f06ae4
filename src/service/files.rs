//! Files that callers leave with the server: what they hold is in a folder, a file each, what they are in the store.
//!
//! A file is written under another name, flushed to the disk and renamed, and noted only then; what is not noted is
//! taken away when the folder is opened.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::points::Points;
use super::rag::now;
use super::records::Records;
use super::resolve::joined;
use super::{Error, Upload};
use crate::types::store::Filter;

static KEPT: Records<Kept> = Records::new("stentor:files");

/// Begins the names of files that are not whole yet.
const UNFINISHED: &str = ".unfinished-";
/// Files at most.
const MOST: usize = 100_000;

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// `file-` and 32 hexadecimal digits.
    pub id: String,
    /// As its client calls it.
    pub name: String,
    #[serde(default)]
    pub mime: Option<String>,
    pub bytes: u64,
    /// Unix seconds.
    pub created: u64,
    /// What its client keeps it for, `user_data` or such; `job` and `speaker` are the server's own.
    pub purpose: String,
    /// Unix seconds; `None`: until it is deleted.
    #[serde(default)]
    pub expires: Option<u64>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of all files together.
    pub bytes: u64,
}

/// The files that are kept. Cheap to clone.
#[derive(Clone)]
pub struct Files {
    points: Points,
    folder: Arc<PathBuf>,
    limits: Limits,
}

impl Files {
    /// Opens the folder, or makes it, and takes away what no record speaks of.
    ///
    /// # Errors
    /// The folder cannot be read and written, or the store cannot be read.
    pub fn open(folder: &Path, points: Points, limits: Limits) -> io::Result<Files> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        let kept = points.read(|store| KEPT.list(store, None, MOST)).map_err(io::Error::other)?;
        let known: HashSet<String> = kept.into_iter().map(|kept| kept.id).collect();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !known.contains(&name) && (name.starts_with("file-") || name.starts_with(UNFINISHED)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Files { points, folder: Arc::new(folder.to_owned()), limits })
    }

    /// Keeps an upload.
    ///
    /// # Errors
    /// There is no room for it.
    pub async fn keep(&self, upload: Upload, purpose: &str, expires: Option<u64>) -> Result<Kept, Error> {
        let id = format!("file-{}", uuid::Uuid::new_v4().simple());
        let (folder, to) = (self.folder.clone(), id.clone());
        let room = self.room().await?;
        let Upload { file, name, mime } = upload;
        let copy = tokio::task::spawn_blocking(move || copy(file, &folder, &to, room));
        let bytes = joined(copy.await)??;
        let kept = Kept {
            name: name.unwrap_or_else(|| id.clone()),
            id,
            mime,
            bytes,
            created: now(),
            purpose: purpose.to_owned(),
            expires,
        };
        self.points.write(&KEPT, vec![KEPT.put(&kept.id, &kept)]).await?;
        Ok(kept)
    }

    /// Bytes that may still be kept.
    async fn room(&self) -> Result<u64, Error> {
        let all = self.points.records(&KEPT, None, MOST).await?;
        if all.len() >= MOST {
            let message = format!("the server keeps {MOST} files already, the most it takes; delete some");
            return Err(Error::Full { message });
        }
        let taken: u64 = all.iter().map(|kept| kept.bytes).sum();
        Ok(self.limits.bytes.saturating_sub(taken))
    }

    /// What is known of a file; `None`: there is none, or its time is over.
    pub async fn get(&self, id: &str) -> Result<Option<Kept>, Error> {
        let kept = self.points.record(&KEPT, id.to_owned()).await?;
        Ok(kept.filter(|kept: &Kept| kept.expires.is_none_or(|expires| expires > now())))
    }

    /// The files that were left for this purpose, or for any but the server's own; the newest first.
    pub async fn list(&self, purpose: Option<&str>) -> Result<Vec<Kept>, Error> {
        let filter = purpose.map(|purpose| Filter::is("purpose", purpose));
        let mut all: Vec<Kept> = self.points.records(&KEPT, filter, MOST).await?;
        let now = now();
        all.retain(|kept| !kept.is_own() && kept.expires.is_none_or(|expires| expires > now));
        all.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(all)
    }

    /// The files that the server keeps for a purpose of its own.
    pub(super) async fn own(&self, purpose: &str) -> Result<Vec<Kept>, Error> {
        self.points.records(&KEPT, Some(Filter::is("purpose", purpose)), MOST).await
    }

    /// What a file holds.
    ///
    /// # Errors
    /// There is no such file.
    pub async fn content(&self, id: &str) -> Result<(Kept, Upload), Error> {
        let missing = || Error::Missing { what: "file", id: id.to_owned() };
        let kept = self.get(id).await?.ok_or_else(missing)?;
        let path = self.folder.join(&kept.id);
        let file = joined(tokio::task::spawn_blocking(move || File::open(path)).await)?;
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(),
            _ => Error::Internal { detail: format!("a kept file: {error}") },
        })?;
        let upload = Upload { file, name: Some(kept.name.clone()), mime: kept.mime.clone() };
        Ok((kept, upload))
    }

    /// Deletes a file; whether it was there.
    pub async fn remove(&self, id: &str) -> Result<bool, Error> {
        let Some(kept) = self.points.record(&KEPT, id.to_owned()).await? else { return Ok(false) };
        self.points.write(&KEPT, vec![KEPT.remove(vec![kept.id.clone()])]).await?;
        let path = self.folder.join(&kept.id);
        let gone = joined(tokio::task::spawn_blocking(move || fs::remove_file(path)).await)?;
        if let Err(error) = gone.or_else(absent) {
            tracing::warn!(id, %error, "a deleted file's content is left until the server starts again");
        }
        Ok(true)
    }

    /// Deletes the files whose time is over.
    pub async fn sweep(&self) -> Result<(), Error> {
        let now = now();
        let all: Vec<Kept> = self.points.records(&KEPT, None, MOST).await?;
        for kept in all.into_iter().filter(|kept| kept.expires.is_some_and(|expires| expires <= now)) {
            self.remove(&kept.id).await?;
        }
        Ok(())
    }
}

/// The purposes of files that the server keeps for itself: for jobs, and recordings of speakers.
pub const JOB: &str = "job";
pub const SPEAKER: &str = "speaker";

impl Kept {
    /// Whether the server keeps it for itself, and not for whoever left it.
    pub fn is_own(&self) -> bool {
        [JOB, SPEAKER].contains(&self.purpose.as_str())
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Copies an upload to the folder, whole or not at all; its bytes.
fn copy(upload: File, folder: &Path, id: &str, room: u64) -> Result<u64, Error> {
    let io = |error: io::Error| match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::Full { message: "the server's disk is full and cannot take the file".to_owned() }
        }
        _ => Error::Internal { detail: format!("keep a file: {error}") },
    };
    let mut unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder).map_err(io)?;
    let bytes = io::copy(&mut upload.take(room.saturating_add(1)), unfinished.as_file_mut()).map_err(io)?;
    if bytes > room {
        let message = format!("the server has room for {room} bytes of files more; delete some first");
        return Err(Error::Full { message });
    }
    unfinished.as_file().sync_all().map_err(io)?;
    unfinished.persist(folder.join(id)).map_err(|error| io(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(bytes)
}
