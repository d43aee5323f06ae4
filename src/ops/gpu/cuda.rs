//! Compiling, keeping and launching kernels through the driver.
//!
//! Kernels are compiled by NVRTC for the card that is there, and kept in `$XDG_CACHE_HOME/stentor/kernels` (or below
//! `~/.cache`) under a name that is the hash of the source, the options and the compiler's version: a file that is there
//! is taken, one that the driver refuses is made anew, and where nothing can be written nothing is kept.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::result::memcpy_dtod_async;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaStream, DevicePtr, DeviceRepr, DriverError, sys as driver,
};
use candle_core::cuda_backend::cudarc::nvrtc::{Ptx, result as nvrtc, sys};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Result, Shape, Storage, Tensor, WithDType, bail};
use sha2::{Digest, Sha256};

use super::source::{self, Source};
use super::{Address, Launch, scratch};

/// A kernel that is loaded.
#[derive(Clone)]
struct Kernel {
    function: CudaFunction,
    /// It may come onto the card while the launch before it still runs: such cards have kernels wait by themselves.
    overlaps: bool,
}

thread_local! {
    /// The kernels of this thread's devices: a device belongs to one thread. By the device's place among the driver's
    /// and the kernel's name.
    static KERNELS: RefCell<HashMap<(usize, &'static str), Kernel>> = RefCell::default();
    static MODULES: RefCell<HashMap<(usize, &'static str), Arc<CudaModule>>> = RefCell::default();
}

/// The GPU behind a device.
pub(crate) fn of(device: &Device) -> Option<&CudaDevice> {
    match device {
        Device::Cuda(cuda) => Some(cuda),
        _ => None,
    }
}

/// The GPU that a tensor lies on.
///
/// # Errors
/// It lies elsewhere.
pub(crate) fn under(tensor: &Tensor) -> Result<&CudaDevice> {
    match of(tensor.device()) {
        Some(device) => Ok(device),
        None => bail!("a tensor of the GPU is needed"),
    }
}

/// Compiles what has not been, and loads every kernel.
///
/// # Errors
/// A kernel that the compiler or the driver refuses.
pub(crate) fn prepare(device: &CudaDevice) -> Result<()> {
    source::ALL.iter().try_for_each(|source| module(device, source).map(drop))
}

/// Runs these launches, one after the other, on the device's stream.
///
/// # Errors
/// What the driver refuses. What goes wrong while a kernel runs comes with a later call.
pub(crate) fn run(device: &CudaDevice, launches: &[Launch]) -> Result<()> {
    let stream = device.cuda_stream();
    for launch in launches {
        let started = start_on(&stream, &kernel(device, launch.kernel)?, launch);
        started.map_err(|e| candle_core::Error::msg(format!("{}: {:?}", launch.kernel, e.0)))?;
    }
    Ok(())
}

/// From Hopper on a launch begins while the one before it ends ("programmatic dependent launch"): each kernel waits
/// itself, by `follow` of kernels/common.cuh, which a test holds.
fn start_on(stream: &CudaStream, kernel: &Kernel, launch: &Launch) -> std::result::Result<(), DriverError> {
    let ([x, y, z], mut pointers) = (launch.grid, launch.pointers());
    let mut overlap = driver::CUlaunchAttribute {
        id: driver::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: driver::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = driver::CUlaunchConfig {
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream.cu_stream(),
        attrs: &raw mut overlap,
        numAttrs: u32::from(kernel.overlaps && launch.overlaps),
    };
    let (function, nothing) = (kernel.function.cu_function(), std::ptr::null_mut());
    // SAFETY: the arguments are those that the kernel takes, which the tests on the CPU hold for every launch that the
    // ops describe; the addresses are those of tensors that outlive the launch on this one stream.
    unsafe { driver::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), nothing) }.result()
}

fn kernel(device: &CudaDevice, name: &'static str) -> Result<Kernel> {
    let context = device.cuda_stream().context().clone();
    let key = (context.ordinal(), name);
    if let Some(known) = KERNELS.with_borrow(|all| all.get(&key).cloned()) {
        return Ok(known);
    }
    let Some(source) = Source::of(name) else { bail!("no kernel is named {name}") };
    let fail = |e: DriverError| candle_core::Error::msg(format!("kernel {name}: {:?}", e.0));
    let function = module(device, source)?.load_function(name).map_err(fail)?;
    let overlaps = context.compute_capability().map_err(fail)?.0 >= 9;
    let kernel = Kernel { function, overlaps };
    KERNELS.with_borrow_mut(|all| all.insert(key, kernel.clone()));
    Ok(kernel)
}

fn module(device: &CudaDevice, source: &Source) -> Result<Arc<CudaModule>> {
    let context = device.cuda_stream().context().clone();
    let key = (context.ordinal(), source.stem);
    if let Some(known) = MODULES.with_borrow(|all| all.get(&key).cloned()) {
        return Ok(known);
    }
    let fail = |what: String| candle_core::Error::msg(format!("kernels/{}.cu: {what}", source.stem));
    let capability = context.compute_capability().map_err(|e| fail(format!("{:?}", e.0)))?;
    let options = source::options(capability);
    let kept = kept_at(source, &options);
    let old = kept.as_ref().and_then(|path| std::fs::read(path).ok());
    let module = match old.and_then(|code| context.load_module(Ptx::from_binary(code)).ok()) {
        Some(module) => module,
        None => {
            let code = compile(&source.text(), &options).map_err(fail)?;
            if let Some(path) = kept {
                keep(&path, &code);
            }
            context.load_module(Ptx::from_binary(code)).map_err(|e| fail(format!("{:?}", e.0)))?
        }
    };
    MODULES.with_borrow_mut(|all| all.insert(key, module.clone()));
    Ok(module)
}

/// Where the compiled source is kept; `None` where there is no such place.
fn kept_at(source: &Source, options: &[String]) -> Option<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").filter(|v| !v.is_empty())?).join(".cache"),
    };
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers.
    let version = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    version.result().ok()?;
    let mut hash = Sha256::new();
    hash.update(format!("{major}.{minor} {options:?}\n"));
    hash.update(source.text());
    let name: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    Some(cache.join("stentor/kernels").join(format!("{}-{name}.cubin", source.stem)))
}

fn keep(path: &std::path::Path, code: &[u8]) {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder)?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        std::fs::write(file.path(), code)?;
        file.persist(path)?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "compiled kernels are not kept: each start compiles them again");
    }
}

/// The machine code of a source.
fn compile(source: &str, options: &[String]) -> std::result::Result<Vec<u8>, String> {
    let text = std::ffi::CString::new(source).map_err(|_| "the source has a zero byte".to_owned())?;
    let program = nvrtc::create_program(&text, None).map_err(|e| format!("NVRTC: {:?}", e.0))?;
    // SAFETY: the program was made above and is destroyed once, below.
    let compiled = unsafe { nvrtc::compile_program(program, options) }.map_err(|e| {
        // SAFETY: as above.
        let log = unsafe { nvrtc::get_program_log(program) }.unwrap_or_default();
        let log: Vec<u8> = log.iter().map(|c| c.cast_unsigned()).take_while(|b| *b != 0).collect();
        format!("{:?}\n{}", e.0, String::from_utf8_lossy(&log))
    });
    let code = compiled.and_then(|()| {
        let mut size = 0;
        // SAFETY: as above; the second call writes the `size` bytes that the first one tells.
        unsafe {
            let told = sys::nvrtcGetCUBINSize(program, &raw mut size).result();
            told.map_err(|e| format!("{:?}", e.0))?;
            let mut code = vec![0u8; size];
            let got = sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result();
            got.map_err(|e| format!("{:?}", e.0))?;
            Ok(code)
        }
    });
    // SAFETY: as above. What cannot be destroyed is left.
    let _ = unsafe { nvrtc::destroy_program(program) };
    code
}

/// A tensor whose values are whatever its memory held: for a kernel that writes all of them. Within a recording it lies in
/// the recording's [scratch].
///
/// # Errors
/// No memory.
pub(crate) fn unset<T>(device: &CudaDevice, shape: impl Into<Shape>) -> Result<Tensor>
where
    T: candle_core::cuda_backend::CudaDType + DeviceRepr + WithDType,
{
    let shape = shape.into();
    if let Some(tensor) = scratch::take::<T>(device, &shape)? {
        return Ok(tensor);
    }
    // SAFETY: only kernels that write every value are given it, before anything reads it.
    let slice = unsafe { device.alloc::<T>(shape.elem_count()) }?;
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// Copies one tensor over another of the same bytes.
///
/// # Errors
/// What [`address`] refuses; different sizes.
pub(crate) fn copy(device: &CudaDevice, from: &Tensor, to: &Tensor) -> Result<()> {
    let bytes = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
    if bytes(from) != bytes(to) {
        bail!("a copy of {} bytes over {}", bytes(from), bytes(to));
    }
    let (source, target, stream) = (address(from)?, address(to)?, device.cuda_stream());
    // SAFETY: both are whole tensors of these bytes, which outlive the copy on the one stream.
    let copied = unsafe { memcpy_dtod_async(target, source, bytes(from), stream.cu_stream()) };
    copied.map_err(|e| candle_core::Error::msg(format!("copy: {:?}", e.0)))
}

/// Whether kernels that read 4 floats at a time take these: f32 of a GPU, contiguous, in rows of a multiple of 4.
pub(crate) fn in_fours(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| {
        let whole = |n: &usize| *n > 0 && n.is_multiple_of(4);
        t.device().is_cuda()
            && t.dtype() == DType::F32
            && t.dims().last().is_some_and(whole)
            && address(t).is_ok_and(|at| at.is_multiple_of(16))
    })
}

/// Where a contiguous tensor lies.
///
/// # Errors
/// Another device's tensor, gaps, or a type that no kernel takes.
pub(crate) fn address(tensor: &Tensor) -> Result<Address> {
    if !tensor.is_contiguous() {
        bail!("a contiguous tensor is needed, not {:?} with strides {:?}", tensor.shape(), tensor.stride());
    }
    start(tensor)
}

/// Where a tensor's first value lies, whatever the distances to the others.
///
/// # Errors
/// Another device's tensor, or a type that no kernel takes.
pub(crate) fn start(tensor: &Tensor) -> Result<Address> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(cuda) = &*storage else { bail!("a tensor of the GPU is needed") };
    let stream = cuda.device.cuda_stream();
    // No events are tracked: what the guards would record orders nothing on the one stream.
    let base = match tensor.dtype() {
        DType::F32 => cuda.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::F16 => cuda.as_cuda_slice::<half::f16>()?.device_ptr(&stream).0,
        DType::U32 => cuda.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        DType::U8 => cuda.as_cuda_slice::<u8>()?.device_ptr(&stream).0,
        other => bail!("no kernel takes {other:?}"),
    };
    Ok(base + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}
