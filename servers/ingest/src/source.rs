//! Who sends. The one place where an API key will be bound to what it may write.

use axum::http::HeaderMap;
use flywheel_events::GameId;

use crate::Refusal;

/// The producer behind a request or a socket, found once when it opens.
///
/// Today every producer that reaches the door is this machine's. A key in the head of the request belongs into
/// [`Source::of`], and the prefix of game ids that it may write into [`Source::check`]; both doors ask both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Reached the door over loopback, without a key.
    Local,
}

impl Source {
    /// # Errors
    /// Never so far.
    pub fn of(_headers: &HeaderMap) -> Result<Self, Refusal> {
        Ok(Self::Local)
    }

    /// # Errors
    /// Never so far.
    pub fn check(&self, _game: &GameId) -> Result<(), Refusal> {
        match self {
            Self::Local => Ok(()),
        }
    }
}
