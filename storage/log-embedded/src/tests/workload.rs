//! Writers that append until the disk stops them, and what they may expect afterwards.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use flywheel_log::{EventLog, LogErrorKind, Offset, Position, ReadLimit, Record, StoredRecord, Topic, TopicPartition};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::disk::Disk;
use crate::{EmbeddedConfig, EmbeddedLog, store::LogFile};

pub const LANES: u32 = 3;
const WRITERS: u64 = 4;

pub fn topic() -> Topic {
    Topic::new("fw.test.events")
}

/// Without a tail: what is read comes from the file.
pub fn open(file: LogFile) -> Arc<EmbeddedLog> {
    try_open(file).unwrap()
}

pub fn try_open(file: LogFile) -> Result<Arc<EmbeddedLog>, flywheel_log::LogError> {
    EmbeddedLog::over(Path::new("nowhere"), file, EmbeddedConfig { tail_bytes: 0, ..EmbeddedConfig::default() })
}

/// What was tried and what was acknowledged.
#[derive(Debug, Default)]
pub struct Journal {
    /// Batches with the offset of their last record; `None` if there was no acknowledgement.
    pub batches: Vec<(TopicPartition, Vec<Bytes>, Option<Offset>)>,
    /// Tried, then acknowledged.
    pub trims: BTreeMap<TopicPartition, (Option<Offset>, Option<Offset>)>,
    pub positions: BTreeMap<TopicPartition, (Option<Offset>, Option<Offset>)>,
    /// Partitions of topics, and whether their creation was acknowledged.
    pub topics: BTreeMap<Topic, bool>,
}

impl Journal {
    pub fn n_acknowledged(&self) -> usize {
        self.batches.iter().filter(|batch| batch.2.is_some()).map(|batch| batch.1.len()).sum()
    }
}

pub fn values(name: &str, n: u64, random: &mut ChaCha8Rng) -> Vec<Bytes> {
    let size = if random.random_ratio(1, 20) { 20_000 } else { random.random_range(0..600) };
    let count = random.random_range(1..=5);
    (0..count).map(|i| format!("{name} {n} {i} {}", "x".repeat(size)).into_bytes().into()).collect()
}

pub fn records(values: &[Bytes]) -> Vec<Record> {
    values.iter().map(|value| Record::new("game", value.clone())).collect()
}

/// Several writers, one who trims, one who commits positions, one who makes topics: each goes on until a call fails, which
/// it does for lack of power alone.
pub async fn until_the_power_goes(log: &Arc<EmbeddedLog>, disk: &Disk, seed: u64) -> Journal {
    log.create_topic(&topic(), LANES).await.unwrap();
    let journal = Arc::new(Mutex::new(Journal::default()));
    journal.lock().topics.insert(topic(), true);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    disk.cut_after(random.random_range(0..300));
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (log, journal) = (Arc::clone(log), Arc::clone(&journal));
        let mut random = ChaCha8Rng::seed_from_u64(seed * 100 + writer);
        tasks.spawn(async move {
            for n in 0.. {
                let to = topic().partition(random.random_range(0..LANES));
                let values = values(&format!("writer {writer}"), n, &mut random);
                let result = log.append(&to, records(&values)).await;
                journal.lock().batches.push((to, values, result.as_ref().ok().copied()));
                if stopped(result) {
                    return;
                }
            }
        });
    }
    for trims in [true, false] {
        let (log, journal, disk) = (Arc::clone(log), Arc::clone(&journal), disk.clone());
        let mut random = ChaCha8Rng::seed_from_u64(seed * 100 + 50 + u64::from(trims));
        let mut member = log.join(&topic(), if trims { "none" } else { "g" }, "m").await.unwrap();
        tasks.spawn(async move {
            // There may never be a record.
            while !disk.is_off() {
                tokio::task::yield_now().await;
                let of = topic().partition(random.random_range(0..LANES));
                let Some(last) = log.bounds(&of).await.unwrap().last else { continue };
                let upto = Offset::from_raw(if trims { last.raw() / 2 } else { last.raw() });
                let note = |acknowledged: bool| {
                    let mut journal = journal.lock();
                    let Journal { trims: trimmed, positions, .. } = &mut *journal;
                    let (tried, done) = if trims { trimmed } else { positions }.entry(of.clone()).or_default();
                    *if acknowledged { done } else { tried } = Some(upto);
                };
                note(false);
                let result = if trims { log.trim(&of, upto).await } else { member.commit(&of, upto).await };
                note(result.is_ok());
                if stopped(result) {
                    return;
                }
            }
        });
    }
    let (log, notes) = (Arc::clone(log), Arc::clone(&journal));
    tasks.spawn(async move {
        for n in 0.. {
            let topic = Topic::new(format!("more.{n}"));
            let result = log.create_topic(&topic, 2).await;
            notes.lock().topics.insert(topic, result.is_ok());
            if stopped(result) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    });
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    std::mem::take(&mut *journal.lock())
}

fn stopped<T>(result: Result<T, flywheel_log::LogError>) -> bool {
    match result {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), LogErrorKind::Unavailable, "{error}");
            true
        }
    }
}

pub async fn all(log: &EmbeddedLog, of: &TopicPartition) -> Result<Vec<StoredRecord>, String> {
    let (mut found, mut position) = (Vec::new(), Position::Start);
    loop {
        let limit = ReadLimit { max_records: 7, ..ReadLimit::default() };
        let some = log.read(of, position, limit).await.map_err(|error| error.to_string())?;
        let Some(last) = some.last() else { return Ok(found) };
        position = Position::After(last.offset);
        found.extend(some);
    }
}

/// Whether the log holds what it acknowledged, and beside it only whole batches.
pub async fn check(log: &EmbeddedLog, journal: &Journal) -> Result<(), String> {
    let topics: BTreeMap<_, _> = log.topics().await.map_err(|e| e.to_string())?.into_iter().collect();
    for (topic, acknowledged) in &journal.topics {
        if *acknowledged && !topics.contains_key(topic) {
            return Err(format!("the topic `{topic}` is gone"));
        }
    }
    for lane in (0..LANES).map(|n| topic().partition(n)) {
        check_lane(log, journal, &lane).await.map_err(|why| format!("{lane}: {why}"))?;
    }
    Ok(())
}

async fn check_lane(log: &EmbeddedLog, journal: &Journal, lane: &TopicPartition) -> Result<(), String> {
    let bounds = log.bounds(lane).await.map_err(|e| e.to_string())?;
    let within = |name: &str, found: Option<Offset>, (tried, done): (Option<Offset>, Option<Offset>)| {
        let fits = found >= done && found <= tried.max(done);
        fits.then_some(()).ok_or_else(|| format!("{name} {found:?}, tried {tried:?}, acknowledged {done:?}"))
    };
    within("trimmed up to", bounds.trimmed, journal.trims.get(lane).copied().unwrap_or_default())?;
    let position = log.committed("g", lane).map_err(|e| e.to_string())?;
    within("position", position, journal.positions.get(lane).copied().unwrap_or_default())?;

    let found = all(log, lane).await?;
    let first = bounds.trimmed.map_or(0, |offset| offset.raw() + 1);
    let mut by_value = BTreeMap::new();
    for (record, offset) in found.iter().zip(first..) {
        if record.offset.raw() != offset {
            return Err(format!("offset {} where {offset} should be", record.offset));
        }
        if by_value.insert(record.value.clone(), offset).is_some() {
            return Err(format!("offset {offset} is there twice"));
        }
    }
    for (_, values, acknowledged) in journal.batches.iter().filter(|batch| &batch.0 == lane) {
        // Where the batch has to be; one that was not acknowledged is where its last record is.
        let last = acknowledged.map(Offset::raw).or_else(|| by_value.get(values.last()?).copied());
        let before = values.len() as u64 - 1;
        for (value, back) in values.iter().zip((0..=before).rev()) {
            let at = by_value.remove(value);
            match last.map(|last| last - back) {
                Some(offset) if offset < first && at.is_none() => {}
                expected if expected == at => {}
                expected => return Err(format!("a record is at {at:?} that belongs to {expected:?}")),
            }
        }
    }
    if by_value.is_empty() { Ok(()) } else { Err(format!("{} records that nobody appended", by_value.len())) }
}
