//! Metadata of a GGUF file: its values, and getters that say which field of which file is wrong.

use std::path::Path;

use super::Error;

/// One metadata value. The integer widths of the file are kept only as far as a reader can tell them apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(String),
    Array(Array),
}

/// A metadata array; all elements have one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Str(StrArray),
    Array(Vec<Array>),
}

/// Many strings in two allocations: a vocabulary of 262,144 tokens takes 3 MB instead of 12.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StrArray {
    text: String,
    /// Where each string ends in `text`.
    ends: Vec<u32>,
}

impl StrArray {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)? as usize;
        let start = match i {
            0 => 0,
            _ => *self.ends.get(i - 1)? as usize,
        };
        self.text.get(start..end)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }

    /// Appends one string; false where all of them together would pass 4 GiB.
    #[must_use]
    pub fn push(&mut self, s: &str) -> bool {
        let Some(end) = self.text.len().checked_add(s.len()).and_then(|n| u32::try_from(n).ok()) else {
            return false;
        };
        self.text.push_str(s);
        self.ends.push(end);
        true
    }
}

impl<S: AsRef<str>> FromIterator<S> for StrArray {
    /// Strings past 4 GiB in all are left out.
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        let mut all = StrArray::default();
        for s in iter {
            if !all.push(s.as_ref()) {
                break;
            }
        }
        all
    }
}

impl Value {
    /// The type's name in the format's specification.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "uint8",
            Value::I8(_) => "int8",
            Value::U16(_) => "uint16",
            Value::I16(_) => "int16",
            Value::U32(_) => "uint32",
            Value::I32(_) => "int32",
            Value::U64(_) => "uint64",
            Value::I64(_) => "int64",
            Value::F32(_) => "float32",
            Value::F64(_) => "float64",
            Value::Bool(_) => "bool",
            Value::Str(_) => "string",
            Value::Array(_) => "array",
        }
    }

    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

/// A metadata field of a file, present or not. Each getter fails with the file and the key where the field is
/// missing or of another type.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    pub(super) path: &'a Path,
    pub(super) key: &'a str,
    pub(super) value: Option<&'a Value>,
}

impl<'a> Field<'a> {
    /// The raw value.
    pub fn value(&self) -> Option<&'a Value> {
        self.value
    }

    pub fn is_present(&self) -> bool {
        self.value.is_some()
    }

    /// `None` where the field is missing, an error where it is present and `get` refuses it:
    /// `gguf.meta("k").opt(Field::u32)?`.
    pub fn opt<T>(self, get: impl FnOnce(Self) -> Result<T, Error>) -> Result<Option<T>, Error> {
        self.value.map(|_| get(self)).transpose()
    }

    /// Any integer type whose value fits.
    pub fn u32(self) -> Result<u32, Error> {
        let value = self.required()?;
        let n = value.integer().ok_or_else(|| self.wrong("an unsigned integer"))?;
        u32::try_from(n).map_err(|_| self.bad(format!("{n} is out of range")))
    }

    /// [`u32`](Self::u32) as a size.
    pub fn usize(self) -> Result<usize, Error> {
        self.u32().map(|n| n as usize)
    }

    pub fn u32_or(self, default: u32) -> Result<u32, Error> {
        Ok(self.opt(Field::u32)?.unwrap_or(default))
    }

    /// A finite float.
    pub fn f32(self) -> Result<f32, Error> {
        let v = match self.required()? {
            Value::F32(v) => *v,
            Value::F64(v) => *v as f32,
            _ => return Err(self.wrong("a float")),
        };
        if v.is_finite() { Ok(v) } else { Err(self.bad(format!("{v} is not a finite number"))) }
    }

    pub fn f32_or(self, default: f32) -> Result<f32, Error> {
        Ok(self.opt(Field::f32)?.unwrap_or(default))
    }

    pub fn bool(self) -> Result<bool, Error> {
        match self.required()? {
            Value::Bool(v) => Ok(*v),
            _ => Err(self.wrong("a bool")),
        }
    }

    pub fn bool_or(self, default: bool) -> Result<bool, Error> {
        Ok(self.opt(Field::bool)?.unwrap_or(default))
    }

    pub fn str(self) -> Result<&'a str, Error> {
        match self.required()? {
            Value::Str(s) => Ok(s),
            _ => Err(self.wrong("a string")),
        }
    }

    pub fn strs(self) -> Result<&'a StrArray, Error> {
        match self.required()? {
            Value::Array(Array::Str(a)) => Ok(a),
            _ => Err(self.wrong("an array of strings")),
        }
    }

    /// Finite floats.
    pub fn f32s(self) -> Result<&'a [f32], Error> {
        match self.required()? {
            Value::Array(Array::F32(a)) => match a.iter().find(|v| !v.is_finite()) {
                None => Ok(a),
                Some(v) => Err(self.bad(format!("{v} among its values is not a finite number"))),
            },
            _ => Err(self.wrong("an array of float32")),
        }
    }

    pub fn i32s(self) -> Result<&'a [i32], Error> {
        match self.required()? {
            Value::Array(Array::I32(a)) => Ok(a),
            _ => Err(self.wrong("an array of int32")),
        }
    }

    fn required(&self) -> Result<&'a Value, Error> {
        self.value.ok_or_else(|| Error::Missing {
            path: self.path.to_owned(),
            field: format!("metadata field {}", self.key),
        })
    }

    fn wrong(&self, wanted: &str) -> Error {
        let found = self.value.map_or("nothing", Value::type_name);
        self.bad(format!("expected {wanted}, found {found}"))
    }

    fn bad(&self, problem: String) -> Error {
        Error::malformed(self.path, format!("metadata field {}", self.key), problem)
    }
}
