//! Log to tables `transitions` and `episodes`, exactly once.
//!
//! A game closes at a definite record of its partition, decided by the records alone. Under
//! `assemble/{topic}/{partition}` each table keeps Q: the rows of all games that close at or before Q are there.
//! Under `…/low` it keeps L: reading after L gives every game that was open at Q whole. A restart reads after L,
//! leaves out the games that have an episode already, and writes what closes after Q. The tables are committed in
//! the order dead letters, transitions, episodes, so whatever `episodes` says is done is done in the others.

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
use flywheel_events::{GameId, System};
use flywheel_game_api::Experience;
use flywheel_lake::{Advance, Lake, LakeError, Range, ScanOptions, Table, TableName};
use flywheel_log::{EventLog, Topic};
use futures::TryStreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    AssembleConfig, FlowError, FlowStatus, Histogram,
    error::Stop,
    land::{now_ms, sleep_until, take_over},
    metrics::{
        ASSEMBLE_DEAD, ASSEMBLE_FENCED, ASSEMBLE_FRESHNESS, ASSEMBLE_GAMES, ASSEMBLE_INCOMPLETE, ASSEMBLE_OPEN,
        ASSEMBLE_PARTITIONS, ASSEMBLE_TAKEOVER, ASSEMBLE_TRANSITIONS, ASSEMBLE_WAITING,
    },
    owned::{Names, Owned, OwnedStats},
    partition::{Committed, Experiences, Output, Partition, RecentlyClosed},
    read::{Chunk, ReadFrom, Readers},
    retry::{Backoff, persist},
    sharing::Sharing,
    status::Need,
};

/// Under this id the tables keep Q of a partition.
pub fn app_id(topic: &Topic, partition: u32) -> String {
    format!("assemble/{topic}/{partition}")
}

/// Under this id the tables keep L of a partition: the log may be trimmed up to it. -1 is the start.
pub fn low_app_id(topic: &Topic, partition: u32) -> String {
    format!("assemble/{topic}/{partition}/low")
}

/// What [`Assemble`] has done since it was made, and does now.
#[derive(Debug)]
pub struct AssembleStats {
    pub status: Arc<FlowStatus>,
    /// What this process works on, where several share the partitions.
    pub owned: Arc<OwnedStats>,
    /// Games whose rows are committed.
    pub games: AtomicU64,
    /// Rows committed to `episodes`.
    pub episodes: AtomicU64,
    /// Rows committed to `transitions`.
    pub transitions: AtomicU64,
    pub incomplete: AtomicU64,
    pub abandoned: AtomicU64,
    /// Rows committed to `dead_letters`.
    pub dead: AtomicU64,
    /// Events that came after their game had closed.
    pub late: AtomicU64,
    pub open_games: AtomicU64,
    pub open_rows: AtomicU64,
    pub lost: AtomicU64,
    pub last_commit_ms: AtomicI64,
    /// Milliseconds from a game's close in the log to the commit of its rows.
    pub freshness: Histogram,
}

impl AssembleStats {
    fn new() -> Self {
        Self {
            status: Arc::new(FlowStatus::new(ASSEMBLE_WAITING)),
            owned: Arc::default(),
            games: AtomicU64::new(0),
            episodes: AtomicU64::new(0),
            transitions: AtomicU64::new(0),
            incomplete: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            late: AtomicU64::new(0),
            open_games: AtomicU64::new(0),
            open_rows: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            last_commit_ms: AtomicI64::new(0),
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

/// The job that turns each game of a topic into transitions and episodes.
pub struct Assemble {
    log: Arc<dyn EventLog>,
    transitions: Table,
    episodes: Table,
    dead: Table,
    experiences: Experiences,
    config: AssembleConfig,
    sharing: Option<Sharing>,
    stats: Arc<AssembleStats>,
}

const NAMES: Names =
    Names { flow: "assemble", partitions: ASSEMBLE_PARTITIONS, fenced: ASSEMBLE_FENCED, takeover: ASSEMBLE_TAKEOVER };

impl Assemble {
    /// `experience` makes a fresh reader for one game of a system; games of a system without one are passed over.
    pub fn new(
        log: Arc<dyn EventLog>,
        lake: Lake,
        experience: impl Fn(System) -> Option<Box<dyn Experience>> + Send + Sync + 'static,
        config: AssembleConfig,
    ) -> Self {
        crate::metrics::describe();
        Self {
            log,
            transitions: lake.table(TableName::Transitions),
            episodes: lake.table(TableName::Episodes),
            dead: lake.table(TableName::DeadLetters),
            experiences: Arc::new(experience),
            config,
            sharing: None,
            stats: Arc::new(AssembleStats::new()),
        }
    }

    /// Shares the partitions with other processes on the same log and tables. All of them have to.
    #[must_use]
    pub fn shared(self, sharing: Sharing) -> Self {
        Self { sharing: Some(sharing), ..self }
    }

    pub fn stats(&self) -> Arc<AssembleStats> {
        Arc::clone(&self.stats)
    }

    /// Runs until told to stop; games that closed by then are committed first. May be called again.
    ///
    /// # Errors
    /// Only for what waiting cannot mend, such as a table of a newer format.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), FlowError> {
        let AssembleConfig { topic, partitions, .. } = &self.config;
        let stats = Arc::clone(&self.stats.owned);
        let mut owned = Owned::new(&self.log, topic, *partitions, self.sharing.as_ref(), NAMES, stats);
        let result = loop {
            match self.session(&mut owned, &cancel).await {
                Stop::Cancelled => break Ok(()),
                Stop::Moved(error) => {
                    tracing::warn!(%error, "another assembler moved a position; starting over from there");
                }
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

    async fn session(&self, owned: &mut Owned, cancel: &CancellationToken) -> Stop {
        let mut backoff = Backoff::new(self.config.retry_min, self.config.retry_max);
        let (mut partitions, mut output) = (BTreeMap::new(), Output::default());
        loop {
            if let Err(stop) = self.adjust(owned, &mut partitions, &mut backoff, cancel).await {
                return stop;
            }
            if let Err(stop) = self.term(owned, &mut partitions, &mut output, &mut backoff, cancel).await {
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
        // `episodes` is committed last, so it has the say.
        let tables = [&self.episodes, &self.transitions, &self.dead];
        let new = take_over(owned, &wanted, &tables, status, backoff, cancel).await?;
        partitions.extend(persist(status, cancel, backoff, || self.resume(&new)).await?);
        owned.hold(&partitions.keys().copied().collect()).await;
        Ok(())
    }

    /// Assembles until the share moves. What closed by then is committed.
    async fn term(
        &self,
        owned: &mut Owned,
        partitions: &mut BTreeMap<u32, Partition>,
        output: &mut Output,
        backoff: &mut Backoff,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        let (status, config) = (&self.stats.status, &self.config);
        let held: BTreeSet<u32> = partitions.keys().copied().collect();
        let from = partitions
            .values()
            .map(|p| ReadFrom { partition: config.topic.partition(p.number), after: p.taken })
            .collect();
        let reading = cancel.child_token();
        let _stop_reading = reading.clone().drop_guard();
        let mut readers = Readers::start(&self.log, from, config.read_bytes, backoff, status, &reading);
        status.needs(Need::Lake, None);
        let mut due: Option<Instant> = None;
        let mut note_due = Instant::now() + config.position_interval;
        loop {
            tokio::select! {
                biased;
                // Stop: keep what has closed, and how far we came.
                () = cancel.cancelled() => {
                    self.flush(owned, partitions, output, backoff, cancel).await?;
                    return Err(Stop::Cancelled);
                }
                // Others came or went: keep what has closed, then look what is ours.
                () = owned.moved(&held) => {
                    return self.flush(owned, partitions, output, backoff, cancel).await;
                }
                // The first game to close has lingered long enough.
                () = sleep_until(due), if due.is_some() => {
                    self.flush(owned, partitions, output, backoff, cancel).await?;
                    due = None;
                    note_due = Instant::now() + config.position_interval;
                }
                // Input.
                chunk = readers.chunks.recv(), if !held.is_empty() => {
                    let Some(chunk) = chunk else {
                        // They end when told to; the word may have come after this round looked for it.
                        if cancel.is_cancelled() {
                            continue;
                        }
                        return Err(Stop::Failed(FlowError::Task("the readers of the log ended".to_owned())));
                    };
                    let partition = partitions.get_mut(&chunk.partition).expect("only known partitions are read");
                    self.take(&chunk, partition, output);
                    self.stats.open_games.store(partitions.values().map(|p| p.open_games() as u64).sum(), Relaxed);
                    self.stats.open_rows.store(partitions.values().map(|p| p.open_rows() as u64).sum(), Relaxed);
                    if !output.episodes.is_empty() || !output.dead.is_empty() || !output.transitions.is_empty() {
                        due.get_or_insert_with(|| Instant::now() + config.linger);
                    }
                    if output.transitions.len() >= config.max_batch_rows || output.episodes.len() >= config.max_batch_rows {
                        due = Some(Instant::now());
                    }
                }
                // Nothing closes, yet a restart should not have to read everything again.
                () = tokio::time::sleep_until(note_due) => {
                    self.flush(owned, partitions, output, backoff, cancel).await?;
                    due = None;
                    note_due = Instant::now() + config.position_interval;
                }
            }
        }
    }

    fn take(&self, chunk: &Chunk, partition: &mut Partition, output: &mut Output) {
        self.stats.lost.fetch_add(u64::from(chunk.lost), Relaxed);
        let late = partition.late;
        for record in &chunk.records {
            partition.take(record, &self.config, &self.experiences, output);
        }
        self.stats.late.fetch_add(partition.late - late, Relaxed);
    }

    /// Where the tables stand and which games are done with.
    async fn resume(&self, numbers: &BTreeSet<u32>) -> Result<BTreeMap<u32, Partition>, LakeError> {
        let window_ms = i64::try_from(self.config.closed_window.as_millis()).unwrap_or(i64::MAX);
        let mut found = Vec::new();
        for &number in numbers {
            let (id, low_id) = (app_id(&self.config.topic, number), low_app_id(&self.config.topic, number));
            let committed = Committed {
                transitions: self.transitions.position(&id).await?,
                episodes: self.episodes.position(&id).await?,
                dead: self.dead.position(&id).await?,
            };
            // L of `episodes`: it is committed last, so it is the lowest.
            let low = self.episodes.position(&low_id).await?.filter(|low| *low >= 0);
            found.push((number, committed, low));
        }
        let lows = found.iter().map(|(number, _, low)| (*number, low.unwrap_or(-1))).collect();
        let mut closed = self.closed_games(&lows, window_ms).await?;
        let partition = |(number, committed, low)| {
            let mut recent = RecentlyClosed::new(window_ms);
            let mut games = closed.remove(&number).unwrap_or_default();
            games.sort();
            games.into_iter().for_each(|(at, game_id)| recent.insert(game_id, at));
            (number, Partition::new(number, committed, low, recent))
        };
        Ok(found.into_iter().map(partition).collect())
    }

    /// The games that have episodes and of which records may still come: those that closed after L, and those
    /// that closed a short while ago.
    async fn closed_games(
        &self,
        lows: &BTreeMap<u32, i64>,
        window_ms: i64,
    ) -> Result<BTreeMap<u32, Vec<(i64, GameId)>>, LakeError> {
        let mut closed: BTreeMap<u32, BTreeMap<GameId, i64>> = BTreeMap::new();
        let files = self.episodes.files().await?;
        let newest = files.iter().filter_map(|file| file.ranges.get("closed_ms")).map(|range| range.1).max();
        let (Some(newest), Some(lowest)) = (newest, lows.values().min()) else { return Ok(BTreeMap::new()) };
        let recent = newest.saturating_sub(window_ms);
        for range in [Range::at_least("closed_ms", recent), Range::at_least("closed_offset", *lowest)] {
            let mut options = ScanOptions::columns(["game_id", "partition", "closed_offset", "closed_ms"]);
            options.ranges.push(range);
            let mut batches = self.episodes.scan_stream(options).await?;
            while let Some(batch) = batches.try_next().await? {
                let column = |name| batch.column_by_name(name).expect("the scan asked for it");
                let (game_id, number) =
                    (column("game_id").as_string::<i32>(), column("partition").as_primitive::<Int32Type>());
                let offset = column("closed_offset").as_primitive::<Int64Type>();
                let at = column("closed_ms").as_primitive::<Int64Type>();
                for row in 0..batch.num_rows() {
                    let number = number.value(row) as u32;
                    let Some(low) = lows.get(&number) else { continue };
                    if offset.value(row) <= *low && at.value(row) < recent {
                        continue;
                    }
                    if let Ok(game_id) = GameId::new(game_id.value(row)) {
                        closed.entry(number).or_default().insert(game_id, at.value(row));
                    }
                }
            }
        }
        let by_time = |games: BTreeMap<GameId, i64>| games.into_iter().map(|(id, at)| (at, id)).collect();
        Ok(closed.into_iter().map(|(number, games)| (number, by_time(games))).collect())
    }

    async fn flush(
        &self,
        owned: &Owned,
        partitions: &mut BTreeMap<u32, Partition>,
        output: &mut Output,
        backoff: &mut Backoff,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        let (status, topic) = (&self.stats.status, &self.config.topic);
        if !output.dead.is_empty() {
            let n_dead = output.dead.len() as u64;
            let rows = vec![output.dead.finish()];
            let moved: BTreeSet<u32> =
                partitions.values().filter(|p| p.dead_taken != p.committed.dead).map(|p| p.number).collect();
            let advances: Vec<_> = moved
                .iter()
                .map(|number| &partitions[number])
                .map(|p| Advance::new(app_id(topic, p.number), p.committed.dead, p.dead_taken.expect("moved on")))
                .chain(owned.fences(moved.iter().copied()))
                .collect();
            persist(status, cancel, backoff, || self.dead.append_from(rows.clone(), &advances)).await?;
            partitions.values_mut().for_each(|p| p.committed.dead = p.dead_taken);
            self.stats.dead.fetch_add(n_dead, Relaxed);
            metrics::counter!(ASSEMBLE_DEAD).increment(n_dead);
        }

        // While a restart reads again what a table has already, that table stays where it is.
        let rows = vec![output.transitions.finish()];
        let n_transitions = rows[0].num_rows() as u64;
        let advances = advances(owned, topic, partitions, |p| p.committed.transitions);
        if !advances.is_empty() {
            persist(status, cancel, backoff, || self.transitions.append_from(rows.clone(), &advances)).await?;
            let taken = |p: &mut Partition| p.committed.transitions = p.committed.transitions.max(p.taken);
            partitions.values_mut().for_each(taken);
        }

        let rows = vec![output.episodes.finish()];
        let n_episodes = rows[0].num_rows() as u64;
        let advances = self::advances(owned, topic, partitions, |p| p.committed.episodes);
        if !advances.is_empty() {
            persist(status, cancel, backoff, || self.episodes.append_from(rows.clone(), &advances)).await?;
            partitions.values_mut().for_each(|p| p.committed.episodes = p.committed.episodes.max(p.taken));
        }
        self.account(partitions, output, n_transitions, n_episodes);
        Ok(())
    }

    fn account(&self, partitions: &BTreeMap<u32, Partition>, output: &mut Output, transitions: u64, episodes: u64) {
        let (stats, now) = (&self.stats, now_ms());
        let histogram = metrics::histogram!(ASSEMBLE_FRESHNESS);
        let closed = std::mem::take(&mut output.closed_ms);
        for at in &closed {
            let age = (now - at).max(0) as u64;
            stats.freshness.record(age);
            histogram.record(age as f64 / 1000.0);
        }
        stats.games.fetch_add(closed.len() as u64, Relaxed);
        stats.transitions.fetch_add(transitions, Relaxed);
        stats.episodes.fetch_add(episodes, Relaxed);
        stats.incomplete.fetch_add(output.incomplete, Relaxed);
        stats.abandoned.fetch_add(output.abandoned, Relaxed);
        stats.last_commit_ms.store(now, Relaxed);
        let open: usize = partitions.values().map(Partition::open_games).sum();
        metrics::counter!(ASSEMBLE_GAMES).increment(closed.len() as u64);
        metrics::counter!(ASSEMBLE_TRANSITIONS).increment(transitions);
        metrics::counter!(ASSEMBLE_INCOMPLETE).increment(output.incomplete);
        metrics::gauge!(ASSEMBLE_OPEN).set(open as f64);
        tracing::debug!(topic = %self.config.topic, n_games = closed.len(), transitions, "committed games");
        (output.incomplete, output.abandoned) = (0, 0);
    }
}

fn advances(
    owned: &Owned,
    topic: &Topic,
    partitions: &BTreeMap<u32, Partition>,
    committed: impl Fn(&Partition) -> Option<i64>,
) -> Vec<Advance> {
    let moved = || partitions.values().filter(|p| p.taken > committed(p));
    let fences = owned.fences(moved().map(|p| p.number));
    moved()
        .flat_map(|p| {
            let to = p.taken.expect("it has moved on");
            [
                Advance::new(app_id(topic, p.number), committed(p), to),
                Advance::note(low_app_id(topic, p.number), p.resume_after()),
            ]
        })
        .chain(fences)
        .collect()
}
