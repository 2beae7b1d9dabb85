//! What must be known for certain and is small: runs of jobs, with lease and fence.
//!
//! SQLite in one file, shared by the processes of one machine, or a PostgreSQL database, shared by those of many; the
//! same statements and one suite of tests for both. Guarantees: a change that returned is on disk (`synchronous=FULL`,
//! `synchronous_commit=on`); a run is leased to one worker at a time; a worker whose lease has gone to another can
//! change nothing (its fence is stale). Leases end by the workers' clocks, which must agree to within a lease's
//! length; that no two work on one run rests on the fence, not on clocks.

mod database;
mod error;
mod keys;
mod postgres;
mod runs;

use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use error::{CatalogError, CatalogErrorKind};
pub use keys::{KeptSourceKey, NewSourceKey, SOURCE_KEYS_MAX, SourceKey, SourceKeys};
pub use runs::{Clock, Control, Lease, Run, RunFilter, RunId, RunState, Runs, system_clock};

use crate::database::Database;

const OPEN_TRIES: u32 = 8;
const OPEN_PAUSE: Duration = Duration::from_millis(25);
/// Connections of one process.
const CONNECTIONS: u32 = 4;
/// Longest wait for a lock, a connection, or a statement's end.
const PATIENCE: Duration = Duration::from_secs(10);

static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

/// The catalog of one data folder, or of all that share a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    database: Database,
}

impl Catalog {
    /// Opens the SQLite database, creating and migrating it as needed.
    ///
    /// # Errors
    /// If it cannot be opened, or was written by a newer program; nothing is changed then.
    pub async fn open(file: &Path) -> Result<Self, CatalogError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode the default (NORMAL) may undo committed work at a loss of power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE);
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_open(file, options.clone()).await {
                Ok(pool) => return Ok(Self { database: Database::Sqlite(pool) }),
                // SQLite has no lock around migrations: of several processes that open a new catalog at once, all
                // but one may stumble over the other's tables. A little later these are simply there.
                Err(error) if error.kind() == CatalogErrorKind::Unavailable && tries < OPEN_TRIES => {
                    tokio::time::sleep(OPEN_PAUSE * tries).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_open(file: &Path, options: SqliteConnectOptions) -> Result<SqlitePool, CatalogError> {
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await;
        let pool = pool.map_err(|e| CatalogError::new(CatalogErrorKind::Unavailable, "opening", file.display(), e))?;
        SQLITE.run(&pool).await.map_err(|error| refusal(file.display(), error))?;
        Ok(pool)
    }

    /// Connects to PostgreSQL and migrates the database as needed: `postgres://user@host:port/database`, with
    /// `password.env=NAME` or `password.file=PATH` and what libpq knows (`sslmode`, …) after a `?`.
    ///
    /// # Errors
    /// `Setting` for what must be corrected, `Unavailable` if the server does not answer, `Conflict` if the database was
    /// written by a newer program. No password is repeated.
    pub async fn connect(url: &str) -> Result<Self, CatalogError> {
        let server = postgres::Server::parse(url)?;
        let pool = server.connect().await?;
        POSTGRES.run(&pool).await.map_err(|error| refusal(&server, error))?;
        Ok(Self { database: Database::Postgres(pool) })
    }

    /// What it is and what a change survives, for people: `SQLite 3.50.2`, `PostgreSQL 15.14`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn described(&self) -> Result<Description, CatalogError> {
        let failed =
            |error: sqlx::Error| CatalogError::new(CatalogErrorKind::Unavailable, "asking", "the catalog", error);
        match &self.database {
            Database::Sqlite(pool) => {
                let version: String =
                    sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await.map_err(failed)?;
                Ok(Description { server: format!("SQLite {version}"), risks: Vec::new() })
            }
            Database::Postgres(pool) => postgres::described(pool).await.map_err(failed),
        }
    }

    /// The table of runs, on the machine's clock.
    pub fn runs(&self) -> Runs {
        Runs::new(self.database.clone(), system_clock())
    }

    /// The keys of programs that hand in events, on the machine's clock.
    pub fn source_keys(&self) -> SourceKeys {
        SourceKeys::new(self.database.clone(), system_clock())
    }

    /// With a clock of the caller's.
    pub fn source_keys_at(&self, clock: Clock) -> SourceKeys {
        SourceKeys::new(self.database.clone(), clock)
    }

    /// With a clock of the caller's, so that tests need not wait for leases to end.
    pub fn runs_at(&self, clock: Clock) -> Runs {
        Runs::new(self.database.clone(), clock)
    }
}

/// What holds the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Kind and version.
    pub server: String,
    /// Settings of the server by which a change that returned could be lost; each says what to do.
    pub risks: Vec<String>,
}

fn refusal(target: impl std::fmt::Display, error: MigrateError) -> CatalogError {
    match error {
        MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => CatalogError::new(
            CatalogErrorKind::Conflict,
            "opening",
            target,
            format!("it was written by a newer flywheel ({error}); use that one. Nothing was changed"),
        ),
        other => CatalogError::new(CatalogErrorKind::Unavailable, "migrating", target, other),
    }
}

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
