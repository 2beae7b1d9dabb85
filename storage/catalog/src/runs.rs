//! Runs of jobs: a state machine in a table.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};

use crate::{CatalogError, CatalogErrorKind};

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
    pool: SqlitePool,
    clock: Clock,
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").finish_non_exhaustive()
    }
}

fn run_of(row: &SqliteRow) -> Run {
    let json = |text: String| serde_json::from_str(&text).unwrap_or(Value::Null);
    Run {
        id: RunId(row.get("id")),
        kind: row.get("kind"),
        spec: json(row.get("spec")),
        state: RunState::parse(row.get("state")),
        lease_owner: row.get("lease_owner"),
        lease_until_ms: row.get("lease_until_ms"),
        fence: row.get("fence"),
        checkpoint: row.get("checkpoint"),
        progress: json(row.get("progress")),
        error: row.get("error"),
        created_at_ms: row.get("created_at_ms"),
        updated_at_ms: row.get("updated_at_ms"),
    }
}

fn failed(operation: &'static str, target: impl fmt::Display) -> impl FnOnce(sqlx::Error) -> CatalogError {
    let target = target.to_string();
    move |error| CatalogError::new(CatalogErrorKind::Unavailable, operation, target, error)
}

impl Runs {
    pub(crate) fn new(pool: SqlitePool, clock: Clock) -> Self {
        Self { pool, clock }
    }

    /// Queues a run.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn create(&self, kind: &str, spec: &Value) -> Result<RunId, CatalogError> {
        let id = format!("{kind}-{}", uuid::Uuid::now_v7().simple());
        let now = (self.clock)();
        sqlx::query(
            "INSERT INTO runs (id, kind, spec, state, created_at_ms, updated_at_ms) VALUES (?, ?, ?, 'queued', ?, ?)",
        )
        .bind(&id)
        .bind(kind)
        .bind(spec.to_string())
        .bind(now)
        .bind(now)
        .execute(&self.pool)
        .await
        .map_err(failed("creating a run of", kind))?;
        Ok(RunId(id))
    }

    /// # Errors
    /// `NotFound` if there is no such run.
    pub async fn get(&self, id: &RunId) -> Result<Run, CatalogError> {
        let row = sqlx::query("SELECT * FROM runs WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("reading run", id))?;
        row.as_ref()
            .map(run_of)
            .ok_or_else(|| CatalogError::new(CatalogErrorKind::NotFound, "reading run", id, "there is no such run"))
    }

    /// Newest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn list(&self, filter: RunFilter) -> Result<Vec<Run>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM runs WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR state = ?2) ORDER BY created_at_ms DESC, id DESC LIMIT 1000",
        )
        .bind(filter.kind)
        .bind(filter.state.map(RunState::as_str))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("listing", "runs"))?;
        Ok(rows.iter().map(run_of).collect())
    }

    /// Takes a run that is queued, or whose worker has let its lease run out.
    ///
    /// # Errors
    /// `Conflict` if another worker holds it or it has ended; the message says which.
    pub async fn lease(&self, id: &RunId, owner: &str, ttl: Duration) -> Result<Lease, CatalogError> {
        let now = (self.clock)();
        let row = sqlx::query(
            "UPDATE runs SET state = CASE state WHEN 'stopping' THEN 'stopping' ELSE 'running' END, lease_owner = ?, \
             lease_until_ms = ?, fence = fence + 1, error = NULL, updated_at_ms = ? \
             WHERE id = ? AND (state = 'queued' OR (state IN ('running', 'stopping') AND (lease_until_ms IS NULL OR lease_until_ms <= ?))) \
             RETURNING fence",
        )
        .bind(owner)
        .bind(now + ttl.as_millis() as i64)
        .bind(now)
        .bind(id.as_str())
        .bind(now)
        .fetch_optional(&self.pool)
        .await
        .map_err(failed("leasing run", id))?;
        if let Some(row) = row {
            return Ok(Lease { run: id.clone(), owner: owner.to_owned(), fence: row.get("fence"), ttl });
        }
        let run = self.get(id).await?;
        let why = match run.lease_owner {
            Some(holder) if !run.state.has_ended() => format!("`{holder}` holds it"),
            _ => format!("it is {}", run.state),
        };
        Err(CatalogError::new(CatalogErrorKind::Conflict, "leasing run", id, why))
    }

    /// Takes the oldest run of `kind` that is queued, or whose worker has let its lease run out; `None` if there is
    /// none.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn lease_next(&self, kind: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>, CatalogError> {
        // One statement, so that of two workers that ask at once each gets its own run or none.
        let row = sqlx::query(
            "UPDATE runs SET state = CASE state WHEN 'stopping' THEN 'stopping' ELSE 'running' END, lease_owner = ?1, \
             lease_until_ms = ?2, fence = fence + 1, error = NULL, updated_at_ms = ?3 WHERE id = (SELECT id FROM runs \
             WHERE kind = ?4 AND (state = 'queued' OR (state IN ('running', 'stopping') AND (lease_until_ms IS NULL OR lease_until_ms <= ?3))) \
             ORDER BY created_at_ms, id LIMIT 1) RETURNING id, fence",
        )
        .bind(owner)
        .bind((self.clock)() + ttl.as_millis() as i64)
        .bind((self.clock)())
        .bind(kind)
        .fetch_optional(&self.pool)
        .await
        .map_err(failed("leasing a run of", kind))?;
        Ok(row.map(|row| Lease { run: RunId(row.get("id")), owner: owner.to_owned(), fence: row.get("fence"), ttl }))
    }

    /// Changes a row that must still be leased by this fence.
    async fn fenced(
        &self,
        operation: &'static str,
        lease: &Lease,
        set: &'static str,
        values: &[Option<String>],
    ) -> Result<SqliteRow, CatalogError> {
        let statement = format!(
            "UPDATE runs SET {set}, updated_at_ms = ? WHERE id = ? AND fence = ? AND state IN ('running', 'stopping') RETURNING *"
        );
        #[cfg(flywheel_bug)]
        let statement = if crate::seeded_bug("stale-fence-is-taken") {
            statement.replace("AND fence = ?", "AND fence >= ?")
        } else {
            statement
        };
        let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
        for value in values {
            query = query.bind(value.clone());
        }
        let row = query
            .bind((self.clock)())
            .bind(lease.run.as_str())
            .bind(lease.fence)
            .fetch_optional(&self.pool)
            .await
            .map_err(failed(operation, &lease.run))?;
        row.ok_or_else(|| {
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
        let set = "lease_until_ms = CAST(? AS INTEGER), progress = ?";
        let row =
            self.fenced("reporting on run", lease, set, &[Some(until.to_string()), Some(progress.to_string())]).await?;
        Ok(Control { stop_requested: run_of(&row).state == RunState::Stopping })
    }

    /// Whether the lease still holds: asked before anything is published.
    ///
    /// # Errors
    /// `Fenced` if it does not.
    pub async fn check(&self, lease: &Lease) -> Result<(), CatalogError> {
        self.fenced("working on run", lease, "fence = fence", &[]).await.map(drop)
    }

    /// Records where the newest checkpoint lies.
    ///
    /// # Errors
    /// `Fenced` if the run is no longer this worker's.
    pub async fn checkpoint(&self, lease: &Lease, uri: &str) -> Result<(), CatalogError> {
        self.fenced("checkpointing run", lease, "checkpoint = ?", &[Some(uri.to_owned())]).await.map(drop)
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
        let set = "state = ?, error = ?, lease_owner = NULL, lease_until_ms = NULL";
        let values = [Some(state.as_str().to_owned()), error.map(str::to_owned)];
        self.fenced("finishing run", lease, set, &values).await.map(drop)
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
            "UPDATE runs SET state = CASE WHEN state = 'queued' OR lease_until_ms <= ?1 THEN 'stopped' ELSE 'stopping' END, \
             updated_at_ms = ?1 WHERE id = ?2 AND state IN ('queued', 'running', 'stopping') RETURNING *",
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
            "UPDATE runs SET state = 'queued', error = NULL, updated_at_ms = ? \
             WHERE id = ? AND state IN ('stopped', 'failed') RETURNING *",
        )
        .await
    }

    async fn moved(
        &self,
        operation: &'static str,
        id: &RunId,
        statement: &'static str,
    ) -> Result<RunState, CatalogError> {
        let row = sqlx::query(statement)
            .bind((self.clock)())
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed(operation, id))?;
        match row {
            Some(row) => Ok(run_of(&row).state),
            None => {
                let why = format!("it is {}", self.get(id).await?.state);
                Err(CatalogError::new(CatalogErrorKind::Conflict, operation, id, why))
            }
        }
    }
}
