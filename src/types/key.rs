//! API keys as the server knows them: never the key itself.

/// One accepted API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Public name, fit for logs and metrics.
    pub id: String,
    /// SHA-256 of the key's bytes.
    pub sha256: [u8; 32],
}
