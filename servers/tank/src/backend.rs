//! The game backend: its sessions, the loop that ticks them, and its listener.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use flywheel_events::{GameId, System};
use flywheel_kit::{Emitter, ServeConfig, serve};
use flywheel_tank::{Joined, Map, Rules, RulesError, map_key};
use parking_lot::{Mutex, RwLock};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::value::RawValue;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::{
    GameBackendConfig, GameFrame, SessionInfo, TankServerError,
    beat::Beat,
    http,
    metrics::{self, SESSIONS},
    protocol::CLOSE_GOING_AWAY,
    session::{Session, Visit},
};

/// The loop looks at all sessions at least this often.
const LONGEST_NAP: Duration = Duration::from_millis(20);
/// How long the sequence numbers of a closed game are kept for events that come late.
const KEEP_SEQUENCE: Duration = Duration::from_secs(30);

/// What is asked of a new session.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// Absent: `Stage03.json`, or the first map if there is none of that name.
    pub map_name: Option<String>,
    pub max_enemies_alive: Option<u32>,
    pub opponent: Option<String>,
}

/// Why there is no new session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("map `{0}` does not exist")]
    UnknownMap(String),
    #[error("{0} sessions exist already; no more are opened")]
    TooMany(usize),
    #[error("the server stops")]
    Stopping,
    #[error("the event log is away and the spill file is at its bound; no new games are taken until it drains")]
    EventsFull,
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GameBackendStats {
    pub sessions: usize,
    pub sockets: usize,
    pub games_opened: u64,
    pub games_finished: u64,
    /// Ticks simulated.
    pub ticks: u64,
    /// Ticks given up because the loop was too far behind.
    pub ticks_skipped: u64,
}

/// A running game backend. It stops when its token is cancelled.
#[derive(Debug)]
pub struct GameBackend {
    config: GameBackendConfig,
    address: SocketAddr,
    began: Instant,
    emitter: Emitter,
    sessions: RwLock<HashMap<GameId, Arc<Session>>>,
    seeds: Mutex<ChaCha8Rng>,
    next_socket: AtomicU64,
    opened: AtomicU64,
    finished: AtomicU64,
    ticks: AtomicU64,
    ticks_skipped: AtomicU64,
    stop: CancellationToken,
    stopped: AtomicBool,
    tasks: TaskTracker,
    ticker: Mutex<Option<Thread>>,
}

impl GameBackend {
    /// Listens and begins to tick. Must be called on a Tokio runtime.
    ///
    /// # Errors
    /// If a setting cannot work or the address is taken.
    pub async fn start(
        config: GameBackendConfig,
        emitter: Emitter,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, TankServerError> {
        config.validate()?;
        metrics::describe();
        let refused = |source| TankServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let seeds = match config.seed {
            Some(seed) => ChaCha8Rng::seed_from_u64(seed),
            None => ChaCha8Rng::from_os_rng(),
        };
        let backend = Arc::new(Self {
            config,
            address,
            began: Instant::now(),
            emitter,
            sessions: RwLock::default(),
            seeds: Mutex::new(seeds),
            next_socket: AtomicU64::new(1),
            opened: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            ticks_skipped: AtomicU64::new(0),
            stop: stop.clone(),
            stopped: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            ticker: Mutex::new(None),
        });
        let app = http::router(backend.clone());
        let serving = stop.clone();
        backend.tasks.spawn(async move {
            if let Err(error) = serve(listener, app, ServeConfig::default(), serving).await {
                error!(%error, "the game backend's listener failed");
            }
        });
        let runtime = tokio::runtime::Handle::current();
        let ticked = backend.clone();
        let ticker = thread::Builder::new()
            .name("tank-ticks".to_owned())
            .spawn(move || ticked.tick_all(&runtime))
            .map_err(TankServerError::Thread)?;
        *backend.ticker.lock() = Some(ticker.thread().clone());
        let waker = backend.clone();
        backend.tasks.spawn(async move {
            waker.stop.cancelled().await;
            waker.wake();
            let _ = tokio::task::spawn_blocking(move || ticker.join()).await;
        });
        info!(%address, "game backend listens");
        Ok(backend)
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub fn config(&self) -> &GameBackendConfig {
        &self.config
    }

    pub fn stats(&self) -> GameBackendStats {
        let sessions = self.sessions.read();
        GameBackendStats {
            sessions: sessions.len(),
            sockets: sessions.values().map(|s| s.n_sockets()).sum(),
            games_opened: self.opened.load(Ordering::Relaxed),
            games_finished: self.finished.load(Ordering::Relaxed),
            ticks: self.ticks.load(Ordering::Relaxed),
            ticks_skipped: self.ticks_skipped.load(Ordering::Relaxed),
        }
    }

    /// Every session, oldest first.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let sessions: Vec<_> = self.sessions.read().values().cloned().collect();
        let mut list: Vec<SessionInfo> = sessions.iter().map(|session| session.info()).collect();
        list.sort_by(|a, b| (a.started_at_ms, &a.id).cmp(&(b.started_at_ms, &b.id)));
        list
    }

    /// The full state of a session now, as JSON.
    pub fn snapshot(&self, session_id: &str) -> Option<Box<RawValue>> {
        Some(self.find(session_id)?.snapshot())
    }

    /// Frames of a session, one a tick; whoever is slow sees fewer. The channel closes when the session is gone.
    pub fn subscribe(&self, session_id: &str) -> Option<watch::Receiver<Arc<GameFrame>>> {
        Some(self.find(session_id)?.frames.subscribe())
    }

    /// Waits until the listener, the loop and all sockets have ended. Only of use after the token is cancelled.
    pub async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Session>> {
        self.sessions.read().get(&GameId::new(id).ok()?).cloned()
    }

    pub(crate) fn new_socket(&self) -> (u64, CancellationToken, TaskTracker) {
        (self.next_socket.fetch_add(1, Ordering::Relaxed), self.stop.clone(), self.tasks.clone())
    }

    fn map(&self, name: Option<&str>) -> Result<&Map, OpenError> {
        let maps = &self.config.maps;
        match name {
            None => Ok(maps.iter().find(|map| map.key() == "stage03").unwrap_or(&maps[0])),
            Some(name) => {
                let key = map_key(name);
                let shown = || OpenError::UnknownMap(name.chars().take(100).collect());
                maps.iter().find(|map| map.key() == key).ok_or_else(shown)
            }
        }
    }

    /// Opens a session with one player in it.
    pub(crate) fn open(&self, new: NewSession) -> Result<(Arc<Session>, Joined, Box<RawValue>), OpenError> {
        let map = self.map(new.map_name.as_deref())?;
        if self.emitter.is_full() {
            return Err(OpenError::EventsFull);
        }
        let mut tank = self.config.tank.clone();
        if let Some(max) = new.max_enemies_alive {
            tank.max_enemies_alive = max;
        }
        // A seed that every JSON reader keeps exactly.
        let seed = self.seeds.lock().next_u64() >> 11;
        // Both are tried before anything is recorded, so that a refused session leaves no trace.
        Rules::new(map, &tank, seed)?.add_player(None)?;
        let rules = Rules::new(map, &tank, seed)?;
        let id = GameId::new(uuid::Uuid::new_v4().to_string()).expect("a UUID is a game id");
        let mut sessions = self.sessions.write();
        if self.stopped.load(Ordering::Acquire) {
            return Err(OpenError::Stopping);
        }
        if sessions.len() >= self.config.max_sessions {
            return Err(OpenError::TooMany(sessions.len()));
        }
        let events = self.emitter.game(System::Tank, id.clone());
        let opponent = new.opponent.clone();
        let session = {
            let period = Duration::from_millis(self.config.tick_ms.into()).saturating_mul(tank.transition_interval);
            let beat = Beat::new(self.began, self.opened.fetch_add(1, Ordering::Relaxed), period);
            Arc::new(Session::open(id.clone(), rules, &self.config, opponent, events, (now_ms(), beat)))
        };
        let (joined, state) =
            session.add_player(new.opponent.as_deref()).expect("the same seed and map had a free spawn just now");
        sessions.insert(id, session.clone());
        ::metrics::gauge!(SESSIONS).set(sessions.len() as f64);
        drop(sessions);
        self.wake();
        Ok((session, joined, state))
    }

    /// Lets the loop look at once.
    fn wake(&self) {
        if let Some(thread) = &*self.ticker.lock() {
            thread.unpark();
        }
    }

    fn tick_all(self: Arc<Self>, runtime: &tokio::runtime::Handle) {
        let mut visiting = Vec::new();
        while !self.stop.is_cancelled() {
            visiting.extend(self.sessions.read().values().cloned());
            let mut next = Instant::now() + LONGEST_NAP;
            for session in visiting.drain(..) {
                match session.visit(Instant::now()) {
                    Visit::Next { at, ran, skipped } => {
                        next = next.min(at);
                        self.ticks.fetch_add(ran, Ordering::Relaxed);
                        self.ticks_skipped.fetch_add(skipped, Ordering::Relaxed);
                    }
                    Visit::Remove(cause) => self.remove(runtime, &session, cause),
                }
            }
            let now = Instant::now();
            if next > now {
                thread::park_timeout(next - now);
            }
        }
        let left: Vec<_> = {
            let mut sessions = self.sessions.write();
            self.stopped.store(true, Ordering::Release);
            sessions.drain().map(|(_, session)| session).collect()
        };
        for session in left {
            session.close_sockets(CLOSE_GOING_AWAY, "the server stops");
            self.tasks.spawn_on(
                async move {
                    session.farewell("server_stopped", Duration::ZERO).await;
                },
                runtime,
            );
        }
    }

    fn remove(&self, runtime: &tokio::runtime::Handle, session: &Arc<Session>, cause: &'static str) {
        let mut sessions = self.sessions.write();
        sessions.remove(&session.id);
        ::metrics::gauge!(SESSIONS).set(sessions.len() as f64);
        drop(sessions);
        self.finished.fetch_add(u64::from(cause == "finished"), Ordering::Relaxed);
        let (session, last_words, stop) = (session.clone(), self.config.last_words, self.stop.clone());
        self.tasks.spawn_on(
            async move {
                let events = session.farewell(cause, last_words).await;
                // An AI backend that found this session a moment ago still counts on from its sequence numbers.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(KEEP_SEQUENCE) => events.close(),
                }
            },
            runtime,
        );
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
