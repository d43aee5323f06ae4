//! The store against a map and a scan, and what it survives.

mod crash;
mod damage;
mod model;

use serde_json::{Value, json};

use super::*;
use crate::types::store::{Field, Fusion, Metric, Precision, Range, Scalar, Stemming, Vectors};

fn vectors(dim: usize) -> Spec {
    let vectors = Vectors { dim, metric: Metric::Cosine, precision: Precision::F32 };
    Spec { vectors: Some(vectors), text: Some(Stemming::None), ..Spec::default() }
}

fn point(id: &str, vector: &[f32], text: &str, payload: Value) -> Point {
    let Value::Object(payload) = payload else { panic!("no object") };
    let record = Record { id: id.to_owned(), tags: Vec::new(), text: text.to_owned(), payload };
    Point { record, vector: Some(vector.to_vec()) }
}

fn put(collection: &str, points: Vec<Point>) -> Change {
    Change::Put { collection: collection.to_owned(), points }
}

fn near(vector: &[f32], k: usize) -> Search {
    Search { vector: Some(vector.to_vec()), k, ..Search::default() }
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.record.id.as_str()).collect()
}

#[test]
fn points_are_found_by_vectors_words_and_both() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.create("docs", vectors(2)).unwrap();
    let points = vec![
        point("a", &[1.0, 0.0], "The red fox", json!({"year": 1999, "kind": "animal"})),
        point("b", &[0.8, 0.6], "a red wagon", json!({"year": 2005, "kind": "thing", "sizes": [1, 2]})),
        point("c", &[0.0, 1.0], "blue water", json!({"year": 2010.5, "deep": {"er": true}})),
    ];
    assert_eq!(store.write(vec![put("docs", points)]).unwrap(), Done { put: 3, removed: 0 });
    let found = store.search("docs", &near(&[2.0, 0.1], 2)).unwrap();
    assert_eq!(ids(&found), ["a", "b"]);
    assert!((found[0].score - 2.0 / 4.01f32.sqrt()).abs() < 1e-6, "exact, of the angle: {}", found[0].score);
    let words = |text: &str, k| Search { text: Some(text.into()), k, ..Search::default() };
    assert_eq!(ids(&store.search("docs", &words("RED fox", 5)).unwrap()), ["a", "b"]);
    assert_eq!(store.search("docs", &words("green", 5)).unwrap(), []);
    // `b` is second in one list, and first or second in the other.
    let both = Search { vector: Some(vec![0.0, 1.0]), ..words("wagon", 3) };
    let found = store.search("docs", &both).unwrap();
    assert_eq!(ids(&found)[0], "b");
    assert!(found[0].bm25.is_some() && found[0].nearness.is_some() && found[1].bm25.is_none());
    let vector_only = Fusion { text_weight: 0.0, ..Fusion::default() };
    assert_eq!(ids(&store.search("docs", &Search { fusion: vector_only, ..both }).unwrap())[0], "c");
}

#[test]
fn filters_mean_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.create("docs", vectors(2)).unwrap();
    let mut points = vec![
        point("a", &[1.0, 0.0], "The red fox", json!({"year": 1999, "kind": "animal"})),
        point("b", &[0.8, 0.6], "a red wagon", json!({"year": -5, "kind": "thing", "sizes": [1, 2]})),
        point("c", &[0.0, 1.0], "blue water", json!({"year": 2010.5, "deep": {"er": true}, "a.b": 7})),
    ];
    points[0].record.tags = vec!["x".into(), "y".into()];
    points[1].record.tags = vec!["y".into()];
    store.write(vec![put("docs", points)]).unwrap();
    let field = |name: &str| Field::Payload(name.to_owned());
    let within = |gt, gte, lt, lte| Filter::Within(field("year"), Range { gt, gte, lt, lte });
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    for (filter, want) in [
        (Filter::All(vec![]), &["a", "b", "c"][..]),
        (Filter::Any(vec![]), &[]),
        (Filter::is("kind", "thing"), &["b"]),
        (Filter::is("kind", "Thing"), &[]),
        (Filter::In(field("sizes"), vec![Scalar::Number(2.0)]), &["b"]),
        (Filter::In(field("deep.er"), vec![Scalar::Bool(true)]), &["c"]),
        (Filter::In(field("a.b"), vec![Scalar::Number(7.0)]), &["c"]),
        (Filter::In(field("year"), vec![Scalar::Text("1999".into())]), &[]),
        (within(None, Some(1999.0), None, None), &["a", "c"]),
        (within(Some(1999.0), None, None, None), &["c"]),
        (within(Some(-5.0), Some(-6.0), Some(2010.5), Some(3000.0)), &["a"]),
        (within(None, None, None, Some(-5.0)), &["b"]),
        (within(Some(5.0), None, Some(1.0), None), &[]),
        (Filter::Exists(field("deep.er")), &["c"]),
        (Filter::Exists(Field::Tags), &["a", "b"]),
        (Filter::Not(Box::new(Filter::Exists(field("kind")))), &["c"]),
        (Filter::tags_any(&tags(&["x", "z"])), &["a"]),
        (Filter::tags_all(&tags(&["x", "y"])), &["a"]),
        (Filter::tags_all(&tags(&["x", "z"])), &[]),
        (Filter::Ids(tags(&["c", "a", "no"])), &["a", "c"]),
        (Filter::Words("RED a".into()), &["b"]),
        (Filter::Words("…".into()), &[]),
        (Filter::Any(vec![Filter::is("kind", "animal"), Filter::Words("water".into())]), &["a", "c"]),
    ] {
        let (records, _) = store.list("docs", Some(&filter), 0, 10).unwrap();
        assert_eq!(records.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), want, "{filter:?}");
        assert_eq!(store.count("docs", Some(&filter)).unwrap(), want.len() as u64);
        let search = Search { filter: Some(filter.clone()), ..near(&[1.0, 1.0], 5) };
        let found = store.search("docs", &search).unwrap();
        let mut found = ids(&found);
        found.sort_unstable();
        assert_eq!(found, want, "{filter:?}");
    }
    let tags: Vec<(String, u64)> = store.tags("docs").unwrap().into_iter().collect();
    assert_eq!(tags, [("x".into(), 1), ("y".into(), 2)]);
    let (records, next) = store.list("docs", None, 0, 2).unwrap();
    assert_eq!((records.len(), next), (2, Some(2)));
    assert_eq!(store.list("docs", None, 2, 2).unwrap().0[0].id, "c");
}

#[test]
fn a_write_is_done_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.create("docs", vectors(2)).unwrap();
    store.create("notes", Spec::default()).unwrap();
    let note = |id: &str| Point { record: Record { id: id.into(), ..Record::default() }, vector: None };
    let good = put("notes", vec![note("n")]);
    let one = |vector: &[f32]| put("docs", vec![point("a", vector, "", json!({}))]);
    let remove =
        |collection: &str| Change::RemoveWhere { collection: collection.into(), filter: Filter::All(vec![]) };
    for (bad, said) in [
        (one(&[1.0]), "point `a`: a vector of 1 dimensions, 2 are needed"),
        (one(&[f32::NAN, 1.0]), "point `a`: dimension 0 of a vector is not a finite number"),
        (one(&[0.0, 0.0]), "point `a`: a vector of zeros has no direction"),
        (put("docs", vec![note("b")]), "point `b` has no vector, which collection `docs` needs"),
        (
            put("notes", vec![point("b", &[1.0], "", json!({}))]),
            "point `b` has a vector, and collection `notes` takes",
        ),
        (put("no", vec![]), "there is no collection `no`"),
        (put("notes", vec![note("")]), "an id has 0 bytes"),
        (put("notes", vec![note(&"x".repeat(1025))]), "an id has 1025 bytes"),
        (remove("notes"), "points of `notes` are put before others are removed"),
    ] {
        let error = store.write(vec![good.clone(), bad]).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
        assert_eq!(store.count("notes", None).unwrap(), 0);
    }
    let large = Record { id: "l".into(), text: "x".repeat(RECORD_BYTES), ..Record::default() };
    let large = put("notes", vec![Point { record: large, vector: None }]);
    assert!(matches!(store.write(vec![good.clone(), large]), Err(Error::Large { .. })));
    assert_eq!(store.count("notes", None).unwrap(), 0);
    store.write(vec![good, one(&[1.0, 0.0])]).unwrap();
    // The old is taken out and the new put at once.
    let new = put("notes", vec![note("m"), note("o")]);
    assert_eq!(store.write(vec![remove("notes"), new]).unwrap(), Done { put: 2, removed: 1 });
    assert_eq!(store.list("notes", None, 0, 9).unwrap().0.len(), 2);
    for name in ["", ".x", "a/b", "a b", &"x".repeat(129)] {
        assert!(matches!(store.create(name, Spec::default()), Err(Error::Name(_))), "{name}");
    }
    assert!(matches!(store.create("docs", Spec::default()), Err(Error::Exists(_))));
    assert!(matches!(store.create("wide", vectors(70_000)), Err(Error::Spec(_))));
    store.drop_collection("docs").unwrap();
    assert!(matches!(store.search("docs", &near(&[1.0, 0.0], 1)), Err(Error::NoCollection(_))));
    store.create("docs", vectors(3)).unwrap();
    assert_eq!(store.count("docs", None).unwrap(), 0);
}

/// Vectors of any length that their precision holds are found, and their scores are those of the angle.
#[test]
fn small_and_large_vectors_keep_their_direction() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for (name, precision) in [("f32", Precision::F32), ("f16", Precision::F16), ("int8", Precision::Int8)] {
        let vectors = Vectors { dim: 2, metric: Metric::Cosine, precision };
        store.create(name, Spec { vectors: Some(vectors), ..Spec::default() }).unwrap();
        let sizes = if precision == Precision::F32 { [1e-30, 1e30] } else { [1e-3, 6e4] };
        for size in sizes {
            store.write(vec![put(name, vec![point("a", &[size, size], "", json!({}))])]).unwrap();
            let hits = store.search(name, &near(&[1e-30, 0.0], 1)).unwrap();
            assert!((hits[0].score - 0.5f32.sqrt()).abs() < 1e-3, "{name} {size}: {}", hits[0].score);
        }
        if precision != Precision::F32 {
            for size in [1e-30, 1e30] {
                let error = store.write(vec![put(name, vec![point("b", &[size, size], "", json!({}))])]);
                assert!(matches!(error, Err(Error::Vector { .. })), "{name} {size}");
            }
        }
    }
}

#[test]
fn a_folder_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("another process has this store open"), "{error}");
    assert!(matches!(verify(folder.path()), Err(Error::Locked(_))));
    assert!(matches!(restore(folder.path(), Path::new("x")), Err(Error::Locked(_))));
    drop(store);
    Store::open(folder.path()).unwrap();
}

/// Writers and searchers at once: who wrote finds it.
#[test]
fn many_write_and_search_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.create("docs", vectors(8)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..60u32 {
                    let at = f64::from(thread * 60 + i + 1);
                    let vector: Vec<f32> = (0..8).map(|d| (at * f64::from(d + 1)).sin() as f32).collect();
                    let id = format!("{thread}-{i}");
                    let text = format!("word{thread}x{i}");
                    store.write(vec![put("docs", vec![point(&id, &vector, &text, json!({}))])]).unwrap();
                    assert_eq!(ids(&store.search("docs", &near(&vector, 1)).unwrap()), [id.as_str()]);
                    if i % 20 == 0 {
                        let words = Search { text: Some(text), k: 1, ..Search::default() };
                        assert_eq!(ids(&store.search("docs", &words).unwrap()), [id.as_str()]);
                    }
                    if i % 3 == 0 {
                        store
                            .write(vec![Change::Remove { collection: "docs".into(), ids: vec![id] }])
                            .unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.count("docs", None).unwrap(), 320);
}

#[test]
fn rebuilding_makes_the_file_small_and_finds_all() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = Store::open(folder.path()).unwrap();
        store.create("docs", vectors(4)).unwrap();
        let one =
            |i: u32| point(&i.to_string(), &[1.0, i as f32, 2.0, 3.0], &"word ".repeat(400), json!({"i": i}));
        for from in (0..3000).step_by(500) {
            store.write(vec![put("docs", (from..from + 500).map(one).collect())]).unwrap();
        }
        let most = Filter::Within(Field::Payload("i".into()), Range { gte: Some(50.0), ..Range::default() });
        store.write(vec![Change::RemoveWhere { collection: "docs".into(), filter: most }]).unwrap();
    }
    let bytes = || std::fs::metadata(folder.path().join(TRUTH)).unwrap().len();
    let before = bytes();
    rebuild(folder.path()).unwrap();
    assert!(bytes() * 2 < before, "{} of {before}", bytes());
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.describe("docs").unwrap().unlinked, 0);
    for i in 0..50u32 {
        let hits = store.search("docs", &near(&[1.0, i as f32, 2.0, 3.0], 1)).unwrap();
        assert_eq!(ids(&hits), [i.to_string().as_str()]);
    }
    let words = Search { text: Some("word".into()), k: 100, ..Search::default() };
    assert_eq!(store.search("docs", &words).unwrap().len(), 50);
}

/// `tests/data/store-1.redb.gz` is `store.redb` as format 1 was first written: `docs` with three points of two dimensions,
/// of which `b` was replaced, and `notes` without vectors.
#[test]
fn the_first_format_opens() {
    let folder = tempfile::tempdir().unwrap();
    let packed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/store-1.redb.gz");
    let mut packed = flate2::read::GzDecoder::new(File::open(packed).unwrap());
    std::io::copy(&mut packed, &mut File::create(folder.path().join(TRUTH)).unwrap()).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!((store.count("docs", None).unwrap(), store.count("notes", None).unwrap()), (3, 1));
    assert_eq!(ids(&store.search("docs", &near(&[0.6, 0.8], 2)).unwrap()), ["b", "c"]);
    let words = Search { text: Some("second".into()), k: 5, ..Search::default() };
    let hits = store.search("docs", &words).unwrap();
    assert_eq!((ids(&hits), hits[0].record.tags.as_slice()), (vec!["b"], &["t".to_owned()][..]));
}

/// Writes the file of the test above.
#[test]
#[ignore = "makes a fixture: STENTOR_TEST_FIXTURE names the file"]
fn make_the_first_format() {
    let Ok(file) = std::env::var("STENTOR_TEST_FIXTURE") else { return };
    let folder = tempfile::tempdir().unwrap();
    {
        let store = Store::open(folder.path()).unwrap();
        store.create("docs", vectors(2)).unwrap();
        store.create("notes", Spec::default()).unwrap();
        let one = |id, vector, text| {
            let mut point = point(id, vector, text, json!({"n": 1.5}));
            point.record.tags = vec!["t".into()];
            point
        };
        let first = vec![
            one("a", &[1.0, 0.0], "first"),
            one("b", &[1.0, 0.1], "old"),
            one("c", &[0.0, 2.0], "third"),
        ];
        store.write(vec![put("docs", first)]).unwrap();
        let note = Point { record: Record { id: "n".into(), ..Record::default() }, vector: None };
        let again = put("docs", vec![one("b", &[0.6, 0.8], "second")]);
        store.write(vec![again, put("notes", vec![note])]).unwrap();
    }
    let mut packed = flate2::write::GzEncoder::new(File::create(file).unwrap(), flate2::Compression::best());
    std::io::copy(&mut File::open(folder.path().join(TRUTH)).unwrap(), &mut packed).unwrap();
    packed.finish().unwrap();
}

#[test]
fn a_snapshot_brings_back_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let (home, file) = (folder.path().join("store"), folder.path().join("copy.snapshot"));
    let store = Store::open(&home).unwrap();
    store.create("docs", vectors(4)).unwrap();
    let points = |range: std::ops::Range<u32>| {
        let one =
            |i: u32| point(&i.to_string(), &[1.0, i as f32, 2.0, 3.0], &format!("word{i}"), json!({"i": i}));
        put("docs", range.map(one).collect())
    };
    store.write(vec![points(0..500)]).unwrap();
    store.snapshot(&file).unwrap();
    assert!(matches!(store.snapshot(&file), Err(Error::Io { .. })), "it is not overwritten");
    store
        .write(vec![points(500..600), Change::Remove { collection: "docs".into(), ids: vec!["7".into()] }])
        .unwrap();
    drop(store);
    let checked = restore(&home, &file).unwrap();
    assert_eq!((checked.len(), checked[0].points, checked[0].faults), (1, 500, 0));
    let store = Store::open(&home).unwrap();
    assert_eq!(store.count("docs", None).unwrap(), 500);
    let found = store.search("docs", &near(&[1.0, 7.0, 2.0, 3.0], 1)).unwrap();
    assert_eq!(ids(&found), ["7"]);
    let words = Search { text: Some("word7 word599".into()), k: 5, ..Search::default() };
    assert_eq!(ids(&store.search("docs", &words).unwrap()), ["7"]);
    drop(store);
    // A damaged one is not taken.
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(7).position(|w| w == b"word123").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(restore(&home, &file).is_err());
    let store = Store::open(&home).unwrap();
    assert_eq!(store.count("docs", None).unwrap(), 500);
    assert!(!home.join("store.part").exists());
}
