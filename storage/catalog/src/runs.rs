//! Runs of jobs: a state machine in a table.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CatalogError, CatalogErrorKind, database::Database};

/// Milliseconds since 1970-01-01 UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64))
}

/// Id of a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunId {
    type Err = CatalogError;

    fn from_str(text: &str) -> Result<Self, CatalogError> {
        let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if fits {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(64).collect();
        Err(CatalogError::new(CatalogErrorKind::NotFound, "looking for run", shown, "that is not the id of a run"))
    }
}

/// Where a run stands. `queued → running → (stopping →) stopped | completed | failed`, and back to `queued`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    Queued,
    Running,
    /// Asked to stop; it does so at its next checkpoint.
    Stopping,
    Stopped,
    Completed,
    Failed,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "queued" => Self::Queued,
            "running" => Self::Running,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            "completed" => Self::Completed,
            // The table's CHECK allows nothing else.
            _ => Self::Failed,
        }
    }

    /// Whether a run in this state will not go on by itself.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Stopped | Self::Completed | Self::Failed)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    pub id: RunId,
    /// `train`, `judge`, …
    pub kind: String,
    pub spec: Value,
    pub state: RunState,
    pub lease_owner: Option<String>,
    pub lease_until_ms: Option<i64>,
    pub fence: i64,
    /// Where the newest checkpoint lies.
    pub checkpoint: Option<String>,
    pub progress: Value,
    /// Why it failed.
    pub error: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

/// The right to work on a run, until it ends or is taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub run: RunId,
    pub owner: String,
    pub fence: i64,
    pub ttl: Duration,
}

/// What a worker is told when it reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    pub stop_requested: bool,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub kind: Option<String>,
    pub state: Option<RunState>,
}

/// The table of runs. Cheap to clone.
#[derive(Clone)]
pub struct Runs {
    database: Database,
    clock: Clock,
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").finish_non_exhaustive()
    }
}

/// A row as it is stored.
pub(crate) struct Columns {
    pub id: String,
    pub kind: String,
    pub spec: String,
    pub state: String,
    pub lease_owner: Option<String>,
    pub lease_until_ms: Option<i64>,
    pub fence: i64,
    pub checkpoint: Option<String>,
    pub progress: String,
    pub error: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

pub(crate) fn run_of(row: Columns) -> Run {
    let json = |text: String| serde_json::from_str(&text).unwrap_or(Value::Null);
    Run {
        id: RunId(row.id),
        kind: row.kind,
        spec: json(row.spec),
        state: RunState::parse(&row.state),
        lease_owner: row.lease_owner,
        lease_until_ms: row.lease_until_ms,
        fence: row.fence,
        checkpoint: row.checkpoint,
        progress: json(row.progress),
        error: row.error,
        created_at_ms: row.created_at_ms,
        updated_at_ms: row.updated_at_ms,
    }
}

pub(crate) fn failed(operation: &'static str, target: impl fmt::Display) -> impl FnOnce(sqlx::Error) -> CatalogError {
    let target = target.to_string();
    move |error| CatalogError::new(CatalogErrorKind::Unavailable, operation, target, error)
}

/// PostgreSQL has no NUL in a text; a text that came from elsewhere must not fail the run for it.
pub(crate) fn without_nul(text: impl Into<String>) -> String {
    let text = text.into();
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// A lease that begins now: `$1` owner, `$2` until, `$3` now.
const LEASE: &str = "UPDATE runs SET state = CASE state WHEN 'stopping' THEN 'stopping' ELSE 'running' END, \
                     lease_owner = $1, lease_until_ms = $2, fence = fence + 1, error = NULL, updated_at_ms = $3";
/// Runs that a worker may take at `$3`.
const FREE: &str = "(state = 'queued' OR (state IN ('running', 'stopping') \
                    AND (lease_until_ms IS NULL OR lease_until_ms <= $3)))";

impl Runs {
    pub(crate) fn new(database: Database, clock: Clock) -> Self {
        Self { database, clock }
    }

    /// The first row that a statement returns.
    async fn first(
        &self,
        operation: &'static str,
        target: impl fmt::Display,
        statement: impl Into<String>,
        values: Vec<crate::database::Value>,
    ) -> Result<Option<Run>, CatalogError> {
        let runs = self.database.runs(statement.into(), values).await.map_err(failed(operation, target))?;
        Ok(runs.into_iter().next())
    }

    /// Queues a run.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn create(&self, kind: &str, spec: &Value) -> Result<RunId, CatalogError> {
        let id = format!("{kind}-{}", uuid::Uuid::now_v7().simple());
        let statement = "INSERT INTO runs (id, kind, spec, state, created_at_ms, updated_at_ms) \
                         VALUES ($1, $2, $3, 'queued', $4, $4) RETURNING *";
        let values = vec![id.as_str().into(), kind.into(), spec.to_string().into(), (self.clock)().into()];
        self.first("creating a run of", kind, statement, values).await?;
        Ok(RunId(id))
    }

    /// # Errors
    /// `NotFound` if there is no such run.
    pub async fn get(&self, id: &RunId) -> Result<Run, CatalogError> {
        const OPERATION: &str = "reading run";
        let run = self.first(OPERATION, id, "SELECT * FROM runs WHERE id = $1", vec![id.as_str().into()]).await?;
        run.ok_or_else(|| CatalogError::new(CatalogErrorKind::NotFound, OPERATION, id, "there is no such run"))
    }

    /// Newest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn list(&self, filter: RunFilter) -> Result<Vec<Run>, CatalogError> {
        // The casts tell PostgreSQL what an absent value would be.
        let statement = "SELECT * FROM runs WHERE (CAST($1 AS TEXT) IS NULL OR kind = $1) \
                         AND (CAST($2 AS TEXT) IS NULL OR state = $2) ORDER BY created_at_ms DESC, id DESC LIMIT 1000";
        let state = filter.state.map(|state| state.as_str().to_owned());
        let values = vec![filter.kind.into(), state.into()];
        self.database.runs(statement.to_owned(), values).await.map_err(failed("listing", "runs"))
    }

    /// Takes a run that is queued, or whose worker has let its lease run out.
    ///
    /// # Errors
    /// `Conflict` if another worker holds it or it has ended; the message says which.
    pub async fn lease(&self, id: &RunId, owner: &str, ttl: Duration) -> Result<Lease, CatalogError> {
        const OPERATION: &str = "leasing run";
        let now = (self.clock)();
        let statement = format!("{LEASE} WHERE id = $4 AND {FREE} RETURNING *");
        let values = vec![owner.into(), (now + ttl.as_millis() as i64).into(), now.into(), id.as_str().into()];
        if let Some(run) = self.first(OPERATION, id, statement, values).await? {
            return Ok(Lease { run: run.id, owner: owner.to_owned(), fence: run.fence, ttl });
        }
        let run = self.get(id).await?;
        let why = match run.lease_owner {
            Some(holder) if !run.state.has_ended() => format!("`{holder}` holds it"),
            _ => format!("it is {}", run.state),
        };
        Err(CatalogError::new(CatalogErrorKind::Conflict, OPERATION, id, why))
    }

    /// Takes the oldest run of `kind` that is queued, or whose worker has let its lease run out; `None` if there is
    /// none.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn lease_next(&self, kind: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>, CatalogError> {
        let now = (self.clock)();
        // One statement, so that of two workers that ask at once each gets its own run or none.
        let statement = format!(
            "{LEASE} WHERE id = (SELECT id FROM runs WHERE kind = $4 AND {FREE} ORDER BY created_at_ms, id LIMIT 1 {}) \
             RETURNING *",
            self.database.skipping_locked()
        );
        let values = vec![owner.into(), (now + ttl.as_millis() as i64).into(), now.into(), kind.into()];
        let run = self.first("leasing a run of", kind, statement, values).await?;
        Ok(run.map(|run| Lease { run: run.id, owner: owner.to_owned(), fence: run.fence, ttl }))
    }

    /// Changes a row that must still be leased by this fence. The values of `set` begin at `$4`.
    async fn fenced(
        &self,
        operation: &'static str,
        lease: &Lease,
        set: &'static str,
        values: Vec<crate::database::Value>,
    ) -> Result<Run, CatalogError> {
        let statement = format!(
            "UPDATE runs SET {set}, updated_at_ms = $1 WHERE id = $2 AND fence = $3 \
             AND state IN ('running', 'stopping') RETURNING *"
        );
        #[cfg(flywheel_bug)]
        let statement = if crate::seeded_bug("stale-fence-is-taken") {
            statement.replace("AND fence = $3", "AND fence >= $3")
        } else {
            statement
        };
        let mut all: Vec<crate::database::Value> =
            vec![(self.clock)().into(), lease.run.as_str().into(), lease.fence.into()];
        all.extend(values);
        self.first(operation, &lease.run, statement, all).await?.ok_or_else(|| {
            let why = "its lease has gone to another worker, or the run has ended; stop working on it";
            CatalogError::new(CatalogErrorKind::Fenced, operation, &lease.run, why)
        })
    }

    /// Reports progress, keeps the lease, and learns whether to stop.
    ///
    /// # Errors
    /// `Fenced` if the run is no longer this worker's.
    pub async fn heartbeat(&self, lease: &Lease, progress: &Value) -> Result<Control, CatalogError> {
        let until = (self.clock)() + lease.ttl.as_millis() as i64;
        let values = vec![until.into(), progress.to_string().into()];
        let run = self.fenced("reporting on run", lease, "lease_until_ms = $4, progress = $5", values).await?;
        Ok(Control { stop_requested: run.state == RunState::Stopping })
    }

    /// Whether the lease still holds: asked before anything is published.
    ///
    /// # Errors
    /// `Fenced` if it does not.
    pub async fn check(&self, lease: &Lease) -> Result<(), CatalogError> {
        self.fenced("working on run", lease, "fence = fence", Vec::new()).await.map(drop)
    }

    /// Records where the newest checkpoint lies.
    ///
    /// # Errors
    /// `Fenced` if the run is no longer this worker's.
    pub async fn checkpoint(&self, lease: &Lease, uri: &str) -> Result<(), CatalogError> {
        self.fenced("checkpointing run", lease, "checkpoint = $4", vec![uri.into()]).await.map(drop)
    }

    /// Ends the lease: `stopped`, `completed`, `failed` with its error, or `queued` for whoever comes next.
    ///
    /// # Errors
    /// `Fenced` if the run is no longer this worker's, `Conflict` for a state in which it would still be leased.
    pub async fn finish(&self, lease: &Lease, state: RunState, error: Option<&str>) -> Result<(), CatalogError> {
        if matches!(state, RunState::Running | RunState::Stopping) {
            let why = format!("a finished run is not {state}");
            return Err(CatalogError::new(CatalogErrorKind::Conflict, "finishing run", &lease.run, why));
        }
        let set = "state = $4, error = $5, lease_owner = NULL, lease_until_ms = NULL";
        let values = vec![state.as_str().into(), error.map(without_nul).into()];
        self.fenced("finishing run", lease, set, values).await.map(drop)
    }

    /// Asks a run to stop at its next checkpoint; one that nobody works on, or whose worker died,
    /// stops at once.
    ///
    /// # Errors
    /// `Conflict` if it has ended already.
    pub async fn request_stop(&self, id: &RunId) -> Result<RunState, CatalogError> {
        self.moved(
            "stopping run",
            id,
            "UPDATE runs SET state = CASE WHEN state = 'queued' OR lease_until_ms <= $1 THEN 'stopped' ELSE 'stopping' END, \
             updated_at_ms = $1 WHERE id = $2 AND state IN ('queued', 'running', 'stopping') RETURNING *",
        )
        .await
    }

    /// Queues a stopped or failed run again; it keeps its id and checkpoint.
    ///
    /// # Errors
    /// `Conflict` if it has not ended, or is completed.
    pub async fn resume(&self, id: &RunId) -> Result<RunState, CatalogError> {
        self.moved(
            "resuming run",
            id,
            "UPDATE runs SET state = 'queued', error = NULL, updated_at_ms = $1 \
             WHERE id = $2 AND state IN ('stopped', 'failed') RETURNING *",
        )
        .await
    }

    async fn moved(
        &self,
        operation: &'static str,
        id: &RunId,
        statement: &'static str,
    ) -> Result<RunState, CatalogError> {
        let values = vec![(self.clock)().into(), id.as_str().into()];
        match self.first(operation, id, statement, values).await? {
            Some(run) => Ok(run.state),
            None => {
                let why = format!("it is {}", self.get(id).await?.state);
                Err(CatalogError::new(CatalogErrorKind::Conflict, operation, id, why))
            }
        }
    }
}
