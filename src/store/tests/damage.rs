//! Files that were damaged: what is derived is made anew; of the truth every fault is told, and nothing wrong is answered.

use std::path::PathBuf;

use super::*;

const POINTS: u32 = 400;

fn all() -> Vec<Point> {
    let one = |i: u32| {
        let vector: Vec<f32> = (0..12).map(|d| ((i + 1) as f32 * (d as f32 + 0.3)).sin()).collect();
        let mut point = point(&format!("id{i}"), &vector, &format!("text {i}"), json!({"i": i}));
        point.record.tags = vec![format!("t{}", i % 7)];
        point
    };
    (0..POINTS).map(one).collect()
}

/// A store that was written in several ways, and closed.
fn made(folder: &Path) {
    let store = Store::open(folder).unwrap();
    store.create("docs", vectors(12)).unwrap();
    for part in all().chunks(50) {
        store.write(vec![put("docs", part.to_vec())]).unwrap();
    }
    let gone: Vec<String> = (0..10).map(|i| format!("gone{i}")).collect();
    let points = gone.iter().map(|id| point(id, &[1.0; 12], "gone", json!({}))).collect();
    store.write(vec![put("docs", points)]).unwrap();
    store.write(vec![Change::Remove { collection: "docs".into(), ids: gone }]).unwrap();
    store.settle().unwrap();
}

/// All is there and found.
fn is_whole(store: &Store) -> Result<(), Error> {
    let all = all();
    assert_eq!(store.count("docs", None)?, u64::from(POINTS));
    let names: Vec<String> = all.iter().map(|point| point.record.id.clone()).collect();
    for (found, want) in store.get("docs", &names)?.into_iter().zip(&all) {
        assert_eq!(found.as_ref(), Some(want));
    }
    for point in all.iter().step_by(7) {
        let hits = store.search("docs", &near(point.vector.as_ref().unwrap(), 1))?;
        assert_eq!(ids(&hits), [point.record.id.as_str()]);
        let number = point.record.id.trim_start_matches("id").to_owned();
        let words = Search { text: Some(number), k: 3, ..Search::default() };
        assert_eq!(ids(&store.search("docs", &words)?), [point.record.id.as_str()]);
    }
    let tag = Filter::tags_any(&["t3".into()]);
    assert_eq!(store.count("docs", Some(&tag))?, (0..POINTS).filter(|i| i % 7 == 3).count() as u64);
    Ok(())
}

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % most
    }
}

#[test]
fn damage_to_the_truth_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = {
        let store = Store::open(folder.path()).unwrap();
        store.create("other", vectors(3)).unwrap();
        drop(store);
        std::fs::read(folder.path().join(TRUTH)).unwrap()
    };
    made(folder.path());
    let file = folder.path().join(TRUTH);
    let good = std::fs::read(&file).unwrap();
    let mut random = Random(7);
    let (mut refused, mut whole) = (0, 0);
    for case in 0..160 {
        let mut bytes = good.clone();
        match case % 4 {
            0 | 1 => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            2 => {
                // A page that was not written, or as it was before.
                let at = random.below(bytes.len() / 4096) * 4096;
                let old = earlier.get(at..at + 4096).map_or([0; 4096].as_slice(), |old| old);
                bytes[at..at + 4096].copy_from_slice(old);
            }
            _ => bytes.truncate(random.below(good.len())),
        }
        std::fs::write(&file, &bytes).unwrap();
        match Store::open(folder.path()).and_then(|store| is_whole(&store)) {
            Ok(()) => whole += 1,
            Err(error) => {
                refused += 1;
                let said = error.to_string();
                assert!(said.contains("store.redb"), "{said}");
                // Looking does not fall over either.
                let _ = verify(folder.path());
            }
        }
    }
    println!("{refused} refused, {whole} whole");
    assert!(refused > 40 && whole > 10, "{refused} refused, {whole} whole");
    std::fs::write(&file, &good).unwrap();
    is_whole(&Store::open(folder.path()).unwrap()).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn what_is_derived_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path());
    let derived = folder.path().join(DERIVED);
    let mut random = Random(11);
    for case in 0..60 {
        let mut files = files(&derived);
        files.sort();
        let file = files.swap_remove(random.below(files.len()));
        let mut bytes = std::fs::read(&file).unwrap();
        match case % 3 {
            0 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
                std::fs::write(&file, bytes).unwrap();
            }
            1 => {
                bytes.truncate(random.below(bytes.len().max(1)));
                std::fs::write(&file, bytes).unwrap();
            }
            _ => std::fs::remove_file(&file).unwrap(),
        }
        let store = Store::open(folder.path()).unwrap();
        is_whole(&store).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    std::fs::remove_dir_all(&derived).unwrap();
    is_whole(&Store::open(folder.path()).unwrap()).unwrap();
}
