//! What this machine computes with: its cores, memory and GPUs.

use candle_core::Device;

/// A place where models can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// `cpu`, `cuda:0`, ...
    pub id: String,
    /// The processor's or card's own name.
    pub name: String,
    /// Bytes of memory it has.
    pub memory: u64,
    /// Bytes not in use when asked.
    pub available: u64,
    /// Cores that compute; 0 for a GPU.
    pub cores: usize,
    /// Instruction sets that the kernels here choose from, best first.
    pub features: Vec<&'static str>,
}

/// The CPU as it is now.
pub fn cpu() -> Info {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |key: &str| -> u64 {
        meminfo
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap_or(0)
    };
    Info {
        id: "cpu".to_owned(),
        name: cpu_name(),
        memory: kilobytes("MemTotal").saturating_mul(1024),
        available: kilobytes("MemAvailable").saturating_mul(1024),
        cores: cores(),
        features: features(),
    }
}

/// Every device, the preferred one first.
pub fn all() -> Vec<Info> {
    vec![cpu()]
}

/// Opens a device for the thread that will own it.
pub fn open(_info: &Info) -> candle_core::Result<Device> {
    Ok(Device::Cpu)
}

/// Cores this process may use: the affinity mask and the container's quota are respected.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Gives freed memory of this thread back to the system. Loading a model passes its weights through buffers
/// that are larger than the model; the allocator would keep them for a use that does not come (240 MB after
/// the starter models).
#[allow(unsafe_code)]
pub fn return_freed_memory() {
    // SAFETY: takes no pointers and may be called on any thread at any time; where another allocator serves the
    // process, mimalloc has nothing to give back.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

fn cpu_name() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo
        .lines()
        .find_map(|l| Some(l.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()))
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    [
        ("avx512-vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512", is_x86_feature_detected!("avx512f")),
        ("avx2", is_x86_feature_detected!("avx2")),
    ]
    .into_iter()
    .filter_map(|(name, has)| has.then_some(name))
    .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}
