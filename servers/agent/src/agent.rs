//! The AI backend: it polls, and keeps one task per session.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flywheel_kit::Emitter;
use flywheel_policy::LivePolicy;
use flywheel_registry::Registry;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    AgentConfig, AgentError, AgentStats,
    champions::Champions,
    follow::Follower,
    gbe::{self, Listed},
    load, metrics as names,
    pool::Pool,
    saver::Saver,
    session::{SessionState, SessionTask, StateCell},
    stats::Counters,
};

/// How long a new session waits for its champion at most.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(2);

/// What all session tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Arc<AgentConfig>,
    pub pool: Pool,
    pub champions: Arc<Champions>,
    pub follower: Option<Follower>,
    pub saver: Option<Saver>,
    pub emitter: Option<Emitter>,
    pub stats: Arc<Counters>,
}

impl Shared {
    /// Follows the champions of a base key from now on; returns once what they are now is known.
    pub async fn follow(&self, base: &str) {
        let Some(follower) = &self.follower else { return };
        if tokio::time::timeout(FOLLOW_PATIENCE, follower.follow(base)).await.is_err() {
            warn!(base, "the registry is slow; this session begins without its champion");
        }
    }
}

/// A running AI backend. It stops when its token is cancelled.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    sessions: Arc<Mutex<HashMap<String, Handle>>>,
    poller: Mutex<Option<JoinHandle<()>>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Handle {
    closing: CancellationToken,
    state: Arc<StateCell>,
}

impl Agent {
    /// Starts to poll. Must be called on a Tokio runtime.
    ///
    /// With a `registry` the champions decide: of the session's base key, or else the general one. `live` follows
    /// the general champion, for players that are not sessions. Without an `emitter` nothing is emitted.
    ///
    /// # Errors
    /// If a setting cannot work or the persistence thread cannot be started.
    pub fn start(
        config: AgentConfig,
        registry: Option<Arc<Registry>>,
        live: Option<Arc<LivePolicy>>,
        emitter: Option<Emitter>,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, AgentError> {
        config.validate()?;
        names::describe();
        let seed = config.seed.unwrap_or_else(rand::random);
        let stats = Arc::new(Counters::default());
        let champions = Arc::new(Champions::new(config.model_base_key.clone(), live, stats.clone()));
        let tasks = TaskTracker::new();
        let saver = match (&config.model_store_url, config.online_learning) {
            (Some(url), true) => Some(Saver::start(url.clone(), &config, stats.clone())?),
            _ => None,
        };
        let follower = registry.map(|registry| {
            Follower::new(registry, config.model_base_key.clone(), champions.clone(), tasks.clone(), stop.clone())
        });
        let shared = Arc::new(Shared {
            pool: Pool::new(&config, seed),
            config: Arc::new(config),
            champions,
            follower,
            saver,
            emitter,
            stats,
        });
        let sessions = Arc::new(Mutex::new(HashMap::new()));
        let poller = Poller {
            shared: shared.clone(),
            sessions: sessions.clone(),
            tasks: tasks.clone(),
            client: reqwest::Client::builder().no_proxy().build().map_err(|error| AgentError::Request {
                operation: "starting the HTTP client",
                target: "this program".to_owned(),
                reason: error.to_string(),
            })?,
            polls: watch::Sender::new(0),
            seed,
            stop,
        };
        let poller = tokio::spawn(poller.run());
        Ok(Arc::new(Self { shared, sessions, poller: Mutex::new(Some(poller)), tasks }))
    }

    pub fn stats(&self) -> AgentStats {
        self.shared.stats.snapshot()
    }

    /// Every session served, with its state.
    pub fn sessions(&self) -> Vec<(String, SessionState)> {
        let sessions = self.sessions.lock();
        let mut list: Vec<_> = sessions.iter().map(|(id, handle)| (id.clone(), handle.state.get())).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// The version that decides for sessions of this base key, if a champion does.
    pub fn deciding(&self, base: &str) -> Option<flywheel_events::ModelRef> {
        self.shared.champions.current(base)?.model.clone()
    }

    /// Keys of the free models of a base key, in the order in which they will be taken.
    pub fn free_keys(&self, base: &str) -> Vec<String> {
        self.shared.pool.free_keys(base)
    }

    /// Waits until all sessions are closed and everything is saved, or given up. Only of use after the token is
    /// cancelled. Says how many saves were left behind.
    pub async fn closed(&self) -> usize {
        let poller = self.poller.lock().take();
        if let Some(poller) = poller {
            let _ = poller.await;
        }
        self.tasks.close();
        self.tasks.wait().await;
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.saver.as_ref().map_or(0, Saver::close)).await.unwrap_or(0)
    }
}

struct Poller {
    shared: Arc<Shared>,
    sessions: Arc<Mutex<HashMap<String, Handle>>>,
    tasks: TaskTracker,
    client: reqwest::Client,
    polls: watch::Sender<u64>,
    seed: u64,
    stop: CancellationToken,
}

impl Poller {
    async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = self.load_models() => {}
        }
        let mut interval = tokio::time::interval(self.shared.config.poll_interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = interval.tick() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.poll() => {}
            }
        }
        for handle in self.sessions.lock().values() {
            handle.closing.cancel();
        }
    }

    async fn load_models(&self) {
        let config = &self.shared.config;
        let Some(store_url) = config.model_store_url.as_ref().filter(|_| config.online_learning) else { return };
        let Shared { pool, stats, .. } = &*self.shared;
        if let Err(error) = load::load(&self.client, store_url, config, pool, stats, self.seed).await {
            warn!(%error, "no models were loaded; sessions begin with fresh ones");
        }
    }

    async fn poll(&mut self) {
        let config = &self.shared.config;
        let stats = &self.shared.stats;
        let listed = gbe::sessions(&self.client, &config.gbe_url, config.poll_timeout, &config.model_base_key).await;
        match listed {
            Ok(listed) => {
                stats.add(&stats.polls, 1);
                self.reconcile(listed);
                self.polls.send_modify(|n| *n += 1);
            }
            Err(error) => {
                // A failed poll is not an empty poll: nothing is torn down.
                stats.add(&stats.polls_failed, 1);
                metrics::counter!(names::POLLS_FAILED).increment(1);
                warn!(%error, "a poll failed");
            }
        }
    }

    fn reconcile(&mut self, listed: Vec<Listed>) {
        let mut sessions = self.sessions.lock();
        for (id, handle) in sessions.iter() {
            if listed.iter().all(|entry| entry.session_id != *id) && !handle.closing.is_cancelled() {
                info!(session = id, "session gone");
                handle.closing.cancel();
            }
        }
        for entry in listed {
            let full = sessions.len() >= self.shared.config.max_sessions;
            if entry.game_over || full || sessions.contains_key(&entry.session_id) {
                continue;
            }
            let stats = &self.shared.stats;
            stats.add(&stats.sessions_found, 1);
            self.seed = self.seed.wrapping_add(1);
            let handle = Handle { closing: CancellationToken::new(), state: Arc::default() };
            let task = SessionTask {
                shared: self.shared.clone(),
                listed: entry.clone(),
                closing: handle.closing.clone(),
                stop: self.stop.clone(),
                state: handle.state.clone(),
                polls: self.polls.subscribe(),
                seed: self.seed,
            };
            sessions.insert(entry.session_id.clone(), handle);
            self.counted(sessions.len());
            let (all, shared) = (self.sessions.clone(), self.shared.clone());
            self.tasks.spawn(async move {
                // Also if the task panics, its place must become free.
                let _place = Place { all, shared, id: entry.session_id };
                task.run().await;
            });
        }
    }

    fn counted(&self, n: usize) {
        self.shared.stats.sessions.store(n as u64, Ordering::Relaxed);
        metrics::gauge!(names::SESSIONS).set(n as f64);
    }
}

/// A session's entry, taken out when its task ends.
struct Place {
    all: Arc<Mutex<HashMap<String, Handle>>>,
    shared: Arc<Shared>,
    id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        all.remove(&self.id);
        self.shared.stats.sessions.store(all.len() as u64, Ordering::Relaxed);
        metrics::gauge!(names::SESSIONS).set(all.len() as f64);
    }
}
