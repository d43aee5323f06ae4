//! Whoever listens to a session for its speakers, beside those who hear its words.

use super::events::logged;
use crate::http::{ApiError, State, cast};
use crate::service::Context;
use crate::service::voices::Company;
use crate::types::speaker::Cast;

/// A session's listener, asked for names.
pub(super) struct Listener {
    state: State,
    ctx: Context,
    company: Company,
}

impl Listener {
    /// One of a session that begins.
    pub async fn open(state: &State, ctx: &Context) -> Result<Listener, ApiError> {
        let company = state.backend().company(ctx.clone()).await.map_err(logged)?;
        Ok(Listener { state: state.clone(), ctx: ctx.clone(), company })
    }

    /// What the session's audio is given to.
    pub fn company(&self) -> Company {
        self.company.clone()
    }

    /// Who spoke so far, by name. Where that fails the log says why, and what was said is told without it.
    pub async fn cast(&self) -> Option<Cast> {
        let found = self.company.so_far().await.map_err(logged).ok()?;
        let cast = cast::name(&self.state, &self.ctx, found, Vec::new()).await;
        cast.inspect_err(|error| tracing::warn!(error.message, "speakers have no names")).ok()
    }
}
