//! Words: which points have them, and how well they match (BM25, by tantivy).
//!
//! The index is derived, and is brought up to date when it is asked or when much has changed: what was touched since is
//! remembered, and read from the truth. So a point is found by its words as soon as it is written, and the disk is not
//! waited for at every write.

mod collect;
mod stop;
mod tokens;

use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use roaring::RoaringBitmap;
use tantivy::collector::TopDocs;
use tantivy::directory::MmapDirectory;
use tantivy::query::{BooleanQuery, EmptyQuery, Occur, Query, TermQuery};
use tantivy::schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, TantivyDocument, TantivyError, Term};

use self::collect::{Best, Numbers};
use crate::store::bits::Bits;
use crate::store::error::Error;
use crate::store::truth::Truth;
use crate::types::store::Stemming;

/// Memory of a thread that indexes: the least that tantivy takes is 15 MB.
const ARENA: usize = 24 << 20;
/// Points that make a second thread worth its start.
const MANY: usize = 4096;
/// Points that may have been touched before the index is brought up to date unasked.
const BEHIND: u64 = 8192;
/// Words of a question that count.
const WORDS: usize = 256;

/// The words of a collection.
pub struct Text {
    folder: PathBuf,
    index: Index,
    reader: IndexReader,
    number: Field,
    text: Field,
    stemming: Stemming,
    pending: Mutex<Pending>,
    /// Held by whoever brings it up to date.
    syncing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Pending {
    touched: RoaringBitmap,
    /// The change up to which `touched` is complete.
    sequence: u64,
    /// The change that the index holds.
    stamp: u64,
}

impl Text {
    /// The index of a folder and the change up to which it holds the collection; `None` where there is none that can be
    /// read.
    pub fn read(folder: &Path, stemming: Stemming) -> Option<(Text, u64)> {
        // What is damaged may make the library panic.
        let open = AssertUnwindSafe(|| {
            let index = Index::open_in_dir(folder).ok()?;
            index.validate_checksum().ok().filter(HashSet::is_empty)?;
            Text::over(folder, index, stemming).ok()
        });
        let text = catch_unwind(open).ok().flatten()?;
        let stamp = text.index.load_metas().ok()?.payload?.parse().ok()?;
        {
            let mut pending = text.pending();
            (pending.stamp, pending.sequence) = (stamp, stamp);
        }
        Some((text, stamp))
    }

    /// An empty index, in the place of what is in the folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn anew(folder: &Path, stemming: Stemming) -> Result<Text, Error> {
        let io = |source| Error::Io { file: folder.to_owned(), source };
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(io)?;
        }
        std::fs::create_dir_all(folder).map_err(io)?;
        let directory = MmapDirectory::open(folder).map_err(|e| failed(folder, e.into()))?;
        let index = Index::create(directory, schema(), tantivy::IndexSettings::default());
        Text::over(folder, index.map_err(|e| failed(folder, e))?, stemming)
    }

    fn over(folder: &Path, index: Index, stemming: Stemming) -> Result<Text, Error> {
        index.tokenizers().register(tokens::NAME, tokens::analyzer(stemming));
        let failed = |e| failed(folder, e);
        let schema = index.schema();
        let (number, text) = (schema.get_field("number"), schema.get_field("text"));
        let (number, text) = (number.map_err(failed)?, text.map_err(failed)?);
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(failed)?;
        let (pending, syncing) = (Mutex::default(), Mutex::default());
        Ok(Text { folder: folder.to_owned(), index, reader, number, text, stemming, pending, syncing })
    }

    /// Says that a change touched these points.
    pub fn touch(&self, numbers: impl Iterator<Item = u32>, sequence: u64) {
        let mut pending = self.pending();
        pending.touched.extend(numbers);
        pending.sequence = sequence;
    }

    /// Whether so much was touched that it should be brought up to date unasked.
    pub fn is_behind(&self) -> bool {
        self.pending().touched.len() >= BEHIND
    }

    /// The change that the index holds.
    pub fn stamp(&self) -> u64 {
        self.pending().stamp
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: TantivyError) -> Error {
        failed(&self.folder, error)
    }

    /// Brings the index up to date.
    ///
    /// # Errors
    /// The truth cannot be read, or the index not written: what was touched is remembered still.
    pub fn sync(&self, truth: &Truth, collection: u32) -> Result<(), Error> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (touched, sequence) = {
            let mut pending = self.pending();
            if pending.touched.is_empty() && pending.stamp == pending.sequence {
                return Ok(());
            }
            (std::mem::take(&mut pending.touched), pending.sequence)
        };
        let done = self.write(truth, collection, &touched, sequence);
        let mut pending = self.pending();
        match done {
            Ok(()) => pending.stamp = sequence,
            Err(_) => pending.touched |= touched,
        }
        done
    }

    fn write(
        &self,
        truth: &Truth,
        collection: u32,
        touched: &RoaringBitmap,
        stamp: u64,
    ) -> Result<(), Error> {
        let failed = |e| self.failed(e);
        let view = truth.view()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if touched.len() as usize > MANY { cores.min(4) } else { 1 };
        let mut writer: IndexWriter =
            self.index.writer_with_num_threads(threads, threads * ARENA).map_err(failed)?;
        for number in touched {
            writer.delete_term(Term::from_field_u64(self.number, number.into()));
            // One that is damaged is found by no word; whoever reads it is told.
            let Ok(Some(record)) = view.record((collection, number)) else { continue };
            if !record.text.is_empty() {
                let mut document = TantivyDocument::default();
                document.add_u64(self.number, number.into());
                document.add_text(self.text, record.text);
                writer.add_document(document).map_err(failed)?;
            }
        }
        let mut prepared = writer.prepare_commit().map_err(failed)?;
        prepared.set_payload(&stamp.to_string());
        prepared.commit().map_err(failed)?;
        writer.wait_merging_threads().map_err(failed)?;
        self.reader.reload().map_err(failed)
    }

    /// The words of a text as they are indexed, each once.
    fn words(&self, text: &str) -> Result<BTreeSet<String>, Error> {
        let mut analyzer = self.index.tokenizer_for_field(self.text).map_err(|e| self.failed(e))?;
        let mut stream = analyzer.token_stream(text);
        let mut words = BTreeSet::new();
        while words.len() < WORDS && stream.advance() {
            words.insert(stream.token().text.clone());
        }
        Ok(words)
    }

    fn query(&self, text: &str, occur: Occur) -> Result<Box<dyn Query>, Error> {
        let one = |word: &String| -> (Occur, Box<dyn Query>) {
            let term = Term::from_field_text(self.text, word);
            (occur, Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)))
        };
        let words: Vec<_> = self.words(text)?.iter().map(one).collect();
        Ok(if words.is_empty() { Box::new(EmptyQuery) } else { Box::new(BooleanQuery::new(words)) })
    }

    /// The best `k` points by words, best first, with their scores; of `among`, where that is given.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn search(&self, text: &str, k: usize, among: Option<&Arc<Bits>>) -> Result<Vec<(f32, u32)>, Error> {
        let failed = |e| self.failed(e);
        let query = self.query(&stop::telling(self.stemming, text), Occur::Should)?;
        let searcher = self.reader.searcher();
        let Some(among) = among else {
            let best = TopDocs::with_limit(k.max(1)).order_by_score();
            let found = searcher.search(&query, &best).map_err(failed)?;
            let number = |(score, at): (f32, tantivy::DocAddress)| {
                let fast = searcher.segment_reader(at.segment_ord).fast_fields().u64("number").ok()?;
                Some((score, u32::try_from(fast.first(at.doc_id)?).ok()?))
            };
            return Ok(found.into_iter().filter_map(number).take(k).collect());
        };
        searcher.search(&query, &Best { k, among: among.clone() }).map_err(failed)
    }

    /// The points that have all of the text's words; none where it has no word.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn having(&self, text: &str) -> Result<RoaringBitmap, Error> {
        let query = self.query(text, Occur::Must)?;
        self.reader.searcher().search(&query, &Numbers).map_err(|e| self.failed(e))
    }
}

fn schema() -> Schema {
    let mut schema = Schema::builder();
    schema.add_u64_field("number", INDEXED | FAST);
    let words = TextFieldIndexing::default()
        .set_tokenizer(tokens::NAME)
        .set_index_option(IndexRecordOption::WithFreqs);
    schema.add_text_field("text", TextOptions::default().set_indexing_options(words));
    schema.build()
}

fn failed(folder: &Path, error: TantivyError) -> Error {
    Error::Text { file: folder.to_owned(), source: Box::new(error) }
}
