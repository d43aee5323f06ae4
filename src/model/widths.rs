//! What a transformer's pass over some tokens takes of memory beside its weights.

/// How wide a transformer's activations are, in values a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// The residual stream.
    pub hidden: usize,
    /// Queries, keys and values together.
    pub qkv: usize,
    /// What attention gives.
    pub attended: usize,
    /// The first product of the feed-forward layer, gate and up side by side where it is gated.
    pub wide: usize,
    /// What is left of it for the second.
    pub inner: usize,
}

impl Widths {
    /// Bytes of the activations that are there at once, at most: the residual stream before and behind a block and its
    /// norm, and of the two halves of a block the larger, all of them f32. A product has its input once more besides: on a
    /// GPU as halves, on a CPU in the order in which it is read.
    pub fn pass_bytes(&self, tokens: usize, gpu: bool) -> u64 {
        let attention = self.qkv + self.attended;
        let feed_forward = self.wide + self.inner;
        let values = 3 * self.hidden + attention.max(feed_forward);
        let input = self.hidden.max(self.attended).max(self.inner);
        let a_token = values * size_of::<f32>() + input * if gpu { 2 } else { 4 };
        (a_token as u64).saturating_mul(tokens as u64)
    }

    /// Bytes of the largest matrix as halves, which a GPU makes of quantised weights for a product of many rows.
    pub fn halves_bytes(&self) -> u64 {
        let largest = (self.hidden * self.wide.max(self.qkv)) as u64;
        largest * size_of::<half::f16>() as u64
    }
}
