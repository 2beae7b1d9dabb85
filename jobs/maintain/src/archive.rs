//! Whole days of the table `events` move to an archive, and back.
//!
//! What is where, at every moment:
//!
//! 1. The files of a day are copied, each under its SHA-256, then the *book* of its games, then the *manifest*, which names
//!    them all. Each is looked at after it was written. Until here the table has changed in nothing.
//! 2. One commit takes the files out of the table and moves the position `archive/SYSTEM/DAY` to the manifest's number. That
//!    commit is the truth: a manifest whose number the position has not reached is an attempt, and holds nothing alone.
//! 3. A restore copies the files back under new names, and one commit adds them and moves `restore/SYSTEM/DAY` to the number
//!    that the archive has reached. The archive keeps what it has.
//!
//! So a manifest is *in force*, and its rows are in the archive alone, if its number lies beyond `restore/…` and not beyond
//! `archive/…`, and no later one there replaces it (an attempt that a merge of files overtook is replaced by the next).
//! A crash anywhere leaves a state that the next run goes on from.

mod day;
mod manifest;
mod names;
mod restore;
mod seal;
mod segments;

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

use flywheel_archive::{ArchiveError, ColdStore, Readiness};
use flywheel_events::System;
use flywheel_lake::{Lake, LakeError, Table, TableName};
use flywheel_log::{LogError, Topic};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub(crate) use self::manifest::Book;
use self::{manifest::Manifest, names::Names, seal::Verdict};
pub use self::{
    restore::Restored,
    segments::{Kept, Segment, StreamArchive},
};

/// What is archived, and when.
#[derive(Debug, Clone)]
pub struct ArchivingConfig {
    /// Whole UTC days that a day has to lie back before [`Archive::run`] takes it.
    pub after_days: u32,
    /// As in [`TrimConfig`](crate::TrimConfig): a day stays while one of these positions lies before its last row.
    pub consumers: fn(&Topic, u32) -> Vec<(TableName, String)>,
    /// Files of a day are merged up to this size first.
    pub target_bytes: u64,
    /// How long what was thawed stays readable.
    pub thaw_days: u32,
    /// Between two rounds of [`Archive::run`].
    pub interval: Duration,
}

/// A day of one system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Day {
    pub system: String,
    /// UTC, such as `2026-11-21`.
    pub dt: String,
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.system, self.dt)
    }
}

/// Why a day could not be moved. Nothing is lost: the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ArchivingError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("reading `{object}` of the archive: {why}")]
    Unreadable { object: String, why: String },
    /// Others changed the day again and again while it was being copied.
    #[error("archiving {0}: its files keep changing; run it again when it has settled")]
    Restless(Day),
    #[error("there is no {0} in the archive; `flywheel archive ls` lists what there is")]
    NotArchived(Day),
    #[error("{0}")]
    Stream(String),
}

/// What [`Archive::archive`] is asked for.
#[derive(Debug, Clone, Default)]
pub struct ArchiveOptions {
    /// Days before this one.
    pub before: String,
    /// Say what would be done.
    pub dry_run: bool,
    /// Also days that were restored.
    pub restored: bool,
}

/// A day that was moved, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayReport {
    #[serde(flatten)]
    pub day: Day,
    pub rows: u64,
    pub bytes: u64,
    pub files: usize,
    /// Of the manifest that holds it; absent in a dry run.
    pub manifest: Option<String>,
}

/// A day that stays in the table for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayWaits {
    #[serde(flatten)]
    pub day: Day,
    pub why: String,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveReport {
    pub archived: Vec<DayReport>,
    pub waiting: Vec<DayWaits>,
    /// What the operator should know of the store.
    pub remarks: Vec<String>,
}

/// A day that the archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayState {
    #[serde(flatten)]
    pub day: Day,
    /// `archived`: in the archive alone. `restored`: in both. `unfinished`: an attempt that the next run goes on with.
    pub state: &'static str,
    pub rows: u64,
    pub bytes: u64,
    pub files: usize,
    pub games: u64,
    /// Storage class and readiness of its first file, where the store has any.
    pub class: Option<String>,
    pub readiness: Option<Readiness>,
    /// Rows of this day that are in the table now.
    pub rows_in_table: u64,
}

/// Moves days of `events` to an archive and back. Several processes may do so at once.
#[derive(Debug, Clone)]
pub struct Archive {
    table: Table,
    store: Arc<dyn ColdStore>,
    lake: Lake,
    config: ArchivingConfig,
}

/// The ids under which the table keeps how far a day was archived and restored.
fn app_ids(day: &Day) -> [String; 2] {
    [format!("archive/{}/{}", day.system, day.dt), format!("restore/{}/{}", day.system, day.dt)]
}

fn number(position: Option<i64>) -> u64 {
    position.and_then(|position| u64::try_from(position).ok()).unwrap_or(0)
}

impl Archive {
    pub fn new(lake: &Lake, store: Arc<dyn ColdStore>, config: ArchivingConfig) -> Self {
        crate::metrics::describe();
        Self { table: lake.table(TableName::Events), store, lake: lake.clone(), config }
    }

    /// Moves the days that are due, one after the other.
    ///
    /// # Errors
    /// On the first day that fails; those before it are done.
    pub async fn archive(&self, options: &ArchiveOptions) -> Result<ArchiveReport, ArchivingError> {
        let mut report = ArchiveReport::default();
        if !options.dry_run {
            report.remarks = self.store.prepare().await?;
        }
        let mut days: BTreeMap<Day, Vec<_>> = BTreeMap::new();
        for file in self.table.files().await?.into_iter().filter(|file| file.dt < options.before) {
            let day = Day { system: file.system.clone(), dt: file.dt.clone() };
            days.entry(day).or_default().push(file);
        }
        for (day, files) in days {
            match self.weigh(&day, &files, options.restored).await? {
                Verdict::Waits(why) => report.waiting.push(DayWaits { day, why }),
                Verdict::Sealed if options.dry_run => report.archived.push(DayReport {
                    day,
                    rows: files.iter().map(|file| file.rows).sum(),
                    bytes: files.iter().map(|file| file.bytes).sum(),
                    files: files.len(),
                    manifest: None,
                }),
                Verdict::Sealed => report.archived.extend(self.archive_day(&day).await?),
            }
        }
        Ok(report)
    }

    /// Archives whatever is old enough, until told to stop. A failure costs a round, nothing else.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.config.interval) => {}
            }
            let options = ArchiveOptions { before: self.due_before(now_ms()), ..ArchiveOptions::default() };
            let done = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                done = self.archive(&options) => done,
            };
            match done {
                Ok(report) => {
                    for remark in report.remarks {
                        tracing::info!(remark, "the archive");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "archiving failed");
                    metrics::counter!(crate::metrics::FAILURES).increment(1);
                }
            }
        }
    }

    /// The first day that is too young at `now_ms`.
    pub fn due_before(&self, now_ms: i64) -> String {
        flywheel_tables::day_of(now_ms - i64::from(self.config.after_days) * 86_400_000)
    }

    /// Every day that the archive knows of.
    ///
    /// # Errors
    /// If the table or the archive cannot be read.
    pub async fn days(&self) -> Result<Vec<DayState>, ArchivingError> {
        let mut live: BTreeMap<Day, u64> = BTreeMap::new();
        for file in self.table.files().await? {
            *live.entry(Day { system: file.system, dt: file.dt }).or_default() += file.rows;
        }
        let mut found = Vec::new();
        for (day, numbers) in Names::days(&*self.store).await? {
            let [archived, restored] = self.positions(&day).await?;
            let live = live.get(&day).copied().unwrap_or(0);
            let (state, range) = match (archived, restored) {
                (0, _) => ("unfinished", 0..=u64::MAX),
                (archived, restored) if archived == restored => ("restored", 0..=archived),
                (archived, restored) => ("archived", restored..=archived),
            };
            let manifests = in_force(&*self.store, &day, &numbers, *range.start(), *range.end()).await?;
            // A restored day is told of by what was restored last.
            let mut told = DayState {
                day,
                state,
                rows: 0,
                bytes: 0,
                files: 0,
                games: 0,
                class: None,
                readiness: None,
                rows_in_table: live,
            };
            let latest = if state == "archived" { 0 } else { manifests.len().saturating_sub(1) };
            for manifest in &manifests[latest..] {
                told.rows += manifest.rows;
                told.bytes += manifest.bytes;
                told.files += manifest.files.len();
                told.games += manifest.book.games;
                for file in &manifest.files {
                    let held = self.store.head(&file.object).await?;
                    let readiness = held.as_ref().map_or(Readiness::Frozen, |held| held.readiness);
                    // The slowest file decides when a restore can go on.
                    told.readiness = told.readiness.max(Some(readiness));
                    told.class = told.class.or(held.and_then(|held| held.class));
                }
            }
            found.push(told);
        }
        Ok(found)
    }

    /// How far a day was archived and restored.
    async fn positions(&self, day: &Day) -> Result<[u64; 2], LakeError> {
        let [archive, restore] = app_ids(day);
        Ok([number(self.table.position(&archive).await?), number(self.table.position(&restore).await?)])
    }
}

/// What an audit asks an archive for.
#[derive(Debug, Clone)]
pub struct Archived {
    table: Table,
    store: Arc<dyn ColdStore>,
}

impl Archived {
    pub fn new(lake: &Lake, store: Arc<dyn ColdStore>) -> Self {
        Self { table: lake.table(TableName::Events), store }
    }

    /// The books of what was in the archive alone when the table stood at `version`.
    pub(crate) async fn books_as_of(&self, version: u64) -> Result<Vec<Book>, ArchivingError> {
        // The positions tell which days; a manifest is there before its number is.
        let days = Names::days(&*self.store).await?;
        let ids: Vec<_> = days.keys().flat_map(app_ids).collect();
        let positions = self.table.positions_as_of(version, &ids).await?;
        let mut books = Vec::new();
        for ((day, numbers), positions) in days.iter().zip(positions.chunks_exact(2)) {
            let [archived, restored] = [number(positions[0]), number(positions[1])];
            for manifest in in_force(&*self.store, day, numbers, restored, archived).await? {
                books.push(manifest.book(&*self.store).await?);
            }
        }
        Ok(books)
    }
}

/// The manifests beyond `after` and up to `up_to` that no later one of them replaces, ascending.
async fn in_force(
    store: &dyn ColdStore,
    day: &Day,
    numbers: &[u64],
    after: u64,
    up_to: u64,
) -> Result<Vec<Manifest>, ArchivingError> {
    let mut manifests = Vec::new();
    for number in numbers.iter().filter(|number| **number > after && **number <= up_to) {
        manifests.push(Manifest::read(store, day, *number).await?);
    }
    let replaced: Vec<u64> = manifests.iter().flat_map(|manifest| manifest.replaces.clone()).collect();
    manifests.retain(|manifest| !replaced.contains(&manifest.number));
    Ok(manifests)
}

fn topic_of(system: &str) -> Option<Topic> {
    System::from_str(system).ok().map(|system| Topic::new(system.topic()))
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
