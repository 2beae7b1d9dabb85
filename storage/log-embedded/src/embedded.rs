//! The log of one process: a writer thread that commits what waits together, and a tail in memory for readers.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, GroupOffsets, LocalGroups, LogError, LogErrorKind, Offset, Position,
    ReadLimit, Record, Reserve, StoredRecord, Topic, TopicPartition, batch_bytes, check_batch, take_within,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    codec,
    error::closed,
    path::sync_dir,
    store::{End, LogFile, MAX_PARTITIONS, Store, Write},
};

/// Bounds of an embedded log.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Page cache of the file.
    pub cache_bytes: usize,
    /// Newest records of each partition that are kept in memory for readers.
    pub tail_bytes: usize,
    /// Appends that may wait for the writer; more wait in their callers.
    pub queue: usize,
    /// Appends are refused while it is shut, those of other processes too.
    pub reserve: Option<Arc<Reserve>>,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, tail_bytes: 16 << 20, queue: 256, reserve: None }
    }
}

type Reply<T> = oneshot::Sender<Result<T, LogError>>;

enum Request {
    Topic {
        topic: Topic,
        partitions: u32,
        reply: Reply<()>,
    },
    Append {
        to: TopicPartition,
        records: Vec<Record>,
        reply: Reply<Offset>,
    },
    Trim {
        of: TopicPartition,
        up_to: Offset,
        reply: Reply<()>,
    },
    Group {
        group: String,
        of: TopicPartition,
        offset: Offset,
        reply: Reply<()>,
    },
    /// A reader saw the disk fail. At most one of these waits, see [`EmbeddedLog::recovery_asked`].
    Recover,
}

impl Request {
    fn refuse(self, error: &LogError, recovery_asked: &AtomicBool) {
        match self {
            Self::Append { reply, .. } => answer(reply, Err(again(error))),
            Self::Topic { reply, .. } | Self::Trim { reply, .. } | Self::Group { reply, .. } => {
                answer(reply, Err(again(error)));
            }
            Self::Recover => recovery_asked.store(false, Ordering::Release),
        }
    }
}

/// What readers see of one partition.
struct Lane {
    inner: Mutex<LaneInner>,
    /// Next offset; readers wait on it.
    appended: watch::Sender<u64>,
}

#[derive(Default)]
struct LaneInner {
    end: End,
    tail: VecDeque<StoredRecord>,
    tail_bytes: usize,
}

type Lanes = BTreeMap<Topic, Vec<Arc<Lane>>>;

/// The log in one folder. One process holds it; others use its socket, see [`EmbeddedLog::serve`].
pub struct EmbeddedLog {
    dir: PathBuf,
    id: String,
    store: Arc<Store>,
    lanes: Arc<RwLock<Lanes>>,
    writer: mpsc::Sender<Request>,
    reserve: Option<Arc<Reserve>>,
    /// So that many readers of a broken file leave the queue to appends.
    recovery_asked: Arc<AtomicBool>,
    groups: Arc<LocalGroups>,
    this: Weak<Self>,
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log in `dir`, creating it where absent.
    ///
    /// # Errors
    /// `Conflict` if another process holds it, `InvalidData` if it was written by a newer program, `Unavailable`
    /// if the folder cannot be made or the disk is full.
    pub fn open(dir: &Path, config: EmbeddedConfig) -> Result<Arc<Self>, LogError> {
        // Its name is synced also where it was there: whoever made it may have been killed before that.
        std::fs::create_dir_all(dir)
            .and_then(|()| dir.parent().map_or(Ok(()), sync_dir))
            .map_err(|error| LogError::new(LogErrorKind::Unavailable, "creating", dir.display(), error))?;
        let file = LogFile::at(&dir.join("log.redb"), config.cache_bytes)?;
        Self::over(dir, file, config)
    }

    pub(crate) fn over(dir: &Path, file: LogFile, config: EmbeddedConfig) -> Result<Arc<Self>, LogError> {
        let store = Arc::new(Store::over(file));
        let id = store.identity()?;
        let lanes: Lanes = store
            .topics()?
            .into_iter()
            .map(|(topic, ends)| (topic, ends.into_iter().map(|end| Arc::new(Lane::new(end))).collect()))
            .collect();
        let lanes = Arc::new(RwLock::new(lanes));
        let (sender, receiver) = mpsc::channel(config.queue);
        let recovery_asked = Arc::<AtomicBool>::default();
        let writer = Writer {
            store: Arc::clone(&store),
            lanes: Arc::clone(&lanes),
            tail_bytes: config.tail_bytes,
            recovery_asked: Arc::clone(&recovery_asked),
        };
        std::thread::Builder::new()
            .name("flywheel-log".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|error| LogError::new(LogErrorKind::Unavailable, "starting", "the writer thread", error))?;
        Ok(Arc::new_cyclic(|this| Self {
            dir: dir.to_owned(),
            id,
            store,
            lanes,
            writer: sender,
            reserve: config.reserve,
            recovery_asked,
            groups: Arc::default(),
            this: this.clone(),
        }))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log's name, which lies in its file: another log has another, also one made in the same folder.
    pub fn identity(&self) -> &str {
        &self.id
    }

    #[cfg(test)]
    pub(crate) fn committed(&self, group: &str, of: &TopicPartition) -> Result<Option<Offset>, LogError> {
        self.store.committed(group, of)
    }

    fn lane(&self, operation: &'static str, of: &TopicPartition) -> Result<Arc<Lane>, LogError> {
        let lanes = self.lanes.read();
        let lane = lanes.get(&of.topic).and_then(|lanes| lanes.get(of.partition as usize));
        lane.cloned().ok_or_else(|| LogError::unknown_partition(operation, of))
    }

    /// Does `work` with the file where it may block. If the disk fails, the writer is told to open the file again, so that
    /// a later call finds it whole, also in a log that nobody appends to.
    async fn look_up<T: Send + 'static>(
        &self,
        operation: &'static str,
        of: &TopicPartition,
        work: impl FnOnce(&Store) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let store = Arc::clone(&self.store);
        let found = tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|error| LogError::new(LogErrorKind::Internal, operation, of, error))?;
        if self.store.is_broken()
            && !self.recovery_asked.swap(true, Ordering::AcqRel)
            && self.writer.try_send(Request::Recover).is_err()
        {
            // The queue is full of requests that do the same.
            self.recovery_asked.store(false, Ordering::Release);
        }
        found
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        target: &str,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, LogError> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(request(reply)).await.map_err(|_| closed(operation, target))?;
        answer.await.map_err(|_| closed(operation, target))?
    }
}

impl Lane {
    fn new(end: End) -> Self {
        Self { inner: Mutex::new(LaneInner { end, ..LaneInner::default() }), appended: watch::Sender::new(end.next) }
    }

    /// What the file says now. The tail may lack records that it has.
    fn reset(&self, end: End) {
        *self.inner.lock() = LaneInner { end, ..LaneInner::default() };
        self.appended.send_replace(end.next);
    }
}

/// Turns what waits into one transaction after the other. Ends when the log is dropped.
struct Writer {
    store: Arc<Store>,
    lanes: Arc<RwLock<Lanes>>,
    tail_bytes: usize,
    recovery_asked: Arc<AtomicBool>,
}

/// What a request changes once its transaction is on disk.
enum Done {
    Topic { topic: Topic, partitions: u32, reply: Reply<()> },
    Append { lane: Arc<Lane>, records: Vec<StoredRecord>, end: End, reply: Reply<Offset> },
    Trim { lane: Arc<Lane>, end: End, reply: Reply<()> },
    Group { reply: Reply<()> },
}

/// Bytes of appends that share one transaction, at most.
const TRANSACTION_BYTES: usize = 32 << 20;

impl Writer {
    fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut encoder = codec::Encoder::new();
        while let Some(first) = requests.blocking_recv() {
            if self.store.is_broken()
                && let Err(error) = self.recover()
            {
                tracing::error!(%error, "the log cannot be opened again");
                first.refuse(&error, &self.recovery_asked);
                continue;
            }
            let (mut writes, mut done, mut bytes) = (Vec::new(), Vec::new(), 0);
            // Ends as they will be after this transaction.
            let mut ends: BTreeMap<TopicPartition, End> = BTreeMap::new();
            let mut next = Some(first);
            while let Some(request) = next {
                bytes += self.prepare(request, &mut ends, &mut writes, &mut done, &mut encoder);
                next = if bytes < TRANSACTION_BYTES { requests.try_recv().ok() } else { None };
            }
            if writes.is_empty() {
                continue;
            }
            #[cfg(flywheel_bug)]
            if crate::seeded_bug("ack-before-write") {
                done.drain(..).for_each(|done| self.publish(done));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            match self.store.write(&writes) {
                Ok(()) => done.into_iter().for_each(|done| self.publish(done)),
                Err(error) => {
                    tracing::error!(%error, "the log cannot be written");
                    // Before anybody is told, so that who reads next finds the file open.
                    if let Err(error) = self.recover() {
                        tracing::error!(%error, "the log cannot be opened again");
                    }
                    done.into_iter().for_each(|done| done.fail(&error));
                }
            }
        }
    }

    /// Opens the file again and shows readers what it holds: an append that failed may be there after all.
    ///
    /// # Errors
    /// `Corrupt` if the disk has lost what it had synced: going on would give offsets out a second time.
    fn recover(&self) -> Result<(), LogError> {
        let topics: BTreeMap<_, _> = self.store.reopen()?.into_iter().collect();
        let mut known = self.lanes.write();
        for (topic, lanes) in known.iter() {
            for (partition, lane) in (0..).zip(lanes) {
                let end = topics.get(topic).and_then(|ends| ends.get(partition as usize)).copied().unwrap_or_default();
                let shown = lane.inner.lock().end.next;
                if end.next < shown {
                    self.store.set_broken();
                    let why =
                        format!("the disk lost what it had synced: the file ends at {}, it did at {shown}", end.next);
                    return Err(LogError::new(LogErrorKind::Corrupt, "opening again", topic.partition(partition), why));
                }
            }
        }
        for (topic, ends) in topics {
            let lanes = known.entry(topic).or_default();
            for (partition, end) in ends.into_iter().enumerate() {
                match lanes.get(partition) {
                    Some(lane) => lane.reset(end),
                    None => lanes.push(Arc::new(Lane::new(end))),
                }
            }
        }
        drop(known);
        tracing::info!("the log file was opened again after the disk had failed");
        Ok(())
    }

    /// Adds the request to the transaction, or answers it at once if it cannot be done. Returns its size.
    fn prepare(
        &self,
        request: Request,
        ends: &mut BTreeMap<TopicPartition, End>,
        writes: &mut Vec<Write>,
        done: &mut Vec<Done>,
        encoder: &mut codec::Encoder,
    ) -> usize {
        let mut end_of =
            |lane: &Arc<Lane>, of: &TopicPartition| *ends.entry(of.clone()).or_insert_with(|| lane.inner.lock().end);
        match request {
            Request::Topic { topic, partitions, reply } => {
                let known = self.lanes.read().get(&topic).map(Vec::len);
                match known {
                    Some(known) => answer(reply, LogError::check_partitions(&topic, known as u32, partitions)),
                    None if partitions == 0 => answer(reply, LogError::check_partitions(&topic, 0, 0)),
                    None if partitions > MAX_PARTITIONS => {
                        let why = format!("{partitions} partitions were asked for; {MAX_PARTITIONS} is the most");
                        answer(reply, Err(LogError::new(LogErrorKind::InvalidData, "creating", &topic, why)));
                    }
                    None => {
                        writes.push(Write::Topic { topic: topic.clone(), partitions });
                        done.push(Done::Topic { topic, partitions, reply });
                    }
                }
                0
            }
            Request::Append { to, records, reply } => {
                let Some(lane) = self.find(&to) else {
                    answer(reply, Err(LogError::unknown_partition("appending", &to)));
                    return 0;
                };
                let mut end = end_of(&lane, &to);
                end.last_ms = end.last_ms.max(now_ms());
                let batch = encoder.encode(&records, end.last_ms);
                // As it lies in memory, not as it is kept.
                let size = batch_bytes(&records);
                let stored = records
                    .into_iter()
                    .zip(end.next..)
                    .map(|(record, offset)| StoredRecord {
                        offset: Offset::from_raw(offset),
                        ingest_ms: end.last_ms,
                        key: record.key,
                        value: record.value,
                    })
                    .collect::<Vec<_>>();
                end.next += stored.len() as u64;
                ends.insert(to.clone(), end);
                writes.push(Write::Batch { to, last: end.next - 1, batch, end });
                done.push(Done::Append { lane, records: stored, end, reply });
                size
            }
            Request::Trim { of, up_to, reply } => {
                let Some(lane) = self.find(&of) else {
                    answer(reply, Err(LogError::unknown_partition("trimming", &of)));
                    return 0;
                };
                let mut end = end_of(&lane, &of);
                end.kept_from = end.kept_from.max(up_to.raw().saturating_add(1).min(end.next));
                ends.insert(of.clone(), end);
                writes.push(Write::Trim { of, end });
                done.push(Done::Trim { lane, end, reply });
                0
            }
            Request::Group { group, of, offset, reply } => {
                writes.push(Write::Group { group, of, offset });
                done.push(Done::Group { reply });
                0
            }
            // Done already if it was due: the file is looked at before each transaction.
            Request::Recover => {
                self.recovery_asked.store(false, Ordering::Release);
                0
            }
        }
    }

    fn find(&self, of: &TopicPartition) -> Option<Arc<Lane>> {
        self.lanes.read().get(&of.topic)?.get(of.partition as usize).cloned()
    }

    /// Shows readers what is on disk now, then answers. In this order: who was answered finds its records.
    fn publish(&self, done: Done) {
        match done {
            Done::Topic { topic, partitions, reply } => {
                let lanes = (0..partitions).map(|_| Arc::new(Lane::new(End::default()))).collect();
                self.lanes.write().entry(topic).or_insert(lanes);
                answer(reply, Ok(()));
            }
            Done::Append { lane, records, end, reply } => {
                let mut inner = lane.inner.lock();
                inner.end.next = end.next;
                inner.end.last_ms = end.last_ms;
                for record in records {
                    inner.tail_bytes += record.key.len() + record.value.len() + size_of::<StoredRecord>();
                    inner.tail.push_back(record);
                }
                while inner.tail_bytes > self.tail_bytes
                    && let Some(old) = inner.tail.pop_front()
                {
                    inner.tail_bytes -= old.key.len() + old.value.len() + size_of::<StoredRecord>();
                }
                drop(inner);
                lane.appended.send_replace(end.next);
                answer(reply, Ok(Offset::from_raw(end.next - 1)));
            }
            Done::Trim { lane, end, reply } => {
                lane.inner.lock().end.kept_from = end.kept_from;
                answer(reply, Ok(()));
            }
            Done::Group { reply } => answer(reply, Ok(())),
        }
    }
}

impl Done {
    fn fail(self, error: &LogError) {
        match self {
            Self::Append { reply, .. } => answer(reply, Err(again(error))),
            Self::Topic { reply, .. } | Self::Trim { reply, .. } | Self::Group { reply } => {
                answer(reply, Err(again(error)));
            }
        }
    }
}

/// The same error for one more of those that shared the transaction.
fn again(error: &LogError) -> LogError {
    let source = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
    LogError::new(error.kind(), "writing to", "the log file", source)
}

/// A caller that went away needs no answer.
fn answer<T>(reply: Reply<T>, result: Result<T, LogError>) {
    let _gone = reply.send(result);
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        let name = topic.clone();
        self.ask("creating", topic.as_str(), |reply| Request::Topic { topic: name, partitions, reply }).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        Ok(self.lanes.read().iter().map(|(topic, lanes)| (topic.clone(), lanes.len() as u32)).collect())
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        check_batch(to, &records)?;
        if let Some(reserve) = &self.reserve {
            reserve.admit("appending", to)?;
        }
        self.ask("appending", to.topic.as_str(), |reply| Request::Append { to: to.clone(), records, reply }).await
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let lane = self.lane("reading", from)?;
        let mut appended = lane.appended.subscribe();
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            appended.mark_unchanged();
            let in_file = {
                let inner = lane.inner.lock();
                let trimmed = inner.end.kept_from.checked_sub(1).map(Offset::from_raw);
                LogError::check_trimmed(from, position, trimmed)?;
                let first = match position {
                    Position::Start => inner.end.kept_from,
                    Position::After(offset) => (offset.raw() + 1).max(inner.end.kept_from),
                };
                if inner.tail.front().is_some_and(|oldest| oldest.offset.raw() <= first) && first < inner.end.next {
                    let skip = inner.tail.partition_point(|record| record.offset.raw() < first);
                    return Ok(take_within(inner.tail.iter().skip(skip).cloned(), limit));
                }
                first < inner.end.next
            };
            if in_file {
                let of = from.clone();
                let found = self.look_up("reading", from, move |store| store.read(&of, position, limit)).await?;
                // All of it may have been trimmed meanwhile.
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            if tokio::time::timeout_at(until, appended.changed()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        Ok(self.lane("asking for the bounds of", of)?.inner.lock().end.bounds())
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.ask("trimming", of.topic.as_str(), |reply| Request::Trim { of: of.clone(), up_to, reply }).await
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        let partitions = self.lanes.read().get(topic).map(Vec::len);
        let partitions = partitions.ok_or_else(|| LogError::unknown_topic("joining", topic))? as u32;
        let this = self.this.upgrade().expect("a method runs on a log that is alive");
        let offsets = Arc::new(StoredOffsets(Arc::clone(&this)));
        Ok(self.groups.join(this, offsets, topic, partitions, group, member))
    }

    fn durability(&self) -> Durability {
        Durability::Fsynced
    }
}

/// Committed positions, in the same file.
#[derive(Debug)]
struct StoredOffsets(Arc<EmbeddedLog>);

#[async_trait]
impl GroupOffsets for StoredOffsets {
    async fn load(&self, group: &str, of: &TopicPartition) -> Result<Option<Offset>, LogError> {
        let (group, lane) = (group.to_owned(), of.clone());
        self.0.look_up("reading the group's position in", of, move |store| store.committed(&group, &lane)).await
    }

    async fn store(&self, group: &str, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        let request = |reply| Request::Group { group: group.to_owned(), of: of.clone(), offset, reply };
        self.0.ask("committing", of.topic.as_str(), request).await
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use flywheel_log::RECORD_OVERHEAD;

    use super::*;

    /// Or a transaction of very many of them would have no end.
    #[tokio::test]
    async fn empty_records_count_against_a_transaction_too() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), EmbeddedConfig::default()).unwrap();
        let topic = Topic::new("t");
        log.create_topic(&topic, 1).await.unwrap();
        let writer = Writer {
            store: Arc::clone(&log.store),
            lanes: Arc::clone(&log.lanes),
            tail_bytes: 0,
            recovery_asked: Arc::default(),
        };
        let (reply, _answer) = oneshot::channel();
        let records = vec![Record::new("", ""); 1000];
        let request = Request::Append { to: topic.partition(0), records, reply };
        let (mut writes, mut done) = (Vec::new(), Vec::new());
        let size = writer.prepare(request, &mut BTreeMap::new(), &mut writes, &mut done, &mut codec::Encoder::new());
        assert_eq!((size, writes.len()), (1000 * RECORD_OVERHEAD, 1));
    }
}
