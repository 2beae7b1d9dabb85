//! Keeps the log from growing for ever: what is old and in the tables, and in the archive where there is one, leaves it.

use std::{sync::Arc, time::Duration};

use flywheel_lake::{Lake, LakeError, TableName};
use flywheel_log::{EventLog, LogError, LogErrorKind, Offset, Position, ReadLimit, Topic, TopicPartition};
use tokio_util::sync::CancellationToken;

use crate::archive::{ArchivingError, StreamArchive};

/// What leaves the log, and when.
pub struct TrimConfig {
    /// Topics of events with their numbers of partitions.
    pub topics: Vec<(Topic, u32)>,
    /// Where the consumers of a partition keep how far they are: nothing after the least of these positions is trimmed,
    /// and nothing at all while one is missing.
    pub consumers: fn(&Topic, u32) -> Vec<(TableName, String)>,
    /// Age of a record, by the clock of the log, before it may leave.
    pub keep: Duration,
    /// Between two rounds.
    pub interval: Duration,
}

/// A trim may not hold up appends: it takes so much of the log's time at once, at most.
const STEP_MS: i64 = 60_000;

/// Why a partition was not trimmed; the next round tries again.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("archiving what would be trimmed")]
    Archive(#[from] ArchivingError),
}

/// The job that trims the log behind the tables.
pub struct Trim {
    log: Arc<dyn EventLog>,
    lake: Lake,
    config: TrimConfig,
    archive: Option<StreamArchive>,
}

impl Trim {
    pub fn new(log: Arc<dyn EventLog>, lake: Lake, config: TrimConfig) -> Self {
        crate::metrics::describe();
        Self { log, lake, config, archive: None }
    }

    /// Nothing is trimmed that the archive does not hold; it is put there first.
    #[must_use]
    pub fn behind(self, archive: StreamArchive) -> Self {
        Self { archive: Some(archive), ..self }
    }

    /// Runs until told to stop. A failure costs a round, nothing else.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.config.interval) => {}
            }
            let now_ms = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as i64);
            for (topic, partitions) in &self.config.topics {
                for partition in 0..*partitions {
                    let of = topic.partition(partition);
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        done = self.trim(&of, now_ms) => match done {
                            Ok(Some(up_to)) => tracing::info!(partition = %of, %up_to, "the log was trimmed"),
                            Ok(None) => {}
                            Err(error) => {
                                tracing::warn!(partition = %of, %error, "the log cannot be trimmed");
                                metrics::counter!(crate::metrics::FAILURES).increment(1);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Trims what is older than [`TrimConfig::keep`] at `now_ms` and behind every consumer. Returns how far, if anywhere.
    ///
    /// # Errors
    /// If a position or the log cannot be read, the log refuses, or the archive does not take what would be trimmed.
    pub async fn trim(&self, of: &TopicPartition, now_ms: i64) -> Result<Option<Offset>, TrimError> {
        let mut done_by_all = None;
        for (table, app_id) in (self.config.consumers)(&of.topic, of.partition) {
            let position = self.lake.table(table).position(&app_id).await?;
            let Some(position) = position.and_then(|position| u64::try_from(position).ok()) else { return Ok(None) };
            done_by_all = Some(done_by_all.map_or(position, |least: u64| least.min(position)));
        }
        let Some(done_by_all) = done_by_all.and_then(|raw| Offset::try_from(raw).ok()) else { return Ok(None) };
        let oldest_kept = now_ms - i64::try_from(self.config.keep.as_millis()).unwrap_or(i64::MAX);
        let mut trimmed = None;
        loop {
            match self.step(of, done_by_all, oldest_kept).await {
                Ok(Some(up_to)) => trimmed = Some(up_to),
                Ok(None) => return Ok(trimmed),
                // Another process trims the same, and is further.
                Err(TrimError::Log(error)) if error.kind() == LogErrorKind::Trimmed => return Ok(trimmed),
                Err(TrimError::Log(error)) if error.kind() == LogErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Trims what the log can take at once. Returns how far, if anything may leave.
    async fn step(
        &self,
        of: &TopicPartition,
        done_by_all: Offset,
        oldest_kept: i64,
    ) -> Result<Option<Offset>, TrimError> {
        let bounds = self.log.bounds(of).await?;
        let (Some(first), Some(last)) = (bounds.first, bounds.last) else { return Ok(None) };
        if done_by_all > last {
            // No consumer can be further than the log was when it read it.
            tracing::warn!(
                partition = %of, %last, %done_by_all,
                "the tables are ahead of the log: it lost records that they have, or is not the log that they were \
                 written from; nothing is trimmed"
            );
            return Ok(None);
        }
        #[cfg(flywheel_bug)]
        let done_by_all = if crate::seeded_bug("trim-ahead-of-landing") { last } else { done_by_all };
        let before = bounds.trimmed.map_or(Position::Start, Position::After);
        let Some((_, began)) = self.next(of, before).await? else { return Ok(None) };
        let until = oldest_kept.min(began.saturating_add(STEP_MS));
        if first > done_by_all || began >= until {
            return Ok(None);
        }
        let Some(up_to) = self.newest_before(of, first, last.min(done_by_all), until).await? else {
            return Ok(None);
        };
        // Nothing leaves that the archive does not hold.
        let up_to = match &self.archive {
            Some(archive) => match archive.keep(&self.log, of, up_to).await?.watermark {
                Some(watermark) => watermark.min(up_to),
                None => return Ok(None),
            },
            None => up_to,
        };
        self.log.trim(of, up_to).await?;
        Ok(Some(up_to))
    }

    /// The newest offset within `first..=last` that was appended before `until_ms`: times do not decrease along a partition.
    async fn newest_before(
        &self,
        of: &TopicPartition,
        first: Offset,
        last: Offset,
        until_ms: i64,
    ) -> Result<Option<Offset>, LogError> {
        // Offsets may have holes, so the search is over numbers; `low` is always the offset of a record that is old.
        let mut low = None;
        let (mut from, mut to) = (first.raw(), last.raw());
        while from <= to {
            let middle = from + (to - from) / 2;
            let position = middle.checked_sub(1).and_then(|raw| Offset::try_from(raw).ok());
            let position = match position {
                Some(offset) if offset >= first => Position::After(offset),
                // Before the first one kept.
                _ => match self.log.bounds(of).await?.trimmed {
                    Some(trimmed) => Position::After(trimmed),
                    None => Position::Start,
                },
            };
            match self.next(of, position).await? {
                Some((offset, at)) if at < until_ms && offset <= last => {
                    low = Some(offset);
                    from = offset.raw() + 1;
                }
                _ if middle == 0 => break,
                _ => to = middle - 1,
            }
        }
        Ok(low)
    }

    /// The record after `position`: its offset and time.
    async fn next(&self, of: &TopicPartition, position: Position) -> Result<Option<(Offset, i64)>, LogError> {
        let limit = ReadLimit { max_records: 1, max_wait: Duration::ZERO, ..ReadLimit::default() };
        let records = self.log.read(of, position, limit).await?;
        Ok(records.first().map(|record| (record.offset, record.ingest_ms)))
    }
}
