//! What a tokenizer is built from: plain data, as model files carry it.

/// How text becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Byte-level BPE by merge rank (`tokenizer.ggml.model = gpt2`).
    Bpe,
    /// SentencePiece by token score with byte fallback (`tokenizer.ggml.model = llama`).
    Spm,
}

/// What a token is for. The numbers are those of GGUF's `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    Normal = 1,
    /// Stands for what the vocabulary lacks.
    Unknown = 2,
    /// Structure: never made from a user's text, never shown.
    Control = 3,
    /// Matched in any text before all other tokens.
    UserDefined = 4,
    Unused = 5,
    /// One byte, written `<0x0A>`.
    Byte = 6,
}

impl TokenKind {
    /// From the file's number; numbers it does not know are normal tokens.
    pub fn from_number(n: i32) -> TokenKind {
        match n {
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Normal,
        }
    }
}

/// A tokenizer as a model file describes it. Borrowed: building copies what it keeps.
#[derive(Debug, Clone)]
pub struct TokenizerSpec<'a> {
    pub family: Family,
    /// Text of each token, by id. BPE tokens are in GPT-2's alphabet of byte symbols.
    pub tokens: Vec<&'a str>,
    /// A [`TokenKind`] number for each token; empty means all are normal.
    pub kinds: &'a [i32],
    /// A score for each token (SentencePiece); empty means all are 0.
    pub scores: &'a [f32],
    /// `left right`, best first (BPE).
    pub merges: Vec<&'a str>,
    /// Name of the pre-tokenizer (BPE), as llama.cpp calls them; `None` is `default`.
    pub pre: Option<&'a str>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    pub unknown: Option<u32>,
    /// `None` takes the family's default.
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    /// A space before text at the start and after control tokens (SentencePiece); `None` is yes.
    pub add_space_prefix: Option<bool>,
}

impl TokenizerSpec<'_> {
    /// A spec of this family with nothing in it.
    pub fn empty(family: Family) -> Self {
        TokenizerSpec {
            family,
            tokens: Vec::new(),
            kinds: &[],
            scores: &[],
            merges: Vec::new(),
            pre: None,
            bos: None,
            eos: None,
            eot: None,
            unknown: None,
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
        }
    }
}
