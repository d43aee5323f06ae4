//! Random operations against a `BTreeMap` and a scan.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DIM: usize = 6;

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<(u8, u8, u8)>),
    Describe(u8, u8),
    Remove(Vec<u8>),
    RemoveTag(u8),
    Settle,
    /// Closed and opened; with what is derived, or without.
    Reopen(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let id = 0..40u8;
    prop_oneof![
        6 => prop::collection::vec((id.clone(), any::<u8>(), 0..5u8), 1..12).prop_map(Op::Put),
        2 => (id.clone(), 0..5u8).prop_map(|(id, tag)| Op::Describe(id, tag)),
        3 => prop::collection::vec(id, 1..10).prop_map(Op::Remove),
        1 => (0..5u8).prop_map(Op::RemoveTag),
        1 => Just(Op::Settle),
        1 => any::<bool>().prop_map(Op::Reopen),
    ]
}

fn vector(seed: u8) -> Vec<f32> {
    (0..DIM).map(|d| (f32::from(seed) * 0.37 + 1.3 * d as f32).sin() + 0.1).collect()
}

fn record(id: u8, tag: u8) -> Record {
    let Value::Object(payload) = json!({"n": tag, "odd": id % 2 == 1}) else { unreachable!() };
    let text = format!("common t{tag} i{id}");
    Record { id: format!("p{id}"), tags: vec![format!("t{tag}")], text, payload }
}

/// What the store should hold: the vector's seed and the tag of each point.
type Model = BTreeMap<u8, (u8, u8)>;

fn check(store: &Store, model: &Model, metric: Metric) {
    assert_eq!(store.count("c", None).unwrap(), model.len() as u64);
    let all: Vec<String> = (0..40u8).map(|id| format!("p{id}")).collect();
    for (id, found) in (0..40u8).zip(store.get("c", &all).unwrap()) {
        let want = model.get(&id).map(|(_, tag)| record(id, *tag));
        assert_eq!(found.map(|point| point.record), want);
    }
    for tag in 0..5u8 {
        let want: Vec<u8> = model.iter().filter(|(_, (_, t))| *t == tag).map(|(id, _)| *id).collect();
        let filters = [
            Filter::tags_any(&[format!("t{tag}")]),
            Filter::In(Field::Payload("n".into()), vec![Scalar::Number(tag.into())]),
            Filter::Words(format!("common T{tag}")),
        ];
        for filter in filters {
            let mut found: Vec<String> =
                store.list("c", Some(&filter), 0, 99).unwrap().0.into_iter().map(|r| r.id).collect();
            found.sort_by_key(|id| id[1..].parse::<u8>().unwrap());
            assert_eq!(found, want.iter().map(|id| format!("p{id}")).collect::<Vec<_>>(), "{filter:?}");
            let search = Search { filter: Some(filter), ..near(&vector(tag * 9), 4) };
            let hits = store.search("c", &search).unwrap();
            // The nearest of a scan, to the last bit of their scores or nearly.
            let mut scores: Vec<f64> =
                want.iter().map(|id| exact(metric, &vector(tag * 9), &vector(model[id].0))).collect();
            scores.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(hits.len(), scores.len().min(4));
            for (hit, score) in hits.iter().zip(scores) {
                assert!((f64::from(hit.score) - score).abs() < 2e-3, "{} for {score}", hit.score);
            }
        }
    }
    for (id, (seed, _)) in model {
        let hits = store.search("c", &near(&vector(*seed), model.len())).unwrap();
        assert!(hits.iter().any(|hit| hit.record.id == format!("p{id}")), "p{id} does not find itself");
    }
}

fn exact(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    match metric {
        Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::Dot => dot(a, b),
        Metric::Euclidean => -(dot(a, a) + dot(b, b) - 2.0 * dot(a, b)).max(0.0).sqrt(),
    }
}

fn run(ops: Vec<Op>, metric: Metric, precision: Precision) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let spec = Spec { vectors: Some(Vectors { dim: DIM, metric, precision }), ..vectors(DIM) };
    store.create("c", spec).unwrap();
    let mut model = Model::new();
    for op in ops {
        match op {
            Op::Put(points) => {
                let one = |(id, seed, tag): &(u8, u8, u8)| Point {
                    record: record(*id, *tag),
                    vector: Some(vector(*seed)),
                };
                store.write(vec![put("c", points.iter().map(one).collect())]).unwrap();
                model.extend(points.into_iter().map(|(id, seed, tag)| (id, (seed, tag))));
            }
            Op::Describe(id, tag) => {
                let change = Change::Describe { collection: "c".into(), records: vec![record(id, tag)] };
                let done = store.write(vec![change]).unwrap();
                assert_eq!(done.put, usize::from(model.contains_key(&id)));
                model.entry(id).and_modify(|(_, t)| *t = tag);
            }
            Op::Remove(ids) => {
                let names = ids.iter().map(|id| format!("p{id}")).collect();
                store.write(vec![Change::Remove { collection: "c".into(), ids: names }]).unwrap();
                model.retain(|id, _| !ids.contains(id));
            }
            Op::RemoveTag(tag) => {
                let filter = Filter::tags_any(&[format!("t{tag}")]);
                store.write(vec![Change::RemoveWhere { collection: "c".into(), filter }]).unwrap();
                model.retain(|_, (_, t)| *t != tag);
            }
            Op::Settle => store.settle().unwrap(),
            Op::Reopen(derived) => {
                drop(store);
                if !derived {
                    std::fs::remove_dir_all(folder.path().join(DERIVED)).unwrap();
                }
                store = Store::open(folder.path()).unwrap();
            }
        }
    }
    check(&store, &model, metric);
    drop(store);
    assert!(verify(folder.path()).unwrap().iter().all(|checked| checked.faults == 0));
    check(&Store::open(folder.path()).unwrap(), &model, metric);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map_with_a_search(ops in prop::collection::vec(op(), 1..30), metric in 0..3usize, precision in 0..3usize) {
        let metric = [Metric::Cosine, Metric::Dot, Metric::Euclidean][metric];
        let precision = [Precision::F32, Precision::F16, Precision::Int8][precision];
        run(ops, metric, precision);
    }
}
