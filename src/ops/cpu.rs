//! The way from candle tensors to slices and back, for the CPU side of the ops.

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};

/// Whether the CPU kernels of this module compute on `device`; where they do not, candle's operations do. The one
/// place that decides: tests force the other way on the CPU with [`composed`](super::testing::composed).
pub(crate) fn serves(device: &Device) -> bool {
    #[cfg(test)]
    if super::testing::is_composed() {
        return false;
    }
    device.is_cpu()
}

/// Whether the fused f32 CPU path may run: everything is f32 on the CPU.
pub(crate) fn fused(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| serves(t.device()) && t.dtype() == candle_core::DType::F32)
}

/// All values behind a CPU storage, with no offset applied.
pub(crate) fn raw(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(values),
        _ => bail!("expected f32 values on the CPU"),
    }
}

/// The values of a contiguous tensor.
pub(crate) fn contiguous<'a>(storage: &'a Storage, layout: &Layout, what: &str) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{what} must be contiguous, has shape {:?} and strides {:?}", layout.shape(), layout.stride());
    };
    match raw(storage)?.get(start..end) {
        Some(values) => Ok(values),
        None => bail!("{what}: the layout reaches past the storage"),
    }
}

/// Runs `f` on the values of a contiguous f32 CPU tensor.
pub(crate) fn with<R>(x: &Tensor, what: &str, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    f(contiguous(&storage, layout, what)?)
}

/// A CPU tensor that takes over `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
