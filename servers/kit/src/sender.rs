//! The task that brings what waits into the log.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flywheel_log::{LogError, LogErrorKind, Record, TopicPartition, partition_of};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    emitter::{Inner, now_ms},
    metrics::{ACK_SECONDS, ACKNOWLEDGED, QUEUE_BYTES, RETRIES},
    spill::Item,
};

const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Sender {
    inner: Arc<Inner>,
    journal: Option<File>,
}

impl Sender {
    pub fn new(inner: Arc<Inner>, journal: Option<File>) -> Self {
        Self { inner, journal }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let work = self.next_batch();
            let Some(batch) = work else {
                // Events and segments that came meanwhile have left a permit.
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.inner.wake.notified() => {}
                }
                if !self.inner.is_draining() {
                    tokio::time::sleep(self.inner.config.linger).await;
                }
                continue;
            };
            let (items, segment) = batch;
            self.inner.in_flight.store(items.len() as u64, Ordering::Relaxed);
            let left = self.send(items, &stop).await;
            if !left.is_empty() {
                // Told to stop while the log is away.
                if segment.is_none() {
                    self.keep(left);
                }
                self.inner.in_flight.store(0, Ordering::Relaxed);
                self.keep_memory();
                return;
            }
            if let Some(segment) = segment
                && let Err(error) = self.inner.queue.lock().spill.remove(segment)
            {
                // Its events go again at the next start, and are dropped there as repeats.
                warn!(%error, segment, "removing a drained spill segment");
            }
            self.inner.in_flight.store(0, Ordering::Relaxed);
            self.inner.acked.notify_waiters();
        }
    }

    /// Memory first, then the spill file's oldest segment.
    fn next_batch(&self) -> Option<(Vec<Item>, Option<u64>)> {
        let mut queue = self.inner.queue.lock();
        let (mut items, mut bytes) = (Vec::new(), 0);
        while bytes < self.inner.config.batch_bytes
            && let Some(item) = queue.memory.pop_front()
        {
            bytes += item.size();
            items.push(item);
        }
        queue.memory_bytes -= bytes;
        metrics::gauge!(QUEUE_BYTES).set(queue.memory_bytes as f64);
        if !items.is_empty() {
            return Some((items, None));
        }
        match queue.spill.oldest() {
            Ok(oldest) => oldest.map(|spilled| (spilled.items, Some(spilled.segment))),
            Err(error) => {
                error!(%error, "the spill file cannot be read; its events wait");
                None
            }
        }
    }

    /// Appends until everything is acknowledged; returns what is left if told to stop before.
    async fn send(&mut self, items: Vec<Item>, stop: &CancellationToken) -> Vec<Item> {
        let mut lanes: BTreeMap<TopicPartition, Vec<Item>> = BTreeMap::new();
        for item in items {
            let partition = partition_of(&item.key, self.inner.config.partitions);
            lanes.entry(item.topic.partition(partition)).or_default().push(item);
        }
        let mut pause = RETRY_MIN;
        while !lanes.is_empty() {
            let appends = lanes.iter().map(|(lane, items)| {
                let records = items.iter().map(|item| Record { key: item.key.clone(), value: item.value.clone() });
                self.inner.log.append(lane, records.collect())
            });
            let results = join_all(appends).await;
            let mut failed = None;
            for ((lane, items), result) in std::mem::take(&mut lanes).into_iter().zip(results) {
                match result {
                    Ok(_) => self.acknowledge(&items),
                    Err(error) => {
                        failed = Some(error);
                        lanes.insert(lane, items);
                    }
                }
            }
            let Some(error) = failed else {
                self.back();
                continue;
            };
            metrics::counter!(RETRIES).increment(1);
            self.away(&error);
            if stop.is_cancelled() {
                break;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        lanes.into_values().flatten().collect()
    }

    fn away(&self, error: &LogError) {
        let why = error.to_string();
        self.inner.full.store(error.kind() == LogErrorKind::Full, Ordering::Relaxed);
        if self.inner.away_since.load(Ordering::Relaxed) == 0 {
            warn!(why, "the log is away; events wait in memory, then in the spill file");
            self.inner.away_since.store(now_ms(), Ordering::Relaxed);
        }
        *self.inner.away_why.lock() = why;
    }

    fn back(&self) {
        self.inner.full.store(false, Ordering::Relaxed);
        let since = self.inner.away_since.swap(0, Ordering::Relaxed);
        if since > 0 {
            info!(after_ms = now_ms() - since, "the log is back");
        }
    }

    fn acknowledge(&mut self, items: &[Item]) {
        let now = now_ms();
        self.inner.acknowledged.fetch_add(items.len() as u64, Ordering::Relaxed);
        metrics::counter!(ACKNOWLEDGED).increment(items.len() as u64);
        for item in items {
            metrics::histogram!(ACK_SECONDS).record((now - item.emitted_ms).max(0) as f64 / 1000.0);
        }
        if let Some(journal) = &mut self.journal {
            let mut last: BTreeMap<&[u8], u64> = BTreeMap::new();
            for item in items {
                last.insert(&item.key, item.seq);
            }
            let lines: String = last
                .into_iter()
                .map(|(game, seq)| format!("{{\"game\":\"{}\",\"seq\":{seq}}}\n", String::from_utf8_lossy(game)))
                .collect();
            if let Err(error) = journal.write_all(lines.as_bytes()) {
                warn!(%error, "writing the ack journal");
            }
        }
    }

    /// Puts unsent items before everything else that waits.
    fn keep(&self, items: Vec<Item>) {
        let mut queue = self.inner.queue.lock();
        for item in items.into_iter().rev() {
            queue.memory_bytes += item.size();
            queue.memory.push_front(item);
        }
    }

    /// Moves what is in memory to the front of the spill file, for the next start.
    fn keep_memory(&self) {
        let mut queue = self.inner.queue.lock();
        let items: Vec<Item> = queue.memory.drain(..).collect();
        queue.memory_bytes = 0;
        if items.is_empty() {
            return;
        }
        match queue.spill.push_front(&items) {
            Ok(()) => info!(n_events = items.len(), "unsent events are in the spill file"),
            Err(error) => error!(%error, n_events = items.len(), "unsent events could not be kept"),
        }
    }
}
