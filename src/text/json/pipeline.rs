//! The steps around a model: what is done to text before it is cut, how it is cut, and what frames its tokens.

use serde_json::Value;

use crate::text::build::SPACE_MARK;
use crate::text::pretokenize::{GPT2_WORDS, Pattern};
use crate::text::ranked::Prefix;

/// Steps nested in steps: no file has more than two levels.
const MAX_DEPTH: usize = 8;

/// What the steps before the model come to.
#[derive(Debug, Default)]
pub struct Steps {
    pub compose: bool,
    /// Spaces become SentencePiece's mark.
    pub marks: bool,
    /// A mark is put before every stretch of text, whatever it begins with.
    prepends: bool,
    /// What a pre-tokenizer of marks puts there.
    scheme: Option<Prefix>,
    /// Words begin at every mark.
    pub splits: bool,
    pub patterns: Vec<Pattern>,
    /// Text becomes bytes.
    pub bytes: bool,
}

impl Steps {
    pub fn read(normalizer: &Value, pre_tokenizer: &Value) -> Result<Steps, String> {
        let mut steps = Steps::default();
        each(normalizer, "normalizers", "normalizer", 0, &mut |kind, step| steps.normalizer(kind, step))?;
        each(pre_tokenizer, "pretokenizers", "pre_tokenizer", 0, &mut |kind, step| steps.cutter(kind, step))?;
        match (steps.bytes, steps.marks) {
            (true, true) => {
                Err("pre_tokenizer: ByteLevel and marks for spaces do not go together here".into())
            }
            (false, false) => {
                Err("pre_tokenizer: neither ByteLevel nor Metaspace, which are the two ways of chat \
                                   models"
                    .into())
            }
            (false, true) if !steps.patterns.is_empty() => {
                Err("pre_tokenizer: patterns without ByteLevel are not supported".into())
            }
            _ => Ok(steps),
        }
    }

    pub fn prefix(&self) -> Prefix {
        match (self.prepends, self.scheme) {
            (true, _) => Prefix::Every,
            (false, scheme) => scheme.unwrap_or(Prefix::Nowhere),
        }
    }

    fn normalizer(&mut self, kind: &str, step: &Value) -> Result<(), String> {
        let text = |field: &str| step.pointer(field).and_then(Value::as_str);
        match kind {
            "NFC" => self.compose = true,
            "Prepend" if text("/prepend") == Some(SPACE_MARK) && !self.prepends => self.prepends = true,
            "Replace" if text("/pattern/String") == Some(" ") && text("/content") == Some(SPACE_MARK) => {
                self.marks = true;
            }
            other => return Err(format!("normalizer: `{other}`, as it is set here, is not supported")),
        }
        Ok(())
    }

    fn cutter(&mut self, kind: &str, step: &Value) -> Result<(), String> {
        let flag = |field: &str, default: bool| step.get(field).and_then(Value::as_bool).unwrap_or(default);
        let refuse = |what: &str| Err(format!("pre_tokenizer: `{kind}` {what} is not supported"));
        if self.bytes {
            return refuse("after ByteLevel");
        }
        match kind {
            "ByteLevel" => {
                if flag("add_prefix_space", true) {
                    return refuse("with add_prefix_space");
                }
                if flag("use_regex", true) {
                    self.patterns.push(Pattern::new(GPT2_WORDS));
                }
                self.bytes = true;
            }
            "Digits" => {
                let one = flag("individual_digits", false);
                self.patterns.push(Pattern::new(if one { r"\p{N}" } else { r"\p{N}+" }));
            }
            "Split" => return self.split(step),
            "Metaspace" => {
                if step.get("replacement").and_then(Value::as_str) != Some(SPACE_MARK) {
                    return refuse("with another mark");
                }
                let scheme = step.get("prepend_scheme").and_then(Value::as_str).unwrap_or("always");
                self.scheme = Some(match scheme {
                    _ if !flag("add_prefix_space", true) => Prefix::Nowhere,
                    "always" => Prefix::Missing,
                    "first" => Prefix::First,
                    "never" => Prefix::Nowhere,
                    _ => return refuse("with this prepend_scheme"),
                });
                self.splits = flag("split", true);
                self.marks = true;
            }
            _ => return refuse("of this kind"),
        }
        Ok(())
    }

    fn split(&mut self, step: &Value) -> Result<(), String> {
        let behavior = step.get("behavior").and_then(Value::as_str).unwrap_or_default();
        let invert = step.get("invert").and_then(Value::as_bool).unwrap_or(false);
        let pattern = |kind: &str| step.pointer(&format!("/pattern/{kind}")).and_then(Value::as_str);
        match (pattern("Regex"), pattern("String"), behavior, invert) {
            (Some(regex), _, "Isolated", _) => self.patterns.push(Pattern::new(regex)),
            // The matches are the words, and what is between them is dropped.
            (Some(regex), _, "Removed", true) => {
                self.patterns.push(Pattern { gaps: false, ..Pattern::new(regex) });
            }
            (_, Some(text), "Isolated", _) => self.patterns.push(Pattern::new(regex::escape(text))),
            // No space is left to cut at.
            (_, Some(" "), ..) if self.marks => {}
            _ => {
                return Err(format!(
                    "pre_tokenizer: `Split` with {behavior:?}, as it is set here, is not supported"
                ));
            }
        }
        Ok(())
    }
}

/// Tokens that are put around a text, first and last.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub first: Option<u32>,
    pub last: Option<u32>,
}

impl Frame {
    pub fn read(post_processor: &Value) -> Result<Frame, String> {
        let mut frame = Frame::default();
        each(post_processor, "processors", "post_processor", 0, &mut |kind, step| match kind {
            "ByteLevel" => Ok(()),
            "TemplateProcessing" => frame.template(step),
            other => Err(format!("post_processor: `{other}` is not supported for chat models")),
        })?;
        Ok(frame)
    }

    fn template(&mut self, step: &Value) -> Result<(), String> {
        let bad = |what: &str| format!("post_processor: TemplateProcessing: {what}");
        let single = step.get("single").and_then(Value::as_array).ok_or_else(|| bad("has no `single`"))?;
        let mut text = false;
        for piece in single {
            if piece.get("Sequence").is_some() && !std::mem::replace(&mut text, true) {
                continue;
            }
            let name = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
            let ids = name.and_then(|name| step.get("special_tokens")?.get(name)?.get("ids")?.as_array());
            let id = match ids.map(Vec::as_slice) {
                Some([id]) => id.as_u64().and_then(|id| u32::try_from(id).ok()),
                _ => None,
            };
            let place = if text { &mut self.last } else { &mut self.first };
            if id.is_none() || place.replace(id.unwrap_or_default()).is_some() {
                return Err(bad("may put one token before the text and one behind it"));
            }
        }
        match text {
            true => Ok(()),
            false => Err(bad("has no place for the text")),
        }
    }
}

/// Calls `take` with every step and its kind, in order; a sequence is its steps.
fn each(
    step: &Value,
    list: &str,
    place: &str,
    depth: usize,
    take: &mut dyn FnMut(&str, &Value) -> Result<(), String>,
) -> Result<(), String> {
    if step.is_null() {
        return Ok(());
    }
    let kind = step.get("type").and_then(Value::as_str).ok_or_else(|| format!("{place}: has no type"))?;
    if kind != "Sequence" {
        return take(kind, step);
    }
    let steps = step.get(list).and_then(Value::as_array).filter(|_| depth < MAX_DEPTH);
    let steps =
        steps.ok_or_else(|| format!("{place}: a Sequence without a list of `{list}`, or too deep"))?;
    steps.iter().try_for_each(|step| each(step, list, place, depth + 1, take))
}
