//! From a game to the log, without the game ever waiting.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flywheel_events::{Event, GameId, ModelRef, System};
use flywheel_log::{EventLog, LogError, Topic};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{EVENTS, LOST, QUEUE_BYTES, SPILLED},
    sender::Sender,
    spill::{Item, Spill},
};

/// Bounds of an emitter.
#[derive(Debug, Clone)]
pub struct EmitterConfig {
    /// Partitions of each system's topic.
    pub partitions: u32,
    /// Longest wait of an event for others to share its append.
    pub linger: Duration,
    /// Events held in memory; more go to the spill file.
    pub queue_bytes: usize,
    /// Largest append.
    pub batch_bytes: usize,
    pub spill_dir: PathBuf,
    /// Beyond this no new games should be taken: [`Emitter::is_full`].
    pub spill_bytes_max: u64,
    /// One JSON line for each game of each acknowledged append; tests count what was promised.
    pub ack_journal: Option<PathBuf>,
}

impl EmitterConfig {
    pub fn new(spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            partitions: 2,
            linger: Duration::from_millis(20),
            queue_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            spill_dir: spill_dir.into(),
            spill_bytes_max: 4 << 30,
            ack_journal: None,
        }
    }
}

/// Why an emitter cannot start or drain.
#[derive(Debug, thiserror::Error)]
pub enum EmitterError {
    #[error("opening the spill folder or the ack journal `{path}`: {source}")]
    Files { path: String, source: io::Error },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "{waiting} events are still on their way after {after:?}; they are in the spill file and go first at the next start"
    )]
    NotDrained { waiting: u64, after: Duration },
}

/// What went through an emitter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EmitterStats {
    pub emitted: u64,
    pub acknowledged: u64,
    pub spilled: u64,
    /// Bytes in the spill file.
    pub spill_pending: u64,
    /// Neither log nor spill file could take them.
    pub lost: u64,
    pub queue_bytes: usize,
    /// Since when the log is away, milliseconds since 1970, and why.
    pub away: Option<(i64, String)>,
    /// It is not away but takes nothing, because its volume is nearly full.
    pub full: bool,
}

/// What waits: first what is in memory, then what is in the spill file.
#[derive(Debug)]
pub(crate) struct Queue {
    pub memory: VecDeque<Item>,
    pub memory_bytes: usize,
    pub spill: Spill,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub config: EmitterConfig,
    pub log: Arc<dyn EventLog>,
    pub queue: Mutex<Queue>,
    pub wake: Notify,
    /// Told whenever something was acknowledged.
    pub acked: Notify,
    pub emitted: AtomicU64,
    pub acknowledged: AtomicU64,
    pub spilled: AtomicU64,
    pub lost: AtomicU64,
    /// Items taken from the queue whose append has not returned.
    pub in_flight: AtomicU64,
    pub away_since: AtomicI64,
    pub away_why: Mutex<String>,
    /// The log takes nothing, because its volume is nearly full.
    pub full: AtomicBool,
    draining: AtomicBool,
    games: Mutex<Games>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The way of events from games to the log. Cheap to clone.
///
/// An event is queued in memory and appended with others after [`EmitterConfig::linger`]; when memory is full it
/// goes to the spill file, behind which all later ones queue until it is drained, so order is kept. An append whose
/// outcome is unknown is tried again until it is known: the log may then hold a repeat, which `land` drops.
#[derive(Debug, Clone)]
pub struct Emitter(Arc<Inner>);

/// Sequences of open games, and of the newest closed ones: whoever is late goes on where the others stopped.
#[derive(Debug, Default)]
struct Games {
    known: HashMap<GameId, Arc<Sequencer>>,
    closed: VecDeque<GameId>,
}

/// Closed games that are remembered.
const CLOSED_GAMES: usize = 4096;

#[derive(Debug)]
struct Sequencer {
    system: System,
    topic: Topic,
    game_id: GameId,
    next: Mutex<u64>,
}

/// Events of one game. Clones share the sequence.
#[derive(Debug, Clone)]
pub struct GameEvents {
    inner: Arc<Inner>,
    sequencer: Arc<Sequencer>,
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

impl Emitter {
    /// Starts the sending task on the present runtime. Topics must exist.
    ///
    /// # Errors
    /// If the spill folder or the journal cannot be opened.
    pub fn start(log: Arc<dyn EventLog>, config: EmitterConfig) -> Result<Self, EmitterError> {
        let files = |path: &std::path::Path| {
            let path = path.display().to_string();
            move |source| EmitterError::Files { path, source }
        };
        let spill = Spill::open(&config.spill_dir).map_err(files(&config.spill_dir))?;
        let journal = config
            .ack_journal
            .as_ref()
            .map(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(files(path)))
            .transpose()?;
        let inner = Arc::new(Inner {
            config,
            log,
            queue: Mutex::new(Queue { memory: VecDeque::new(), memory_bytes: 0, spill }),
            wake: Notify::new(),
            acked: Notify::new(),
            emitted: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            away_since: AtomicI64::new(0),
            away_why: Mutex::default(),
            full: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            games: Mutex::default(),
            stop: CancellationToken::new(),
            task: Mutex::new(None),
        });
        let sender = Sender::new(Arc::clone(&inner), journal);
        *inner.task.lock() = Some(tokio::spawn(sender.run(inner.stop.clone())));
        Ok(Self(inner))
    }

    /// The events of a game; the same id gives the same sequence, so that a game server and an AI backend in one
    /// process write one gapless stream.
    pub fn game(&self, system: System, game_id: GameId) -> GameEvents {
        let mut games = self.0.games.lock();
        let sequencer = games.known.entry(game_id).or_insert_with_key(|game_id| {
            let (topic, game_id) = (Topic::new(system.topic()), game_id.clone());
            Arc::new(Sequencer { system, topic, game_id, next: Mutex::new(0) })
        });
        GameEvents { inner: Arc::clone(&self.0), sequencer: Arc::clone(sequencer) }
    }

    pub fn stats(&self) -> EmitterStats {
        let inner = &self.0;
        let (queue_bytes, spill_pending) = {
            let queue = inner.queue.lock();
            (queue.memory_bytes, queue.spill.bytes())
        };
        let away = inner.away_since.load(Ordering::Relaxed);
        EmitterStats {
            emitted: inner.emitted.load(Ordering::Relaxed),
            acknowledged: inner.acknowledged.load(Ordering::Relaxed),
            spilled: inner.spilled.load(Ordering::Relaxed),
            spill_pending,
            lost: inner.lost.load(Ordering::Relaxed),
            queue_bytes,
            away: (away > 0).then(|| (away, inner.away_why.lock().clone())),
            full: inner.full.load(Ordering::Relaxed),
        }
    }

    /// Share of the queue in memory that is used; producers that can wait (the farm) do so above one half. All of it
    /// while the log takes nothing because its volume is nearly full.
    pub fn fullness(&self) -> f64 {
        if self.0.full.load(Ordering::Relaxed) {
            return 1.0;
        }
        let queue = self.0.queue.lock();
        let spilled = if queue.spill.is_empty() { 0.0 } else { 1.0 };
        (queue.memory_bytes as f64 / self.0.config.queue_bytes as f64).max(spilled)
    }

    /// Whether no new game should be taken: the spill file is at its bound, or the log's volume is nearly full.
    pub fn is_full(&self) -> bool {
        self.0.full.load(Ordering::Relaxed) || self.0.queue.lock().spill.bytes() >= self.0.config.spill_bytes_max
    }

    /// Waits until everything emitted so far is acknowledged.
    ///
    /// # Errors
    /// `NotDrained` if that takes longer than `timeout`; what waits stays where it is.
    pub async fn drain(&self, timeout: Duration) -> Result<(), EmitterError> {
        let until = tokio::time::Instant::now() + timeout;
        self.0.draining.store(true, Ordering::Relaxed);
        let result = loop {
            let acked = self.0.acked.notified();
            let waiting = self.0.waiting();
            if waiting == 0 {
                break Ok(());
            }
            self.0.wake.notify_one();
            if tokio::time::timeout_at(until, acked).await.is_err() {
                break Err(EmitterError::NotDrained { waiting, after: timeout });
            }
        };
        self.0.draining.store(false, Ordering::Relaxed);
        result
    }

    /// Drains for at most `timeout`, then stops; what could not be sent goes to the spill file.
    ///
    /// # Errors
    /// `NotDrained` if something was left for the next start.
    pub async fn close(&self, timeout: Duration) -> Result<(), EmitterError> {
        let result = self.drain(timeout).await;
        self.0.stop.cancel();
        let task = self.0.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the emitter's task ended badly");
        }
        result
    }
}

impl Inner {
    /// Events that are not acknowledged: a lower bound while the spill file is not empty.
    fn waiting(&self) -> u64 {
        let queue = self.queue.lock();
        queue.memory.len() as u64 + u64::from(!queue.spill.is_empty()) + self.in_flight.load(Ordering::Relaxed)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn enqueue(&self, item: Item) {
        let mut queue = self.queue.lock();
        let size = item.size();
        let fits = queue.memory_bytes + size <= self.config.queue_bytes;
        #[cfg(flywheel_bug)]
        let fits = fits || crate::seeded_bug("unbounded-queue");
        if queue.spill.is_empty() && fits {
            let first = queue.memory.is_empty();
            queue.memory_bytes += size;
            queue.memory.push_back(item);
            let full = queue.memory_bytes >= self.config.batch_bytes;
            metrics::gauge!(QUEUE_BYTES).set(queue.memory_bytes as f64);
            drop(queue);
            if first || full {
                self.wake.notify_one();
            }
            return;
        }
        match queue.spill.push(std::slice::from_ref(&item)) {
            Ok(()) => {
                self.spilled.fetch_add(1, Ordering::Relaxed);
                metrics::counter!(SPILLED).increment(1);
            }
            Err(error) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                metrics::counter!(LOST).increment(1);
                tracing::error!(%error, key = ?item.key, seq = item.seq, "neither log nor spill file takes events; free some disk space");
            }
        }
        drop(queue);
        self.wake.notify_one();
    }
}

impl GameEvents {
    /// Gives the event its `seq` and queues it. Never waits for the log.
    pub fn emit(&self, kind: &str, actor: Option<&str>, model: Option<&ModelRef>, payload: &impl Serialize) {
        let Sequencer { system, topic, game_id, next } = &*self.sequencer;
        let emitted_ms = now_ms();
        let mut event =
            Event::new(*system, kind, game_id.clone(), 0, emitted_ms).model(model.cloned()).payload(payload);
        event.actor = actor.map(str::to_owned);
        // Under the lock until it is queued: order in the queue is order of `seq`.
        let mut next = next.lock();
        event.seq = *next;
        let item = Item {
            topic: topic.clone(),
            key: bytes::Bytes::copy_from_slice(game_id.as_str().as_bytes()),
            value: event.encode().into(),
            seq: *next,
            emitted_ms,
        };
        *next += 1;
        self.inner.enqueue(item);
        drop(next);
        self.inner.emitted.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(EVENTS).increment(1);
    }

    pub fn game_id(&self) -> &GameId {
        &self.sequencer.game_id
    }

    /// Events emitted so far.
    pub fn count(&self) -> u64 {
        *self.sequencer.next.lock()
    }

    /// Says that the game is over. Its sequence is still known for a while, for whoever has a last word.
    pub fn close(self) {
        let mut games = self.inner.games.lock();
        if games.closed.contains(&self.sequencer.game_id) {
            return;
        }
        games.closed.push_back(self.sequencer.game_id.clone());
        if games.closed.len() > CLOSED_GAMES
            && let Some(oldest) = games.closed.pop_front()
        {
            games.known.remove(&oldest);
        }
    }
}
