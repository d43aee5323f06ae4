//! The book of speakers against a map: random changes, and what is found after each, across reopening the store.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use proptest::prelude::*;
use stentor::service::speakers::{Asked, Book, Changed, Enrolment, NewSample, Options};
use stentor::service::voices::Voices;
use stentor::service::{Context, Upload};

use super::fake::kept_with;
use super::voices::{Throats, vector};

const IDS: u8 = 6;
const VOICES: u8 = 3;
/// Below it, recordings of one person are taken for those of several.
const ALIKE: f64 = 0.4;
const SAMPLES: usize = 32;

#[derive(Debug, Clone)]
enum Op {
    /// By recordings of these voices, of so many seconds.
    Enrol {
        id: u8,
        voices: Vec<(u8, u8)>,
        merge: bool,
        force: bool,
    },
    Change {
        id: u8,
        name: Option<u8>,
        tag: Option<u8>,
    },
    Merge {
        into: u8,
        other: u8,
    },
    Remove(u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let id = 0..IDS;
    let voices = prop::collection::vec((0..VOICES, 2..6u8), 1..4);
    let name = prop::option::of(0..5u8);
    prop_oneof![
        6 => (id.clone(), voices, any::<bool>(), any::<bool>())
            .prop_map(|(id, voices, merge, force)| Op::Enrol { id, voices, merge, force }),
        2 => (id.clone(), name.clone(), name).prop_map(|(id, name, tag)| Op::Change { id, name, tag }),
        2 => (id.clone(), id.clone()).prop_map(|(into, other)| Op::Merge { into, other }),
        2 => id.prop_map(Op::Remove),
        1 => Just(Op::Reopen),
    ]
}

/// A speaker as the map has it: vectors with the seconds of each.
#[derive(Debug, Clone, Default, PartialEq)]
struct Known {
    name: String,
    tags: Vec<String>,
    samples: Vec<(Vec<f32>, f64)>,
}

type Model = BTreeMap<String, Known>;

fn text(voice: u8, seconds: u8) -> String {
    format!("voice=v{voice} seconds={seconds}")
}

fn recording(voice: u8, seconds: u8) -> Upload {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text(voice, seconds).as_bytes()).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    Upload { file, name: None, mime: None }
}

/// As [`Throats`] embeds the whole of a recording.
fn embedded(voice: u8, seconds: u8) -> Vec<f32> {
    vector("1", &format!("v{voice}"), &format!("{}0", text(voice, seconds)))
}

fn cosine(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

fn centroid(samples: &[(Vec<f32>, f64)]) -> Vec<f64> {
    let mut sum = vec![0.0; samples[0].0.len()];
    for (vector, weight) in samples {
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value) * weight);
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    sum.into_iter().map(|value| value / length).collect()
}

/// What a speaker becomes; `None`: the recordings are refused.
fn enrolled(
    before: Option<&Known>,
    id: &str,
    voices: &[(u8, u8)],
    (merge, force): (bool, bool),
) -> Option<Known> {
    let mut known = before.cloned().unwrap_or_else(|| Known { name: id.to_owned(), ..Known::default() });
    if !merge {
        known.samples.clear();
    }
    if known.samples.len() + voices.len() > SAMPLES {
        return None;
    }
    for (voice, seconds) in voices {
        let vector = embedded(*voice, *seconds);
        let alike = known.samples.is_empty() || cosine(&centroid(&known.samples), &vector) >= ALIKE;
        if !alike && !force {
            return None;
        }
        known.samples.push((vector, f64::from(*seconds)));
    }
    Some(known)
}

fn merged(model: &Model, into: &str, other: &str) -> Option<Known> {
    let (mut known, other_known) = (model.get(into)?.clone(), model.get(other)?.clone());
    for tag in other_known.tags {
        if !known.tags.contains(&tag) {
            known.tags.push(tag);
        }
    }
    known.samples.extend(other_known.samples);
    (into != other && known.samples.len() <= SAMPLES).then_some(known)
}

async fn act(book: &Book, voices: &Throats, model: &mut Model, op: Op) {
    let ctx = Context::default();
    let called = |id: u8| format!("s{id}");
    match op {
        Op::Enrol { id, voices: heard, merge, force } => {
            let id = called(id);
            let new_sample =
                |(voice, seconds): &(u8, u8)| NewSample { upload: recording(*voice, *seconds), url: None };
            let samples = heard.iter().map(new_sample).collect();
            let new = Enrolment { id: Some(id.clone()), merge, force, samples, ..Enrolment::default() };
            let done = book.enrol(voices, &ctx, new).await;
            let expected = enrolled(model.get(&id), &id, &heard, (merge, force));
            assert_eq!(done.is_ok(), expected.is_some(), "{done:?}");
            model.extend(expected.map(|known| (id, known)));
        }
        Op::Change { id, name, tag } => {
            let id = called(id);
            let name = name.map(|name| format!("name{name}"));
            let tags = tag.map(|tag| vec![format!("tag{tag}")]);
            let done = book.change(&id, Changed { name: name.clone(), tags: tags.clone() }).await;
            assert_eq!(done.is_ok(), model.contains_key(&id));
            model.entry(id).and_modify(|known| {
                known.name = name.unwrap_or(known.name.clone());
                known.tags = tags.unwrap_or(known.tags.clone());
            });
        }
        Op::Merge { into, other } => {
            let (into, other) = (called(into), called(other));
            let done = book.merge(&ctx, &into, vec![other.clone()]).await;
            let expected = merged(model, &into, &other);
            assert_eq!(done.is_ok(), expected.is_some(), "{done:?}");
            if let Some(known) = expected {
                model.remove(&other);
                model.insert(into, known);
            }
        }
        Op::Remove(id) => {
            let id = called(id);
            assert_eq!(book.remove(&ctx, &id).await.is_ok(), model.remove(&id).is_some());
        }
        Op::Reopen => unreachable!(),
    }
}

async fn check(book: &Book, voices: &Throats, model: &Model) {
    assert_eq!(book.len(), model.len());
    for speaker in book.list(None) {
        let known = &model[&speaker.id];
        assert_eq!((&speaker.name, &speaker.tags), (&known.name, &known.tags));
        let seconds: Vec<f64> = speaker.samples.iter().map(|sample| sample.speech).collect();
        assert_eq!(seconds, known.samples.iter().map(|(_, seconds)| *seconds).collect::<Vec<_>>());
    }
    let embedder = voices.embedder(Context::default()).await.unwrap();
    for voice in 0..VOICES {
        let probe = embedded(voice, 9);
        let mut expected: Vec<f64> =
            model.values().map(|known| cosine(&centroid(&known.samples), &probe)).collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        let asked = Asked { top_k: 50, threshold: None };
        let all = book.identify(&embedder, vec![probe.clone()], asked).await.unwrap();
        assert!((all.enrolled, all.stale, all.normalised) == (model.len(), 0, false));
        let found = &all.found[0];
        assert_eq!(found.matches.len(), model.len());
        for (found, expected) in found.matches.iter().zip(expected) {
            assert!((f64::from(found.score) - expected).abs() < 1e-4, "{found:?}: {expected}");
            let own = cosine(&centroid(&model[&found.id].samples), &probe);
            assert!((f64::from(found.score) - own).abs() < 1e-4 && found.name == model[&found.id].name);
        }
        assert_eq!(found.known, found.matches.first().is_some_and(|best| best.score >= embedder.threshold));
    }
}

fn open(folder: &Path) -> Book {
    kept_with(folder, Options { keep_audio: true }).book
}

fn run(ops: Vec<Op>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (voices, mut model) = (Throats::default(), Model::new());
    let mut book = open(folder.path());
    for op in ops {
        match op {
            Op::Reopen => {
                drop(book);
                book = open(folder.path());
            }
            op => runtime.block_on(act(&book, &voices, &mut model, op)),
        }
        runtime.block_on(check(&book, &voices, &model));
    }
    let kept = std::fs::read_dir(folder.path().join("files")).unwrap().count();
    assert_eq!(kept, model.values().map(|known| known.samples.len()).sum::<usize>());
    drop(book);
    runtime.block_on(check(&open(folder.path()), &voices, &model));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_book_is_a_map_of_voices(ops in prop::collection::vec(op(), 1..24)) {
        run(ops);
    }
}
