//! API keys as the server knows them: never the key itself.

use std::sync::Arc;

/// One accepted API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Public name, fit for logs and metrics.
    pub id: String,
    /// SHA-256 of the key's bytes.
    pub sha256: [u8; 32],
}

/// Whose a piece of work is: an API key's, or nobody's in particular where no key is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Option<Arc<str>>);

impl Owner {
    /// The owner of the key with this id.
    pub fn key(id: &str) -> Owner {
        Owner(Some(id.into()))
    }

    /// Whether it is a key's.
    pub fn has_key(&self) -> bool {
        self.0.is_some()
    }
}
