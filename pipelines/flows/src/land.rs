//! Log to table `events`, exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use arrow::{
    array::AsArray,
    datatypes::{Int32Type, Int64Type},
};
use flywheel_events::System;
use flywheel_lake::{Lake, LakeErrorKind, Range, ScanOptions, Table, TableName};
use flywheel_log::{EventLog, StoredRecord, Topic};
use flywheel_tables::{DeadLetterRow, EventView};
use futures::TryStreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    FlowError, FlowStatus, Histogram, LandConfig,
    batch::Batch,
    error::{Stop, is_final},
    flight::{Flight, Load, lands},
    metrics::{LAND_FENCED, LAND_PARTITIONS, LAND_TAKEOVER, LAND_WAITING},
    owned::{Names, Owned, OwnedStats},
    read::{Chunk, ReadFrom, Readers},
    retry::{Backoff, persist},
    seen::{Added, Seen},
    sharing::Sharing,
    status::Need,
};

/// Under this id the tables keep how far `land` has come with a partition.
pub fn app_id(topic: &Topic, partition: u32) -> String {
    format!("land/{topic}/{partition}")
}

/// What [`Land`] has done since it was made, and does now.
#[derive(Debug)]
pub struct LandStats {
    pub status: Arc<FlowStatus>,
    /// What this process works on, where several share the partitions.
    pub owned: Arc<OwnedStats>,
    /// Rows committed to `events`.
    pub events: AtomicU64,
    pub duplicates: AtomicU64,
    /// Rows committed to `dead_letters`.
    pub dead: AtomicU64,
    /// Stretches of `seq` missing now in recent games.
    pub gaps: AtomicU64,
    /// Times that records were trimmed from the log before they were read.
    pub lost: AtomicU64,
    pub commits: AtomicU64,
    /// Records read and not yet committed.
    pub pending: AtomicU64,
    /// By the log's clock: the newest record that is in the table.
    pub committed_ingest_ms: AtomicI64,
    pub last_commit_ms: AtomicI64,
    pub last_version: AtomicU64,
    /// Milliseconds from acceptance by the log to the commit, for each event.
    pub freshness: Histogram,
}

impl LandStats {
    fn new() -> Self {
        Self {
            status: Arc::new(FlowStatus::new(LAND_WAITING)),
            owned: Arc::default(),
            events: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            committed_ingest_ms: AtomicI64::new(0),
            last_commit_ms: AtomicI64::new(0),
            last_version: AtomicU64::new(0),
            freshness: Histogram::default(),
        }
    }

    pub fn freshness_p50_ms(&self) -> u64 {
        self.freshness.quantile(0.5)
    }

    pub fn freshness_p99_ms(&self) -> u64 {
        self.freshness.quantile(0.99)
    }
}

/// The job that puts every event of a topic into table `events`.
#[derive(Debug)]
pub struct Land {
    log: Arc<dyn EventLog>,
    pub(crate) events: Table,
    pub(crate) dead: Table,
    pub(crate) config: LandConfig,
    sharing: Option<Sharing>,
    pub(crate) stats: Arc<LandStats>,
}

const NAMES: Names = Names { flow: "land", partitions: LAND_PARTITIONS, fenced: LAND_FENCED, takeover: LAND_TAKEOVER };

/// What is known of one partition.
pub(crate) struct Partition {
    pub number: u32,
    pub app_id: String,
    /// Where tables `events` and `dead_letters` stand.
    pub committed: Option<i64>,
    pub dead_committed: Option<i64>,
    /// The last record taken into the batch.
    pub taken: Option<i64>,
    pub dead_taken: Option<i64>,
    pub seen: Seen,
}

impl Land {
    pub fn new(log: Arc<dyn EventLog>, lake: Lake, config: LandConfig) -> Self {
        crate::metrics::describe();
        Self {
            log,
            events: lake.table(TableName::Events),
            dead: lake.table(TableName::DeadLetters),
            config,
            sharing: None,
            stats: Arc::new(LandStats::new()),
        }
    }

    /// Shares the partitions with other processes on the same log and tables. All of them have to.
    #[must_use]
    pub fn shared(self, sharing: Sharing) -> Self {
        Self { sharing: Some(sharing), ..self }
    }

    pub fn stats(&self) -> Arc<LandStats> {
        Arc::clone(&self.stats)
    }

    /// Runs until told to stop; what was read by then is committed first. May be called again.
    ///
    /// # Errors
    /// Only for what waiting cannot mend, such as a table of a newer format.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), FlowError> {
        let LandConfig { topic, partitions, .. } = &self.config;
        let stats = Arc::clone(&self.stats.owned);
        let mut owned = Owned::new(&self.log, topic, *partitions, self.sharing.as_ref(), NAMES, stats);
        let result = loop {
            match self.session(&mut owned, &cancel).await {
                Stop::Cancelled => break Ok(()),
                Stop::Moved(error) => tracing::warn!(%error, "another land moved a position; starting over from there"),
                Stop::Fenced(error) => owned.refused(&error),
                Stop::Failed(error) => break Err(error),
            }
        };
        owned.leave().await;
        match &result {
            Ok(()) => self.stats.status.end(None),
            Err(error) => self.stats.status.end(Some(error.to_string())),
        }
        result
    }

    /// One run from the positions in the tables on.
    async fn session(&self, owned: &mut Owned, cancel: &CancellationToken) -> Stop {
        let mut backoff = Backoff::new(self.config.retry_min, self.config.retry_max);
        let mut partitions = BTreeMap::new();
        let mut batch = Batch::default();
        loop {
            if let Err(stop) = self.adjust(owned, &mut partitions, &mut backoff, cancel).await {
                return stop;
            }
            if let Err(stop) = self.term(owned, &mut partitions, &mut batch, &backoff, cancel).await {
                return stop;
            }
        }
    }

    /// Lets go of what is not this process' any more, and takes over what is.
    async fn adjust(
        &self,
        owned: &mut Owned,
        partitions: &mut BTreeMap<u32, Partition>,
        backoff: &mut Backoff,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        let status = &self.stats.status;
        let share = owned.share();
        partitions.retain(|number, _| share.contains(number));
        let held = partitions.keys().copied().collect();
        owned.hold(&held).await;
        let wanted: BTreeSet<u32> = share.difference(&held).copied().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let new = take_over(owned, &wanted, &[&self.events, &self.dead], status, backoff, cancel).await?;
        let found = persist(status, cancel, backoff, || self.resume(&new)).await?;
        partitions.extend(found);
        self.stats.gaps.store(open_gaps(partitions), Relaxed);
        owned.hold(&partitions.keys().copied().collect()).await;
        Ok(())
    }

    /// Lands until the share moves. What was read by then is committed. While one batch is committed the next is read.
    async fn term(
        &self,
        owned: &mut Owned,
        partitions: &mut BTreeMap<u32, Partition>,
        batch: &mut Batch,
        backoff: &Backoff,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        let status = &self.stats.status;
        self.stats.pending.store(0, Relaxed);
        let held: BTreeSet<u32> = partitions.keys().copied().collect();
        let from = partitions
            .values()
            .map(|p| ReadFrom { partition: self.config.topic.partition(p.number), after: p.taken })
            .collect();
        // The readers stop with the term, whatever ends it.
        let reading = cancel.child_token();
        let _stop_reading = reading.clone().drop_guard();
        let mut readers = Readers::start(&self.log, from, self.config.read_bytes, backoff, status, &reading);
        status.needs(Need::Lake, None);
        self.stats.owned.begin(partitions.values().map(|p| (p.number, p.taken)));
        let mut due: Option<Instant> = None;
        let mut flight: Option<Flight<'_>> = None;
        loop {
            if flight.is_none() && batch.is_full(&self.config) {
                flight = Load::take(batch, owned, partitions).map(|load| self.start(load, cancel));
                due = None;
            }
            tokio::select! {
                biased;
                // Stop: keep what was read.
                () = cancel.cancelled() => {
                    self.drain(flight, owned, partitions, batch, cancel).await?;
                    return Err(Stop::Cancelled);
                }
                // Others came or went: keep what was read, then look what is ours.
                () = owned.moved(&held) => {
                    return self.drain(flight, owned, partitions, batch, cancel).await;
                }
                landed = lands(&mut flight) => {
                    flight = None;
                    self.landed(&landed?, partitions);
                }
                // The first record has lingered long enough.
                () = sleep_until(due), if due.is_some() && flight.is_none() => {
                    flight = Load::take(batch, owned, partitions).map(|load| self.start(load, cancel));
                    due = None;
                }
                // Input.
                chunk = readers.chunks.recv(), if !held.is_empty() && !batch.is_full(&self.config) => {
                    let Some(chunk) = chunk else {
                        // They end when told to; the word may have come after this round looked for it.
                        if cancel.is_cancelled() {
                            continue;
                        }
                        return Err(Stop::Failed(FlowError::Task("the readers of the log ended".to_owned())));
                    };
                    let partition = partitions.get_mut(&chunk.partition).expect("only known partitions are read");
                    self.take(chunk, partition, batch);
                    self.stats.owned.reach(partition.number, partition.taken);
                    due.get_or_insert_with(|| Instant::now() + self.config.linger);
                }
            }
        }
    }

    /// Where the tables stand, and which recent events they hold.
    async fn resume(&self, numbers: &BTreeSet<u32>) -> Result<BTreeMap<u32, Partition>, flywheel_lake::LakeError> {
        let mut partitions = BTreeMap::new();
        for &number in numbers {
            let app_id = app_id(&self.config.topic, number);
            let committed = self.events.position(&app_id).await?;
            let dead_committed = self.dead.position(&app_id).await?;
            let window_ms = i64::try_from(self.config.dedupe_window.as_millis()).unwrap_or(i64::MAX);
            let partition = Partition {
                number,
                app_id,
                committed,
                dead_committed,
                taken: committed,
                dead_taken: dead_committed,
                seen: Seen::new(window_ms, self.config.max_games),
            };
            partitions.insert(number, partition);
        }
        #[cfg(flywheel_bug)]
        if crate::seeded_bug("repeats-forgotten-at-start") {
            return Ok(partitions);
        }
        self.recall(&mut partitions).await?;
        Ok(partitions)
    }

    /// Reads the recent part of the table, so that repeats are known as if this process had never stopped.
    async fn recall(&self, partitions: &mut BTreeMap<u32, Partition>) -> Result<(), flywheel_lake::LakeError> {
        let files = self.events.files().await?;
        let newest = files.iter().filter_map(|file| file.ranges.get("ingest_ms")).map(|range| range.1).max();
        // One partition whose log once had a clock of the future must not hide what is recent in the others.
        let Some(newest) = newest.map(|newest| newest.min(now_ms())) else { return Ok(()) };
        let window_ms = i64::try_from(self.config.dedupe_window.as_millis()).unwrap_or(i64::MAX);
        let oldest = newest.saturating_sub(window_ms);
        let cut = files.iter().any(|file| file.ranges.get("ingest_ms").is_some_and(|range| range.1 < oldest));
        let mut options = ScanOptions::columns(["partition", "game_id", "seq", "ingest_ms"]);
        options.ranges.push(Range::at_least("ingest_ms", oldest));
        if let Some(system) = System::ALL.into_iter().find(|s| s.topic() == self.config.topic.as_str()) {
            options.system = Some(system.as_str().to_owned());
        }
        let mut batches = self.events.scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (number, game_id) =
                (column("partition").as_primitive::<Int32Type>(), column("game_id").as_string::<i32>());
            let (seq, at) =
                (column("seq").as_primitive::<Int64Type>(), column("ingest_ms").as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                if let Some(partition) = partitions.get_mut(&(number.value(row) as u32)) {
                    partition.seen.see(game_id.value(row), seq.value(row) as u64, at.value(row));
                }
            }
        }
        if cut {
            partitions.values_mut().for_each(|p| p.seen.assume_older_seen());
        }
        Ok(())
    }

    fn take(&self, chunk: Chunk, partition: &mut Partition, batch: &mut Batch) {
        if chunk.lost {
            self.stats.lost.fetch_add(1, Relaxed);
        }
        self.stats.pending.fetch_add(chunk.records.len() as u64, Relaxed);
        for record in &chunk.records {
            let offset = record.offset.as_i64();
            batch.records += 1;
            batch.newest_ms = batch.newest_ms.max(record.ingest_ms);
            partition.taken = Some(offset);
            match (self.config.decode)(&record.value) {
                Ok(event) => self.take_event(&event, record, partition, batch),
                Err(error) => self.give_up(error.reason(), &error.to_string(), record, partition, batch),
            }
        }
    }

    fn take_event(&self, event: &EventView<'_>, record: &StoredRecord, partition: &mut Partition, batch: &mut Batch) {
        if i64::try_from(event.seq).is_err() {
            let detail = format!("seq {} does not fit a table's long", event.seq);
            return self.give_up("seq_out_of_range", &detail, record, partition, batch);
        }
        let sight = partition.seen.see(&event.game_id, event.seq, record.ingest_ms);
        #[cfg(flywheel_bug)]
        let sight = match sight.added {
            Added::Repeat if crate::seeded_bug("repeats-are-landed") => {
                crate::seen::Sight { added: Added::New, ..sight }
            }
            _ => sight,
        };
        match sight.added {
            Added::New => {
                batch.rows.push(event, partition.number, record);
                if sight.opened_gap {
                    tracing::warn!(game_id = %event.game_id, seq = event.seq, "a gap in seq opened");
                }
            }
            Added::Repeat if sight.assumed => {
                batch.doubt((event.game_id.clone().into_owned(), event.seq), partition.number, record);
            }
            Added::Repeat => batch.duplicates += 1,
            Added::Refused => {
                let detail = format!("`{}` has more gaps in seq than are kept track of", event.game_id);
                self.give_up("too_many_gaps", &detail, record, partition, batch);
            }
        }
    }

    fn give_up(&self, reason: &str, detail: &str, record: &StoredRecord, partition: &mut Partition, batch: &mut Batch) {
        let offset = record.offset.as_i64();
        if partition.dead_committed.is_some_and(|committed| offset <= committed) {
            return;
        }
        partition.dead_taken = Some(offset);
        batch.dead.push(&DeadLetterRow {
            system: system_of(&self.config.topic),
            flow: "land".to_owned(),
            topic: self.config.topic.to_string(),
            partition: partition.number,
            offset,
            ingest_ms: record.ingest_ms,
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            raw: record.value.to_vec(),
        });
    }
}

/// Claims `wanted`, trying again while the lake is away. Another process may be faster: then less is ours, or nothing.
pub(crate) async fn take_over(
    owned: &mut Owned,
    wanted: &BTreeSet<u32>,
    tables: &[&Table],
    status: &FlowStatus,
    backoff: &mut Backoff,
    cancel: &CancellationToken,
) -> Result<BTreeSet<u32>, Stop> {
    loop {
        let claimed = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Stop::Cancelled),
            claimed = owned.claim(wanted, tables) => claimed,
        };
        match claimed {
            Ok(ours) => {
                backoff.reset();
                return Ok(ours);
            }
            Err(error) if error.kind() == LakeErrorKind::Fenced => {
                tracing::info!(%error, "another process was faster; looking again");
                if !backoff.pause(cancel).await {
                    return Err(Stop::Cancelled);
                }
                return Ok(BTreeSet::new());
            }
            Err(error) if is_final(&error) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the lake refuses a claim; trying again");
                status.needs(Need::Lake, Some(error.to_string()));
                if !backoff.pause(cancel).await {
                    return Err(Stop::Cancelled);
                }
            }
        }
    }
}

pub(crate) fn open_gaps(partitions: &BTreeMap<u32, Partition>) -> u64 {
    partitions.values().map(|p| p.seen.gaps() as u64).sum()
}

pub(crate) async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

/// The system whose topic it is.
pub(crate) fn system_of(topic: &Topic) -> String {
    let system = System::ALL.into_iter().find(|system| system.topic() == topic.as_str());
    system.map_or_else(|| "unknown".to_owned(), |system| system.to_string())
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
