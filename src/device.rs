//! What this machine computes with: its cores, memory and GPUs.

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
    /// The first of [`all`].
    #[default]
    Auto,
    Cpu,
    /// A GPU, or nothing.
    Cuda,
}

/// Why a wanted GPU cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no GPU can be used: {reason}")]
pub struct NoGpu {
    reason: String,
}

/// The device to run on.
///
/// # Errors
/// A GPU is wanted and none can be used.
pub fn choose(choice: Choice) -> Result<Info, NoGpu> {
    let gpu = match choice {
        Choice::Cpu => return Ok(cpu()),
        _ => gpus().map(|gpus| gpus.into_iter().next()),
    };
    match (gpu, choice) {
        (Ok(Some(gpu)), _) => Ok(gpu),
        (Err(why), Choice::Cuda) => Err(why),
        (Ok(None), Choice::Cuda) => Err(NoGpu { reason: "there is none".to_owned() }),
        (Err(why), _) => {
            tracing::info!("{why}; the CPU computes");
            Ok(cpu())
        }
        (Ok(None), _) => Ok(cpu()),
    }
}

/// Every device, the preferred one first: GPUs in the driver's order, then the CPU.
pub fn all() -> Vec<Info> {
    let mut all = gpus().unwrap_or_default();
    all.push(cpu());
    all
}

#[cfg(feature = "cuda")]
use cuda::gpus;

/// No GPU is looked for in this build.
#[cfg(not(feature = "cuda"))]
#[allow(clippy::unnecessary_wraps)]
fn gpus() -> Result<Vec<Info>, NoGpu> {
    Ok(Vec::new())
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

/// NVIDIA GPUs through the driver's library.
#[cfg(feature = "cuda")]
mod cuda {
    #![allow(unsafe_code)]

    use candle_core::Device;
    use cudarc::driver::sys::{CUmemPool_attribute, CUresult};
    use cudarc::driver::{CudaContext, DriverError, result};

    use super::{Info, Kind, NoGpu};

    /// The GPUs in the driver's order; those that cannot be used are left out with a word.
    ///
    /// # Errors
    /// No driver, or none of the GPUs can be used.
    pub(super) fn gpus() -> Result<Vec<Info>, NoGpu> {
        let count = CudaContext::device_count().map_err(no_gpu)?;
        let mut gpus = Vec::new();
        let mut last = None;
        for ordinal in 0..usize::try_from(count).unwrap_or(0) {
            match info(ordinal) {
                Ok(info) => gpus.push(info),
                Err(error) => {
                    let why = no_gpu(error);
                    tracing::warn!(ordinal, "{why}");
                    last = Some(why);
                }
            }
        }
        match last {
            Some(why) if gpus.is_empty() => Err(why),
            _ => Ok(gpus),
        }
    }

    fn info(ordinal: usize) -> Result<Info, DriverError> {
        let context = CudaContext::new(ordinal)?;
        let (free, total) = context.mem_get_info()?;
        Ok(Info {
            id: format!("cuda:{ordinal}"),
            kind: Kind::Cuda { ordinal, capability: context.compute_capability()? },
            name: context.name()?,
            memory: total as u64,
            available: free as u64,
            cores: 0,
            features: Vec::new(),
        })
    }

    fn no_gpu(error: DriverError) -> NoGpu {
        let reason = match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => "the driver sees none".to_owned(),
            CUresult::CUDA_ERROR_STUB_LIBRARY => "the NVIDIA driver is not installed".to_owned(),
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
                "the NVIDIA driver does not match its kernel module; restart the machine".to_owned()
            }
            // Not the error's own text: that asks the library that has just failed.
            code => format!("the driver answers {code:?}"),
        };
        NoGpu { reason }
    }

    pub(super) fn open(ordinal: usize) -> candle_core::Result<Device> {
        // A stream of its own: the default one waits for every other stream of the process.
        let device = Device::new_cuda_with_stream(ordinal)?;
        if let Device::Cuda(cuda) = &device {
            // SAFETY: one thread owns the device and uses this one stream, so nothing needs events to be ordered.
            unsafe { cuda.disable_event_tracking() };
            let mut keep = u64::MAX;
            // SAFETY: the context that the device holds keeps its GPU's pool valid; the attribute is a u64, read
            // during the call.
            let set = unsafe {
                result::device::get_default_mem_pool(cuda.cuda_stream().context().cu_device()).and_then(
                    |pool| {
                        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                        result::mem_pool::set_attribute(pool, threshold, (&raw mut keep).cast())
                    },
                )
            };
            if let Err(error) = set {
                // Slower, not wrong: each step then asks the driver for its memory anew.
                tracing::warn!(code = ?error.0, "the GPU's memory pool cannot be set up");
            }
        }
        Ok(device)
    }

    /// Frees what the GPU's pool holds beyond the tensors that are alive.
    pub(super) fn return_freed_memory(device: &Device) {
        let Device::Cuda(cuda) = device else { return };
        // Frees are ordered on the stream: those under way are waited for.
        let waited = cuda.cuda_stream().synchronize();
        let trimmed = waited.and_then(|()| {
            // SAFETY: as in `open`.
            unsafe {
                let pool = result::device::get_default_mem_pool(cuda.cuda_stream().context().cu_device())?;
                result::mem_pool::trim_to(pool, 0)
            }
        });
        if let Err(error) = trimmed {
            tracing::warn!(code = ?error.0, "the GPU's freed memory is not given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_last() {
        let all = all();
        let last = all.last().unwrap();
        assert_eq!((last.id.as_str(), last.kind), ("cpu", Kind::Cpu));
        assert!(last.memory >= last.available && last.cores > 0);
        assert_eq!(choose(Choice::Cpu).unwrap().kind, Kind::Cpu);
        assert_eq!(choose(Choice::Auto).unwrap().id, all[0].id);
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
