//! What a pickle made: flat lists whose entries refer to one another by index.

use std::rc::Rc;

use super::pickle::{Element, Fault, Global};

/// Dicts in one another that names are made of.
const MAX_DEPTH: usize = 4;
/// Entries of those dicts.
const MAX_ENTRIES: usize = 1 << 16;
/// The longest name of an entry.
const MAX_NAME: usize = 512;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// None, truth values, fractions and objects of [`Beside`](Global::Beside), which are not looked at.
    Other,
    Int(i64),
    Text(Rc<str>),
    Global(Global),
    /// In [`Objects::nodes`].
    Node(usize),
    /// In [`Objects::storages`].
    Storage(usize),
    /// In [`Objects::tensors`].
    Tensor(usize),
}

#[derive(Debug)]
pub(super) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
}

#[derive(Debug)]
pub(super) struct Storage {
    pub(super) key: Rc<str>,
    pub(super) element: Element,
    pub(super) elements: u64,
}

#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) storage: usize,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    /// The product of `shape`.
    pub(super) elements: u64,
    pub(super) contiguous: bool,
}

/// What a pickle made.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) root: Value,
    pub(super) nodes: Vec<Node>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<Tensor>,
}

impl Objects {
    /// The value of a key in a dict; the last of several.
    pub(super) fn get(&self, dict: usize, key: &str) -> Option<&Value> {
        let Some(Node::Dict(pairs)) = self.nodes.get(dict) else { return None };
        let is = |k: &Value| matches!(k, Value::Text(text) if &**text == key);
        pairs.iter().rev().find_map(|(k, value)| is(k).then_some(value))
    }

    pub(super) fn tensor(&self, value: &Value) -> Option<&Tensor> {
        match value {
            Value::Tensor(at) => self.tensors.get(*at),
            _ => None,
        }
    }

    /// Everything in a dict and the dicts in it, by names joined with dots. Dicts may hold one another many times,
    /// or themselves, so depth and number are bounded.
    pub(super) fn leaves(&self, dict: usize) -> Result<Vec<(String, &Value)>, Fault> {
        let mut leaves = Vec::new();
        let mut seen = 0;
        let mut waiting = vec![(dict, String::new(), 0)];
        while let Some((at, prefix, depth)) = waiting.pop() {
            let Some(Node::Dict(pairs)) = self.nodes.get(at) else { continue };
            for (key, value) in pairs {
                seen += 1;
                let Value::Text(key) = key else { continue };
                if seen > MAX_ENTRIES || prefix.len() + key.len() > MAX_NAME {
                    let problem =
                        format!("more than {MAX_ENTRIES} entries, or names longer than {MAX_NAME} bytes");
                    return Err(Fault::Refused(problem));
                }
                let name = format!("{prefix}{key}");
                match value {
                    Value::Node(node) if depth < MAX_DEPTH => {
                        waiting.push((*node, name + ".", depth + 1));
                    }
                    value => leaves.push((name, value)),
                }
            }
        }
        Ok(leaves)
    }
}
