//! Members of real consumer groups: cooperative rebalance, and nothing committed that was not handed over and done.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flywheel_log::{
    GroupMember, LogError, LogErrorKind, Offset, ReadLimit, StoredRecord, Topic, TopicPartition, take_within,
};
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset as KafkaOffset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode as Code},
    util::Timeout,
};
use tokio::sync::Notify;

use crate::{
    client::{Context, Errors, reader},
    cluster::TopicInfo,
    fetch::stored,
};

/// Records that a member holds ready.
const READY: usize = 2000;
const READY_BYTES: usize = 4 << 20;

/// One partition that is the member's now. It is made anew whenever the partition comes.
#[derive(Debug, Default)]
struct Mine {
    ready: VecDeque<StoredRecord>,
    /// Whether records of it were handed over.
    given: bool,
}

#[derive(Debug, Default)]
struct State {
    mine: HashMap<u32, Mine>,
    /// Partitions that went while records of them were out; a commit of those is refused, once.
    lost: HashMap<u32, ()>,
    ready: usize,
    ready_bytes: usize,
    paused: bool,
    /// How often the coordinator has said what this member has.
    answers: u64,
    failed: Option<Code>,
}

/// What the thread that polls and the member share.
#[derive(Debug)]
struct Shared {
    context: Context,
    state: Mutex<State>,
    /// Held from the check of a commit to its end, and while partitions go: a commit is checked against what is the
    /// member's when the broker takes it.
    committing: Mutex<()>,
    changed: Notify,
    stopped: AtomicBool,
}

#[derive(Clone)]
struct MemberContext(Arc<Shared>);

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.context.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.context.error(error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(Duration::from_millis(100))
    }

    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(gone) = rebalance else { return };
        // A commit under way is finished first, while the partition is still ours.
        let _committing = self.0.committing.lock();
        let mut state = self.0.state.lock();
        for place in gone.elements() {
            let partition = place.partition() as u32;
            if let Some(mine) = state.mine.remove(&partition) {
                state.ready -= mine.ready.len();
                state.ready_bytes -= mine.ready.iter().map(size).sum::<usize>();
                if mine.given {
                    state.lost.insert(partition, ());
                }
            }
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut state = self.0.state.lock();
        state.answers += 1;
        match rebalance {
            Rebalance::Assign(come) => {
                for place in come.elements() {
                    state.mine.entry(place.partition() as u32).or_default();
                }
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => state.failed = error.rdkafka_error_code(),
        }
        drop(state);
        self.0.changed.notify_waiters();
    }
}

fn size(record: &StoredRecord) -> usize {
    record.key.len() + record.value.len()
}

pub(crate) struct Member {
    consumer: Arc<BaseConsumer<MemberContext>>,
    shared: Arc<Shared>,
    topic: Topic,
    name: Arc<str>,
    group: String,
    errors: Errors,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("topic", &self.topic).field("group", &self.group).finish_non_exhaustive()
    }
}

/// Its thread sees this, closes the consumer, and so leaves the group.
impl Drop for Member {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Member {
    /// Joins, and waits until the group has agreed on what this member has.
    pub async fn join(
        errors: Errors,
        topic: &Topic,
        info: &TopicInfo,
        group: &str,
        member: &str,
    ) -> Result<Self, LogError> {
        let id = format!("{}{group}", errors.config.prefix);
        let mut client = reader(&errors.config);
        client
            .set("group.id", &id)
            .set("client.id", format!("flywheel-{member}"))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "10000")
            // How soon a member hears that partitions are to move.
            .set("heartbeat.interval.ms", "500")
            .set("fetch.wait.max.ms", "100");
        let shared = Arc::new(Shared {
            context: Context(Arc::clone(&errors.health)),
            state: Mutex::default(),
            committing: Mutex::default(),
            changed: Notify::new(),
            stopped: AtomicBool::new(false),
        });
        let consumer: BaseConsumer<MemberContext> = client
            .create_with_context(MemberContext(Arc::clone(&shared)))
            .map_err(|error| errors.error("joining", &id, &error))?;
        consumer.subscribe(&[&*info.name]).map_err(|error| errors.error("joining", &id, &error))?;
        let consumer = Arc::new(consumer);
        let this = Self {
            consumer: Arc::clone(&consumer),
            shared: Arc::clone(&shared),
            topic: topic.clone(),
            name: Arc::clone(&info.name),
            group: id,
            errors,
        };
        std::thread::Builder::new()
            .name("flywheel-kafka-member".to_owned())
            .spawn(move || run(&consumer, &shared))
            .map_err(|error| LogError::new(LogErrorKind::Unavailable, "starting", "the member's thread", error))?;
        this.settled(info.lanes.len()).await?;
        Ok(this)
    }

    /// Waits until this member has partitions, or until others are known to have all of them.
    async fn settled(&self, partitions: usize) -> Result<(), LogError> {
        let until = Instant::now() + self.errors.config.timeout + Duration::from_secs(20);
        loop {
            let (answers, has_some, failed) = {
                let state = self.shared.state.lock();
                (state.answers, !state.mine.is_empty(), state.failed)
            };
            if has_some {
                return Ok(());
            }
            if let Some(code) = failed.filter(|code| is_refusal(*code)) {
                return Err(self.errors.code("joining", &self.group, code));
            }
            if answers > 0 && self.owned_by_all().await? >= partitions {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(self.errors.unavailable("joining", &self.group, "the group did not agree"));
            }
            let _changed = tokio::time::timeout(Duration::from_millis(50), self.shared.changed.notified()).await;
        }
    }

    /// How many partitions of the topic the members of the group have, as the coordinator says.
    async fn owned_by_all(&self) -> Result<usize, LogError> {
        let (consumer, group, name) = (Arc::clone(&self.consumer), self.group.clone(), Arc::clone(&self.name));
        let timeout = self.errors.config.timeout;
        let asked = tokio::task::spawn_blocking(move || {
            let groups = consumer.fetch_group_list(Some(&group), timeout)?;
            let Some(group) = groups.groups().iter().find(|g| g.name() == group) else { return Ok(0) };
            if group.state() != "Stable" {
                return Ok(0);
            }
            Ok(group.members().iter().filter_map(|m| count_assigned(m.assignment()?, &name)).sum())
        });
        asked
            .await
            .map_err(|error| LogError::new(LogErrorKind::Internal, "joining", &self.group, error))?
            .map_err(|error: KafkaError| self.errors.error("joining", &self.group, &error))
    }

    fn take(&self, limit: ReadLimit) -> Vec<(TopicPartition, StoredRecord)> {
        let mut state = self.shared.state.lock();
        let (mut out, mut bytes) = (Vec::new(), 0);
        let mut partitions: Vec<_> = state.mine.iter().filter(|(_, m)| !m.ready.is_empty()).map(|(p, _)| *p).collect();
        partitions.sort_unstable();
        for partition in partitions {
            if out.len() >= limit.max_records.max(1) || (bytes >= limit.max_bytes && !out.is_empty()) {
                break;
            }
            let left = ReadLimit {
                max_records: limit.max_records.max(1) - out.len(),
                max_bytes: limit.max_bytes.saturating_sub(bytes),
                ..limit
            };
            let Some(mine) = state.mine.get_mut(&partition) else { continue };
            let found = take_within(mine.ready.iter().cloned(), left);
            mine.ready.drain(..found.len());
            mine.given = true;
            state.lost.remove(&partition);
            let taken: usize = found.iter().map(size).sum();
            state.ready -= found.len();
            state.ready_bytes -= taken;
            bytes += taken;
            out.extend(found.into_iter().map(|record| (self.topic.partition(partition), record)));
        }
        out
    }

    fn fenced(&self, of: &TopicPartition) -> LogError {
        let why = format!("the partition went to another member of group `{}`", self.group);
        LogError::new(LogErrorKind::Fenced, "committing", of, why)
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError> {
        let mut mine: Vec<_> = self.shared.state.lock().mine.keys().map(|p| self.topic.partition(*p)).collect();
        mine.sort();
        Ok(mine)
    }

    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError> {
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            // Made before looking, so that what comes in between is not missed.
            let changed = self.shared.changed.notified();
            // From here to the return there is no await: what is taken is given.
            let found = self.take(limit);
            if !found.is_empty() {
                return Ok(found);
            }
            if let Some(code) = self.shared.state.lock().failed.take().filter(|code| is_refusal(*code)) {
                return Err(self.errors.code("polling", &self.group, code));
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        let (consumer, shared, name) = (Arc::clone(&self.consumer), Arc::clone(&self.shared), Arc::clone(&self.name));
        let (partition, timeout) = (of.partition, self.errors.config.timeout);
        if of.topic != self.topic {
            return Err(self.fenced(of));
        }
        let committing = tokio::task::spawn_blocking(move || {
            let until = Instant::now() + timeout;
            loop {
                let _committing = shared.committing.lock();
                {
                    let mut state = shared.state.lock();
                    // Fenced once: from then on the member is given again what is not committed.
                    if !state.mine.contains_key(&partition) || state.lost.remove(&partition).is_some() {
                        return Ok(false);
                    }
                }
                let mut places = TopicPartitionList::new();
                places.add_partition_offset(&name, partition as i32, KafkaOffset::Offset(offset.as_i64() + 1))?;
                match consumer.commit(&places, CommitMode::Sync) {
                    // The group is about to agree anew; the partition may well stay.
                    Err(KafkaError::ConsumerCommit(Code::RebalanceInProgress)) if Instant::now() < until => {}
                    done => return done.map(|()| true),
                }
                drop(_committing);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Gives up waiting, not committing: the outcome is unknown then.
        let Ok(done) = tokio::time::timeout(timeout + Duration::from_secs(1), committing).await else {
            return Err(self.errors.unavailable("committing", of, "the coordinator did not answer"));
        };
        match done.map_err(|error| LogError::new(LogErrorKind::Internal, "committing", of, error))? {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.fenced(of)),
            Err(error) => Err(self.errors.error("committing", of, &error)),
        }
    }
}

/// Refusals that another try does not change.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::InconsistentGroupProtocol
            | Code::InvalidSessionTimeout
            | Code::Fatal
    )
}

/// Serves rebalances and gathers records until the member is dropped.
fn run(consumer: &BaseConsumer<MemberContext>, shared: &Shared) {
    while !shared.stopped.load(Ordering::Relaxed) {
        let mut patience = Duration::from_millis(100);
        let mut found = Vec::new();
        let full = {
            let state = shared.state.lock();
            state.ready >= READY || state.ready_bytes >= READY_BYTES
        };
        pause(consumer, shared, full);
        // What came together is shown together.
        while found.len() < READY {
            match consumer.poll(patience) {
                None => break,
                Some(Ok(message)) => found.push(message),
                Some(Err(error)) => {
                    tracing::debug!(%error, "polling");
                    shared.state.lock().failed = error.rdkafka_error_code();
                }
            }
            patience = Duration::ZERO;
        }
        if found.is_empty() {
            continue;
        }
        let mut state = shared.state.lock();
        for message in &found {
            let ((_, partition), record) = stored(message);
            // What came before a rebalance that was served in between is not ours any more.
            let Some(mine) = state.mine.get_mut(&(partition as u32)) else { continue };
            let bytes = size(&record);
            mine.ready.push_back(record);
            state.ready += 1;
            state.ready_bytes += bytes;
        }
        drop(state);
        shared.changed.notify_waiters();
    }
}

/// A member whose caller is slow fetches no more for now, and goes on heartbeating.
fn pause(consumer: &BaseConsumer<MemberContext>, shared: &Shared, full: bool) {
    let was = std::mem::replace(&mut shared.state.lock().paused, full);
    if !full && !was {
        return;
    }
    let places =
        consumer.assignment().and_then(|places| if full { consumer.pause(&places) } else { consumer.resume(&places) });
    if let Err(error) = places {
        tracing::warn!(%error, full, "pausing or resuming a member");
    }
}

/// Partitions of `topic` in an assignment of the consumer protocol: version, then topics, each with partitions.
fn count_assigned(assignment: &[u8], topic: &str) -> Option<usize> {
    let mut rest = assignment.get(2..)?;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let topics = i32::from_be_bytes(take(4)?.try_into().ok()?);
    let mut n = 0;
    for _ in 0..topics {
        let length = usize::try_from(i16::from_be_bytes(take(2)?.try_into().ok()?)).ok()?;
        let is_ours = take(length)? == topic.as_bytes();
        let partitions = usize::try_from(i32::from_be_bytes(take(4)?.try_into().ok()?)).ok()?;
        take(partitions.checked_mul(4)?)?;
        n += if is_ours { partitions } else { 0 };
    }
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_counted_and_a_broken_one_is_not_believed() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (topic, partitions) in [("a", 2_u32), ("bc", 1)] {
            bytes.extend((topic.len() as u16).to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend(partitions.to_be_bytes());
            bytes.extend((0..partitions).flat_map(u32::to_be_bytes));
        }
        assert_eq!((count_assigned(&bytes, "a"), count_assigned(&bytes, "bc")), (Some(2), Some(1)));
        assert_eq!(count_assigned(&bytes, "x"), Some(0));
        for n in 0..bytes.len() {
            assert_eq!(count_assigned(&bytes[..n], "a"), None);
        }
        assert_eq!(count_assigned(&[0, 0, 0, 0, 0, 1, 255, 255], "a"), None);
    }
}
