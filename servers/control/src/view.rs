//! The seam between the server and the loop.

use async_trait::async_trait;
use axum::body::Bytes;
use serde::{Deserialize, Serialize};

use crate::{GameInfo, GameWatch, History, LoopStatus, ModelInfo};

/// What the server asks of a running loop.
///
/// The synchronous methods answer from memory in well under a millisecond: they run on the server's workers. The
/// server asks for the state at most five times a second, however many pages are open.
#[async_trait]
pub trait LoopView: Send + Sync + 'static {
    /// The state of this moment.
    fn status(&self) -> LoopStatus;

    /// Scores, swaps, loss and latency so far; bounded, see [`HistoryKeeper`](crate::HistoryKeeper).
    fn history(&self) -> History;

    /// Games that can be watched, newest first; at most a few hundred.
    fn games(&self) -> Vec<GameInfo>;

    /// Begins to watch one game. `None` if there is no such game (any more).
    fn watch_game(&self, id: &str) -> Option<GameWatch>;

    /// Versions, newest first; at most a few hundred.
    async fn models(&self) -> Result<Vec<ModelInfo>, ControlError>;

    /// What an alias names now. Asked for once a second by everybody who follows it.
    ///
    /// # Errors
    /// `NotFound` if it names nothing (yet).
    async fn alias(&self, base_key: &str, alias: &str) -> Result<AliasInfo, ControlError>;

    /// The weight file of a version, for those who play it in their own process.
    ///
    /// # Errors
    /// `NotFound` if there is no such version.
    async fn weights(&self, base_key: &str, version: u64) -> Result<Weights, ControlError>;

    /// Makes a version champion.
    async fn promote(&self, base_key: &str, request: Promote) -> Result<AliasMove, ControlError>;

    /// Gives the place of the champion back to its predecessor, or to a named version.
    async fn rollback(&self, base_key: &str, request: Rollback) -> Result<AliasMove, ControlError>;

    /// Why the loop cannot take work now, if it cannot. The default names the stages that failed.
    fn not_ready(&self) -> Option<String> {
        let status = self.status();
        let failed: Vec<_> = status
            .stages
            .iter()
            .filter(|stage| stage.state == crate::StageState::Failed)
            .map(|stage| format!("{} failed: {}", stage.name.as_str(), stage.line))
            .collect();
        (!failed.is_empty()).then(|| failed.join("; "))
    }
}

/// Body of `POST /v1/models/{base}/promote`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// Version to make champion.
    pub version: u64,
    /// Revision of the alias that the caller has seen; refused if it moved since.
    #[serde(default)]
    pub expected_revision: Option<u64>,
    /// Kept with the move.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Body of `POST /v1/models/{base}/rollback`; an empty body means "to the previous champion".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Version to go back to.
    #[serde(default)]
    pub to: Option<u64>,
    /// Kept with the move.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Answer of `GET /v1/models/{base}/{alias}`: what the alias names, since when and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AliasInfo {
    /// The version's name, such as `tank-ai-dqn@12`.
    pub name: String,
    /// `champion`, `candidate` or `previous`.
    pub alias: String,
    /// Number of the move that made it so.
    pub revision: u64,
    /// When it moved.
    pub moved_at_ms: i64,
    /// Why it moved.
    pub reason: String,
    /// The version, as the list of models has it.
    pub card: ModelInfo,
}

impl AliasInfo {
    /// Changes when the alias moves. Weak: scores and verdict of the same version may change meanwhile.
    pub fn etag(&self) -> String {
        format!("W/\"{}-{}\"", self.revision, self.card.version)
    }
}

/// Answer of `GET /v1/models/{base}/versions/{version}/weights`.
#[derive(Clone, Debug)]
pub struct Weights {
    /// SHA-256 of `bytes`, in hex.
    pub sha256: String,
    /// A safetensors file.
    pub bytes: Bytes,
}

/// What a promotion or a rollback did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AliasMove {
    /// Base key of the model.
    pub model_key: String,
    /// `champion`.
    pub alias: String,
    /// Version that it points to now.
    pub version: u64,
    /// Version before.
    pub previous: Option<u64>,
    /// Number of this move.
    pub revision: u64,
}

/// What kind of failure; the server answers by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlErrorKind {
    /// No such model, version or game: 404.
    NotFound,
    /// The alias moved in between, or the request does not fit the state: 409.
    Conflict,
    /// The request makes no sense: 422.
    Invalid,
    /// A part that is needed is away, try again: 503.
    Unavailable,
    /// Anything else: 500.
    Internal,
}

/// A request that the loop could not do.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct ControlError {
    kind: ControlErrorKind,
    operation: &'static str,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ControlError {
    /// `operation` is what was attempted (`promoting tank-ai-dqn@12`), `message` why it failed.
    pub fn new(kind: ControlErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self { kind, operation, message: message.into(), hint: None, source: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the cause, for logs; callers of the API do not see it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of failure.
    pub fn kind(&self) -> ControlErrorKind {
        self.kind
    }

    /// What to do about it, if known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
