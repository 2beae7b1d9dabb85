use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use flywheel_lake::{CompactOptions, CompactReport, Lake, LakeError, TableName};
use flywheel_log::Reserve;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the tables are looked after.
#[derive(Debug, Clone)]
pub struct MaintainConfig {
    /// Between two rounds of compaction.
    pub interval: Duration,
    pub compact: CompactOptions,
    /// Between two vacuums.
    pub vacuum_interval: Duration,
    /// Files that no version of this time names are deleted. Longer than any append or read of an old version.
    pub retention: Duration,
}

impl Default for MaintainConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(20),
            compact: CompactOptions::default(),
            vacuum_interval: Duration::from_secs(3600),
            retention: Duration::from_secs(24 * 3600),
        }
    }
}

/// What [`Maintain`] has done since it was made.
#[derive(Debug, Default)]
pub struct MaintainStats {
    pub rounds: AtomicU64,
    pub files_merged: AtomicU64,
    pub files_deleted: AtomicU64,
    pub failures: AtomicU64,
}

/// The job that merges small files and removes unneeded ones, beside the flows that write.
#[derive(Debug)]
pub struct Maintain {
    lake: Lake,
    config: MaintainConfig,
    reserve: Option<Arc<Reserve>>,
    stats: Arc<MaintainStats>,
}

impl Maintain {
    pub fn new(lake: Lake, config: MaintainConfig) -> Self {
        crate::metrics::describe();
        Self { lake, config, reserve: None, stats: Arc::default() }
    }

    /// Nothing is merged while the reserve is shut: a merge writes before the vacuum frees, which goes on.
    #[must_use]
    pub fn sparing(mut self, reserve: Arc<Reserve>) -> Self {
        self.reserve = Some(reserve);
        self
    }

    pub fn stats(&self) -> Arc<MaintainStats> {
        Arc::clone(&self.stats)
    }

    /// Runs until told to stop. A failure costs a round, nothing else: the tables stay as they were.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut vacuum_due = Instant::now() + self.config.vacuum_interval;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.config.interval) => {}
            }
            let vacuum = Instant::now() >= vacuum_due;
            if vacuum {
                vacuum_due = Instant::now() + self.config.vacuum_interval;
            }
            for name in TableName::ALL {
                // A merge under way ends whole or leaves an orphan file for the vacuum.
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = self.look_after(name, vacuum) => {}
                }
            }
            self.stats.rounds.fetch_add(1, Relaxed);
            metrics::counter!(crate::metrics::ROUNDS).increment(1);
        }
    }

    async fn look_after(&self, name: TableName, vacuum: bool) {
        let table = self.lake.table(name);
        let work = async {
            if self.reserve.as_ref().is_none_or(|reserve| reserve.shut().is_none()) {
                let merged = table.compact_with(&self.config.compact).await?;
                self.stats.files_merged.fetch_add(merged.files_merged as u64, Relaxed);
                if merged.files_merged > 0 {
                    tracing::info!(table = %name, merged = merged.files_merged, files = merged.files_after, "compacted");
                }
            }
            if vacuum {
                let gone = table.vacuum(self.config.retention, false).await?.files_deleted.len();
                self.stats.files_deleted.fetch_add(gone as u64, Relaxed);
            }
            Ok::<_, LakeError>(())
        };
        if let Err(error) = work.await {
            tracing::warn!(table = %name, %error, "maintenance failed");
            self.stats.failures.fetch_add(1, Relaxed);
            metrics::counter!(crate::metrics::FAILURES).increment(1);
        }
    }
}

/// One round of compaction over all tables.
///
/// # Errors
/// On the first table that fails; those before it are done.
pub async fn compact(lake: &Lake, options: &CompactOptions) -> Result<BTreeMap<TableName, CompactReport>, LakeError> {
    let mut reports = BTreeMap::new();
    for name in TableName::ALL {
        reports.insert(name, lake.table(name).compact_with(options).await?);
    }
    Ok(reports)
}
