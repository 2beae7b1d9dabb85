//! The log itself: appends by the writers, reads by follower and fetchers, the rest by the cluster.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition, check_batch,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{
    client::Errors,
    cluster::Cluster,
    config::KafkaConfig,
    fetch::Fetchers,
    follow::Follower,
    group::Member,
    lane::{Lane, next_of},
    writer::{Append, WRITERS, Writer},
};

/// How long a reader that would not wait lets the follower catch up with what is known to exist.
const CATCH_UP: std::time::Duration = std::time::Duration::from_millis(100);

/// An [`EventLog`] on a Kafka cluster.
#[derive(Debug)]
pub struct KafkaLog {
    cluster: Arc<Cluster>,
    fetchers: Arc<Fetchers>,
    follower: OnceLock<Arc<Follower>>,
    writers: Mutex<Vec<Option<mpsc::Sender<Append>>>>,
    errors: Errors,
}

impl KafkaLog {
    /// Connects to a cluster and reads what its acknowledgements are worth.
    ///
    /// # Errors
    /// `Unavailable` if no broker answers within the timeout, or none lets us in; `InvalidData` for settings that
    /// librdkafka refuses. The message names the setting and the fix.
    pub async fn open(config: KafkaConfig) -> Result<Arc<Self>, LogError> {
        let errors = Errors { config: Arc::new(config), health: Arc::default() };
        let cluster = Cluster::connect(errors.clone()).await?;
        let fetchers = Fetchers::new(errors.clone());
        let writers = Mutex::new(vec![None; WRITERS]);
        errors.health.opened();
        let this = Arc::new(Self { cluster, fetchers, follower: OnceLock::new(), writers, errors });
        tracing::info!(brokers = this.errors.config.brokers, durability = %this.durability(), "connected to kafka");
        Ok(this)
    }

    /// Parses `url` and opens the log there.
    ///
    /// # Errors
    /// Like [`KafkaLog::open`]; `InvalidData` lists every problem of the URL.
    pub async fn connect(url: &str) -> Result<Arc<Self>, LogError> {
        // The URL is not repeated: it may hold what it should not.
        let config = KafkaConfig::parse(url)
            .map_err(|error| LogError::new(LogErrorKind::InvalidData, "reading", "the URL of the log", error))?;
        Self::open(config).await
    }

    /// The name of this log: of the cluster, and of our topics in it. A topic that was deleted and made again is not told
    /// apart by it; librdkafka does not give the ids of topics.
    ///
    /// # Errors
    /// `Unavailable` if no broker says it in time.
    pub async fn identity(&self) -> Result<String, LogError> {
        let cluster = self.cluster.identity().await?;
        Ok(format!("{cluster}/{}", self.errors.config.prefix))
    }

    /// Brokers and prefix, as messages name them.
    pub fn place(&self) -> String {
        format!("{}?prefix={}", self.errors.config.target(), self.errors.config.prefix)
    }

    fn writer(&self, to: &TopicPartition) -> Result<mpsc::Sender<Append>, LogError> {
        let hash = flywheel_log::partition_of(to.topic.as_str().as_bytes(), WRITERS as u32);
        let mut writers = self.writers.lock();
        let slot = &mut writers[((hash + to.partition) as usize) % WRITERS];
        if let Some(writer) = slot {
            return Ok(writer.clone());
        }
        let writer = Writer::start(self.errors.clone())?;
        *slot = Some(writer.clone());
        Ok(writer)
    }

    fn follower(&self) -> Result<&Arc<Follower>, LogError> {
        if let Some(follower) = self.follower.get() {
            return Ok(follower);
        }
        let made = Follower::start(self.errors.clone())?;
        // Of two that were made at once, one stays; the other ends by itself.
        Ok(self.follower.get_or_init(|| made))
    }

    async fn follow(&self, lane: &Arc<Lane>, next: i64) -> Result<(), LogError> {
        if lane.is_followed() {
            return Ok(());
        }
        let (follower, lane, of) = (Arc::clone(self.follower()?), Arc::clone(lane), lane.of.clone());
        tokio::task::spawn_blocking(move || follower.follow(&lane, next))
            .await
            .map_err(|error| LogError::new(LogErrorKind::Internal, "following", of, error))?
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.errors.health.closing();
        if let Some(follower) = self.follower.get() {
            follower.stop();
        }
        // Closing a client waits for its threads: not on a worker of the runtime.
        let (cluster, fetchers, follower) =
            (Arc::clone(&self.cluster), Arc::clone(&self.fetchers), self.follower.take());
        std::thread::spawn(move || drop((cluster, fetchers, follower)));
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.cluster.create(topic, partitions).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.cluster.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        check_batch(to, &records)?;
        let (info, lane) = self.cluster.lane("appending", to).await?;
        let (reply, answer) = oneshot::channel();
        let closed = || LogError::new(LogErrorKind::Unavailable, "appending", to, "the log is closed");
        let append = Append { to: to.clone(), name: Arc::clone(&info.name), limit: info.limit, records, reply };
        self.writer(to)?.send(append).await.map_err(|_| closed())?;
        let done = answer.await.map_err(|_| closed())?;
        self.cluster.forget_if_gone(&to.topic, &done);
        let last = done?;
        lane.ends_at_least_at(last.as_i64() + 1);
        Ok(last)
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let (_, lane) = self.cluster.lane("reading", from).await?;
        let until = tokio::time::Instant::now() + limit.max_wait;
        let mut end = lane.end.subscribe();
        // A reader that keeps up needs to ask nobody: what comes, comes to the follower.
        if let Some(next) = next_of(position) {
            if let Some(found) = lane.recent(next, limit) {
                return Ok(found);
            }
            if !limit.max_wait.is_zero() && lane.is_followed_at(next) {
                while *end.borrow_and_update() <= next && tokio::time::timeout_at(until, end.changed()).await.is_ok() {}
                if let Some(found) = self.caught_up(&lane, next, limit).await {
                    return Ok(found);
                }
            }
        }
        loop {
            let marks = self.cluster.marks(&lane).await?;
            LogError::check_trimmed(from, position, marks.trimmed())?;
            let next = next_of(position).unwrap_or(marks.low).max(marks.low);
            if next > marks.high {
                let why = format!(
                    "the position {} lies behind its end {}: the topic was made anew, or the cluster lost \
                     acknowledged records (`unclean.leader.election.enable`); read from the start, or restore it",
                    next - 1,
                    marks.high
                );
                return Err(LogError::new(LogErrorKind::Corrupt, "reading", from, why));
            }
            if next < marks.high {
                if let Some(found) = self.caught_up(&lane, next, limit).await {
                    return Ok(found);
                }
                match self.fetchers.fetch(&lane, next, marks.high, limit).await {
                    Ok(found) if !found.is_empty() => return Ok(found),
                    Ok(_) => {}
                    // Trimmed since we asked: the marks say now whether that matters to this reader.
                    Err(error) if error.kind() == LogErrorKind::Trimmed && position == Position::Start => continue,
                    Err(error) => return Err(error),
                }
            }
            if tokio::time::Instant::now() >= until {
                return Ok(Vec::new());
            }
            // Nothing is there. `high` is the first offset that may come.
            self.follow(&lane, marks.high).await?;
            while *end.borrow_and_update() <= marks.high && tokio::time::timeout_at(until, end.changed()).await.is_ok()
            {
            }
            if let Some(found) = self.caught_up(&lane, marks.high, limit).await {
                return Ok(found);
            }
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        let (_, lane) = self.cluster.lane("asking for the bounds of", of).await?;
        let marks = self.cluster.marks(&lane).await?;
        let kept = |offset: i64| (marks.low < marks.high).then(|| Offset::from_raw(offset as u64));
        Ok(Bounds { first: kept(marks.low), last: kept(marks.high - 1), trimmed: marks.trimmed() })
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        let (_, lane) = self.cluster.lane("trimming", of).await?;
        self.cluster.trim(&lane, up_to).await
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        let info = self.cluster.topic("joining", topic).await?;
        Ok(Box::new(Member::join(self.errors.clone(), topic, &info, group, member).await?))
    }

    fn durability(&self) -> Durability {
        self.cluster.durability()
    }
}

impl KafkaLog {
    /// Newest records from `next` on; where the follower is a moment behind what is known to exist, waits for it.
    async fn caught_up(&self, lane: &Arc<Lane>, next: i64, limit: ReadLimit) -> Option<Vec<StoredRecord>> {
        let until = tokio::time::Instant::now() + CATCH_UP;
        loop {
            if let Some(found) = lane.recent(next, limit) {
                return Some(found);
            }
            let behind = lane.is_followed_at(next) && *lane.end.borrow() > next;
            if !behind || tokio::time::Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}
