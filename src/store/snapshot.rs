//! Copies of a store, bringing one back, and looking whether all is well.

use std::path::Path;

use super::error::Error;
use super::truth::{Truth, View};
use super::{DERIVED, Store, TRUTH, lock};
use crate::types::store::Spec;

/// What was found in a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub name: String,
    pub points: u64,
    /// What is wrong, a line each; at most [`SHOWN`] of them.
    pub wrong: Vec<String>,
    /// How many things are.
    pub faults: u64,
}

/// Faults that are told in words.
pub const SHOWN: usize = 20;

impl Checked {
    fn fault(&mut self, what: String) {
        self.faults += 1;
        if self.wrong.len() < SHOWN {
            self.wrong.push(what);
        }
    }
}

/// Looks at every point of a store that no process has open.
///
/// # Errors
/// It is damaged such that the rest cannot be looked at; another process has it open.
pub fn verify(folder: &Path) -> Result<Vec<Checked>, Error> {
    let _lock = lock(folder)?;
    look(&Truth::open_unchecked(&folder.join(TRUTH))?)
}

fn look(truth: &Truth) -> Result<Vec<Checked>, Error> {
    let view = truth.view()?;
    view.collections()?.into_iter().map(|noted| one(&view, noted.name, noted.number, &noted.spec)).collect()
}

fn one(view: &View, name: String, number: u32, spec: &Spec) -> Result<Checked, Error> {
    let mut checked = Checked { name, points: 0, wrong: Vec::new(), faults: 0 };
    view.records(number, 0, |point, record| {
        checked.points += 1;
        match record {
            None => checked.fault(format!("point {point}: its record is damaged")),
            Some(record) if view.number(number, &record.id)? != Some(point) => {
                checked.fault(format!("point {point}: its id `{}` leads elsewhere", record.id));
            }
            Some(record) => {
                let vector = spec.vectors.map(|vectors| view.vector((number, point), vectors));
                if let Some(Ok(None) | Err(_)) = vector {
                    checked.fault(format!("point `{}`: its vector is damaged or lost", record.id));
                }
            }
        }
        Ok(true)
    })?;
    let state = view.state(number)?;
    if state.points != checked.points {
        let points = checked.points;
        checked.fault(format!("{} points are counted and {points} are there", state.points));
    }
    Ok(checked)
}

/// Puts a snapshot in the place of the store of a folder. The snapshot is looked at first, as [`verify`] does; what was
/// derived from the store before is not used again.
///
/// # Errors
/// The snapshot is damaged, or another process has the store open: it is as it was then.
pub fn restore(folder: &Path, snapshot: &Path) -> Result<Vec<Checked>, Error> {
    let _lock = lock(folder)?;
    let part = folder.join("store.part");
    let io = |file: &Path| {
        let file = file.to_owned();
        move |source| Error::Io { file, source }
    };
    std::fs::copy(snapshot, &part).map_err(io(snapshot))?;
    let done = (|| {
        let truth = Truth::open(&part)?;
        let checked = look(&truth)?;
        if let Some(bad) = checked.iter().find(|checked| checked.faults > 0) {
            let what =
                format!("{} faults in collection `{}`: {}", bad.faults, bad.name, bad.wrong.join("; "));
            return Err(Error::Damaged { file: snapshot.to_owned(), what });
        }
        truth.write(|tables| tables.renew())?;
        drop(truth);
        std::fs::rename(&part, folder.join(TRUTH)).map_err(io(&part))?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io(folder))?;
        Ok(checked)
    })();
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// Makes everything derived anew, whole, and the file of the truth as small as it can be.
///
/// # Errors
/// Another process has the store open, it is damaged, or the disk cannot be written.
pub fn rebuild(folder: &Path) -> Result<(), Error> {
    {
        let _lock = lock(folder)?;
        let derived = folder.join(DERIVED);
        if derived.exists() {
            std::fs::remove_dir_all(&derived).map_err(|source| Error::Io { file: derived, source })?;
        }
        Truth::open(&folder.join(TRUTH))?.compact()?;
    }
    Store::open(folder)?.settle()
}
