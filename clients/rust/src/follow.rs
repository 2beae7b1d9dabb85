//! Which version an alias names, fetched and checked away from every decision.

mod task;

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use flywheel_events::ModelRef;
use flywheel_policy::LivePolicy;
use tokio::sync::Notify;
use tracing::warn;

use self::task::Task;
use crate::{ClientError, ClientErrorKind, Decider, FollowConfig, clock::after, emitter::start_thread, http::Http};

/// How the following goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowStats {
    /// The version that decides.
    pub model: Option<ModelRef>,
    /// Number of the alias' move that made it so; `None` for a kept one that the server has not confirmed.
    pub revision: Option<u64>,
    /// How often the version was exchanged.
    pub swaps: u64,
    /// Versions that were not taken, and what was wrong with the last one.
    pub refused: u64,
    pub refusal: Option<String>,
    /// Why the server is away, if it is.
    pub away: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    live: Option<Arc<LivePolicy>>,
    stats: FollowStats,
    /// Why there will be no first version.
    hopeless: Option<ClientError>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows an alias on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    live: Arc<LivePolicy>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Returns once the first version is ready to decide.
    ///
    /// A server that is away is waited for, unless a version is kept on this machine: then play begins with that one.
    ///
    /// # Errors
    /// `Refused` if the server has no such model or alias and nothing is kept, `BadModel` if its weights cannot be
    /// used, `Unavailable` after the patience of the settings, `Setting` naming the one to mend.
    pub fn start(config: FollowConfig) -> Result<Self, ClientError> {
        config.check()?;
        let http = Http::new(&config.url, config.timeout)?;
        let shared = Arc::new(Shared::default());
        let (url, patience) = (config.url.clone(), config.patience);
        let task = Task::new(shared.clone(), http, config);
        let thread = Some(start_thread("flywheel-follower", move |runtime| task.run(&runtime))?);
        let mut stopped = Stopped { shared, thread };
        let live = stopped.first(&url, patience)?;
        Ok(Self { shared: stopped.shared.clone(), live, thread: stopped.thread.take() })
    }

    /// Decides with whatever version is in place; one for each thread.
    pub fn decider(&self) -> Decider {
        Decider::new(self.live.clone())
    }

    /// The networks behind it, for who wants a whole game played by one version.
    pub fn live(&self) -> &Arc<LivePolicy> {
        &self.live
    }

    pub fn stats(&self) -> FollowStats {
        self.shared.lock().stats.clone()
    }

    /// Waits until `wanted` is true of how it goes; false if that took longer than `patience`.
    pub fn wait_until(&self, patience: Duration, wanted: impl Fn(&FollowStats) -> bool) -> bool {
        let until = after(patience);
        let mut state = self.shared.lock();
        while !wanted(&state.stats) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        end(&self.shared, self.thread.take());
    }
}

fn end(shared: &Shared, thread: Option<JoinHandle<()>>) {
    shared.stop.notify_one();
    if thread.is_some_and(|thread| thread.join().is_err()) {
        warn!("the follower's thread panicked");
    }
}

/// Ends the thread if the start comes to nothing.
struct Stopped {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Stopped {
    fn first(&mut self, url: &str, patience: Duration) -> Result<Arc<LivePolicy>, ClientError> {
        let until = after(patience);
        let mut state = self.shared.lock();
        loop {
            if let Some(live) = &state.live {
                return Ok(live.clone());
            }
            if let Some(error) = state.hopeless.take() {
                return Err(error);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = state.stats.away.as_deref().unwrap_or("it has not answered");
                return Err(ClientError::new(ClientErrorKind::Unavailable, "waiting for a version from", url, why));
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.thread.is_some() {
            end(&self.shared, self.thread.take());
        }
    }
}
