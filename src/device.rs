//! What this machine computes with: its cores, memory and GPUs.

#[cfg(feature = "cuda")]
mod cuda;

pub use candle_core::Device;

/// A place where models can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// `cpu`, `cuda:0`, ...
    pub id: String,
    pub kind: Kind,
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

impl Info {
    /// Whether it is a GPU.
    pub fn is_gpu(&self) -> bool {
        matches!(self.kind, Kind::Cuda { .. })
    }
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Cpu,
    /// A GPU: its place among the driver's, and its compute capability, such as (8, 6).
    Cuda {
        ordinal: usize,
        capability: (i32, i32),
    },
}

/// Which device is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Every GPU, and the CPU where there is none.
    #[default]
    Auto,
    Cpu,
    /// GPUs, or nothing.
    Cuda,
}

/// Why a wanted GPU cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no GPU can be used: {reason}")]
pub struct NoGpu {
    reason: String,
}

/// What a look for GPUs came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// In the driver's order.
    pub gpus: Vec<Info>,
    /// Why there are no more: a line each, with the remedy.
    pub left_out: Vec<String>,
}

/// The devices to run on, at least one: every GPU, or the CPU.
///
/// # Errors
/// A GPU is wanted and none can be used.
pub fn wanted(choice: Choice) -> Result<Vec<Info>, NoGpu> {
    if choice == Choice::Cpu {
        return Ok(vec![cpu()]);
    }
    let Found { gpus, left_out } = gpus();
    if !gpus.is_empty() {
        left_out.iter().for_each(|why| tracing::warn!("{why}"));
        return Ok(gpus);
    }
    let no_gpu = NoGpu { reason: left_out.join("; ") };
    if choice == Choice::Cuda {
        return Err(no_gpu);
    }
    if cfg!(feature = "cuda") {
        tracing::info!("{no_gpu}; the CPU computes");
    }
    Ok(vec![cpu()])
}

/// The first of [`wanted`].
///
/// # Errors
/// A GPU is wanted and none can be used.
pub fn choose(choice: Choice) -> Result<Info, NoGpu> {
    Ok(wanted(choice)?.into_iter().next().unwrap_or_else(cpu))
}

#[cfg(feature = "cuda")]
pub use cuda::gpus;

/// No GPU is looked for in this build.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Found {
    let why = "this build computes on the CPU; build with `--features cuda` for GPUs";
    Found { gpus: Vec::new(), left_out: vec![why.to_owned()] }
}

/// The oldest driver, by the CUDA version it speaks for: that of the toolkit's libraries.
#[cfg(any(feature = "cuda", test))]
const LEAST_DRIVER: i32 = 13_000;
/// The oldest cards that the toolkit compiles for, Turing, and the least memory that a model fits into beside the driver's
/// own share.
#[cfg(any(feature = "cuda", test))]
const LEAST_CAPABILITY: (i32, i32) = (7, 5);
#[cfg(any(feature = "cuda", test))]
const LEAST_MEMORY: u64 = 2_000_000_000;

/// Why a driver cannot be used that says to be of this version.
#[cfg(any(feature = "cuda", test))]
fn too_old(version: i32) -> Option<String> {
    let spoken = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    (version < LEAST_DRIVER).then(|| {
        let (has, needs) = (spoken(version), spoken(LEAST_DRIVER));
        format!("the NVIDIA driver is for CUDA {has}, and {needs} is needed: install driver 580 or later")
    })
}

/// Why a GPU cannot be used.
#[cfg(any(feature = "cuda", test))]
fn unfit(gpu: &Info) -> Option<String> {
    let Info { id, name, kind: Kind::Cuda { capability: has @ (major, minor), .. }, memory, .. } = gpu else {
        return None;
    };
    if *has < LEAST_CAPABILITY {
        let (least, half) = LEAST_CAPABILITY;
        return Some(format!(
            "{id} ({name}) has compute capability {major}.{minor}, and {least}.{half} is needed: use another card, or the CPU"
        ));
    }
    (*memory < LEAST_MEMORY).then(|| {
        let (has, needs) = (memory / 1_000_000, LEAST_MEMORY / 1_000_000);
        format!(
            "{id} ({name}) has {has} MB of memory, and {needs} MB is the least: use another card, or the CPU"
        )
    })
}

/// Opens a device for the thread that will own it, which must be the calling one.
///
/// # Errors
/// A GPU that is gone, or out of memory.
pub fn open(info: &Info) -> candle_core::Result<Device> {
    match info.kind {
        Kind::Cpu => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        Kind::Cuda { ordinal, .. } => {
            let device = cuda::open(ordinal)?;
            check_kernels(&device)?;
            Ok(device)
        }
        #[cfg(not(feature = "cuda"))]
        Kind::Cuda { .. } => candle_core::bail!("this build computes on the CPU only"),
    }
}

/// Whether a device still answers: whatever was asked of it has ended, and memory can be had and written. What a GPU meets
/// that is lost (a fault in its memory, a kernel out of bounds, a cable) fails every later call.
///
/// # Errors
/// What the driver says.
pub fn answers(device: &Device) -> candle_core::Result<()> {
    device.synchronize()?;
    let written = || candle_core::Tensor::ones(1, candle_core::DType::F32, device)?.to_vec1::<f32>();
    match written() {
        Ok(read) if read == [1.0] => Ok(()),
        Ok(_) => candle_core::bail!("a one that was written is not read back"),
        // That is an answer.
        Err(error) if is_out_of_memory(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The most bytes of a GPU's memory that tensors of this process had at a time since this was asked before; `None` of a
/// CPU, and where the driver does not tell.
pub fn most_used(info: &Info) -> Option<u64> {
    match info.kind {
        #[cfg(feature = "cuda")]
        Kind::Cuda { ordinal, .. } => cuda::most_used(ordinal).ok(),
        _ => None,
    }
}

/// Whether a device had too little memory for what failed. By the names of the driver's and cuBLAS' codes, which is all
/// that candle hands on of them.
pub fn is_out_of_memory(error: &dyn std::fmt::Display) -> bool {
    let text = error.to_string();
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|code| text.contains(code))
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
        kind: Kind::Cpu,
        name: cpu_name(),
        memory: kilobytes("MemTotal").saturating_mul(1024),
        available: kilobytes("MemAvailable").saturating_mul(1024),
        cores: cores(),
        features: features(),
    }
}

/// Multiplies by ones on `device`. The quantised kernels are compiled for one architecture; on another they do
/// nothing and say nothing, so their result is looked at before a model relies on it.
#[cfg(any(feature = "cuda", test))]
fn check_kernels(device: &Device) -> candle_core::Result<()> {
    use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
    use candle_core::{DType, Module, Tensor};

    const WIDTH: usize = 512;
    let ones = |rows: usize| Tensor::ones((rows, WIDTH), DType::F32, device);
    let weight = QMatMul::from_qtensor(QTensor::quantize(&ones(16)?, GgmlDType::Q8_0)?)?;
    // A few rows and many take different kernels.
    for rows in [1, 64] {
        let sums = weight.forward(&ones(rows)?)?.flatten_all()?.to_vec1::<f32>()?;
        if sums.iter().any(|sum| (sum / WIDTH as f32 - 1.0).abs() > 0.01) {
            candle_core::bail!(
                "this build's kernels are for GPUs of another compute capability; build it beside this GPU, or with \
                 CUDA_COMPUTE_CAP set to this GPU's (86 for 8.6)"
            );
        }
    }
    Ok(())
}

/// Cores this process may use: the affinity mask and the container's quota are respected.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Gives freed memory of this thread and of its device back to the system. Loading a model passes its weights
/// through buffers that are larger than the model; the allocators would keep them for a use that does not come
/// (240 MB after the starter models).
#[allow(unsafe_code)]
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn return_freed_memory(device: &Device) {
    // SAFETY: takes no pointers and may be called on any thread at any time; where another allocator serves the
    // process, mimalloc has nothing to give back.
    unsafe { libmimalloc_sys::mi_collect(true) }
    #[cfg(feature = "cuda")]
    cuda::return_freed_memory(device);
}

/// Makes fresh zeros take memory page by page as they are written. Where the allocator asks for huge pages, its
/// first touch beside each block of a key-value cache took 2 MB: 120 MB for 30 layers before a word was said.
#[allow(unsafe_code)]
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
pub fn take_pages_singly(zeros: &mut [u8]) {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        let page = rustix::param::page_size();
        let skip = zeros.as_ptr().align_offset(page);
        let Some(whole) = zeros.get_mut(skip..) else { return };
        let len = whole.len() / page * page;
        for advice in [Advice::LinuxNoHugepage, Advice::LinuxDontNeed] {
            // SAFETY: whole pages of memory that is borrowed mutably, private to this process as an allocator's
            // is, and all zeros: dropped pages read as zeros again. A refusal leaves them as they are.
            let _ = unsafe { madvise(whole.as_mut_ptr().cast(), len, advice) };
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        let cpu = cpu();
        assert_eq!((cpu.id.as_str(), cpu.kind), ("cpu", Kind::Cpu));
        assert!(cpu.memory >= cpu.available && cpu.cores > 0);
        assert_eq!(choose(Choice::Cpu).unwrap().kind, Kind::Cpu);
        assert!(!wanted(Choice::Auto).unwrap().is_empty());
        answers(&Device::Cpu).unwrap();
    }

    #[test]
    fn what_cannot_be_used_is_said_with_what_helps() {
        let card = |capability, memory| {
            let kind = Kind::Cuda { ordinal: 1, capability };
            unfit(&Info { id: "cuda:1".into(), name: "Card".into(), kind, memory, ..cpu() })
        };
        assert_eq!((card((7, 5), 4 << 30), card((9, 0), 80 << 30), unfit(&cpu())), (None, None, None));
        let old = card((6, 1), 8 << 30).unwrap();
        assert!(old.starts_with("cuda:1 (Card) has compute capability 6.1, and 7.5 is needed: "), "{old}");
        assert!(card((8, 6), 1 << 30).unwrap().contains("has 1073 MB of memory"));
        assert_eq!((too_old(13_000), too_old(13_010)), (None, None));
        assert!(
            too_old(12_040).unwrap().contains("is for CUDA 12.4, and 13.0 is needed: install driver 580")
        );
    }

    #[test]
    fn too_little_memory_is_known_by_its_codes() {
        let error = |text: &str| candle_core::Error::Msg(text.to_owned());
        assert!(is_out_of_memory(&error("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")")));
        assert!(!is_out_of_memory(&error("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"memory\")")));
    }

    #[test]
    fn sound_kernels_pass() {
        check_kernels(&Device::Cpu).unwrap();
    }

    #[test]
    fn a_gpu_is_had_or_said_to_be_missing() {
        match choose(Choice::Cuda) {
            Ok(gpu) => {
                assert!(matches!(gpu.kind, Kind::Cuda { .. }) && gpu.memory > 0 && !gpu.name.is_empty())
            }
            Err(why) => assert!(why.to_string().starts_with("no GPU can be used: ")),
        }
    }
}
