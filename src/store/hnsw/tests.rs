//! The index against a scan.

use super::search::Way;
use super::*;

/// Clustered vectors of length 1, as embeddings are.
pub(super) fn clustered(count: usize, dim: usize, clusters: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
    let centres: Vec<Vec<f32>> = (0..clusters).map(|_| (0..dim).map(|_| normal()).collect()).collect();
    (0..count)
        .map(|i| {
            let vector: Vec<f32> = centres[i * 7919 % clusters].iter().map(|c| c + 0.9 * normal()).collect();
            let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.iter().map(|v| v / length).collect()
        })
        .collect()
}

fn index(metric: Metric, vectors: &[Vec<f32>]) -> Hnsw {
    let mut index = Hnsw::new(vectors[0].len(), metric, Params::default()).unwrap();
    add(&mut index, vectors.iter());
    index
}

/// Puts vectors at the lowest numbers that are free, and links them.
fn add<'a>(index: &mut Hnsw, vectors: impl ExactSizeIterator<Item = &'a Vec<f32>>) -> Vec<u32> {
    let nodes: Vec<u32> = index.numbers(vectors.len()).collect();
    let vectors: Vec<(u32, &[f32])> = nodes.iter().copied().zip(vectors.map(Vec::as_slice)).collect();
    index.put(&vectors).unwrap();
    index.link(&nodes);
    index.settle(&nodes);
    nodes
}

fn compact(index: &mut Hnsw) {
    let leaving = index.leaving();
    index.lead_past(0..index.len() as u32);
    index.release(&leaving);
}

fn exact(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    match metric {
        Metric::Dot => dot(a, b),
        Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::Euclidean => 2.0 * dot(a, b) - dot(a, a) - dot(b, b),
    }
}

#[test]
fn the_nearest_are_found_by_every_metric() {
    let mut vectors = clustered(3000, 48, 40, 1);
    // Of different lengths: the metrics differ.
    for (i, vector) in vectors.iter_mut().enumerate() {
        vector.iter_mut().for_each(|v| *v *= 0.5 + (i % 10) as f32 / 5.0);
    }
    let queries = clustered(100, 48, 40, 1);
    for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
        let index = index(metric, &vectors);
        let mut hits = 0;
        for query in &queries {
            let mut want: Vec<(usize, f64)> =
                vectors.iter().enumerate().map(|(i, v)| (i, exact(metric, query, v))).collect();
            want.sort_by(|a, b| b.1.total_cmp(&a.1));
            let found = index.search(&index.query(query).unwrap(), 30, 100, None);
            assert!(found.is_sorted_by(|a, b| a.score >= b.score));
            for Found { node, score } in &found {
                let want = exact(metric, query, &vectors[*node as usize]);
                assert!((f64::from(*score) - want).abs() < 0.03, "{metric:?}: {score} for {want}");
            }
            hits += want[..10].iter().filter(|(i, _)| found.iter().any(|f| f.node as usize == *i)).count();
        }
        // Threads link side by side, so no two graphs are alike: 989 was seen once, less than 990 in none of 72 others.
        assert!(hits >= 980, "{metric:?}: {hits} of 1000");
    }
}

#[test]
fn every_vector_finds_itself() {
    for (count, dim, clusters) in [(1, 8, 1), (2, 8, 1), (5000, 24, 1000), (5000, 24, 3)] {
        let vectors = clustered(count, dim, clusters, 5);
        let index = index(Metric::Cosine, &vectors);
        let lost: Vec<usize> = (0..count)
            .filter(|&i| {
                let found = index.search(&index.query(&vectors[i]).unwrap(), 10, 64, None);
                !found.iter().any(|f| f.node as usize == i)
            })
            .collect();
        assert!(lost.is_empty(), "{} of {count} in {clusters} clusters: {lost:?}", lost.len());
    }
}

/// Whichever way a search takes, it finds the nearest among those that it may, and as many as are asked for.
#[test]
fn searches_among_some_find_these() {
    let vectors = clustered(8000, 32, 60, 9);
    let queries = clustered(50, 32, 60, 9);
    let mut index = index(Metric::Cosine, &vectors);
    (0..800).for_each(|i| assert!(index.remove(i * 10)));
    let spread =
        |share: u32| (0..8000u32).filter(|i| i.wrapping_mul(2_654_435_761) >> 16 < 655 * share).collect();
    // The second kind lies in few places, away from most queries.
    let near = |clusters: usize| (0..8000).filter(|i| i * 7919 % 60 < clusters).map(|i| i as u32).collect();
    let sets: [Bits; 6] = [spread(80), spread(30), spread(10), spread(1), near(30), near(2)];
    for (at, among) in sets.iter().enumerate() {
        for way in [Way::All(400), Way::Chosen, Way::Scan] {
            let mut hits = 0;
            for query in &queries {
                let counts = |i: &u32| among.has(*i) && !i.is_multiple_of(10);
                let score = |i: u32| (i, exact(Metric::Cosine, query, &vectors[i as usize]));
                let mut want: Vec<(u32, f64)> = (0..8000).filter(counts).map(score).collect();
                want.sort_by(|a, b| b.1.total_cmp(&a.1));
                let found = index.search_by(way, &index.query(query).unwrap(), 20, 64, Some(among));
                assert!(found.iter().all(|f| counts(&f.node)));
                assert_eq!(found.len(), 20.min(want.len()), "set {at} {way:?}");
                hits += want.iter().take(10).filter(|(i, _)| found.iter().any(|f| f.node == *i)).count();
            }
            // Along links a small set, or one that lies elsewhere, is found less surely: small ones are scanned.
            let least = if at < 3 || way == Way::Scan { 485 } else { 0 };
            assert!(hits >= least, "set {at} of {}: {way:?} {hits} of 500", among.count());
        }
    }
}

#[test]
fn what_was_removed_is_gone_and_its_room_is_used_again() {
    let vectors = clustered(4000, 24, 50, 3);
    let mut index = index(Metric::Cosine, &vectors);
    let bytes = index.bytes();
    let itself = |index: &Hnsw, node: u32, vector: &[f32]| {
        index.search(&index.query(vector).unwrap(), 10, 64, None).iter().any(|f| f.node == node)
    };
    // Whole neighbourhoods and single nodes.
    let leaves = |i: u32| i as usize * 7919 % 50 < 20 || i.is_multiple_of(5);
    let removed: Vec<u32> = (0..4000).filter(|i| leaves(*i)).collect();
    assert!(removed.iter().all(|&i| index.remove(i)) && !index.remove(removed[0]) && !index.remove(4000));
    let check = |index: &Hnsw| {
        for i in 0..4000u32 {
            assert_eq!(itself(index, i, &vectors[i as usize]), !leaves(i), "{i}");
        }
        assert_eq!(index.live(), 4000 - removed.len());
    };
    check(&index);
    assert!(index.wants_compacting());
    compact(&mut index);
    assert!(!index.wants_compacting());
    check(&index);
    let stray = (0..4000u32).filter(|i| !leaves(*i)).any(|i| index.links.of(i, 0).any(leaves));
    assert!(!stray, "a link leads to what is gone");
    let nodes = add(&mut index, removed.iter().map(|i| &vectors[*i as usize]));
    assert_eq!(nodes, removed);
    assert!((0..4000u32).all(|i| itself(&index, i, &vectors[i as usize])));
    assert!(index.len() == 4000 && index.bytes() < bytes + bytes / 50);
    // All of them.
    (0..4000).for_each(|i| assert!(index.remove(i)));
    compact(&mut index);
    assert_eq!(index.search(&index.query(&vectors[0]).unwrap(), 10, 64, None), []);
    let nodes = add(&mut index, vectors[..100].iter());
    assert!((0..100u32).all(|i| itself(&index, nodes[i as usize], &vectors[i as usize])));
}

/// Before it is linked as after; numbers may leave gaps.
#[test]
fn a_vector_is_found_as_soon_as_it_is_there() {
    let vectors = clustered(600, 24, 10, 8);
    let mut index = Hnsw::new(24, Metric::Cosine, Params::default()).unwrap();
    let found = |index: &Hnsw, node: u32| {
        let found = index.search(&index.query(&vectors[node as usize]).unwrap(), 1, 64, None);
        found.first().is_some_and(|f| f.node == node)
    };
    // Nothing is linked; then most are; those of a gap come last.
    for part in [300..600u32, 100..300, 0..100] {
        let put: Vec<(u32, &[f32])> = part.clone().map(|i| (i, vectors[i as usize].as_slice())).collect();
        index.put(&put).unwrap();
        assert_eq!(index.put(&put[..1]), Err(Error::Taken(part.start)));
        assert!((part.start..600).all(|i| found(&index, i)), "{part:?}");
        assert_eq!(index.live(), (600 - part.start) as usize);
        assert!(index.numbers(3).eq(if part.start > 0 { [0, 1, 2] } else { [600, 601, 602] }));
        assert!(index.remove(part.start) && !found(&index, part.start));
        let fresh: Vec<u32> = index.fresh().collect();
        index.link(&fresh);
        index.settle(&fresh);
        compact(&mut index);
        index.put(&put[..1]).unwrap();
        assert!((part.start..600).all(|i| found(&index, i)), "{part:?}");
    }
}

#[test]
fn what_is_no_vector_is_refused() {
    let mut index = Hnsw::new(3, Metric::Cosine, Params::default()).unwrap();
    assert_eq!(index.search(&index.query(&[1.0, 0.0, 0.0]).unwrap(), 5, 10, None), []);
    for (vector, error) in [
        (&[1.0, 2.0][..], Error::Length { got: 2, want: 3 }),
        (&[1.0, f32::NAN, 0.0], Error::NotFinite(1)),
        (&[0.0; 3], Error::Zero),
    ] {
        assert_eq!(index.query(vector).unwrap_err(), error);
        assert_eq!(index.put(&[(0, &[1.0, 0.0, 0.0]), (1, vector)]).unwrap_err(), error);
    }
    assert!(index.is_empty(), "all or none");
    assert!(Hnsw::new(0, Metric::Dot, Params::default()).is_err());
    assert!(Hnsw::new(3, Metric::Dot, Params { m: 1, ..Params::default() }).is_err());
    assert!(Hnsw::new(3, Metric::Dot, Params { ef_construction: 0, ..Params::default() }).is_err());
}

/// As one of the first version was written, and anything else that is not one.
mod files {
    use proptest::prelude::*;

    use super::*;

    fn some() -> (Hnsw, Vec<Vec<f32>>) {
        let vectors = clustered(300, 20, 9, 4);
        let mut index = index(Metric::Euclidean, &vectors);
        (0..60).for_each(|i| assert!(index.remove(i * 2)));
        compact(&mut index);
        assert!(index.remove(7));
        (index, vectors)
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.hnsw");
        let (index, vectors) = some();
        index.save(&path, 41).unwrap();
        index.save(&path, 42).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        let (mut back, stamp) = Hnsw::open(&path).unwrap();
        assert_eq!((stamp, back.len(), back.live(), back.bytes()), (42, 300, 239, index.bytes()));
        for vector in &vectors {
            let search = |index: &Hnsw| index.search(&index.query(vector).unwrap(), 10, 40, None);
            assert_eq!(search(&back), search(&index));
        }
        // It goes on: what was free is given again, and links are counted as before.
        let nodes = add(&mut back, vectors[..70].iter());
        assert!(nodes[..60].iter().eq((0..60).map(|i| i * 2).collect::<Vec<u32>>().iter()));
        compact(&mut back);
        for (node, vector) in nodes.iter().zip(&vectors) {
            let found = back.search(&back.query(vector).unwrap(), 10, 64, None);
            assert!(found.iter().any(|f| f.node == *node));
        }
        let empty = Hnsw::new(4, Metric::Dot, Params::default()).unwrap();
        empty.save(&path, 0).unwrap();
        assert!(Hnsw::open(&path).unwrap().0.is_empty());
        assert!(matches!(Hnsw::open(&folder.path().join("none")), Err(FileError::Io { .. })));
        assert!(empty.save(&folder.path().join("no/such"), 0).is_err());
    }

    #[test]
    fn another_version_and_other_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other");
        for (bytes, version) in [(&b"sthnsw\0\x02 and more"[..], 2), (b"PK\x03\x04 something", 0)] {
            std::fs::write(&path, bytes).unwrap();
            let Err(FileError::Version { version: found, .. }) = Hnsw::open(&path) else {
                panic!("it opened")
            };
            assert_eq!(found, version);
        }
    }

    fn bytes() -> &'static [u8] {
        static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        BYTES.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("points.hnsw");
            some().0.save(&path, 1).unwrap();
            std::fs::read(&path).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// Any byte changed, or the end cut off, is noticed; with a checksum that is right again nothing is believed.
        #[test]
        fn damage_is_noticed(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<bool>(), mended in any::<bool>()) {
            let mut file = bytes().to_vec();
            let at = at.index(file.len());
            if cut { file.truncate(at) } else { file[at] = value }
            let changed = file != bytes();
            if mended && file.len() > 4 {
                let end = file.len() - 4;
                let check = crc32fast::hash(&file[..end]);
                file[end..].copy_from_slice(&check.to_le_bytes());
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("points.hnsw");
            std::fs::write(&path, &file).unwrap();
            match Hnsw::open(&path) {
                Ok((index, _)) => {
                    prop_assert!(!changed || mended);
                    if let Ok(query) = index.query(&vec![0.5; index.dim()]) {
                        index.search(&query, 10, 20, None);
                    }
                }
                Err(FileError::Io { source, .. }) => prop_assert!(false, "{source}"),
                Err(_) => prop_assert!(changed),
            }
        }
    }
}

/// The crate that this index stands in for, as the reference: following as many nodes it finds hardly more, though this
/// index goes its way by 8 bits.
#[test]
fn as_much_is_found_as_by_hnsw_rs() {
    use hnsw_rs::prelude::{DistL2, Hnsw as Reference};
    let (count, dim) = (4000, 32);
    let vectors = clustered(count, dim, 400, 11);
    let queries = clustered(200, dim, 400, 12);
    let ours = index(Metric::Euclidean, &vectors);
    let theirs: Reference<'_, f32, DistL2> = Reference::new(16, count, 16, 200, DistL2 {});
    vectors.iter().enumerate().for_each(|(id, vector)| theirs.insert((vector, id)));
    let (mut found, mut reference) = (0, 0);
    for query in queries.iter().chain(&vectors[..200]) {
        let mut want: Vec<(usize, f64)> =
            vectors.iter().enumerate().map(|(i, v)| (i, exact(Metric::Euclidean, query, v))).collect();
        want.sort_by(|a, b| b.1.total_cmp(&a.1));
        let is_near = |id: usize| want[..10].iter().any(|(near, _)| *near == id);
        // As a collection does it: all that were followed are scored exactly.
        let mut nodes: Vec<(usize, f64)> = ours
            .search(&ours.query(query).unwrap(), 64, 64, None)
            .iter()
            .map(|found| {
                (found.node as usize, exact(Metric::Euclidean, query, &vectors[found.node as usize]))
            })
            .collect();
        nodes.sort_by(|a, b| b.1.total_cmp(&a.1));
        found += nodes[..10].iter().filter(|(id, _)| is_near(*id)).count();
        reference += theirs.search(query, 10, 64).iter().filter(|node| is_near(node.d_id)).count();
    }
    println!("of 4000 neighbours {found} are found, {reference} by hnsw_rs");
    assert!(reference > 3800, "the reference finds {reference} of 4000");
    assert!(found + 40 >= reference, "{found} of 4000, {reference} by hnsw_rs");
}
