//! The header of a `model.bin`, and the conversion of its variables.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use half::slice::HalfFloatSliceExt;

use super::{Ct2, Dtype, Error, MAX_ENTRIES, MAX_NAME, MAX_RANK, VERSIONS, Variable};

/// Bytes converted at a time: they stay in the second-level cache between read and conversion.
const CHUNK: usize = 256 * 1024;

/// Reads and checks the whole header of a file of `len` bytes.
pub(super) fn header(file: File, path: PathBuf, len: u64, spec: &'static str) -> Result<Ct2, Error> {
    let mut cursor = Cursor { file: &file, path: &path, len, at: 0 };
    let version = cursor.u32("binary version")?;
    if !VERSIONS.contains(&version) {
        return Err(Error::Version { file: path, found: version });
    }
    let found = cursor.string("specification name")?;
    if found != spec {
        return Err(Error::Spec { file: path, found, expected: spec });
    }
    let revision = cursor.u32("specification revision")?;
    let variables = variables(&mut cursor)?;
    let aliases = aliases(&mut cursor, &variables)?;
    if cursor.at != len {
        let extra = len - cursor.at;
        return Err(cursor.invalid("end of file", format!("{extra} bytes after the last alias")));
    }
    Ok(Ct2 { file, path, revision, variables, aliases })
}

fn variables(cursor: &mut Cursor) -> Result<HashMap<String, Variable>, Error> {
    let count = cursor.count("number of variables")?;
    let mut variables = HashMap::new();
    for index in 0..count {
        let name = cursor.string(&format!("name of variable {index}"))?;
        let variable = variable(cursor, &name)?;
        if variables.insert(name.clone(), variable).is_some() {
            return Err(cursor.invalid(&name, "appears twice".into()));
        }
    }
    Ok(variables)
}

fn variable(cursor: &mut Cursor, name: &str) -> Result<Variable, Error> {
    let [rank] = cursor.bytes(&format!("rank of {name}"))?;
    let rank = usize::from(rank);
    if rank > MAX_RANK {
        return Err(cursor.invalid(name, format!("rank {rank}, at most {MAX_RANK} is believed")));
    }
    let mut shape = Vec::with_capacity(rank);
    for _ in 0..rank {
        shape.push(cursor.u32(&format!("dimensions of {name}"))? as usize);
    }
    let [code] = cursor.bytes(&format!("element type of {name}"))?;
    let dtype = Dtype::from_code(code)
        .ok_or_else(|| cursor.invalid(name, format!("element type {code}, 0 to 5 are known")))?;
    let bytes = cursor.u32(&format!("data length of {name}"))?;
    let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    let needed = elements.and_then(|n| n.checked_mul(dtype.size()));
    let (Some(elements), Some(needed)) = (elements, needed) else {
        return Err(cursor.invalid(name, format!("the product of the dimensions {shape:?} is too large")));
    };
    if needed as u64 != u64::from(bytes) {
        let reason = format!("{bytes} bytes of data where {shape:?} of {dtype:?} take {needed}");
        return Err(cursor.invalid(name, reason));
    }
    let offset = cursor.at;
    cursor.skip(u64::from(bytes), &format!("data of {name}"))?;
    Ok(Variable { shape, dtype, offset, elements })
}

fn aliases(
    cursor: &mut Cursor,
    variables: &HashMap<String, Variable>,
) -> Result<HashMap<String, String>, Error> {
    let count = cursor.count("number of aliases")?;
    let mut aliases = HashMap::new();
    for index in 0..count {
        let alias = cursor.string(&format!("name of alias {index}"))?;
        let target = cursor.string(&format!("target of alias {alias}"))?;
        if !variables.contains_key(&target) {
            return Err(cursor.invalid(&alias, format!("is an alias of {target}, which is not there")));
        }
        if variables.contains_key(&alias) || aliases.insert(alias.clone(), target).is_some() {
            return Err(cursor.invalid(&alias, "appears twice".into()));
        }
    }
    Ok(aliases)
}

/// A position in the file. Invariant: `at <= len`.
struct Cursor<'a> {
    file: &'a File,
    path: &'a PathBuf,
    len: u64,
    at: u64,
}

impl Cursor<'_> {
    fn bytes<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, field)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8], field: &str) -> Result<(), Error> {
        let start = self.at;
        self.skip(bytes.len() as u64, field)?;
        self.file.read_exact_at(bytes, start).map_err(|source| Error::Io { file: self.path.clone(), source })
    }

    fn skip(&mut self, count: u64, field: &str) -> Result<(), Error> {
        match self.at.checked_add(count).filter(|&end| end <= self.len) {
            Some(end) => {
                self.at = end;
                Ok(())
            }
            None => Err(Error::Truncated { file: self.path.clone(), field: field.to_owned(), len: self.len }),
        }
    }

    fn u32(&mut self, field: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.bytes(field)?))
    }

    fn count(&mut self, field: &str) -> Result<u32, Error> {
        let count = self.u32(field)?;
        if count > MAX_ENTRIES {
            return Err(self.invalid(field, format!("{count}, at most {MAX_ENTRIES} is believed")));
        }
        Ok(count)
    }

    fn string(&mut self, field: &str) -> Result<String, Error> {
        let len = usize::from(u16::from_le_bytes(self.bytes(field)?));
        if len == 0 || len > MAX_NAME {
            return Err(self.invalid(field, format!("{len} bytes long, 1 to {MAX_NAME} is believed")));
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes, field)?;
        if bytes.pop() != Some(0) || bytes.contains(&0) {
            return Err(self.invalid(field, "does not end at its closing zero".into()));
        }
        String::from_utf8(bytes).map_err(|_| self.invalid(field, "is not UTF-8".into()))
    }

    fn invalid(&self, field: &str, reason: String) -> Error {
        Error::Invalid { file: self.path.clone(), field: field.to_owned(), reason }
    }
}

impl Ct2 {
    pub(super) fn read_at(&self, name: &str, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        self.file.read_exact_at(bytes, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::Truncated { file: self.path.clone(), field: format!("data of {name}"), len: offset }
            }
            _ => Error::Io { file: self.path.clone(), source },
        })
    }

    /// The stored numbers as f32, not yet divided by any scale.
    pub(super) fn read_raw(&self, name: &str, variable: &Variable) -> Result<Vec<f32>, Error> {
        // The length was checked against the file's own length when it was opened.
        let mut values = vec![0.0f32; variable.elements];
        if variable.dtype == Dtype::F32 {
            self.read_at(name, bytemuck::cast_slice_mut(&mut values), variable.offset)?;
            return Ok(values);
        }
        let size = variable.dtype.size();
        let mut scratch = vec![0u16; CHUNK / 2];
        let mut offset = variable.offset;
        for part in values.chunks_mut(CHUNK / size) {
            let bytes = &mut bytemuck::cast_slice_mut(&mut scratch)[..part.len() * size];
            self.read_at(name, bytes, offset)?;
            offset += bytes.len() as u64;
            convert(variable.dtype, bytes, part);
        }
        Ok(values)
    }

    /// Divides by the scale a row (int8) or the one scale (int16).
    pub(super) fn dequantise(
        &self,
        name: &str,
        variable: &Variable,
        values: &mut [f32],
    ) -> Result<(), Error> {
        let scale_name = format!("{name}_scale");
        let (_, scale) = self.find(&scale_name).ok_or_else(|| self.missing(&scale_name))?;
        let rows = variable.shape.first().copied().unwrap_or(1);
        if !matches!(scale.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(self.invalid(&scale_name, format!("is {:?}, a float is needed", scale.dtype)));
        }
        if scale.elements != 1 && scale.elements != rows {
            return Err(self.shape_error(&scale_name, scale, &[rows]));
        }
        let scales = self.read_raw(&scale_name, scale)?;
        if let Some(bad) = scales.iter().find(|s| !(s.is_finite() && **s != 0.0)) {
            return Err(self.invalid(&scale_name, format!("a scale is {bad}")));
        }
        // One scale covers everything; otherwise each covers its row.
        let width = values.len().div_ceil(scales.len().max(1)).max(1);
        for (row, scale) in values.chunks_mut(width).zip(&scales) {
            let inverse = 1.0 / scale;
            row.iter_mut().for_each(|v| *v *= inverse);
        }
        Ok(())
    }
}

/// Converts little-endian `bytes` of one type to f32; `out.len()` elements.
fn convert(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 | Dtype::I32 => {
            for (value, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value =
                    if dtype == Dtype::F32 { f32::from_le_bytes(*b) } else { i32::from_le_bytes(*b) as f32 };
            }
        }
        Dtype::I8 => out.iter_mut().zip(bytes).for_each(|(value, &b)| *value = f32::from(b as i8)),
        Dtype::I16 => {
            for (value, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from(i16::from_le_bytes(*b));
            }
        }
        Dtype::F16 => {
            let halves: &[u16] = bytemuck::cast_slice(bytes);
            half::slice::HalfBitsSliceExt::reinterpret_cast::<half::f16>(halves).convert_to_f32_slice(out);
        }
        Dtype::Bf16 => {
            let halves: &[u16] = bytemuck::cast_slice(bytes);
            half::slice::HalfBitsSliceExt::reinterpret_cast::<half::bf16>(halves).convert_to_f32_slice(out);
        }
    }
}
