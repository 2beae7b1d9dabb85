//! Where the doors put events while the log is away: files of this machine, synced before the answer.
//!
//! While anything waits, all later events go behind it, so that a game's order is kept; [`crate::Door`] drains it in
//! order once the log is back. Requests that wait for the disk at the same time share one sync.

use std::{
    fmt, io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flywheel_kit::spill::{Folder, Item, OsFolder, Spill, Spilled, encode};
use flywheel_log::{LogError, Reserve};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Mutex as Gate, Notify, OwnedMutexGuard, oneshot};
use tracing::{info, warn};

use crate::metrics::{SPOOL_BYTES, SPOOLED};

/// Where the spool lies and how much it may hold.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    pub dir: PathBuf,
    /// Beyond it, 503. With 0 nothing is spooled; what an earlier process left is drained all the same.
    pub bytes: u64,
    /// What the spool may not take of its volume.
    pub reserve: Option<Arc<Reserve>>,
}

/// What the spool has done and still holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpoolState {
    /// Bytes that wait for the log.
    pub bytes: u64,
    /// Events that this process put there, and acknowledged.
    pub spooled: u64,
    /// Events that went from there into the log.
    pub drained: u64,
    /// Since when the log is away, milliseconds since 1970, and why.
    pub away: Option<(i64, String)>,
}

/// Why the spool does not take events.
#[derive(Debug)]
pub(crate) enum Closed {
    /// It is switched off, or holds as much as it may.
    Full {
        held: u64,
        limit: u64,
    },
    /// Its volume is nearly full.
    Reserve(LogError),
    Disk(String),
}

/// What came of [`Spool::push`].
#[derive(Debug)]
pub(crate) enum Pushed {
    Kept,
    /// Nothing waits any more, so they need not go behind it.
    NotNeeded(Vec<Item>),
}

struct Push {
    items: Vec<Item>,
    only_behind: bool,
    done: oneshot::Sender<Result<Pushed, Closed>>,
}

/// Held by whoever changes the files.
pub(crate) type Files = OwnedMutexGuard<Spill>;

pub(crate) struct Spool {
    limit: u64,
    reserve: Option<Arc<Reserve>>,
    files: Arc<Gate<Spill>>,
    pushes: Mutex<Vec<Push>>,
    state: Arc<State>,
    /// Segments below this number are of an earlier process.
    first_own: u64,
}

/// What may be asked without the files.
#[derive(Debug, Default)]
struct State {
    waiting: AtomicBool,
    bytes: AtomicU64,
    spooled: AtomicU64,
    drained: AtomicU64,
    away: Mutex<Option<(i64, String)>>,
    wake: Notify,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("limit", &self.limit).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Spool {
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(config: &SpoolConfig) -> io::Result<Self> {
        Self::within(Arc::new(OsFolder::open(&config.dir)?), config.bytes, config.reserve.clone())
    }

    pub fn within(folder: Arc<dyn Folder>, limit: u64, reserve: Option<Arc<Reserve>>) -> io::Result<Self> {
        let files = Spill::open_synced(folder)?;
        let first_own = files.next_segment();
        let state = Arc::new(State::default());
        state.look(&files);
        if !files.is_empty() {
            info!(bytes = files.bytes(), "events of an earlier run wait in the spool; they go into the log first");
        }
        Ok(Self { limit, reserve, files: Arc::new(Gate::new(files)), pushes: Mutex::default(), state, first_own })
    }

    /// Whether anything waits, so that later events must go behind it.
    pub fn is_waiting(&self) -> bool {
        self.state.waiting.load(Ordering::Acquire)
    }

    pub fn is_on(&self) -> bool {
        self.limit > 0
    }

    pub fn is_own(&self, segment: u64) -> bool {
        segment >= self.first_own
    }

    pub fn state(&self) -> SpoolState {
        SpoolState {
            bytes: self.state.bytes.load(Ordering::Relaxed),
            spooled: self.state.spooled.load(Ordering::Relaxed),
            drained: self.state.drained.load(Ordering::Relaxed),
            away: self.state.away.lock().clone(),
        }
    }

    /// Keeps `items`, all or none, safe from a loss of power when it returns. With `only_behind`, only if something
    /// waits still.
    ///
    /// # Errors
    /// [`Closed`]; after `Disk` some of them may be kept all the same.
    pub async fn push(&self, items: Vec<Item>, only_behind: bool) -> Result<Pushed, Closed> {
        if let Some(reserve) = &self.reserve {
            reserve.admit("spooling", "events").map_err(Closed::Reserve)?;
        }
        let (done, answer) = oneshot::channel();
        self.pushes.lock().push(Push { items, only_behind, done });
        let files = self.hold().await;
        // All that wait are written by whoever comes first; the others find nothing left to do, and their answer.
        let pushes = mem::take(&mut *self.pushes.lock());
        if !pushes.is_empty() {
            let (state, limit) = (Arc::clone(&self.state), self.limit);
            tokio::task::spawn_blocking(move || write(files, &state, limit, pushes));
        } else {
            drop(files);
        }
        answer.await.unwrap_or_else(|_| Err(Closed::Disk("the write was given up".to_owned())))
    }

    /// While it is held nothing is added.
    pub async fn hold(&self) -> Files {
        Arc::clone(&self.files).lock_owned().await
    }

    /// The oldest segment.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn oldest(&self, mut files: Files) -> (Files, io::Result<Option<Spilled>>) {
        let read = move || {
            let oldest = files.oldest();
            (files, oldest)
        };
        tokio::task::spawn_blocking(read).await.expect("reading the spool does not panic")
    }

    /// Forgets a segment whose events are all in the log.
    pub async fn remove(&self, mut files: Files, segment: u64) -> Files {
        let state = Arc::clone(&self.state);
        let remove = move || {
            if let Err(error) = files.remove(segment) {
                warn!(%error, segment, "a drained segment of the spool stays; its events go again at the next start, as repeats");
            }
            state.look(&files);
            files
        };
        tokio::task::spawn_blocking(remove).await.expect("removing a file does not panic")
    }

    pub fn drained(&self, n_events: u64) {
        self.state.drained.fetch_add(n_events, Ordering::Relaxed);
    }

    pub async fn woken(&self) {
        self.state.wake.notified().await;
    }

    /// The log did not take events.
    pub fn away(&self, why: String) {
        let mut away = self.state.away.lock();
        let since = away.as_ref().map(|(since, _)| *since);
        if since.is_none() {
            warn!(why, "the log is away; events of the doors wait in the spool");
        }
        *away = Some((since.unwrap_or_else(now_ms), why));
    }

    /// The log took events.
    pub fn back(&self) {
        let away = self.state.away.lock().take();
        if let Some((since, _)) = away {
            info!(after_ms = now_ms() - since, "the log is back; the spool drains");
        }
    }
}

impl State {
    fn look(&self, files: &Spill) {
        let bytes = files.bytes();
        self.bytes.store(bytes, Ordering::Relaxed);
        gauge!(SPOOL_BYTES).set(bytes as f64);
        self.waiting.store(!files.is_empty(), Ordering::Release);
    }
}

/// Writes what several requests brought, with one sync, and answers each.
fn write(mut files: Files, state: &State, limit: u64, pushes: Vec<Push>) {
    let mut held = files.bytes();
    let (mut frames, mut kept, mut n_events) = (Vec::new(), Vec::new(), 0);
    for push in pushes {
        if push.only_behind && kept.is_empty() && files.is_empty() {
            let _gone = push.done.send(Ok(Pushed::NotNeeded(push.items)));
            continue;
        }
        // Whoever has gone was promised nothing.
        if push.done.is_closed() {
            continue;
        }
        let more = match encode(&push.items) {
            Ok(more) if held + more.len() as u64 <= limit => more,
            Ok(_) => {
                let _gone = push.done.send(Err(Closed::Full { held, limit }));
                continue;
            }
            Err(error) => {
                let _gone = push.done.send(Err(Closed::Disk(error.to_string())));
                continue;
            }
        };
        held += more.len() as u64;
        frames.extend_from_slice(&more);
        n_events += push.items.len() as u64;
        kept.push(push.done);
    }
    if kept.is_empty() {
        return;
    }
    #[cfg(flywheel_bug)]
    if crate::seeded_bug("spool-acks-before-sync") {
        for done in kept.drain(..) {
            let _gone = done.send(Ok(Pushed::Kept));
        }
    }
    let written = files.push_frames(&frames);
    state.look(&files);
    // Later events must find that something waits before anybody is told that his are kept.
    drop(files);
    state.wake.notify_one();
    if written.is_ok() {
        state.spooled.fetch_add(n_events, Ordering::Relaxed);
        counter!(SPOOLED).increment(n_events);
    }
    for done in kept {
        let answer = match &written {
            Ok(()) => Ok(Pushed::Kept),
            Err(error) => Err(Closed::Disk(error.to_string())),
        };
        let _gone = done.send(answer);
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Between two tries to reach the log.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(20);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod disk;
#[cfg(test)]
mod tests;
