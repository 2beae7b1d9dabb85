//! The follower: one consumer at the ends of all partitions that somebody waits on.
//!
//! However many readers wait on however many partitions, what is appended is fetched once.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flywheel_log::{LogError, LogErrorKind, StoredRecord};
use parking_lot::Mutex;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use crate::{
    client::{Context, Errors, reader},
    fetch::stored,
    lane::Lane,
};

/// Without a reader for this long a partition is followed no more.
const IDLE: Duration = Duration::from_secs(30);
/// Messages that are taken together, so that readers wake once for them.
const TOGETHER: usize = 2000;

type Lanes = HashMap<(Arc<str>, i32), Arc<Lane>>;

pub(crate) struct Follower {
    consumer: BaseConsumer<Context>,
    lanes: Mutex<Lanes>,
    errors: Errors,
    stopped: AtomicBool,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("lanes", &self.lanes.lock().len()).finish_non_exhaustive()
    }
}

impl Follower {
    /// Starts its thread, which ends when the follower is dropped.
    pub fn start(errors: Errors) -> Result<Arc<Self>, LogError> {
        let mut client = reader(&errors.config);
        // Also how long a partition that is new to it may wait for its first fetch.
        client.set("fetch.wait.max.ms", "100");
        let consumer = client
            .create_with_context(Context(Arc::clone(&errors.health)))
            .map_err(|error| errors.error("setting up", "the follower", &error))?;
        let this = Arc::new(Self { consumer, lanes: Mutex::default(), errors, stopped: AtomicBool::new(false) });
        let weak = Arc::downgrade(&this);
        std::thread::Builder::new()
            .name("flywheel-kafka-follow".to_owned())
            .spawn(move || run(&weak))
            .map_err(|error| LogError::new(LogErrorKind::Unavailable, "starting", "the follower thread", error))?;
        Ok(this)
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Follows `lane` from `next` on, unless it is followed already. Blocks for a moment.
    pub fn follow(&self, lane: &Arc<Lane>, next: i64) -> Result<(), LogError> {
        let mut lanes = self.lanes.lock();
        if lane.is_followed() {
            return Ok(());
        }
        lane.follow_from(next);
        let mut place = TopicPartitionList::new();
        let placed = place
            .add_partition_offset(&lane.name, lane.partition(), KafkaOffset::Offset(next))
            .and_then(|()| self.consumer.incremental_assign(&place));
        if let Err(error) = placed {
            lane.forget_tail();
            return Err(self.errors.error("following", &lane.of, &error));
        }
        lanes.insert((Arc::clone(&lane.name), lane.partition()), Arc::clone(lane));
        Ok(())
    }

    fn unfollow(&self, gone: impl Fn(&Lane) -> bool) {
        let mut lanes = self.lanes.lock();
        let mut places = TopicPartitionList::new();
        lanes.retain(|(name, partition), lane| {
            if !gone(lane) {
                return true;
            }
            lane.forget_tail();
            places.add_partition(name, *partition);
            false
        });
        if places.count() > 0
            && let Err(error) = self.consumer.incremental_unassign(&places)
        {
            tracing::warn!(%error, "partitions are still followed");
        }
    }

    /// Takes what has come.
    fn turn(&self) {
        let mut found: HashMap<(&str, i32), Vec<StoredRecord>> = HashMap::new();
        let mut patience = Duration::from_millis(100);
        let mut held = Vec::new();
        for _ in 0..TOGETHER {
            match self.consumer.poll(patience) {
                None => break,
                Some(Ok(message)) => held.push(message),
                Some(Err(error)) => self.complain(&error),
            }
            patience = Duration::ZERO;
        }
        for message in &held {
            let (place, record) = stored(message);
            found.entry(place).or_default().push(record);
        }
        for ((name, partition), records) in found {
            let lane = self.lanes.lock().get(&(Arc::from(name), partition)).cloned();
            if let Some(lane) = lane {
                lane.push(records.into_iter(), self.errors.config.tail_bytes);
            }
        }
    }

    fn complain(&self, error: &KafkaError) {
        if let Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::UnknownTopicOrPartition) =
            error.rdkafka_error_code()
        {
            // Which partition it was is not said. Readers find out for themselves, and ask to follow again.
            tracing::warn!(%error, "following anew");
            self.unfollow(|_| true);
        } else {
            tracing::debug!(%error, "following");
        }
    }
}

fn run(follower: &Weak<Follower>) {
    let mut swept = Instant::now();
    while let Some(follower) = follower.upgrade() {
        if follower.stopped.load(Ordering::Relaxed) {
            return;
        }
        follower.turn();
        if swept.elapsed() > Duration::from_secs(1) {
            swept = Instant::now();
            follower.unfollow(|lane| lane.is_idle(IDLE));
        }
    }
}
