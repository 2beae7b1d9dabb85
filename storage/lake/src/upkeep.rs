//! Keeping the log short and the folder clean.

use std::time::Duration;

use deltalake::{
    checkpoints::{cleanup_expired_logs_for, create_checkpoint},
    kernel::Version,
    operations::vacuum::VacuumMode,
};
use serde::Serialize;

use crate::{LakeError, Table, append::now_ms};

/// What a vacuum removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VacuumReport {
    pub files_deleted: Vec<String>,
    pub dry_run: bool,
}

impl Table {
    /// Writes a checkpoint when it is due, and now and then removes expired commits. Failing is harmless: the
    /// commit stands and the next one tries again.
    pub(crate) async fn keep_log_short(&self, version: Version) {
        let interval = self.inner.config.checkpoint_interval.max(1);
        if !version.is_multiple_of(interval) {
            return;
        }
        let table = self.clone();
        let cleanup = version.is_multiple_of(interval * 8);
        let done = tokio::spawn(async move {
            table.checkpoint(version).await?;
            if cleanup { table.clean_log(version).await } else { Ok(0) }
        });
        match done.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(table = %self.name(), version, %error, "checkpoint failed"),
            Err(error) => tracing::warn!(table = %self.name(), version, %error, "checkpoint task failed"),
        }
    }

    /// Writes a checkpoint of `version`, from which later readers start.
    ///
    /// # Errors
    /// If the store fails or there is no such version.
    pub async fn checkpoint(&self, version: Version) -> Result<(), LakeError> {
        let table = self.at(version).await?;
        create_checkpoint(&table, None).await.map_err(|e| self.failed("writing a checkpoint of", e))?;
        metrics::counter!(crate::metrics::CHECKPOINTS, "table" => self.name().as_str()).increment(1);
        Ok(())
    }

    /// Removes commits that are older than the log retention and covered by a checkpoint.
    async fn clean_log(&self, version: Version) -> Result<usize, LakeError> {
        let cutoff = now_ms() - self.inner.config.log_retention.as_millis() as i64;
        cleanup_expired_logs_for(version, self.inner.log.as_ref(), cutoff, None)
            .await
            .map_err(|e| self.failed("cleaning the log of", e))
    }

    /// Deletes files that no version within `retention` names: those that compaction replaced, and orphans of
    /// writers that died between storing a file and committing it.
    ///
    /// `retention` must be longer than any append takes; the configured one is a day.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn vacuum(&self, retention: Duration, dry_run: bool) -> Result<VacuumReport, LakeError> {
        let Some(version) = self.version().await? else { return Ok(VacuumReport::default()) };
        let turn = self.inner.turn.lock().await;
        let period = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX / 2);
        // A look first: a vacuum writes two commits even when it finds nothing.
        for dry in if dry_run { &[true][..] } else { &[true, false][..] } {
            let (_, found) = self
                .at(version)
                .await?
                .vacuum()
                .with_mode(VacuumMode::Full)
                .with_retention_period(chrono_millis(period))
                .with_enforce_retention_duration(false)
                .with_dry_run(*dry)
                .await
                .map_err(|e| self.failed("vacuuming", e))?;
            if !dry || dry_run || found.files_deleted.is_empty() {
                drop(turn);
                return Ok(VacuumReport { files_deleted: found.files_deleted, dry_run });
            }
        }
        unreachable!("the last round returns")
    }
}

/// The library takes its own kind of duration.
fn chrono_millis(ms: i64) -> chrono::TimeDelta {
    chrono::TimeDelta::try_milliseconds(ms).unwrap_or(chrono::TimeDelta::MAX)
}
