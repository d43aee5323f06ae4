//! Folders of random weights as Hugging Face lays them out: `model.safetensors` in halves, and files of JSON beside it.
//!
//! Weights are random bits of one block, which is read over and over: its length is no multiple of any row's, so no two
//! rows are the same, and a model of a billion weights takes as long as writing its bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::f16;
use serde_json::{Map, Value, json};

use super::Error;
use super::synthetic_blocks::Random;

/// Halves of the block; odd, and no multiple of 3, 5 or 7.
const BLOCK: usize = (1 << 20) + 7;

/// What a tensor's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// Weights of a product, the first dimension its outputs: mean 0 and about `1 / sqrt(inputs)`, so that the product
    /// keeps the scale of what it is given.
    Weights,
    /// Gains of a norm, near 1.
    Gains,
    /// Biases, near 0.
    Offsets,
}

/// One tensor: its name, and its row-major shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// The tensors of a model as they are listed.
#[derive(Debug, Default)]
pub(super) struct Tensors(pub Vec<Tensor>);

impl Tensors {
    /// A matrix, or a convolution's kernel, without a bias.
    pub fn weights(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push(Tensor { name: name.into(), shape: shape.to_vec(), values: Values::Weights });
    }

    /// `NAME.weight` and, unless it has none, `NAME.bias` of its first dimension.
    pub fn linear(&mut self, name: &str, shape: &[usize], biased: bool) {
        self.weights(format!("{name}.weight"), shape);
        if biased {
            self.vector(format!("{name}.bias"), shape[0], Values::Offsets);
        }
    }

    /// `NAME.weight` and `NAME.bias` of a layer norm.
    pub fn norm(&mut self, name: &str, width: usize) {
        self.vector(format!("{name}.weight"), width, Values::Gains);
        self.vector(format!("{name}.bias"), width, Values::Offsets);
    }

    fn vector(&mut self, name: String, width: usize, values: Values) {
        self.0.push(Tensor { name, shape: vec![width], values });
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(Tensor::bytes).sum()
    }
}

impl Tensor {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> u64 {
        (self.count() * size_of::<f16>()) as u64
    }
}

/// Writes `model.safetensors` and the named files of JSON into `folder`, which it makes; the same bytes for the same
/// seed.
pub(super) fn write(
    folder: &Path,
    tensors: &Tensors,
    files: &[(&str, Value)],
    seed: u64,
) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|e| failed(folder, "create", e))?;
    for (name, content) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| failed(parent, "create", e))?;
        }
        fs::write(&path, content.to_string()).map_err(|e| failed(&path, "write", e))?;
    }
    let path = folder.join("model.safetensors");
    let file = File::create(&path).map_err(|e| failed(&path, "create", e))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut source = Source::new(seed);
    let mut all = || -> io::Result<()> {
        out.write_all(&head(tensors))?;
        tensors.0.iter().try_for_each(|tensor| source.write(tensor, &mut out))?;
        out.flush()
    };
    all().map_err(|e| failed(&path, "write", e))
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), action, source }
}

/// The head of a safetensors file, its length before it.
fn head(tensors: &Tensors) -> Vec<u8> {
    let mut entries = Map::new();
    let mut at = 0;
    for tensor in &tensors.0 {
        let end = at + tensor.bytes();
        let entry = json!({"dtype": "F16", "shape": tensor.shape, "data_offsets": [at, end]});
        entries.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut text = Value::Object(entries).to_string();
    // Tensors begin at a multiple of eight bytes.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut head = (text.len() as u64).to_le_bytes().to_vec();
    head.extend(text.as_bytes());
    head
}

/// Random halves.
struct Source {
    random: Random,
    /// Random signs and mantissas.
    bits: Vec<u16>,
    /// The block at each exponent that was asked for, as bytes.
    blocks: BTreeMap<u16, Vec<u8>>,
    /// Where in the block the next weights begin.
    at: usize,
}

impl Source {
    fn new(seed: u64) -> Source {
        let mut random = Random::new(seed);
        let mut bytes = vec![0; 2 * BLOCK];
        random.bytes(&mut bytes);
        let bits = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]) & 0x83ff).collect();
        Source { random, bits, blocks: BTreeMap::new(), at: 0 }
    }

    fn write(&mut self, tensor: &Tensor, out: &mut dyn Write) -> io::Result<()> {
        let near = match tensor.values {
            Values::Weights => return self.weights(tensor, out),
            Values::Gains => 1.0,
            Values::Offsets => 0.0,
        };
        (0..tensor.count())
            .try_for_each(|_| out.write_all(&f16::from_f32(near + 0.1 * self.random.signed()).to_le_bytes()))
    }

    /// Sign and mantissa are random and the exponent is fixed: sizes are uniform in [1, 2) times a power of two, the
    /// largest below `1 / sqrt(inputs)`.
    fn weights(&mut self, tensor: &Tensor, out: &mut dyn Write) -> io::Result<()> {
        let inputs: usize = tensor.shape.iter().skip(1).product();
        let exponent = ((inputs.max(1) as f32).sqrt().recip().log2().floor() as i32 + 15).clamp(1, 30);
        let exponent = (exponent as u16) << 10;
        let bits = &self.bits;
        let block = self.blocks.entry(exponent).or_insert_with(|| {
            bits.iter().flat_map(|sign_and_mantissa| (sign_and_mantissa | exponent).to_le_bytes()).collect()
        });
        let mut left = tensor.count();
        while left > 0 {
            let count = left.min(BLOCK - self.at);
            out.write_all(&block[2 * self.at..2 * (self.at + count)])?;
            self.at = (self.at + count) % BLOCK;
            left -= count;
        }
        Ok(())
    }
}

/// A token with a meaning of its own, as `tokenizer.json` lists it.
pub(super) fn special(id: usize, content: &str) -> Value {
    json!({
        "id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false
    })
}
