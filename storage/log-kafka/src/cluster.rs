//! What the cluster has: topics with their partitions, and what an acknowledgement by it is worth.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use flywheel_log::{Durability, LogError, LogErrorKind, Offset, Topic, TopicPartition};
use parking_lot::RwLock;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use crate::{
    client::{Context, Errors, base, reader},
    lane::{Lane, Marks},
};

/// `max.message.bytes` where the cluster does not say: Kafka's default.
const DEFAULT_LIMIT: usize = 1_048_588;

#[derive(Debug)]
pub(crate) struct TopicInfo {
    pub name: Arc<str>,
    pub lanes: Vec<Arc<Lane>>,
    /// `max.message.bytes`: the largest record batch.
    pub limit: usize,
    pub durability: Durability,
}

type TopicMap = BTreeMap<Topic, Arc<TopicInfo>>;

pub(crate) struct Cluster {
    /// For questions: metadata and watermarks.
    query: Arc<BaseConsumer<Context>>,
    admin: AdminClient<Context>,
    errors: Errors,
    topics: RwLock<TopicMap>,
    /// When the topics were last asked for; who comes meanwhile waits for the answer.
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// What the brokers do where a topic says nothing.
    default: RwLock<Durability>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("topics", &self.topics.read().keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// One topic as the metadata has it.
struct Seen {
    topic: Topic,
    name: String,
    partitions: u32,
    /// Copies of the partition that has the fewest.
    copies: usize,
    has_leaders: bool,
}

impl Cluster {
    /// # Errors
    /// `Unavailable` if no broker answers in time: the message says why and what to do.
    pub async fn connect(errors: Errors) -> Result<Arc<Self>, LogError> {
        let target = errors.config.target();
        let setting_up =
            |error: KafkaError| LogError::new(LogErrorKind::InvalidData, "setting up", &target, error.to_string());
        let context = || Context(Arc::clone(&errors.health));
        let query = reader(&errors.config).set_log_level(RDKafkaLogLevel::Info).create_with_context(context());
        let query = Arc::new(query.map_err(setting_up)?);
        // It never listens to its own log, which would grow; the other client meets the same brokers.
        let admin = base(&errors.config)
            .set_log_level(RDKafkaLogLevel::Emerg)
            .create_with_context(context())
            .map_err(setting_up)?;
        let default = RwLock::new(Durability::Memory);
        let this =
            Arc::new(Self { query, admin, errors, topics: RwLock::default(), asked: Default::default(), default });
        this.greet().await?;
        this.refresh(Instant::now()).await?;
        this.read_defaults().await;
        Ok(this)
    }

    /// Waits for the first answer of a broker, up to the timeout; not that long where one turns us away, since it will do
    /// so again.
    async fn greet(&self) -> Result<(), LogError> {
        let until = Instant::now() + self.errors.config.timeout;
        let mut slice = Duration::from_millis(500);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let patience = left.min(slice).max(Duration::from_millis(1));
            let answer = self
                .blocking("asking for the brokers of", &self.errors.config.target(), move |query, _| {
                    query.fetch_metadata(Some("__consumer_offsets"), patience).map(|_| ())
                })
                .await;
            match answer {
                Err(error) if error.kind().is_retryable() && left > slice && !self.errors.health.is_refused() => {
                    // An answer may take longer than a slice.
                    slice *= 2;
                }
                answer => return answer,
            }
        }
    }

    /// Runs what blocks off the workers.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        target: &(impl fmt::Display + ?Sized),
        act: impl FnOnce(&BaseConsumer<Context>, Duration) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, LogError> {
        let (query, timeout) = (Arc::clone(&self.query), self.errors.config.timeout);
        let done = tokio::task::spawn_blocking(move || {
            let done = act(&query, timeout);
            // Why it failed is said in the client's log.
            done.is_err().then(|| listen(&query));
            done
        });
        let done = done.await;
        done.map_err(|error| LogError::new(LogErrorKind::Internal, operation, target, error))?
            .map_err(|error| self.errors.error(operation, target, &error))
    }

    /// The cluster's own id.
    pub async fn identity(&self) -> Result<String, LogError> {
        let (operation, target) = ("asking for the id of", self.errors.config.target());
        let id = self
            .blocking(operation, &target, |query, timeout| Ok(query.client().fetch_cluster_id(timeout)))
            .await?
            .filter(|id| !id.is_empty());
        id.ok_or_else(|| self.errors.unavailable(operation, &target, "no broker named the cluster"))
    }

    fn admin_options(&self) -> AdminOptions {
        let timeout = Some(self.errors.config.timeout);
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    /// Asks for all topics, unless somebody has since `came`.
    async fn refresh(&self, came: Instant) -> Result<(), LogError> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked >= came) {
            return Ok(());
        }
        let now = Instant::now();
        let seen = self.look().await?;
        self.update(seen).await;
        *asked = Some(now);
        Ok(())
    }

    async fn look(&self) -> Result<Vec<Seen>, LogError> {
        let prefix = self.errors.config.prefix.clone();
        let target = self.errors.config.target();
        self.blocking("asking for the topics of", &target, move |query, timeout| {
            let metadata = query.fetch_metadata(None, timeout)?;
            listen(query);
            let seen = metadata.topics().iter().filter_map(|topic| {
                let ours = topic.name().strip_prefix(&prefix)?;
                let partitions = topic.partitions();
                // `__consumer_offsets` and the like are the cluster's own.
                if partitions.is_empty() || topic.name().starts_with("__") {
                    return None;
                }
                Some(Seen {
                    topic: Topic::try_from(ours.to_owned()).ok()?,
                    name: topic.name().to_owned(),
                    partitions: partitions.len() as u32,
                    copies: partitions.iter().map(|p| p.replicas().len()).min().unwrap_or_default(),
                    has_leaders: partitions.iter().all(|p| p.leader() >= 0),
                })
            });
            Ok(seen.collect())
        })
        .await
    }

    async fn update(&self, seen: Vec<Seen>) {
        let old = self.topics.read().clone();
        let is_known = |s: &Seen| old.get(&s.topic).is_some_and(|info| info.lanes.len() == s.partitions as usize);
        let new: Vec<&str> = seen.iter().filter(|s| !is_known(s)).map(|s| s.name.as_str()).collect();
        let configs = self.describe(new.iter().map(|name| ResourceSpecifier::Topic(name)).collect()).await;
        let of = |name: &str| {
            configs
                .iter()
                .find(|c| matches!(&c.specifier, rdkafka::admin::OwnedResourceSpecifier::Topic(t) if t == name))
        };
        let mut topics = TopicMap::new();
        for seen in &seen {
            let known = old.get(&seen.topic);
            if is_known(seen) {
                topics.extend(known.map(|info| (seen.topic.clone(), Arc::clone(info))));
                continue;
            }
            let name: Arc<str> = known.map_or_else(|| Arc::from(seen.name.as_str()), |info| Arc::clone(&info.name));
            let lane = |p: u32| {
                let kept = known.and_then(|info| info.lanes.get(p as usize)).cloned();
                kept.unwrap_or_else(|| Arc::new(Lane::new(seen.topic.partition(p), Arc::clone(&name))))
            };
            let config = of(&seen.name);
            let number = |key: &str| number(config?, key);
            if let Some(ms) = number("retention.ms").filter(|ms| *ms >= 0) {
                let topic = seen.name.as_str();
                tracing::warn!(
                    topic,
                    retention_ms = ms,
                    "the broker deletes records of this topic, landed or not; set `retention.ms=-1`"
                );
            }
            let info = TopicInfo {
                lanes: (0..seen.partitions).map(lane).collect(),
                limit: number("max.message.bytes").and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_LIMIT),
                durability: class(seen.copies as i64, number("min.insync.replicas"), number("flush.messages")),
                name,
            };
            topics.insert(seen.topic.clone(), Arc::new(info));
        }
        *self.topics.write() = topics;
    }

    /// What is not allowed to be asked is left out.
    async fn describe(&self, what: Vec<ResourceSpecifier<'_>>) -> Vec<ConfigResource> {
        if what.is_empty() {
            return Vec::new();
        }
        match self.admin.describe_configs(&what, &self.admin_options()).await {
            Ok(found) => {
                let (found, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
                if let Some(Err(code)) = refused.first() {
                    tracing::warn!(%code, n_resources = refused.len(), "settings of the cluster cannot be read; the worst is assumed");
                }
                found.into_iter().flatten().collect()
            }
            Err(error) => {
                tracing::warn!(%error, "settings of the cluster cannot be read; the worst is assumed");
                Vec::new()
            }
        }
    }

    async fn read_defaults(&self) {
        let broker = self.blocking("asking for the brokers of", "the cluster", |query, timeout| {
            let metadata = query.fetch_metadata(Some("__consumer_offsets"), timeout)?;
            listen(query);
            Ok(metadata.brokers().first().map(|broker| broker.id()))
        });
        let Ok(Some(id)) = broker.await else { return };
        let configs = self.describe(vec![ResourceSpecifier::Broker(id)]).await;
        let Some(config) = configs.first() else { return };
        let copies =
            self.errors.config.replication.map(i64::from).or_else(|| number(config, "default.replication.factor"));
        let asked = |key: &str| self.errors.config.topic.get(key).and_then(|value| value.parse().ok());
        let in_sync = asked("min.insync.replicas").or_else(|| number(config, "min.insync.replicas"));
        let flush = asked("flush.messages").or_else(|| number(config, "log.flush.interval.messages"));
        *self.default.write() = class(copies.unwrap_or(1), in_sync, flush);
    }

    /// What an acknowledgement is worth in the weakest topic there is; without topics, in the next one.
    pub fn durability(&self) -> Durability {
        self.topics.read().values().map(|info| info.durability).min().unwrap_or(*self.default.read())
    }

    pub async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.refresh(Instant::now()).await?;
        Ok(self.topics.read().iter().map(|(topic, info)| (topic.clone(), info.lanes.len() as u32)).collect())
    }

    pub async fn topic(&self, operation: &'static str, topic: &Topic) -> Result<Arc<TopicInfo>, LogError> {
        let known = || self.topics.read().get(topic).cloned();
        if let Some(info) = known() {
            return Ok(info);
        }
        self.refresh(Instant::now()).await?;
        known().ok_or_else(|| LogError::unknown_topic(operation, topic))
    }

    pub async fn lane(
        &self,
        operation: &'static str,
        of: &TopicPartition,
    ) -> Result<(Arc<TopicInfo>, Arc<Lane>), LogError> {
        let known = || {
            let info = self.topics.read().get(&of.topic).cloned()?;
            let lane = Arc::clone(info.lanes.get(of.partition as usize)?);
            Some((info, lane))
        };
        if let Some(found) = known() {
            return Ok(found);
        }
        self.refresh(Instant::now()).await?;
        known().ok_or_else(|| LogError::unknown_partition(operation, of))
    }

    /// After an error that says that a topic is gone: it is looked for again.
    pub fn forget(&self, topic: &Topic) {
        self.topics.write().remove(topic);
    }

    pub async fn create(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        let known = || self.topics.read().get(topic).map(|info| info.lanes.len() as u32);
        self.refresh(Instant::now()).await?;
        if partitions == 0 || known().is_some() {
            return LogError::check_partitions(topic, known().unwrap_or_default(), partitions);
        }
        let config = &self.errors.config;
        let name = format!("{}{topic}", config.prefix);
        let mut new =
            NewTopic::new(&name, partitions as i32, TopicReplication::Fixed(config.replication.unwrap_or(-1)));
        for (key, value) in &config.topic {
            new = new.set(key, value);
        }
        let done = self.admin.create_topics([&new], &self.admin_options()).await;
        match done.map_err(|error| self.errors.error("creating", topic, &error))?.into_iter().next() {
            // Somebody else was faster; whether with the same count is seen below.
            Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => return Err(self.errors.code("creating", topic, code)),
            None => return Err(LogError::new(LogErrorKind::Internal, "creating", topic, "the broker said nothing")),
        }
        // The broker answers before all of its parts have heard of the topic.
        let until = Instant::now() + config.timeout;
        while !self.look().await?.iter().any(|seen| seen.topic == *topic && seen.has_leaders) {
            if Instant::now() > until {
                return Err(self.errors.unavailable("creating", topic, "its partitions have no leaders"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.refresh(Instant::now()).await?;
        let there = known().unwrap_or_default();
        self.blocking("creating", topic, move |query, timeout| {
            let not_yet = [Code::UnknownTopicOrPartition, Code::UnknownPartition, Code::UnknownTopic];
            (0..there).try_for_each(|p| watermarks(query, &name, p as i32, timeout, &not_yet).map(|_| ()))
        })
        .await?;
        LogError::check_partitions(topic, there, partitions)
    }

    pub async fn marks(&self, lane: &Arc<Lane>) -> Result<Marks, LogError> {
        let asking = lane.marks(|| {
            let (name, partition) = (Arc::clone(&lane.name), lane.partition());
            self.blocking("asking for the bounds of", &lane.of, move |query, timeout| {
                watermarks(query, &name, partition, timeout, &[])
            })
        });
        let found = asking.await;
        self.forget_if_gone(&lane.of.topic, &found);
        found
    }

    pub fn forget_if_gone<T>(&self, topic: &Topic, result: &Result<T, LogError>) {
        if let Err(error) = result
            && error.kind() == LogErrorKind::NotFound
        {
            self.forget(topic);
        }
    }

    pub async fn trim(&self, lane: &Arc<Lane>, up_to: Offset) -> Result<(), LogError> {
        let marks = self.marks(lane).await?;
        let keep_from = up_to.as_i64().saturating_add(1).min(marks.high);
        if keep_from <= marks.low {
            return Ok(());
        }
        let wrong = |error: &KafkaError| self.errors.error("trimming", &lane.of, error);
        let mut places = TopicPartitionList::new();
        places
            .add_partition_offset(&lane.name, lane.partition(), KafkaOffset::Offset(keep_from))
            .map_err(|error| wrong(&error))?;
        let done = self.admin.delete_records(&places, &self.admin_options()).await.map_err(|error| wrong(&error))?;
        for place in done.elements() {
            place.error().map_err(|error| wrong(&error))?;
        }
        lane.trimmed_below(keep_from);
        Ok(())
    }
}

/// Takes what librdkafka has logged: it is kept in a queue until somebody polls.
fn listen(query: &BaseConsumer<Context>) {
    for _ in 0..100 {
        if query.poll(Duration::from_millis(2)).is_none() {
            return;
        }
    }
}

/// Asks the leader; while the cluster is about to make one, or codes in `also` say that it has not heard yet, asks again.
fn watermarks(
    query: &BaseConsumer<Context>,
    name: &str,
    partition: i32,
    timeout: Duration,
    also: &[Code],
) -> Result<Marks, KafkaError> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match query.fetch_watermarks(name, partition, left) {
            Ok((low, high)) => return Ok(Marks { low: low.max(0), high: high.max(0) }),
            Err(error) => {
                let moving = error.rdkafka_error_code().is_some_and(|code| {
                    let leads = [Code::NotLeaderForPartition, Code::LeaderNotAvailable, Code::OffsetNotAvailable];
                    leads.contains(&code) || also.contains(&code)
                });
                if !moving || Instant::now() + Duration::from_millis(20) > until {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn number(config: &ConfigResource, key: &str) -> Option<i64> {
    config.get(key)?.value.as_deref()?.parse().ok()
}

/// What `acks=all` is worth. A copy is in another machine's memory before it is acknowledged only if at least two must be
/// in sync; and no broker syncs its disk before it answers unless it is told to.
fn class(copies: i64, in_sync: Option<i64>, flush_messages: Option<i64>) -> Durability {
    if copies >= 2 && in_sync.unwrap_or(1) >= 2 {
        Durability::Replicated
    } else if flush_messages == Some(1) {
        Durability::Fsynced
    } else {
        Durability::Memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_worth_what_the_weakest_setting_leaves_of_it() {
        assert_eq!(class(3, Some(2), None), Durability::Replicated);
        assert_eq!(class(3, Some(1), None), Durability::Memory);
        assert_eq!(class(1, Some(2), None), Durability::Memory);
        assert_eq!(class(1, Some(1), Some(1)), Durability::Fsynced);
        assert_eq!(class(3, None, Some(i64::MAX)), Durability::Memory);
    }
}
