//! From checked events to the log, and what may be promised about them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use flywheel_events::{GameId, System};
use flywheel_log::{Durability, EventLog, LogError, LogErrorKind, Record, Topic, partition_of};
use futures::future::join_all;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    Games, Incoming, IngestConfig, Problem,
    body::Budget,
    metrics::{ACK_SECONDS, EVENTS, GAPS},
};

/// What is told to a producer once the log's appends have returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ack {
    /// Events appended.
    pub accepted: usize,
    /// Events that were surely there already.
    pub repeated: usize,
    pub durability: Durability,
    pub games: BTreeMap<String, GameAck>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GameAck {
    /// The highest `seq` of the newest run that was acknowledged.
    pub last_seq: u64,
    /// Numbers that were jumped over just now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// `from..=to` are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    pub from: u64,
    pub to: u64,
}

type Game = (System, GameId);

/// Space does not come back within a second: what `Retry-After` says, at least, while the volume is nearly full.
const FULL_RETRY_S: u64 = 10;

/// What goes to one partition.
#[derive(Default)]
struct Lane {
    records: Vec<Record>,
    fresh: BTreeMap<Game, BTreeSet<u64>>,
}

/// The way into the log, shared by all requests and sockets.
#[derive(Debug)]
pub struct Door {
    pub(crate) config: IngestConfig,
    pub(crate) budget: Arc<Budget>,
    pub(crate) sockets: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
    log: Arc<dyn EventLog>,
    games: Mutex<Games>,
    partitions: Mutex<HashMap<System, u32>>,
    /// Held, shared, by everything that may still append.
    appends: RwLock<()>,
    accepted: AtomicU64,
}

impl Door {
    /// The doors take events until `stop`; see [`closed`](Self::closed).
    pub fn new(log: Arc<dyn EventLog>, config: IngestConfig, stop: CancellationToken) -> Arc<Self> {
        crate::metrics::describe();
        Arc::new(Self {
            budget: Budget::new(&config),
            sockets: Arc::new(Semaphore::new(config.sockets)),
            stop,
            log,
            games: Mutex::new(Games::new(config.games)),
            partitions: Mutex::default(),
            appends: RwLock::default(),
            accepted: AtomicU64::new(0),
            config,
        })
    }

    /// Events appended so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Once the stop was given: waits until what was under way is appended and nothing more will be.
    pub async fn closed(&self) {
        self.stop.cancelled().await;
        let _nobody_appends = self.appends.write().await;
    }

    /// Appends what is not surely there already, and waits for it. `by` is the door's name in the metrics.
    ///
    /// # Errors
    /// 503 if the log failed or took too long: nothing is promised then, though some of it may be in the log. 503 also
    /// after the stop; nothing was appended then.
    pub async fn accept(&self, events: Vec<Incoming>, by: &'static str) -> Result<Ack, Problem> {
        let began = Instant::now();
        let _appending = self.appends.read().await;
        // Asked under the lock: who got past it before the stop is waited for.
        if self.stop.is_cancelled() {
            return Err(Problem::unavailable(self.config.retry_after_s, "stopping", "the server stops"));
        }
        let mut counts = HashMap::new();
        for system in events.iter().map(|event| event.system) {
            if let std::collections::hash_map::Entry::Vacant(entry) = counts.entry(system) {
                entry.insert(self.partitions(system).await?);
            }
        }
        let (lanes, mut games, repeated) = self.sort(events, &counts);
        let accepted = lanes.values().map(|lane| lane.records.len()).sum();
        #[cfg(flywheel_bug)]
        if crate::seeded_bug("seen-before-append") {
            lanes.values().for_each(|lane| self.note(lane.fresh.clone(), &mut games));
        }
        let appends = lanes.into_iter().map(|((system, partition), lane)| async move {
            let to = Topic::new(system.topic()).partition(partition);
            #[cfg(flywheel_bug)]
            if crate::seeded_bug("ack-before-append") {
                let log = Arc::clone(&self.log);
                tokio::spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    log.append(&to, lane.records).await
                });
                return (lane.fresh, Ok(Ok(flywheel_log::Offset::from_raw(0))));
            }
            let appended = tokio::time::timeout(self.config.append_wait(), self.log.append(&to, lane.records)).await;
            (lane.fresh, appended)
        });
        let mut failed = None;
        for (fresh, appended) in join_all(appends).await {
            match appended {
                // What other partitions took is noted also when one failed: it will be repeated.
                Ok(Ok(_)) => self.note(fresh, &mut games),
                Ok(Err(error)) => failed = Some(self.failure(&error)),
                Err(_) => {
                    let detail = format!("the log did not answer within {} ms", self.config.append_ms);
                    failed = Some(Problem::unavailable(self.config.retry_after_s, "log_slow", detail));
                }
            }
        }
        if let Some(problem) = failed {
            return Err(problem);
        }
        counter!(EVENTS, "door" => by, "result" => "accepted").increment(accepted as u64);
        counter!(EVENTS, "door" => by, "result" => "repeated").increment(repeated as u64);
        histogram!(ACK_SECONDS).record(began.elapsed().as_secs_f64());
        self.accepted.fetch_add(accepted as u64, Ordering::Relaxed);
        Ok(Ack { accepted, repeated, durability: self.log.durability(), games })
    }

    /// Sorts events by partition, in their order, and leaves out what is surely there.
    #[allow(clippy::type_complexity)]
    fn sort(
        &self,
        events: Vec<Incoming>,
        counts: &HashMap<System, u32>,
    ) -> (BTreeMap<(System, u32), Lane>, BTreeMap<String, GameAck>, usize) {
        let (mut lanes, mut acks, mut repeated) = (BTreeMap::<_, Lane>::new(), BTreeMap::new(), 0);
        let mut games = self.games.lock();
        for Incoming { system, game, seq, bytes } in events {
            let partition = partition_of(game.as_str().as_bytes(), counts[&system]);
            let key = bytes::Bytes::copy_from_slice(game.as_str().as_bytes());
            let id = (system, game);
            if let Some(known) = games.get(&id)
                && (known.first..=known.last).contains(&seq)
            {
                acks.insert(id.1.to_string(), GameAck { last_seq: known.last, gaps: Vec::new() });
                repeated += 1;
                continue;
            }
            let lane = lanes.entry((system, partition)).or_default();
            if lane.fresh.entry(id).or_default().insert(seq) {
                lane.records.push(Record { key, value: bytes });
            } else {
                repeated += 1;
            }
        }
        (lanes, acks, repeated)
    }

    /// The appends of `fresh` returned: remembers it, and says how far its games are.
    fn note(&self, fresh: BTreeMap<Game, BTreeSet<u64>>, acks: &mut BTreeMap<String, GameAck>) {
        let mut games = self.games.lock();
        for (game, seqs) in fresh {
            let mut gaps = Vec::new();
            let mut last_seq = 0;
            let mut seqs = seqs.into_iter().peekable();
            while let Some(first) = seqs.next() {
                let mut last = first;
                while let Some(next) = seqs.next_if(|next| *next == last + 1) {
                    last = next;
                }
                let (known, gap) = games.note(&game, first, last);
                last_seq = known.last;
                gaps.extend(gap.map(|(from, to)| Gap { from, to }));
            }
            counter!(GAPS).increment(gaps.len() as u64);
            acks.insert(game.1.to_string(), GameAck { last_seq, gaps });
        }
    }

    /// How many partitions a system's topic has; makes the topic if it is not there.
    async fn partitions(&self, system: System) -> Result<u32, Problem> {
        if let Some(n) = self.partitions.lock().get(&system).copied() {
            return Ok(n);
        }
        let topic = Topic::new(system.topic());
        let ask = async {
            match self.log.create_topic(&topic, self.config.partitions).await {
                Ok(()) => Ok(self.config.partitions),
                Err(error) if error.kind() == LogErrorKind::Conflict => {
                    let topics = self.log.topics().await?;
                    topics.into_iter().find(|(name, _)| *name == topic).map(|(_, n)| n).ok_or(error)
                }
                Err(error) => Err(error),
            }
        };
        let n = tokio::time::timeout(self.config.append_wait(), ask)
            .await
            .map_err(|_| {
                let detail = format!("the log did not answer within {} ms", self.config.append_ms);
                Problem::unavailable(self.config.retry_after_s, "log_slow", detail)
            })?
            .map_err(|error| self.failure(&error))?;
        self.partitions.lock().insert(system, n);
        Ok(n)
    }

    fn failure(&self, error: &LogError) -> Problem {
        if error.kind() == LogErrorKind::Full {
            let retry_after_s = self.config.retry_after_s.max(FULL_RETRY_S);
            return Problem::unavailable(retry_after_s, "disk_full", format!("the log did not take them: {error}"));
        }
        tracing::warn!(%error, "the log did not take events");
        Problem::unavailable(self.config.retry_after_s, "log_away", format!("the log did not take them: {error}"))
    }
}
