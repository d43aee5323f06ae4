//! From the truth to a collection in memory.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, RwLock};

use roaring::RoaringBitmap;

use super::fields::Fields;
use super::text::Text;
use super::{Collection, Index, State, rows, unit};
use crate::store::error::Error;
use crate::store::hnsw::Hnsw;
use crate::store::truth::{Noted, Truth, View};
use crate::types::store::{Metric, Vectors};

/// The file of the index in a collection's folder, and the folder of its words.
pub const INDEX: &str = "index.hnsw";
const WORDS: &str = "words";
/// Vectors that are put at a time.
const BATCH: usize = 1024;

impl Collection {
    /// Brings a collection into memory. What is derived is read from its folder and brought up to date where it can be;
    /// what cannot is made anew: points are found at once, and linked later.
    ///
    /// # Errors
    /// The truth cannot be read, or the folder not be written.
    pub fn open(truth: &Truth, noted: Noted, folder: &Path) -> Result<Collection, Error> {
        let Noted { name, number, spec } = noted;
        let view = truth.view()?;
        let state = view.state(number)?;
        let io = |source| Error::Io { file: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let (mut index, mut saved) = (None, 0);
        if let Some(vectors) = spec.vectors {
            let read = read(&view, number, vectors, folder, state.points)?;
            saved = read.as_ref().map_or(0, |(_, stamp)| *stamp);
            index = Some(match read {
                Some((index, _)) => index,
                None => made(&view, number, vectors)?,
            });
        }
        let mut live = RoaringBitmap::new();
        match &index {
            Some(index) => live.extend(index.graph.nodes()),
            None => view.records(number, 0, |point, _| {
                live.insert(point);
                Ok(true)
            })?,
        }
        let text = match spec.text {
            Some(stemming) => {
                let folder = folder.join(WORDS);
                let read = match Text::read(&folder, stemming) {
                    Some((text, stamp)) => view.touched(number, stamp)?.map(|touched| (text, touched)),
                    None => None,
                };
                let (text, touched) = match read {
                    Some(read) => read,
                    None => (Text::anew(&folder, stemming)?, live.iter().collect()),
                };
                text.touch(touched.into_iter(), state.sequence);
                Some(text)
            }
            None => None,
        };
        let state = State { sequence: state.sequence, live, index, fields: Fields::default() };
        let folder = folder.to_owned();
        Ok(Collection {
            name,
            number,
            spec,
            folder,
            state: RwLock::new(state),
            text,
            filtered: Mutex::default(),
            linking: Mutex::default(),
            saved: AtomicU64::new(saved),
        })
    }
}

/// The index as it was saved, brought up to date, and the change that it had; `None` where there is none that fits.
fn read(
    view: &View,
    number: u32,
    vectors: Vectors,
    folder: &Path,
    points: u64,
) -> Result<Option<(Index, u64)>, Error> {
    let file = folder.join(INDEX);
    let (mut graph, stamp) = match Hnsw::open(&file) {
        Ok(read) => read,
        Err(error) => {
            if file.exists() {
                tracing::warn!(%error, "an index is made anew");
            }
            return Ok(None);
        }
    };
    let fits = graph.dim() == vectors.dim && graph.metric() == vectors.metric;
    let Some(mut touched) = view.touched(number, stamp)?.filter(|_| fits) else { return Ok(None) };
    touched.sort_unstable();
    touched.dedup();
    for &point in &touched {
        graph.remove(point);
    }
    // A number may have become another point's.
    if !touched.is_empty() {
        let leaving = graph.leaving();
        graph.release(&leaving);
    }
    let mut index = Index { graph, exact: None };
    for batch in touched.chunks(BATCH) {
        let mut read = Vec::new();
        for &point in batch {
            if let Ok(Some(vector)) = view.vector((number, point), vectors) {
                read.push((point, vector));
            }
        }
        put(&mut index, &read);
    }
    if index.graph.live() as u64 != points {
        tracing::warn!(file = %file.display(), "an index does not hold what the store holds, and is made anew");
        return Ok(None);
    }
    index.exact = rows(vectors);
    let metric = vectors.metric;
    if let Some(exact) = &mut index.exact {
        view.vectors(number, vectors, |point, vector| {
            vector.iter().for_each(|vector| match metric {
                Metric::Cosine => drop(exact.set(point, &unit(vector))),
                Metric::Dot | Metric::Euclidean => drop(exact.set(point, vector)),
            });
            Ok(())
        })?;
    }
    Ok(Some((index, stamp)))
}

/// An index made of the vectors that the truth holds.
fn made(view: &View, number: u32, vectors: Vectors) -> Result<Index, Error> {
    let mut index = Index::new(vectors).map_err(Error::Spec)?;
    let mut batch = Vec::new();
    view.vectors(number, vectors, |point, vector| {
        match vector {
            Some(vector) => batch.push((point, vector)),
            None => tracing::error!(collection = number, point, "a vector is damaged, and is not found"),
        }
        if batch.len() >= BATCH {
            put(&mut index, &batch);
            batch.clear();
        }
        Ok(())
    })?;
    put(&mut index, &batch);
    Ok(index)
}

/// Puts vectors, and says which it does not take.
fn put(index: &mut Index, batch: &[(u32, Vec<f32>)]) {
    let borrowed: Vec<(u32, &[f32])> =
        batch.iter().map(|(point, vector)| (*point, vector.as_slice())).collect();
    if index.put(&borrowed).is_ok() {
        return;
    }
    for one in borrowed.chunks(1) {
        if let Err(error) = index.put(one) {
            tracing::error!(point = one[0].0, %error, "a vector is not taken, and is not found");
        }
    }
}
