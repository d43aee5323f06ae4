//! Shapes of models that people run, from their published configurations.

/// Which tensors a layer has, and the prefix of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
    Phi3,
}

impl Arch {
    /// `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen3 => "qwen3",
            Arch::Gemma3 => "gemma3",
            Arch::Phi3 => "phi3",
        }
    }
}

/// The sizes of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    pub name: &'static str,
    pub arch: Arch,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub ff: usize,
    pub vocab: usize,
    /// The embedding matrix gives the logits too.
    pub tied: bool,
    /// Tokens the model was trained for.
    pub context: u32,
    pub rope_base: f32,
    pub rms_eps: f32,
    /// Tokens that a local layer sees.
    pub sliding_window: Option<u32>,
    /// Has a tensor of rope frequency factors (Llama 3.1 and later).
    pub rope_factors: bool,
}

const fn llama(name: &'static str, sizes: [usize; 7]) -> Shape {
    let [hidden, layers, heads, kv_heads, head_dim, ff, vocab] = sizes;
    Shape {
        name,
        arch: Arch::Llama,
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        ff,
        vocab,
        tied: false,
        context: 8192,
        rope_base: 500_000.0,
        rms_eps: 1e-5,
        sliding_window: None,
        rope_factors: false,
    }
}

const fn qwen2(name: &'static str, tied: bool, sizes: [usize; 7]) -> Shape {
    let base = llama(name, sizes);
    Shape { arch: Arch::Qwen2, tied, context: 32_768, rope_base: 1e6, rms_eps: 1e-6, ..base }
}

const fn qwen3(name: &'static str, tied: bool, sizes: [usize; 7]) -> Shape {
    Shape { arch: Arch::Qwen3, context: 40_960, ..qwen2(name, tied, sizes) }
}

const fn gemma3(name: &'static str, sizes: [usize; 7]) -> Shape {
    let base = qwen2(name, true, sizes);
    Shape { arch: Arch::Gemma3, sliding_window: Some(512), ..base }
}

/// Every shape, with `hidden, layers, heads, kv_heads, head_dim, ff, vocab`. `tiny` is no real model: it is for
/// tests, wide enough for every quantisation.
pub const SHAPES: &[Shape] = &[
    Shape { tied: true, context: 512, ..llama("tiny", [256, 2, 4, 2, 64, 512, 1024]) },
    Shape { context: 512, ..qwen2("tiny-qwen2", true, [256, 2, 4, 2, 64, 512, 1024]) },
    Shape { context: 512, ..qwen3("tiny-qwen3", false, [256, 2, 4, 2, 64, 512, 1024]) },
    Shape { context: 512, ..gemma3("tiny-gemma3", [256, 6, 4, 1, 64, 512, 1024]) },
    Shape { context: 512, ..phi3("tiny-phi3", [256, 2, 4, 4, 64, 512, 1024]) },
    Shape { tied: true, rope_base: 100_000.0, ..llama("smollm2-135m", [576, 30, 9, 3, 64, 1536, 49_152]) },
    qwen2("qwen2.5-0.5b", true, [896, 24, 14, 2, 64, 4864, 151_936]),
    qwen2("qwen2.5-1.5b", true, [1536, 28, 12, 2, 128, 8960, 151_936]),
    qwen2("qwen2.5-3b", true, [2048, 36, 16, 2, 128, 11_008, 151_936]),
    qwen2("qwen2.5-7b", false, [3584, 28, 28, 4, 128, 18_944, 152_064]),
    qwen2("qwen2.5-14b", false, [5120, 48, 40, 8, 128, 13_824, 152_064]),
    qwen2("qwen2.5-32b", false, [5120, 64, 40, 8, 128, 27_648, 152_064]),
    qwen3("qwen3-0.6b", true, [1024, 28, 16, 8, 128, 3072, 151_936]),
    qwen3("qwen3-1.7b", true, [2048, 28, 16, 8, 128, 6144, 151_936]),
    qwen3("qwen3-4b", true, [2560, 36, 32, 8, 128, 9728, 151_936]),
    qwen3("qwen3-8b", false, [4096, 36, 32, 8, 128, 12_288, 151_936]),
    qwen3("qwen3-14b", false, [5120, 40, 40, 8, 128, 17_408, 151_936]),
    llama("llama-3-8b", [4096, 32, 32, 8, 128, 14_336, 128_256]),
    Shape {
        context: 131_072,
        rope_factors: true,
        ..llama("llama-3.1-8b", [4096, 32, 32, 8, 128, 14_336, 128_256])
    },
    Shape {
        tied: true,
        context: 131_072,
        rope_factors: true,
        ..llama("llama-3.2-1b", [2048, 16, 32, 8, 64, 8192, 128_256])
    },
    Shape {
        tied: true,
        context: 131_072,
        rope_factors: true,
        ..llama("llama-3.2-3b", [3072, 28, 24, 8, 128, 8192, 128_256])
    },
    Shape { context: 32_768, rope_base: 1e6, ..llama("mistral-7b", [4096, 32, 32, 8, 128, 14_336, 32_768]) },
    phi3("phi3-mini", [3072, 32, 32, 32, 96, 8192, 32_064]),
    gemma3("gemma3-270m", [640, 18, 4, 1, 256, 2048, 262_144]),
    gemma3("gemma3-1b", [1152, 26, 4, 1, 256, 6912, 262_144]),
];

const fn phi3(name: &'static str, sizes: [usize; 7]) -> Shape {
    let base = llama(name, sizes);
    Shape { arch: Arch::Phi3, context: 4096, rope_base: 10_000.0, sliding_window: Some(2047), ..base }
}
