//! Kernels of our own on NVIDIA GPUs: how a launch is described, and what runs it.
//!
//! `kernels/<op>.cu` holds the kernels of `ops/<op>`, whose device side says in a [`Launch`] which of them runs over
//! which addresses: shapes, grids and arguments without a GPU. A launch is run by the driver ([`cuda`]), which compiles
//! the sources for the card that is there; or in tests by the same sources compiled for the CPU ([`host`]), over memory of
//! this process. So what is launched, and not the kernels alone, is held against plain references where there is no GPU.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod host;
#[cfg(test)]
mod nvrtc_tests;
#[cfg(feature = "cuda")]
pub(crate) mod scratch;
pub(crate) mod source;
pub(crate) mod tiles;

/// A place in the memory that a launch works on.
pub(crate) type Address = u64;

/// Says of structures that kernels take, each with its size, that they are bytes without gaps: of integers, floats and one
/// another alone, in the order of C, their size the sum of their fields'.
macro_rules! plain {
    ($($name:ty: $bytes:literal),*) => {
        $(
            // SAFETY: as above; the size is held below.
            #[allow(unsafe_code)]
            unsafe impl bytemuck::Zeroable for $name {}
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe impl bytemuck::Pod for $name {}
            const _: () = assert!(size_of::<$name>() == $bytes);
        )*
    };
}
pub(crate) use plain;

/// One kernel over one grid.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Whether it may come onto the card while the launch before it ends, where the card can.
    pub overlaps: bool,
    /// Each argument's bytes, in words of 8 so that they are aligned as any of them needs.
    arguments: Vec<Vec<u64>>,
}

impl Launch {
    /// A launch that still lacks its arguments.
    pub fn new(kernel: &'static str, grid: [usize; 3], threads: usize) -> Self {
        // A grid that no GPU takes is refused by the driver.
        let grid = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        Launch { kernel, grid, threads, overlaps: true, arguments: Vec::new() }
    }

    /// Begins only when the launch before it has ended: so that the blocks of the next one find an empty card, and
    /// spread over it evenly.
    pub fn apart(mut self) -> Self {
        self.overlaps = false;
        self
    }

    /// The next argument: an address.
    pub fn address(mut self, address: Address) -> Self {
        self.arguments.push(vec![address]);
        self
    }

    /// The next argument: a count; what is past 32 bits would need a kernel that counts further.
    pub fn count(self, count: usize) -> Self {
        self.word(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// The next argument: 32 bits.
    pub fn word(mut self, word: u32) -> Self {
        self.arguments.push(vec![u64::from(word)]);
        self
    }

    /// The next argument: a float.
    pub fn float(self, value: f32) -> Self {
        self.word(value.to_bits())
    }

    /// The next argument: a structure, laid out as in C.
    pub fn structure<T: bytemuck::Pod>(mut self, value: &T) -> Self {
        let bytes = bytemuck::bytes_of(value);
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        self.arguments.push(words);
        self
    }

    /// A pointer to each argument, as launches take them; valid as long as this launch is not changed.
    #[cfg(any(test, feature = "cuda"))]
    fn pointers(&self) -> Vec<*mut std::ffi::c_void> {
        self.arguments.iter().map(|words| words.as_ptr().cast_mut().cast()).collect()
    }
}
