//! The part of Python's pickle machine that dicts of tensors take.
//!
//! Objects live in flat lists and refer to one another by index: however deep a pickle nests, or whether it refers
//! to itself, nothing here recurses. What it may push is bounded, so memory is a small multiple of its bytes.

use std::collections::HashMap;

use super::objects::{Node, Objects, Storage, Tensor, Value};

/// Values that may be pushed.
const MAX_VALUES: usize = 1 << 20;
/// The longest module or name.
const MAX_LINE: usize = 256;
/// Dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Why a pickle is not read.
#[derive(Debug)]
pub(super) enum Fault {
    /// It contradicts itself.
    Damaged(String),
    /// It wants what is not done.
    Refused(String),
}

/// Element types of storages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    F64,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// Bytes an element.
    pub(super) fn size(self) -> u64 {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }

    /// By the name of PyTorch's class, in the module `torch`.
    fn of_storage(class: &str) -> Option<Element> {
        Some(match class {
            "FloatStorage" => Element::F32,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::Bf16,
            "DoubleStorage" => Element::F64,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "CharStorage" => Element::I8,
            "ByteStorage" => Element::U8,
            "BoolStorage" => Element::Bool,
            _ => return None,
        })
    }
}

/// Element types that checkpoints may hold as values, in the module `torch`.
const DTYPES: [&str; 10] =
    ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"];

/// Modules whose objects training frameworks put beside the tensors: settings, versions. Nothing of them is made; where one
/// stands, [`Value::Other`] does.
const BESIDE: [&str; 4] = ["pyannote.", "torch.torch_version", "pytorch_lightning.", "lightning."];

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    /// A class of [`BESIDE`].
    Beside,
    OrderedDict,
    RebuildTensor,
    Storage(Element),
    Dtype,
}

/// Reads a pickle of protocol 2.
pub(super) fn read(bytes: &[u8]) -> Result<Objects, Fault> {
    let objects =
        Objects { root: Value::Other, nodes: Vec::new(), storages: Vec::new(), tensors: Vec::new() };
    let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
    let mut machine = Machine { bytes, at: 0, stack, marks, memo, pushed: 0, objects };
    while !machine.step()? {}
    let root = machine.pop()?;
    Ok(Objects { root, ..machine.objects })
}

fn damaged(problem: impl Into<String>) -> Fault {
    Fault::Damaged(problem.into())
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack. Invariant: ascending, none above the stack; nothing below the last one is popped.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Values and marks pushed so far.
    pushed: usize,
    objects: Objects,
}

impl Machine<'_> {
    /// Runs one opcode; true at the last.
    fn step(&mut self) -> Result<bool, Fault> {
        let [op] = self.take()?;
        match op {
            b'.' => return Ok(true),
            0x80 => match self.take()? {
                [2] => {}
                [version] => return Err(Fault::Refused(format!("pickle protocol {version}; 2 is read"))),
            },
            b'(' => {
                self.count()?;
                self.marks.push(self.stack.len());
            }
            b'q' | b'r' => {
                let key = self.key(op == b'r')?;
                let value = self.pop()?;
                self.memo.insert(key, value.clone());
                self.stack.push(value);
            }
            b'h' | b'j' => {
                let key = self.key(op == b'j')?;
                let value = self.memo.get(&key).cloned();
                self.push(value.ok_or_else(|| damaged(format!("memo {key} is read before it is written")))?)?;
            }
            b't' => {
                let values = self.pop_to_mark()?;
                self.push_node(Node::Tuple(values))?;
            }
            0x85..=0x87 => {
                let values = self.pop_many(usize::from(op - 0x84))?;
                self.push_node(Node::Tuple(values))?;
            }
            b')' => self.push_node(Node::Tuple(Vec::new()))?,
            b']' => self.push_node(Node::List(Vec::new()))?,
            b'}' => self.push_node(Node::Dict(Vec::new()))?,
            b'a' | b'e' | b's' | b'u' => self.put(op)?,
            b'c' => self.global()?,
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            0x81 => self.object()?,
            b'b' => self.build()?,
            _ => self.constant(op)?,
        }
        Ok(false)
    }

    fn constant(&mut self, op: u8) -> Result<(), Fault> {
        let value = match op {
            b'N' | 0x88 | 0x89 => Value::Other,
            b'G' => {
                self.take::<8>()?;
                Value::Other
            }
            b'K' => Value::Int(i64::from(u8::from_le_bytes(self.take()?))),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.take()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.take()?))),
            0x8a => {
                let [len] = self.take()?;
                let bytes = self.slice(usize::from(len))?;
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut wide = if negative { [0xff; 8] } else { [0; 8] };
                let Some(low) = wide.get_mut(..bytes.len()) else {
                    return Err(Fault::Refused(format!("an integer of {len} bytes; 8 are read")));
                };
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            b'X' => {
                let len = u32::from_le_bytes(self.take()?) as usize;
                let text = std::str::from_utf8(self.slice(len)?);
                Value::Text(text.map_err(|_| damaged("a text is not UTF-8"))?.into())
            }
            _ => {
                let at = self.at - 1;
                let problem =
                    format!("opcode {op:#04x} at byte {at}, which tensors do not need, is not read");
                return Err(Fault::Refused(problem));
            }
        };
        self.push(value)
    }

    /// A name: one of the few that are known, none of which is called.
    fn global(&mut self) -> Result<(), Fault> {
        let (module, name) = (self.line()?, self.line()?);
        let global = match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
            ("torch", name) if DTYPES.contains(&name) => Some(Global::Dtype),
            ("torch", name) => Element::of_storage(name).map(Global::Storage),
            (module, _) => BESIDE.iter().any(|name| module.starts_with(name)).then_some(Global::Beside),
        };
        let refused = || {
            let (module, name) = (module.escape_debug(), name.escape_debug());
            Fault::Refused(format!(
                "asks for {module}.{name}, which is not run; save the `state_dict()` alone"
            ))
        };
        self.push(Value::Global(global.ok_or_else(refused)?))
    }

    /// A storage, by the tuple `("storage", class, key, place, number of elements)`.
    fn storage(&mut self) -> Result<(), Fault> {
        let id = self.pop_tuple()?;
        let storage = match self.tuple(id) {
            [
                Value::Text(kind),
                Value::Global(Global::Storage(element)),
                Value::Text(key),
                _,
                Value::Int(n),
            ] if &**kind == "storage" && *n >= 0 => {
                Storage { key: key.clone(), element: *element, elements: n.unsigned_abs() }
            }
            _ => return Err(damaged("a persistent id is not that of a storage")),
        };
        self.objects.storages.push(storage);
        self.push(Value::Storage(self.objects.storages.len() - 1))
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let arguments = self.pop_tuple()?;
        let called = self.pop()?;
        let tensor = match (&called, self.tuple(arguments)) {
            (Value::Global(Global::Beside), _) => return self.push(Value::Other),
            (Value::Global(Global::OrderedDict), []) => None,
            (
                Value::Global(Global::RebuildTensor),
                [Value::Storage(storage), Value::Int(offset), Value::Node(size), Value::Node(stride), ..],
            ) => Some(self.rebuild(*storage, *offset, *size, *stride)?),
            _ => return Err(damaged("a call of something else than it is for, or with other arguments")),
        };
        match tensor {
            None => self.push_node(Node::Dict(Vec::new())),
            Some(tensor) => {
                self.objects.tensors.push(tensor);
                self.push(Value::Tensor(self.objects.tensors.len() - 1))
            }
        }
    }

    fn rebuild(&self, storage: usize, offset: i64, size: usize, stride: usize) -> Result<Tensor, Fault> {
        let (size, stride) = (self.tuple(size), self.tuple(stride));
        let bad = || damaged(format!("a tensor of {} sizes makes no sense", size.len()));
        if size.len() != stride.len() || size.len() > MAX_RANK {
            return Err(bad());
        }
        let mut shape = Vec::with_capacity(size.len());
        let (mut elements, mut contiguous) = (1u64, true);
        for (size, stride) in size.iter().zip(stride).rev() {
            let (Value::Int(size), Value::Int(stride)) = (size, stride) else { return Err(bad()) };
            let length = usize::try_from(*size).map_err(|_| bad())?;
            contiguous &= length <= 1 || u64::try_from(*stride) == Ok(elements);
            elements = elements.checked_mul(length as u64).ok_or_else(bad)?;
            shape.insert(0, length);
        }
        let offset = u64::try_from(offset).map_err(|_| bad())?;
        Ok(Tensor { storage, offset, shape, elements, contiguous })
    }

    /// A new object of a class beside the tensors.
    fn object(&mut self) -> Result<(), Fault> {
        self.pop_tuple()?;
        match self.pop()? {
            Value::Global(Global::Beside) => self.push(Value::Other),
            _ => Err(damaged("a new object of something else than a class")),
        }
    }

    /// Attributes of an object: PyTorch gives dicts of parameters `_metadata`, which is not needed, and objects beside the
    /// tensors have theirs.
    fn build(&mut self) -> Result<(), Fault> {
        self.pop()?;
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.get(floor..).and_then(<[Value]>::last) == Some(&Value::Other) {
            return Ok(());
        }
        match self.top_node() {
            Some(Node::Dict(_)) => Ok(()),
            _ => Err(damaged("attributes are given to what is no dict")),
        }
    }

    /// Appends to a list, or puts pairs into a dict.
    fn put(&mut self, op: u8) -> Result<(), Fault> {
        let values = match op {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let (pairs, rest) = values.as_chunks::<2>();
        match (op, self.top_node()) {
            (b'a' | b'e', Some(Node::List(list))) => list.extend(values),
            (b's' | b'u', Some(Node::Dict(dict))) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (key.clone(), value.clone())));
            }
            _ => return Err(damaged("values are put into what does not take them")),
        }
        Ok(())
    }

    fn top_node(&mut self) -> Option<&mut Node> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.get(floor..)?.last() {
            Some(Value::Node(at)) => self.objects.nodes.get_mut(*at),
            _ => None,
        }
    }

    /// The values of a tuple; none of what is no tuple.
    fn tuple(&self, at: usize) -> &[Value] {
        match self.objects.nodes.get(at) {
            Some(Node::Tuple(values)) => values,
            _ => &[],
        }
    }

    fn count(&mut self) -> Result<(), Fault> {
        self.pushed += 1;
        match self.pushed > MAX_VALUES {
            true => Err(Fault::Refused(format!("holds more than {MAX_VALUES} values"))),
            false => Ok(()),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        self.count()?;
        self.stack.push(value);
        Ok(())
    }

    fn push_node(&mut self, node: Node) -> Result<(), Fault> {
        self.objects.nodes.push(node);
        self.push(Value::Node(self.objects.nodes.len() - 1))
    }

    fn pop(&mut self) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| damaged("the stack is empty where a value is taken"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, Fault> {
        let mut values = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        Ok(values)
    }

    fn pop_tuple(&mut self) -> Result<usize, Fault> {
        match self.pop()? {
            Value::Node(at) if matches!(self.objects.nodes.get(at), Some(Node::Tuple(_))) => Ok(at),
            _ => Err(damaged("something else where a tuple must be")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Fault> {
        let mark = self.marks.pop().ok_or_else(|| damaged("no mark where one is taken"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// The number of a memo.
    fn key(&mut self, long: bool) -> Result<u32, Fault> {
        Ok(if long { u32::from_le_bytes(self.take()?) } else { u32::from(u8::from_le_bytes(self.take()?)) })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(N)?);
        Ok(out)
    }
}

impl<'a> Machine<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let bytes = self.bytes;
        let slice = self.at.checked_add(len).and_then(|end| bytes.get(self.at..end));
        let slice = slice.ok_or_else(|| damaged(format!("ends at byte {}, inside a value", bytes.len())))?;
        self.at += len;
        Ok(slice)
    }

    /// Text up to the end of a line.
    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().take(MAX_LINE).position(|&b| b == b'\n');
        let line = self.slice(len.ok_or_else(|| damaged("a name does not end"))? + 1)?;
        std::str::from_utf8(line.strip_suffix(b"\n").unwrap_or(line))
            .map_err(|_| damaged("a name is not UTF-8"))
    }
}
