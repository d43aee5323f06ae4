//! Launches that are recorded once and run again: a step of decoding has some hundreds of them, each of some
//! microseconds on a GPU, and asking the driver for each takes as long. Only a GPU records (CUDA graphs).

use candle_core::{Device, Result};

/// What was recorded.
#[derive(Debug)]
pub struct Replay {
    #[cfg(feature = "cuda")]
    graph: cuda::Graph,
}

/// Memory in which recordings of one device compute, one at a time. It has to outlive them.
#[derive(Debug, Default)]
pub struct Scratch {
    #[cfg(feature = "cuda")]
    memory: super::gpu::scratch::Scratch,
}

/// Within a recording: what was made before the turn before this one may be overwritten from here on. Layers take turns, so
/// that each has what the one before it made. Elsewhere: nothing.
pub fn turn() {
    #[cfg(feature = "cuda")]
    super::gpu::scratch::turn();
}

impl Replay {
    /// Records what `launches` gives the device; nothing of it runs now. `None` on a device that records nothing.
    ///
    /// What it writes to must outlive the recording, what it makes lies in `scratch` (see [`turn`]), and nothing may pass
    /// between the device and this process. Whatever kernels it uses have to have been loaded, by running it before.
    ///
    /// # Errors
    /// Whatever `launches` fails with, and what cannot be recorded: the device is as before, and the same launches run
    /// unrecorded.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn record(
        device: &Device,
        scratch: &mut Scratch,
        launches: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Replay>> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = super::gpu::cuda::of(device) {
            let recorded = || cuda::record(cuda, launches);
            return Ok(Some(Replay { graph: super::gpu::scratch::within(&mut scratch.memory, recorded)? }));
        }
        Ok(None)
    }

    /// Runs it once more.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn run(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.graph.run()?;
        Ok(())
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda_backend::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::{CudaGraph, DriverError, sys};
    use candle_core::{Result, bail};

    pub(super) struct Graph(CudaGraph);

    impl std::fmt::Debug for Graph {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Graph")
        }
    }

    impl Graph {
        pub fn run(&self) -> Result<()> {
            self.0.launch().map_err(failed)
        }
    }

    fn failed(error: DriverError) -> candle_core::Error {
        candle_core::Error::msg(format!("CUDA graph: {:?}", error.0))
    }

    pub(super) fn record(device: &CudaDevice, launches: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let stream = device.cuda_stream();
        // Relaxed: other threads of the process, and what the driver does beside, do not end it.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        stream.begin_capture(mode).map_err(failed)?;
        let done = launches();
        // Ended whatever came of it: nothing else would run on the stream.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(failed);
        done?;
        match graph? {
            Some(graph) => Ok(Graph(graph)),
            None => bail!("CUDA graph: nothing was recorded"),
        }
    }
}
