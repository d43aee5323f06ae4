//! What the paragraph styles of an odt file stand for.

use std::collections::HashMap;

use super::super::xml::{Node, Xml};
use super::super::{Error, Kind};
use super::styles::Role;

/// Styles that are based on each other in a ring end here.
const LONGEST: usize = 20;

/// The style that each style is based on.
#[derive(Default)]
pub(super) struct Parents {
    all: HashMap<String, String>,
}

impl Parents {
    /// Adds the styles of a member.
    pub(super) fn read(&mut self, member: &str, text: &str) -> Result<(), Error> {
        let mut xml = Xml::new(Kind::Odt, member, text);
        loop {
            match xml.next()? {
                Node::Open(tag) if tag.name == "style" => {
                    if let (Some(name), Some(parent)) = (tag.get("name"), tag.get("parent-style-name")) {
                        self.all.insert(name, parent);
                    }
                }
                // Styles come first.
                Node::Open(tag) if tag.name == "body" => return Ok(()),
                Node::End => return Ok(()),
                _ => {}
            }
        }
    }

    pub(super) fn role(&self, style: &str) -> Option<Role> {
        let mut style = style;
        for _ in 0..LONGEST {
            // `_20_` is a blank in a name.
            let name = style.to_lowercase().replace("_20_", " ");
            if name == "title" {
                return Some(Role::Title);
            }
            if let Some(Ok(level @ 1..=10)) = name.strip_prefix("heading ").map(str::parse::<u8>) {
                return Some(Role::Heading(level.min(6)));
            }
            style = self.all.get(style)?;
        }
        None
    }
}
