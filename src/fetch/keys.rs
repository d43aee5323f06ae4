//! Reads TOML tables key by key, so that a key nobody asked for is an error that names the nearest known one.

use std::cell::RefCell;
use std::collections::BTreeSet;

use toml::{Table, Value};

use super::error::nearest;

/// One table and the keys asked of it. Errors are texts that start with the key's full path.
pub struct Keys<'a> {
    path: String,
    table: &'a Table,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Keys<'a> {
    /// The whole document.
    pub fn root(table: &'a Table) -> Self {
        Keys { path: String::new(), table, asked: RefCell::default() }
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { format!("`{key}`") } else { format!("`{}.{key}`", self.path) }
    }

    fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        self.table.get(key)
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, what: &str) -> String {
        format!("{} {what}", self.at(key))
    }

    /// A text, or `None` where the key is absent.
    pub fn text(&self, key: &'static str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(key, "must be a text")),
        }
    }

    /// A text that must be there and not be empty.
    pub fn need_text(&self, key: &'static str) -> Result<&'a str, String> {
        self.text(key)?.filter(|t| !t.is_empty()).ok_or_else(|| self.error(key, "is missing"))
    }

    /// A whole number that is not negative.
    pub fn number(&self, key: &'static str) -> Result<Option<u64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) if *n >= 0 => Ok(Some(n.unsigned_abs())),
            Some(_) => Err(self.error(key, "must be a whole number, not negative")),
        }
    }

    /// A list of texts; empty where absent.
    pub fn texts(&self, key: &'static str) -> Result<Vec<String>, String> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| self.error(key, "must hold texts only")))
                .collect(),
            Some(_) => Err(self.error(key, "must be a list of texts")),
        }
    }

    /// A table whose keys the caller asks for.
    pub fn table(&self, key: &'static str) -> Result<Option<Keys<'a>>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(self.child(key.to_owned(), table))),
            Some(_) => Err(self.error(key, "must be a table")),
        }
    }

    /// A list of tables; empty where absent.
    pub fn tables(&self, key: &'static str) -> Result<Vec<Keys<'a>>, String> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.error(key, "must be a list of tables"))?;
        list.iter().enumerate().map(|(i, value)| self.element(key, i, value)).collect()
    }

    /// The entries of a table whose keys are free (file names): each with its value.
    pub fn entries(&self, key: &'static str) -> Result<Vec<(&'a str, &'a Value)>, String> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Table(table)) => Ok(table.iter().map(|(k, v)| (k.as_str(), v)).collect()),
            Some(_) => Err(self.error(key, "must be a table")),
        }
    }

    /// One table inside a list found under `key`.
    pub fn element(&self, key: &str, index: usize, value: &'a Value) -> Result<Keys<'a>, String> {
        let path = format!("{key}[{index}]");
        match value {
            Value::Table(table) => Ok(self.child(path, table)),
            _ => Err(self.error(&path, "must be a table")),
        }
    }

    fn child(&self, key: String, table: &'a Table) -> Keys<'a> {
        let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
        Keys { path, table, asked: RefCell::default() }
    }

    /// Fails on the first key that was never asked for.
    pub fn finish(self) -> Result<(), String> {
        let asked = self.asked.borrow();
        let Some(unknown) = self.table.keys().find(|k| !asked.contains(k.as_str())) else { return Ok(()) };
        let hint = match nearest(unknown, asked.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("known here: {}", asked.iter().copied().collect::<Vec<_>>().join(", ")),
        };
        Err(format!("{} is not a known key; {hint}", self.at(unknown)))
    }
}
