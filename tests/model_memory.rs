//! What models say they take of memory, against what they take. Alone in its process, so that nothing else counts.
#![allow(clippy::unwrap_used, unsafe_code)] // Helpers of tests fail their test; an allocator is unsafe.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use candle_core::Device;
use stentor::engine::{Options, open};
use stentor::fetch::Library;
use stentor::fetch::manifest::Manifest;
use stentor::model::llm::{self, Choice};
use stentor::model::{Model, Network, Size, asr, embed, segment, speaker};
use stentor::ops::{KvCache, KvType};
use stentor::types::model::{Footprint, Installed, Kind, Precision, Quantise};

/// The system's allocator, with a count of what is in use.
struct Counting;

static NOW: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);

fn more(bytes: usize) {
    let now = NOW.fetch_add(bytes as u64, Relaxed) + bytes as u64;
    MOST.fetch_max(now, Relaxed);
}

// SAFETY: every call is the system allocator's, with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What some work gives, the bytes that it leaves in use, and the most that it had in use besides what was before.
fn counted<T>(work: impl FnOnce() -> T) -> (T, u64, u64) {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = work();
    (result, NOW.load(Relaxed).saturating_sub(before), MOST.load(Relaxed) - before)
}

/// A model is loaded and does its largest steps: what it says must be enough for both, and not many times as much.
fn check<N: Network>(
    name: &str,
    largest: Size,
    reckoned: Footprint,
    load: impl FnOnce() -> Box<dyn Model<N>>,
    steps: &[N::Batch],
) {
    let (mut model, held, _) = counted(load);
    let says = model.footprint(largest);
    // Memory of some kinds is taken when it is first used.
    let (_, first, mut most) = counted(|| drop(model.step(&steps[0]).unwrap()));
    for step in steps {
        most = most.max(counted(|| drop(model.step(step).unwrap())).2);
    }
    let held = held + first;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{name}: holds {:.1} MB, says {:.1}, reckoned {:.1}; a step takes {:.1}, says {:.1}",
        mb(held),
        mb(says.kept()),
        mb(reckoned.kept()),
        mb(most),
        mb(says.step)
    );
    let near = |said: u64| held <= said + said / 10 + (8 << 20) && said <= held + held / 3 + (8 << 20);
    assert!(near(says.kept()) && near(reckoned.kept()), "{name}: holds {held}, {says:?}, {reckoned:?}");
    assert_eq!(reckoned.step, says.step, "{name}");
    assert!(most <= says.step && says.step < 4 * most, "{name}: a step takes {most}, {says:?}");
}

fn chat(installed: &Installed) {
    let grant = llm::Grant {
        context: 2048,
        cache_bytes: 64 << 20,
        room: u64::MAX,
        cache: KvType::F16,
        quantise: Quantise::None,
    };
    let largest = Size { units: 512, logits: 64, gpu: false };
    let row = |len: usize, first: u32, logits| llm::Row {
        len,
        start: 0,
        table: (first..first + len.div_ceil(KvCache::BLOCK) as u32).collect(),
        logits,
        choice: Choice::Logits,
    };
    let prompt = llm::Batch { tokens: (100..612).collect(), rows: vec![row(512, 0, 1)] };
    let many = llm::Batch { tokens: (100..164).collect(), rows: (0..64).map(|at| row(1, at, 1)).collect() };
    let (reckoned, blocks) = grant.reckon(installed, None, largest).unwrap();
    let load = || llm::load(installed, &Device::Cpu, grant.limits(blocks)).unwrap().model;
    check("chat", largest, reckoned, load, &[prompt, many]);
}

fn embeddings(installed: &Installed) {
    let largest = Size { units: 4_096, logits: 0, gpu: false };
    let rows = (0..16u32).map(|row| (0..256).map(|token| 1000 + row + token).collect()).collect();
    let reckoned = embed::footprint(installed, largest).unwrap();
    let load = || embed::load(installed, &Device::Cpu).unwrap().model;
    check("embed", largest, reckoned, load, &[rows]);
}

fn speech(installed: &Installed) {
    let limits = asr::Limits { windows: 2, window_bytes: u64::MAX, precision: Precision::F16 };
    let largest = Size { units: 1, logits: 0, gpu: false };
    let window = |slot: usize| (slot, vec![0.1f32; 80 * asr::whisper::WINDOW]);
    let row = |at: u32| asr::Row {
        slot: at as usize / 8,
        tokens: vec![50_258 + at],
        position: 0,
        table: vec![at],
        want: asr::Want::Last,
    };
    let decode = asr::Decode { copies: Vec::new(), rows: (0..16).map(row).collect() };
    let steps = [
        asr::Batch::Encode(vec![window(0)]),
        asr::Batch::Encode(vec![window(1)]),
        asr::Batch::Decode(decode),
    ];
    let reckoned = asr::footprint(installed, limits, largest).unwrap();
    let load = || asr::load(installed, &Device::Cpu, limits).unwrap().model;
    check("asr", largest, reckoned, load, &steps);
}

fn voices(installed: &Installed) {
    let largest = Size { units: 3_000, logits: 0, gpu: false };
    let voice = |frames: usize| Arc::from(vec![0.5f32; frames * speaker::BINS]);
    let steps = [vec![voice(1_500), voice(1_500)], vec![voice(speaker::MAX_FRAMES)]];
    let reckoned = speaker::footprint(installed, largest).unwrap();
    let load = || speaker::load(installed, &Device::Cpu).unwrap().model;
    check("speaker", largest, reckoned, load, &steps);
}

fn segments(installed: &Installed) {
    let largest = Size { units: 12_000, logits: 0, gpu: false };
    let window: Arc<[f32]> = Arc::from(vec![0.1f32; 160_000]);
    let reckoned = segment::footprint(installed, largest).unwrap();
    let load = || segment::load(installed, &Device::Cpu).unwrap().model;
    check("segment", largest, reckoned, load, &[vec![window; 12]]);
}

/// What manifests say of models to come, against what the server reckons of them once they are here. Of a step they say
/// what a GPU takes, whose steps are no smaller.
fn check_manifest(manifest: &Manifest, installed: &Installed) {
    let takes = open::estimate(installed, None, false, Options::default().limits(8 << 30));
    let id = &installed.id;
    let said = manifest.memory_mib.get("f32").or_else(|| manifest.memory_mib.values().next()).unwrap() << 20;
    let holds = if manifest.kind == Kind::Chat { takes.weights } else { takes.kept() };
    // A GPU's recorded steps are in what they say.
    let recorded = if manifest.kind == Kind::Chat { 160 << 20 } else { 0 };
    let most = holds + holds / 8 + (8 << 20) + recorded;
    assert!((holds - holds / 8..most).contains(&said), "{id}: {said} and not {holds}");
    assert!(takes.step <= manifest.step_mib << 20 || takes.step < 8 << 20, "{id}: {takes:?}");
    if manifest.kind == Kind::Chat {
        let block = manifest.token_bytes * KvCache::BLOCK as u64;
        assert!(block > 0 && takes.cache.is_multiple_of(block), "{id}: {block}, {takes:?}");
    }
}

#[test]
fn models_take_what_they_say() {
    let Some(home) = std::env::var_os("STENTOR_TEST_MODELS") else {
        println!("skipped: STENTOR_TEST_MODELS names no home folder with models");
        return;
    };
    let library = Library::open(Path::new(&home)).unwrap();
    let installed = library.installed().unwrap();
    for model in &installed {
        if let Some(manifest) = library.catalog().get(&model.id) {
            check_manifest(manifest, model);
        }
    }
    let find = |id: &str| installed.iter().find(|m| m.id == id).unwrap();
    chat(find("smollm2-135m-instruct"));
    embeddings(find("all-minilm-l6-v2"));
    speech(find("whisper-base"));
    voices(find("campplus"));
    segments(find("pyannote-segmentation"));
}
