//! NVIDIA GPUs through the driver's library.

#![allow(unsafe_code)]

use candle_core::Device;
use cudarc::driver::sys::{self, CUmemPool_attribute, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};

use super::{Found, Info, Kind, too_old, unfit};

/// The GPUs that can be used, and why others cannot.
pub fn gpus() -> Found {
    let mut found = Found::default();
    let count = match driver() {
        Ok(count) => count,
        Err(why) => {
            found.left_out.push(why);
            return found;
        }
    };
    for ordinal in 0..count {
        match info(ordinal) {
            Ok(info) => match unfit(&info) {
                Some(why) => found.left_out.push(why),
                None => found.gpus.push(info),
            },
            Err(error) => found.left_out.push(format!("cuda:{ordinal}: {}", reason(error))),
        }
    }
    found
}

/// How many GPUs the driver has, if it can be used.
fn driver() -> Result<usize, String> {
    let count = CudaContext::device_count().map_err(reason)?;
    let mut version = 0;
    // SAFETY: writes one integer that is borrowed for the call; the driver is set up, since it has counted.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    code.result().map_err(reason)?;
    match (too_old(version), usize::try_from(count)) {
        (Some(why), _) => Err(why),
        (None, Ok(count @ 1..)) => Ok(count),
        _ => Err(reason(DriverError(CUresult::CUDA_ERROR_NO_DEVICE))),
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

/// What a failure of the driver is, and what helps.
fn reason(error: DriverError) -> String {
    let known = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            "the driver sees no GPU: see whether `nvidia-smi` does, and start a container with `--gpus all`"
        }
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the NVIDIA driver is not installed: install driver 580 or later"
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the NVIDIA driver does not match its kernel module: restart the machine"
        }
        CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the NVIDIA driver is too old for CUDA 13 on this card: install driver 580 or later"
        }
        CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
            "the GPUs are not set up yet: start the service `nvidia-fabricmanager`"
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "other programs have all of its memory: see `nvidia-smi` for which"
        }
        // Not the error's own text: that asks the library that has just failed.
        code => return format!("the driver answers {code:?}: see the kernel's log (`dmesg`)"),
    };
    known.to_owned()
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
            result::device::get_default_mem_pool(cuda.cuda_stream().context().cu_device()).and_then(|pool| {
                let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                result::mem_pool::set_attribute(pool, threshold, (&raw mut keep).cast())
            })
        };
        if let Err(error) = set {
            // Slower, not wrong: each step then asks the driver for its memory anew.
            tracing::warn!(code = ?error.0, "the GPU's memory pool cannot be set up");
        }
    }
    Ok(device)
}

/// The pool's high mark, which is then set back to what is used now.
pub(super) fn most_used(ordinal: usize) -> Result<u64, DriverError> {
    let context = CudaContext::new(ordinal)?;
    let high = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    let (mut most, mut back) = (0u64, 0u64);
    // SAFETY: the context keeps its GPU's pool valid; the attribute is a u64, written and read during the calls.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        result::mem_pool::get_attribute(pool, high, (&raw mut most).cast())?;
        result::mem_pool::set_attribute(pool, high, (&raw mut back).cast())?;
    }
    Ok(most)
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
