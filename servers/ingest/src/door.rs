//! From checked events to the log, and what may be promised about them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::http::HeaderMap;
use flywheel_events::{GameId, System};
use flywheel_kit::spill::Item;
use flywheel_log::{Durability, EventLog, LogError, LogErrorKind, Record, Topic, partition_of};
use futures::future::join_all;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::{RwLock, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Games, Incoming, IngestConfig, KeyRing, Problem, Source,
    body::Budget,
    clock::Seen,
    drain::{drain, system_of},
    keys::Credential,
    metrics::{ACK_SECONDS, CLOCK_JUMPS, EVENTS, GAPS},
    spool::{Closed, Pushed, Spool, SpoolConfig, SpoolState, now_ms},
};

/// What is told to a producer once the log's appends have returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ack {
    /// Events appended.
    pub accepted: usize,
    /// Events that were surely there already.
    pub repeated: usize,
    /// What an event survives from now on: while it waits in the spool on this machine's disk, what the log promises may
    /// be more, and is not claimed.
    pub durability: Durability,
    /// The log is away: events of this answer lie in the spool and go into the log, in order, once it is back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spooled: bool,
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

/// Space does not come back within a second: what `Retry-After` says, at least, while the volume is nearly full, or the
/// spool is.
const FULL_RETRY_S: u64 = 10;

/// What goes to one partition.
#[derive(Default)]
pub(crate) struct Lane {
    pub records: Vec<Record>,
    /// The `seq` of each record.
    pub seqs: Vec<u64>,
    pub fresh: Fresh,
}

pub(crate) type Fresh = BTreeMap<Game, Run>;

/// What comes of one game.
#[derive(Default)]
#[cfg_attr(flywheel_bug, derive(Clone))]
pub(crate) struct Run {
    pub seqs: BTreeSet<u64>,
    pub clock: Seen,
}
pub(crate) type Lanes = BTreeMap<(System, u32), Lane>;

/// The game that an item is of.
pub(crate) fn game_of(item: &Item) -> Option<GameId> {
    std::str::from_utf8(&item.key).ok().and_then(|key| GameId::new(key).ok())
}

/// Sorts what is spooled, or was to be, by partition, in its order. All are of a system and a game: the drain has looked,
/// and the doors have made them of events.
pub(crate) fn lanes_of(items: &[Item], count: impl Fn(System) -> u32) -> Lanes {
    let mut lanes = Lanes::new();
    for item in items {
        let (Some(system), Some(game)) = (system_of(&item.topic), game_of(item)) else { continue };
        let lane = lanes.entry((system, partition_of(&item.key, count(system)))).or_default();
        lane.records.push(Record { key: item.key.clone(), value: item.value.clone() });
        lane.seqs.push(item.seq);
        lane.fresh.entry((system, game)).or_default().seqs.insert(item.seq);
    }
    lanes
}

/// Items do not say what was seen of the clocks.
fn keep_clocks(seen: Lanes, lanes: &mut Lanes) {
    let mut clocks: BTreeMap<Game, Seen> =
        seen.into_values().flat_map(|lane| lane.fresh).map(|(game, run)| (game, run.clock)).collect();
    for (game, run) in lanes.values_mut().flat_map(|lane| &mut lane.fresh) {
        run.clock = clocks.remove(game).unwrap_or_default();
    }
}

/// The other way round.
fn items_of(lanes: &Lanes) -> Vec<Item> {
    let emitted_ms = now_ms();
    let of = |((system, _), lane): (&(System, u32), &Lane)| {
        let topic = Topic::new(system.topic());
        let records = lane.records.clone().into_iter().zip(lane.seqs.clone());
        records.map(move |(Record { key, value }, seq)| Item { topic: topic.clone(), key, value, seq, emitted_ms })
    };
    lanes.iter().flat_map(of).collect()
}

/// Why the log did not take something.
struct Failed {
    problem: Problem,
    /// It is away for now, so that the spool takes its place.
    passes: bool,
}

/// The way into the log, shared by all requests and sockets.
#[derive(Debug)]
pub struct Door {
    pub(crate) config: IngestConfig,
    pub(crate) budget: Arc<Budget>,
    pub(crate) sockets: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
    /// Nothing will be appended any more; the spool drains for a last while.
    pub(crate) closing: CancellationToken,
    pub(crate) log: Arc<dyn EventLog>,
    games: Mutex<Games>,
    partitions: Mutex<HashMap<System, u32>>,
    /// Held, shared, by everything that may still append.
    appends: RwLock<()>,
    pub(crate) accepted: AtomicU64,
    spool: Option<Arc<Spool>>,
    keys: Option<Arc<KeyRing>>,
    drain: Mutex<Option<JoinHandle<()>>>,
}

impl Door {
    /// The doors take events until `stop`; see [`closed`](Self::closed). While the log is away they say 503.
    pub fn new(log: Arc<dyn EventLog>, config: IngestConfig, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self::with(log, config, stop, None, None))
    }

    /// As [`Door::new`]; while the log is away events go to the spool, which is drained in order once it is back, and
    /// first of all now. Belongs to the present runtime.
    ///
    /// # Errors
    /// If the spool cannot be opened.
    pub fn spooling(
        log: Arc<dyn EventLog>,
        config: IngestConfig,
        stop: CancellationToken,
        spool: &SpoolConfig,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Self::over(log, config, stop, Spool::open(spool)?, None))
    }

    /// As [`Door::spooling`]; who sends may write only what his key allows.
    ///
    /// # Errors
    /// As [`Door::spooling`].
    pub fn guarded(
        log: Arc<dyn EventLog>,
        config: IngestConfig,
        stop: CancellationToken,
        spool: &SpoolConfig,
        keys: Arc<KeyRing>,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Self::over(log, config, stop, Spool::open(spool)?, Some(keys)))
    }

    pub(crate) fn over(
        log: Arc<dyn EventLog>,
        config: IngestConfig,
        stop: CancellationToken,
        spool: Spool,
        keys: Option<Arc<KeyRing>>,
    ) -> Arc<Self> {
        let spool = Arc::new(spool);
        let door = Arc::new(Self::with(log, config, stop, Some(Arc::clone(&spool)), keys));
        *door.drain.lock() = Some(tokio::spawn(drain(Arc::clone(&door), spool)));
        door
    }

    fn with(
        log: Arc<dyn EventLog>,
        config: IngestConfig,
        stop: CancellationToken,
        spool: Option<Arc<Spool>>,
        keys: Option<Arc<KeyRing>>,
    ) -> Self {
        crate::metrics::describe();
        Self {
            budget: Budget::new(&config),
            sockets: Arc::new(Semaphore::new(config.sockets)),
            stop,
            closing: CancellationToken::new(),
            log,
            games: Mutex::new(Games::new(config.games)),
            partitions: Mutex::default(),
            appends: RwLock::default(),
            accepted: AtomicU64::new(0),
            spool,
            keys,
            drain: Mutex::default(),
            config,
        }
    }

    /// Events that went into the log so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// What waits in the spool, and whether the log is away, if there is a spool.
    pub fn spool(&self) -> SpoolState {
        self.spool.as_ref().map(|spool| spool.state()).unwrap_or_default()
    }

    /// Once the stop was given: waits until what was under way is appended and nothing more will be, and until the
    /// spool is empty, or the log did not answer for [`IngestConfig::append_ms`]; the next start goes on from there.
    pub async fn closed(&self) {
        self.stop.cancelled().await;
        let _nobody_appends = self.appends.write().await;
        self.closing.cancel();
        let drain = self.drain.lock().take();
        if let Some(drain) = drain
            && let Err(error) = drain.await
        {
            tracing::error!(%error, "draining the spool ended badly");
        }
    }

    /// Whose key came with a request.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Credential, Problem> {
        match &self.keys {
            Some(keys) => keys.authenticate(headers, self.config.retry_after_s).await,
            None => Ok(Credential::None),
        }
    }

    /// What he may write now.
    pub(crate) fn source(&self, credential: &Credential) -> Result<Source, Problem> {
        self.keys.as_ref().map_or(Ok(Source::Local), |keys| keys.source(credential, self.config.retry_after_s))
    }

    /// Appends what is not surely there already, and waits for it. `by` is the door's name in the metrics.
    ///
    /// # Errors
    /// 503 if neither log nor spool took them in time: nothing is promised then, though some of it may be in the log.
    /// 503 also after the stop; nothing was appended then.
    pub async fn accept(&self, events: Vec<Incoming>, by: &'static str) -> Result<Ack, Problem> {
        let began = Instant::now();
        let _appending = self.appends.read().await;
        // Asked under the lock: who got past it before the stop is waited for.
        if self.stop.is_cancelled() {
            return Err(Problem::unavailable(self.config.retry_after_s, "stopping", "the server stops"));
        }
        let behind = self.spool.as_ref().filter(|spool| spool.is_waiting());
        let systems: BTreeSet<System> = events.iter().map(|event| event.system).collect();
        let counts = match behind {
            Some(_) => None,
            None => self.counts(&systems).await?,
        };
        let (mut lanes, mut games, repeated) = self.sort(events, counts.as_ref());
        let accepted: usize = lanes.values().map(|lane| lane.records.len()).sum();
        let mut spooled = counts.is_none();
        #[cfg(flywheel_bug)]
        if crate::seeded_bug("seen-before-append") {
            lanes.values().for_each(|lane| self.note(lane.fresh.clone(), &mut games));
        }
        if counts.is_none() && accepted > 0 {
            match self.push(items_of(&lanes), behind.is_some()).await? {
                Pushed::Kept => {
                    std::mem::take(&mut lanes).into_values().for_each(|lane| self.note(lane.fresh, &mut games));
                }
                Pushed::NotNeeded(items) => {
                    let counts = self.counts(&systems).await?.unwrap_or_default();
                    let seen = std::mem::take(&mut lanes);
                    lanes = lanes_of(&items, |system| counts.get(&system).copied().unwrap_or(self.config.partitions));
                    keep_clocks(seen, &mut lanes);
                    spooled = false;
                }
            }
        }
        let left = self.append(lanes, &mut games).await?;
        if !left.is_empty() {
            self.push(items_of(&left), false).await?;
            left.into_values().for_each(|lane| self.note(lane.fresh, &mut games));
            spooled = true;
        }
        counter!(EVENTS, "door" => by, "result" => "accepted").increment(accepted as u64);
        counter!(EVENTS, "door" => by, "result" => "repeated").increment(repeated as u64);
        histogram!(ACK_SECONDS).record(began.elapsed().as_secs_f64());
        // A log that promises less than this disk will hold them soon; one that promises more does not hold them yet.
        let durability = if spooled { self.log.durability().min(Durability::Fsynced) } else { self.log.durability() };
        Ok(Ack { accepted, repeated, durability, spooled, games })
    }

    /// Appends each lane. Returns those that are for the spool, because the log is away.
    async fn append(&self, lanes: Lanes, games: &mut BTreeMap<String, GameAck>) -> Result<Lanes, Problem> {
        let spools = self.spool.as_ref().filter(|spool| spool.is_on());
        let appends = lanes.into_iter().map(|((system, partition), lane)| async move {
            let to = Topic::new(system.topic()).partition(partition);
            #[cfg(flywheel_bug)]
            if crate::seeded_bug("ack-before-append") {
                let log = Arc::clone(&self.log);
                tokio::spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    log.append(&to, lane.records).await
                });
                let lane = Lane { records: Vec::new(), ..lane };
                return ((system, partition), lane, Ok(Ok(flywheel_log::Offset::from_raw(0))));
            }
            let Lane { records, seqs, fresh } = lane;
            let kept = if spools.is_some() { records.clone() } else { Vec::new() };
            let n_events = records.len() as u64;
            let appended = tokio::time::timeout(self.config.append_wait(), self.log.append(&to, records)).await;
            if matches!(appended, Ok(Ok(_))) {
                self.accepted.fetch_add(n_events, Ordering::Relaxed);
            }
            ((system, partition), Lane { records: kept, seqs, fresh }, appended)
        });
        let (mut left, mut failed, mut took) = (Lanes::new(), None, false);
        for (to, lane, appended) in join_all(appends).await {
            let why = match appended {
                // What other partitions took is noted also when one failed: it will be repeated.
                Ok(Ok(_)) => {
                    self.note(lane.fresh, games);
                    took = true;
                    continue;
                }
                Ok(Err(error)) => {
                    self.forget_partitions(&error, to.0);
                    self.failure(&error)
                }
                Err(_) => self.slow(),
            };
            if why.passes
                && let Some(spool) = spools
            {
                spool.away(why.problem.detail.clone());
                left.insert(to, lane);
            } else {
                failed = Some(why.problem);
            }
        }
        if took && left.is_empty() && failed.is_none() {
            self.spool.iter().for_each(|spool| spool.back());
        }
        failed.map_or(Ok(left), Err)
    }

    /// Puts events into the spool.
    async fn push(&self, items: Vec<Item>, only_behind: bool) -> Result<Pushed, Problem> {
        let spool = self.spool.as_ref().expect("whoever spools has a spool");
        let retry_after_s = self.config.retry_after_s.max(FULL_RETRY_S);
        spool.push(items, only_behind).await.map_err(|closed| match closed {
            Closed::Reserve(error) => {
                Problem::unavailable(retry_after_s, "disk_full", format!("the spool did not take them: {error}"))
            }
            Closed::Full { held, limit } => {
                let why = match spool.state().away {
                    Some((_, why)) => format!("the log is away: {why}"),
                    None => "what it holds goes into the log first".to_owned(),
                };
                let detail = format!("the spool holds {held} of {limit} bytes; {why}");
                Problem::unavailable(retry_after_s, "spool_full", detail)
            }
            Closed::Disk(error) => {
                tracing::warn!(error, "the spool did not take events");
                let detail = format!("the log is away, and the spool cannot be written: {error}");
                Problem::unavailable(retry_after_s, "spool_failed", detail)
            }
        })
    }

    /// Sorts events by partition, in their order, and leaves out what is surely there. Without `counts` all of a system
    /// go to one lane.
    fn sort(
        &self,
        events: Vec<Incoming>,
        counts: Option<&HashMap<System, u32>>,
    ) -> (Lanes, BTreeMap<String, GameAck>, usize) {
        let (mut lanes, mut acks, mut repeated) = (Lanes::new(), BTreeMap::new(), 0);
        let mut games = self.games.lock();
        for Incoming { system, game, seq, ts_ms, bytes } in events {
            let partition = counts.map_or(0, |counts| partition_of(game.as_str().as_bytes(), counts[&system]));
            let key = bytes::Bytes::copy_from_slice(game.as_str().as_bytes());
            let id = (system, game);
            let known = games.get(&id);
            if let Some(known) = known
                && (known.first..=known.last).contains(&seq)
            {
                acks.insert(id.1.to_string(), GameAck { last_seq: known.last, gaps: Vec::new() });
                repeated += 1;
                continue;
            }
            let lane = lanes.entry((system, partition)).or_default();
            let run = lane.fresh.entry(id).or_default();
            if run.seqs.insert(seq) {
                run.clock.see(known.and_then(|known| known.clock), seq, ts_ms);
                lane.records.push(Record { key, value: bytes });
                lane.seqs.push(seq);
            } else {
                repeated += 1;
            }
        }
        (lanes, acks, repeated)
    }

    /// The log took what an earlier process had spooled and acknowledged.
    pub(crate) fn recall(&self, fresh: Fresh) {
        self.remember(fresh, |_, _, _, _| {});
    }

    /// The appends of `fresh` returned: remembers it, and says how far its games are.
    fn note(&self, fresh: Fresh, acks: &mut BTreeMap<String, GameAck>) {
        self.remember(fresh, |game, last_seq, gaps, jumps| {
            counter!(GAPS).increment(gaps.len() as u64);
            counter!(CLOCK_JUMPS).increment(jumps);
            acks.insert(game.1.to_string(), GameAck { last_seq, gaps });
        });
    }

    fn remember(&self, fresh: Fresh, mut each: impl FnMut(Game, u64, Vec<Gap>, u64)) {
        let mut games = self.games.lock();
        for (game, Run { seqs, clock }) in fresh {
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
            if let Some(newest) = clock.clock {
                games.note_clock(&game, newest);
            }
            each(game, last_seq, gaps, clock.jumps);
        }
    }

    /// How many partitions the topics of `systems` have; `None` if the log is away and the spool takes its place.
    async fn counts(&self, systems: &BTreeSet<System>) -> Result<Option<HashMap<System, u32>>, Problem> {
        let mut counts = HashMap::new();
        for system in systems {
            match self.partitions_of(*system).await {
                Ok(n) => counts.insert(*system, n),
                Err(Failed { problem, passes: true }) if self.spool.as_ref().is_some_and(|spool| spool.is_on()) => {
                    self.spool.iter().for_each(|spool| spool.away(problem.detail.clone()));
                    return Ok(None);
                }
                Err(failed) => return Err(failed.problem),
            };
        }
        Ok(Some(counts))
    }

    pub(crate) async fn partitions(&self, system: System) -> Result<u32, Problem> {
        self.partitions_of(system).await.map_err(|failed| failed.problem)
    }

    /// A topic that is gone is made again.
    pub(crate) fn forget_partitions(&self, error: &LogError, system: System) {
        if error.kind() == LogErrorKind::NotFound {
            self.partitions.lock().remove(&system);
        }
    }

    /// How many partitions a system's topic has; makes the topic if it is not there.
    async fn partitions_of(&self, system: System) -> Result<u32, Failed> {
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
        let asked = tokio::time::timeout(self.config.append_wait(), ask).await.map_err(|_| self.slow())?;
        let n = asked.map_err(|error| self.failure(&error))?;
        self.partitions.lock().insert(system, n);
        Ok(n)
    }

    fn slow(&self) -> Failed {
        let detail = format!("the log did not answer within {} ms", self.config.append_ms);
        Failed { problem: Problem::unavailable(self.config.retry_after_s, "log_slow", detail), passes: true }
    }

    fn failure(&self, error: &LogError) -> Failed {
        let detail = format!("the log did not take them: {error}");
        if error.kind() == LogErrorKind::Full {
            let retry_after_s = self.config.retry_after_s.max(FULL_RETRY_S);
            return Failed { problem: Problem::unavailable(retry_after_s, "disk_full", detail), passes: false };
        }
        if self.spool.as_ref().is_none_or(|spool| spool.state().away.is_none()) {
            tracing::warn!(%error, "the log did not take events");
        }
        let problem = Problem::unavailable(self.config.retry_after_s, "log_away", detail);
        Failed { problem, passes: error.kind().is_retryable() }
    }
}
