//! Where the values lie that a recording makes.
//!
//! Memory that is taken from the driver within a recording, and given back, is a part of it, and launches on both sides of
//! such a part do not overlap. So a recording takes its memory here: two halves, filled one after the other by turns. At
//! each turn the half that was filled before the last one is begun anew.

#![allow(unsafe_code)]

use std::cell::RefCell;

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, DriverError, result::malloc_async};
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Result, Shape, Storage, Tensor, WithDType};

/// Each value begins at a multiple of these bytes, as memory from the driver does.
const ALIGNED: usize = 256;
/// Memory is taken by so many bytes at least.
const LEAST: usize = 1 << 20;

/// Memory of the recordings of one device. They use the same, as they run one after the other; it has to outlive them.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    halves: [Vec<Chunk>; 2],
    now: usize,
}

#[derive(Debug)]
struct Chunk {
    /// One dimension.
    memory: Tensor,
    used: usize,
}

thread_local! {
    static CURRENT: RefCell<Option<Scratch>> = RefCell::default();
}

/// What [`take`] is asked for within `f` lies in this memory.
pub(crate) fn within<R>(scratch: &mut Scratch, f: impl FnOnce() -> R) -> R {
    for half in &mut scratch.halves {
        half.iter_mut().for_each(|chunk| chunk.used = 0);
    }
    CURRENT.set(Some(std::mem::take(scratch)));
    let done = f();
    *scratch = CURRENT.take().unwrap_or_default();
    done
}

/// From here on the half is filled that was not, from its beginning.
pub(crate) fn turn() {
    CURRENT.with_borrow_mut(|current| {
        if let Some(scratch) = current {
            scratch.now = 1 - scratch.now;
            scratch.halves[scratch.now].iter_mut().for_each(|chunk| chunk.used = 0);
        }
    });
}

/// A tensor of this shape, whose values are whatever was there; `None` outside a recording.
pub(super) fn take<T>(device: &CudaDevice, shape: &Shape) -> Result<Option<Tensor>>
where
    T: CudaDType + DeviceRepr + WithDType,
{
    CURRENT.with_borrow_mut(|current| match current {
        Some(scratch) => scratch.take::<T>(device, shape).map(Some),
        None => Ok(None),
    })
}

impl Scratch {
    fn take<T>(&mut self, device: &CudaDevice, shape: &Shape) -> Result<Tensor>
    where
        T: CudaDType + DeviceRepr + WithDType,
    {
        let count = shape.elem_count();
        let room = count.next_multiple_of(ALIGNED / size_of::<T>());
        let half = &mut self.halves[self.now];
        let fits = |c: &Chunk| c.memory.dtype() == T::DTYPE && c.memory.elem_count() - c.used >= room;
        let at = match half.iter().position(fits) {
            Some(at) => at,
            None => {
                let memory = memory::<T>(device, room.max(LEAST / size_of::<T>()))?;
                half.push(Chunk { memory, used: 0 });
                half.len() - 1
            }
        };
        let chunk = &mut half[at];
        let tensor = chunk.memory.narrow(0, chunk.used, count)?.reshape(shape)?;
        chunk.used += room;
        Ok(tensor)
    }
}

/// Memory that is no part of what is being recorded.
fn memory<T>(device: &CudaDevice, count: usize) -> Result<Tensor>
where
    T: CudaDType + DeviceRepr,
{
    let fail = |e: DriverError| candle_core::Error::msg(format!("memory of recordings: {:?}", e.0));
    let stream = device.cuda_stream();
    // A stream that is not recorded; what is taken on it is there once it has nothing left to do.
    let aside = stream.context().new_stream().map_err(fail)?;
    // SAFETY: asks for memory of a stream that lives.
    let address = unsafe { malloc_async(aside.cu_stream(), count * size_of::<T>()) }.map_err(fail)?;
    // SAFETY: so many values have just been given there, to nobody else; they are given back on the device's own stream,
    // behind whatever uses them. Whoever takes a tensor writes all of its values before it reads one.
    let slice = unsafe { stream.upgrade_device_ptr::<T>(address, count) };
    aside.synchronize().map_err(fail)?;
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Ok(Tensor::from_storage(Storage::Cuda(storage), Shape::from(count), BackpropOp::none(), false))
}
