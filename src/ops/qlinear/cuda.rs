//! Products on a GPU: what [`launch`](super::launch) describes, over tensors, and cuBLAS where there are many rows.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_ex, sys};
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use candle_core::{DType, Device, Result, Tensor, bail};
use half::f16;

use super::launch::{self, Bench, GROUPS, MANY, PARTS, Product};
use super::{Form, Input, QWeight};
use crate::ops::gpu::tiles::{Layout, Tiles};
use crate::ops::gpu::{Address, cuda};

/// What activations are divided by before they become halves, in kernels/qlinear.cu.
const GROW: f32 = 64.0;

/// What a device's products share, and how many multiprocessors it has.
struct Workbench {
    multiprocessors: usize,
    partial: Tensor,
    arrived: Tensor,
}

thread_local! {
    /// Of this thread's devices, by their place among the driver's: some 17 MB of a large card, kept as long as the thread.
    static WORKBENCHES: RefCell<HashMap<usize, Workbench>> = RefCell::default();
}

fn bench(device: &CudaDevice) -> Result<Bench> {
    WORKBENCHES.with_borrow_mut(|all| {
        let context = device.cuda_stream().context().clone();
        let bench = match all.entry(context.ordinal()) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let count = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
                let count = count.map_err(|e| candle_core::Error::msg(format!("{:?}", e.0)))?;
                let multiprocessors = usize::try_from(count).unwrap_or(1).max(1);
                place.insert(Workbench {
                    multiprocessors,
                    partial: cuda::unset::<u8>(device, Bench::partial_bytes(multiprocessors))?,
                    arrived: Tensor::zeros(GROUPS, DType::U32, &Device::Cuda(device.clone()))?,
                })
            }
        };
        Ok(Bench {
            multiprocessors: bench.multiprocessors,
            partial: cuda::address(&bench.partial)?,
            arrived: cuda::address(&bench.arrived)?,
        })
    })
}

/// A matrix in a GPU's memory.
pub(super) struct Tiled {
    pub layout: Layout,
    bytes: Tensor,
}

impl Tiled {
    pub fn new(tiles: Tiles, device: &Device) -> Result<Self> {
        let (layout, bytes) = tiles.finish();
        let count = bytes.len();
        Ok(Tiled { layout, bytes: Tensor::from_vec(bytes, count, device)? })
    }

    fn argument(&self) -> Result<(Address, Layout)> {
        Ok((cuda::address(&self.bytes)?, self.layout))
    }

    /// These rows, (rows, inputs) f32; all are below the outputs.
    pub fn rows(&self, rows: &Tensor) -> Result<Tensor> {
        self.rows_at(cuda::address(rows)?, rows.dim(0)?, 1.0)
    }

    /// The `count` rows whose numbers lie at `at`, times `factor`.
    pub fn rows_at(&self, at: Address, count: usize, factor: f32) -> Result<Tensor> {
        let device = cuda::under(&self.bytes)?;
        let out = cuda::unset::<f32>(device, (count, self.layout.inputs))?;
        let launch = launch::rows(self.argument()?, at, count, factor, cuda::address(&out)?);
        cuda::run(device, &[launch])?;
        Ok(out)
    }
}

/// `x W^T + bias` where all weights are in tiles; `None` where one is not.
pub(super) fn forward(parts: &[QWeight], bias: Option<&Tensor>, input: &Input) -> Result<Option<Tensor>> {
    let x = input.values();
    let tiled = parts.iter().map(|part| match &*part.0 {
        Form::Tiled(tiled) => Some(tiled),
        _ => None,
    });
    let Some(tiled) = tiled.collect::<Option<Vec<_>>>().filter(|t| (1..=PARTS).contains(&t.len())) else {
        return Ok(None);
    };
    let ((rows, width), device) = (x.dims2()?, cuda::under(x)?);
    if tiled.iter().any(|t| t.layout.inputs != width) {
        bail!("a product of {:?} with {:?}", x.shape(), tiled.iter().map(|t| t.layout).collect::<Vec<_>>());
    }
    let matrices = tiled.iter().map(|t| t.argument()).collect::<Result<Vec<_>>>()?;
    let columns: usize = matrices.iter().map(|m| m.1.outputs).sum();
    let x = x.contiguous()?;
    let out = cuda::unset::<f32>(device, (rows, columns))?;
    let product = Product {
        matrices: &matrices,
        x: cuda::address(&x)?,
        rows,
        bias: bias.map_or(Ok(0), cuda::address)?,
        out: cuda::address(&out)?,
        rounded: input.rounded().map(cuda::address).transpose()?,
        bench: bench(device)?,
    };
    if rows <= MANY && product.shared_groups() <= GROUPS {
        let packed = cuda::unset::<u8>(device, product.packed_bytes().max(1))?;
        cuda::run(device, &product.launches(cuda::address(&packed)?))?;
        return Ok(Some(out));
    }
    many(device, &product, columns)?;
    match bias {
        Some(bias) => out.broadcast_add(bias).map(Some),
        None => Ok(Some(out)),
    }
}

/// Inputs that the tensor cores take at a time, which cuBLAS needs a multiple of.
const DEEP: usize = 8;

/// Whether [`product_of_halves`] may have this f32 matrix: it lies on a GPU, and every weight fits a half.
pub(crate) fn takes_halves(weight: &Tensor) -> Result<bool> {
    let (outputs, inputs) = weight.dims2()?;
    if !weight.device().is_cuda()
        || weight.dtype() != DType::F32
        || outputs == 0
        || !inputs.is_multiple_of(DEEP)
    {
        return Ok(false);
    }
    let largest = weight.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    Ok(largest <= f16::MAX.to_f32())
}

/// `x W^T`: x (rows, inputs) f32, W (outputs, inputs) of halves that [`takes_halves`] has allowed; (rows, outputs) f32.
/// Activations are rounded to halves too, sums are f32.
///
/// # Errors
/// Shapes that do not fit; no memory.
pub(crate) fn product_of_halves(x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let ((rows, inputs), (outputs, depth), device) = (x.dims2()?, weights.dims2()?, cuda::under(x)?);
    if inputs != depth || x.dtype() != DType::F32 {
        bail!("a product of {:?} with halves of {:?}", x.shape(), weights.shape());
    }
    let out = cuda::unset::<f32>(device, (rows, outputs))?;
    if rows > 0 {
        // Read 4 at a time: a view may begin anywhere.
        let x = x.contiguous()?;
        let x = if cuda::address(&x)?.is_multiple_of(16) { x } else { x.force_contiguous()? };
        let halves = shrunk(device, cuda::address(&x)?, (rows, inputs))?;
        let (x, weights) = ((cuda::address(&halves)?, rows, inputs), (cuda::address(weights)?, outputs));
        gemm(device, x, weights, (cuda::address(&out)?, outputs))?;
    }
    Ok(out)
}

/// Activations as the products of halves take them.
fn shrunk(device: &CudaDevice, x: Address, (rows, inputs): (usize, usize)) -> Result<Tensor> {
    let out = cuda::unset::<f16>(device, (rows, inputs))?;
    cuda::run(device, &[launch::shrink(x, cuda::address(&out)?, rows * inputs)])?;
    Ok(out)
}

/// Through halves of the whole matrices, one after the other.
fn many(device: &CudaDevice, product: &Product<'_>, columns: usize) -> Result<()> {
    let inputs = product.matrices.first().map_or(0, |(_, layout)| layout.inputs);
    let x = shrunk(device, product.x, (product.rows, inputs))?;
    let mut column = 0;
    for matrix in product.matrices {
        let outputs = matrix.1.outputs;
        let weights = cuda::unset::<f16>(device, (outputs, inputs))?;
        cuda::run(device, &[launch::unpack(*matrix, cuda::address(&weights)?)])?;
        let out = product.out + (column * size_of::<f32>()) as u64;
        gemm(
            device,
            (cuda::address(&x)?, product.rows, inputs),
            (cuda::address(&weights)?, outputs),
            (out, columns),
        )?;
        column += outputs;
    }
    Ok(())
}

/// `out = 64 x W^T`: x (rows, inputs) and W (outputs, inputs) in halves, out f32 with so many columns in a row.
fn gemm(
    device: &CudaDevice,
    (x, rows, inputs): (Address, usize, usize),
    (weights, outputs): (Address, usize),
    (out, columns): (Address, usize),
) -> Result<()> {
    let int = |n: usize| {
        i32::try_from(n).map_err(|_| candle_core::Error::msg(format!("{n} is past cuBLAS's sizes")))
    };
    let (rows, inputs, outputs, columns) = (int(rows)?, int(inputs)?, int(outputs)?, int(columns)?);
    let (alpha, beta) = (GROW, 0f32);
    // SAFETY: columns first, as cuBLAS sees them, this is W x^T: (inputs, outputs) transposed by (inputs, rows), into
    // (outputs, rows) of which each column is a row of `out`. All three lie within tensors that outlive the call on the
    // one stream, and the factors are read during it.
    let done = unsafe {
        gemm_ex(
            *device.cublas_handle().handle(),
            sys::cublasOperation_t::CUBLAS_OP_T,
            sys::cublasOperation_t::CUBLAS_OP_N,
            outputs,
            rows,
            inputs,
            (&raw const alpha).cast(),
            weights as *const _,
            sys::cudaDataType::CUDA_R_16F,
            inputs,
            x as *const _,
            sys::cudaDataType::CUDA_R_16F,
            inputs,
            (&raw const beta).cast(),
            out as *mut _,
            sys::cudaDataType::CUDA_R_32F,
            columns,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    };
    done.map_err(|e| candle_core::Error::msg(format!("cuBLAS: {:?}", e.0)))
}
