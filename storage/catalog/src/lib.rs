//! What must be known for certain and is small: runs of jobs, with lease and fence.
//!
//! SQLite in one file, shared by the processes of one machine. Guarantees: a change that returned is on disk
//! (`synchronous=FULL`); a run is leased to one worker at a time; a worker whose lease has gone to another can
//! change nothing (its fence is stale).

mod error;
mod runs;

use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use error::{CatalogError, CatalogErrorKind};
pub use runs::{Clock, Control, Lease, Run, RunFilter, RunId, RunState, Runs, system_clock};

const OPEN_TRIES: u32 = 8;
const OPEN_PAUSE: Duration = Duration::from_millis(25);

/// The catalog of one data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: SqlitePool,
}

impl Catalog {
    /// Opens the database, creating and migrating it as needed.
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
            .busy_timeout(Duration::from_secs(10));
        let unavailable =
            |error: sqlx::Error| CatalogError::new(CatalogErrorKind::Unavailable, "opening", file.display(), error);
        let mut tries = 0;
        loop {
            tries += 1;
            let opened = match SqlitePoolOptions::new().max_connections(4).connect_with(options.clone()).await {
                Ok(pool) => sqlx::migrate!().run(&pool).await.map(|()| pool).map_err(|error| refusal(file, error)),
                Err(error) => Err(unavailable(error)),
            };
            match opened {
                Ok(pool) => return Ok(Self { pool }),
                // SQLite has no lock around migrations: of several processes that open a new catalog at once, all
                // but one may stumble over the other's tables. A little later these are simply there.
                Err(error) if error.kind() == CatalogErrorKind::Unavailable && tries < OPEN_TRIES => {
                    tokio::time::sleep(OPEN_PAUSE * tries).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The table of runs, on the machine's clock.
    pub fn runs(&self) -> Runs {
        Runs::new(self.pool.clone(), system_clock())
    }

    /// With a clock of the caller's, so that tests need not wait for leases to end.
    pub fn runs_at(&self, clock: Clock) -> Runs {
        Runs::new(self.pool.clone(), clock)
    }
}

fn refusal(file: &Path, error: sqlx::migrate::MigrateError) -> CatalogError {
    match error {
        sqlx::migrate::MigrateError::VersionMissing(_) | sqlx::migrate::MigrateError::VersionMismatch(_) => {
            CatalogError::new(
                CatalogErrorKind::Conflict,
                "opening",
                file.display(),
                format!("it was written by a newer flywheel ({error}); use that one. Nothing was changed"),
            )
        }
        other => CatalogError::new(CatalogErrorKind::Unavailable, "migrating", file.display(), other),
    }
}

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
