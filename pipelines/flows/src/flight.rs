//! A commit of [`Land`] under way, while the next batch is read.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::Ordering::{Relaxed, Release},
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use flywheel_lake::{Advance, LakeError, Range, ScanOptions};
use futures::{TryStreamExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use crate::{
    Land,
    batch::{Batch, Doubtful, Key, Rows},
    error::Stop,
    land::{Partition, now_ms, open_gaps},
    metrics::{LAND_DEAD, LAND_DUPLICATES, LAND_EVENTS, LAND_FRESHNESS, LAND_GAPS},
    owned::Owned,
    retry::{Backoff, persist},
};

pub(crate) type Flight<'a> = BoxFuture<'a, Result<Landed, Stop>>;

/// Waits for the commit under way; for ever if there is none.
pub(crate) async fn lands(flight: &mut Option<Flight<'_>>) -> Result<Landed, Stop> {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

/// How far a commit brings one partition.
struct Step {
    partition: u32,
    app_id: String,
    from: Option<i64>,
    to: i64,
    /// The same of the dead letters, if there are new ones.
    dead: Option<(Option<i64>, i64)>,
    fence: Option<Advance>,
}

/// What a commit brings into the tables.
pub(crate) struct Load {
    steps: Vec<Step>,
    rows: Vec<RecordBatch>,
    dead: Option<RecordBatch>,
    doubtful: Doubtful,
    records: usize,
    duplicates: u64,
    newest_ms: i64,
}

/// What is in the tables now, by partition: the position of `events`, and that of `dead_letters` if it moved.
pub(crate) struct Landed(Vec<(u32, i64, Option<i64>)>);

impl Load {
    /// Takes all that is in the batch; `None` if no partition came further.
    pub fn take(batch: &mut Batch, owned: &Owned, partitions: &BTreeMap<u32, Partition>) -> Option<Self> {
        let step = |p: &Partition| Step {
            partition: p.number,
            app_id: p.app_id.clone(),
            from: p.committed,
            to: p.taken.expect("moved on"),
            dead: p.dead_taken.filter(|_| p.dead_taken != p.dead_committed).map(|to| (p.dead_committed, to)),
            fence: owned.fences([p.number]).pop(),
        };
        let steps: Vec<_> = partitions.values().filter(|p| p.taken != p.committed).map(step).collect();
        (!steps.is_empty()).then(|| Self {
            steps,
            rows: batch.rows.finish(),
            dead: (!batch.dead.is_empty()).then(|| batch.dead.finish()),
            doubtful: batch.take_doubtful(),
            records: std::mem::take(&mut batch.records),
            duplicates: std::mem::take(&mut batch.duplicates),
            newest_ms: batch.newest_ms,
        })
    }
}

impl Land {
    pub(crate) fn start<'a>(&'a self, load: Load, cancel: &'a CancellationToken) -> Flight<'a> {
        Box::pin(self.commit(load, cancel))
    }

    /// Commits a load: dead letters first, since the position of `events` says that both are done.
    async fn commit(&self, mut load: Load, cancel: &CancellationToken) -> Result<Landed, Stop> {
        let mut backoff = Backoff::new(self.config.retry_min, self.config.retry_max);
        let status = &self.stats.status;
        if let Some(rows) = load.dead.take() {
            let n_dead = rows.num_rows() as u64;
            let advances: Vec<_> = load.steps.iter().flat_map(Step::dead_advances).collect();
            let append = || self.dead.append_from(vec![rows.clone()], &advances);
            persist(status, cancel, &mut backoff, append).await?;
            self.stats.dead.fetch_add(n_dead, Relaxed);
            metrics::counter!(LAND_DEAD).increment(n_dead);
        }
        if !load.doubtful.is_empty() {
            let known = persist(status, cancel, &mut backoff, || self.known(&load.doubtful)).await?;
            let mut rows = Rows::default();
            for (key, (partition, record)) in std::mem::take(&mut load.doubtful) {
                if known.contains(&key) {
                    load.duplicates += 1;
                    continue;
                }
                let event = (self.config.decode)(&record.value).expect("it was decoded when it was taken");
                rows.push(&event, partition, &record);
            }
            load.rows.extend(rows.finish());
        }
        let advances: Vec<_> = load.steps.iter().flat_map(Step::advances).collect();
        #[cfg(flywheel_bug)]
        let advances = if crate::seeded_bug("position-before-rows") {
            let first = || self.events.append_from(Vec::new(), &advances);
            persist(status, cancel, &mut backoff, first).await?;
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            Vec::new()
        } else {
            advances
        };
        let append = || self.events.append_from(load.rows.clone(), &advances);
        let commit = persist(status, cancel, &mut backoff, append).await?;
        self.account(&load, commit.version);
        Ok(Landed(load.steps.into_iter().map(|step| (step.partition, step.to, step.dead.map(|(_, to)| to))).collect()))
    }

    pub(crate) fn landed(&self, landed: &Landed, partitions: &mut BTreeMap<u32, Partition>) {
        for (number, to, dead) in &landed.0 {
            let partition = partitions.get_mut(number).expect("a term keeps its partitions");
            partition.committed = Some(*to);
            partition.dead_committed = dead.or(partition.dead_committed);
        }
        self.stats.gaps.store(open_gaps(partitions), Relaxed);
        metrics::gauge!(LAND_GAPS).set(self.stats.gaps.load(Relaxed) as f64);
    }

    /// Commits what is under way and what was read.
    pub(crate) async fn drain(
        &self,
        flight: Option<Flight<'_>>,
        owned: &Owned,
        partitions: &mut BTreeMap<u32, Partition>,
        batch: &mut Batch,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        if let Some(flight) = flight {
            self.landed(&flight.await?, partitions);
        }
        if let Some(load) = Load::take(batch, owned, partitions) {
            self.landed(&self.commit(load, cancel).await?, partitions);
        }
        Ok(())
    }

    /// Which of the doubtful events the table holds. They come late, or a second time, so this is rare.
    async fn known(&self, doubtful: &Doubtful) -> Result<HashSet<Key>, LakeError> {
        let mut options = ScanOptions::columns(["game_id", "seq"]);
        let seqs = || doubtful.keys().map(|(_, seq)| i64::try_from(*seq).unwrap_or(i64::MAX));
        if let (Some(low), Some(high)) = (seqs().min(), seqs().max()) {
            options.ranges.push(Range { column: "seq".to_owned(), low, high });
        }
        let games: HashSet<&str> = doubtful.keys().map(|(game_id, _)| game_id.as_str()).collect();
        let mut known = HashSet::new();
        let mut batches = self.events.scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (game_id, seq) = (column("game_id").as_string::<i32>(), column("seq").as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                if games.contains(game_id.value(row)) {
                    let key = (game_id.value(row).to_owned(), seq.value(row) as u64);
                    if doubtful.contains_key(&key) {
                        known.insert(key);
                    }
                }
            }
        }
        Ok(known)
    }

    fn account(&self, load: &Load, version: u64) {
        let (stats, now) = (&self.stats, now_ms());
        let n_rows = load.rows.iter().map(RecordBatch::num_rows).sum::<usize>();
        let histogram = metrics::histogram!(LAND_FRESHNESS);
        for part in &load.rows {
            let ingest = part.column_by_name("ingest_ms").expect("events have it").as_primitive::<Int64Type>();
            // What one append brought has one time.
            for same in ingest.values().chunk_by(|a, b| a == b) {
                let age = (now - same[0]).max(0) as u64;
                stats.freshness.record_many(age, same.len() as u64);
                histogram.record_many(age as f64 / 1000.0, same.len());
            }
        }
        // Whoever adds the two up finds too few meanwhile, never too many.
        stats.pending.fetch_sub(load.records as u64, Relaxed);
        stats.events.fetch_add(n_rows as u64, Release);
        stats.duplicates.fetch_add(load.duplicates, Relaxed);
        stats.commits.fetch_add(1, Relaxed);
        stats.committed_ingest_ms.fetch_max(load.newest_ms, Relaxed);
        stats.last_commit_ms.store(now, Relaxed);
        stats.last_version.store(version, Relaxed);
        metrics::counter!(LAND_EVENTS).increment(n_rows as u64);
        metrics::counter!(LAND_DUPLICATES).increment(load.duplicates);
        tracing::debug!(topic = %self.config.topic, version, n_rows, "committed batch");
    }
}

impl Step {
    fn advances(&self) -> impl Iterator<Item = Advance> {
        let to = Advance::new(&self.app_id, self.from, self.to);
        [Some(to), self.fence.clone()].into_iter().flatten()
    }

    fn dead_advances(&self) -> impl Iterator<Item = Advance> {
        let to = self.dead.map(|(from, to)| Advance::new(&self.app_id, from, to));
        let fence = self.fence.clone().filter(|_| to.is_some());
        [to, fence].into_iter().flatten()
    }
}
