//! Following champions in the registry: fetched, verified and warmed here, away from every decision.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use flywheel_events::{BaseKey, ModelRef};
use flywheel_policy::{Scratch, VersionedNetwork};
use flywheel_registry::{AliasState, Registry, RegistryError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    champions::{Champions, Refusal, now_us},
    model::fits,
};

/// First pause after the registry could not be reached; it doubles up to `MAX_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Base keys followed at most; sessions of others follow the general champion.
const MAX_FOLLOWED: usize = 1024;
/// Versions kept ready for each key: the newest that were published or played.
const KEPT_READY: usize = 3;

/// Follows the `champion` of every base key that it is told of, and of the general one.
#[derive(Debug)]
pub(crate) struct Follower {
    registry: Arc<Registry>,
    champions: Arc<Champions>,
    general: String,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// For each followed key: whether what its champion is now has been looked at.
    followed: Mutex<HashMap<String, watch::Receiver<bool>>>,
}

impl Follower {
    pub fn new(
        registry: Arc<Registry>,
        general: String,
        champions: Arc<Champions>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let follower = Self { registry, champions, general: general.clone(), tasks, stop, followed: Mutex::default() };
        follower.begin(&general);
        follower
    }

    /// Follows a base key from now on, and returns once its present champion and the general one are in place.
    pub async fn follow(&self, base: &str) {
        for key in [base, &self.general] {
            if let Some(mut looked) = self.begin(key) {
                let _ = looked.wait_for(|looked| *looked).await;
            }
        }
    }

    /// `None` if the key cannot be followed.
    fn begin(&self, base: &str) -> Option<watch::Receiver<bool>> {
        let mut followed = self.followed.lock();
        if let Some(looked) = followed.get(base) {
            return Some(looked.clone());
        }
        let base_key = BaseKey::new(base).ok().filter(|_| followed.len() < MAX_FOLLOWED)?;
        let (looked, receiver) = watch::channel(false);
        followed.insert(base.to_owned(), receiver.clone());
        let task = Task {
            registry: self.registry.clone(),
            champions: self.champions.clone(),
            base_key,
            looked,
            taken: None,
            ready: VecDeque::new(),
            started: false,
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
        Some(receiver)
    }
}

struct Task {
    registry: Arc<Registry>,
    champions: Arc<Champions>,
    base_key: BaseKey,
    looked: watch::Sender<bool>,
    /// Revision of the alias that is in place, or was refused.
    taken: Option<u64>,
    /// Fetched, verified and warm, newest last: a promotion or a rollback to one of these only exchanges a pointer.
    ready: VecDeque<Arc<VersionedNetwork>>,
    /// A champion that was there before us is not a swap.
    started: bool,
}

impl Task {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut alias = loop {
            match self.registry.watch(&self.base_key, "champion").await {
                Ok(alias) => break alias,
                Err(error) => {
                    warn!(base_key = %self.base_key, %error, "the registry cannot be read; play goes on without it");
                    self.looked.send_replace(true);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        };
        pause = FIRST_PAUSE;
        // Without candidates a promotion takes the milliseconds of a fetch longer; no more than that.
        let mut candidates = self.registry.watch(&self.base_key, "candidate").await.ok();
        loop {
            let state = alias.borrow_and_update().clone();
            let done = match state {
                Some(state) if self.taken != Some(state.revision) => self.take(&state).await,
                _ => true,
            };
            self.started = true;
            self.looked.send_replace(true);
            if done {
                pause = FIRST_PAUSE;
                tokio::select! {
                    biased;
                    changed = alias.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    Some(candidate) = next(&mut candidates) => self.prepare(&candidate).await,
                }
            } else {
                // Try again, or at once if the alias moves meanwhile.
                let _ = tokio::time::timeout(pause, alias.changed()).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }

    /// False if it should be tried again.
    async fn take(&mut self, state: &AliasState) -> bool {
        let model = ModelRef::new(self.base_key.clone(), state.version);
        let moved_us = state.moved_at_ms.max(0) as u64 * 1_000;
        let heard_ms = now_us().saturating_sub(moved_us) / 1_000;
        match self.ready(&model).await {
            Ok(network) => {
                let promoted_us = (self.started).then_some(moved_us);
                let ready_ms = now_us().saturating_sub(moved_us) / 1_000;
                info!(%model, heard_ms, ready_ms, "champion in place");
                self.champions.install(self.base_key.as_str(), network, promoted_us);
            }
            Err(NotReady::Refused(reason)) => {
                self.champions.refuse(self.base_key.as_str(), Refusal { model: model.to_string(), reason });
            }
            Err(NotReady::Away(error)) => {
                warn!(%model, %error, "the champion cannot be fetched; tried again");
                return false;
            }
        }
        self.taken = Some(state.revision);
        true
    }

    /// Makes ready what may soon be promoted. What is wrong with it is said if it is.
    async fn prepare(&mut self, candidate: &AliasState) {
        let model = ModelRef::new(self.base_key.clone(), candidate.version);
        if let Err(NotReady::Refused(why)) = self.ready(&model).await {
            debug!(%model, why, "this candidate could not be played");
        }
    }

    async fn ready(&mut self, model: &ModelRef) -> Result<Arc<VersionedNetwork>, NotReady> {
        let known = self.ready.iter().position(|network| network.model.as_ref() == Some(model));
        let network = match known.and_then(|at| self.ready.remove(at)) {
            Some(network) => network,
            None => Arc::new(self.fetch(model).await?),
        };
        self.ready.push_back(network.clone());
        if self.ready.len() > KEPT_READY {
            self.ready.pop_front();
        }
        Ok(network)
    }

    async fn fetch(&self, model: &ModelRef) -> Result<VersionedNetwork, NotReady> {
        let (_, network) = self.registry.fetch(model).await.map_err(|error| {
            if error.is_corrupt() || error.is_not_found() {
                NotReady::Refused(chain(&error))
            } else {
                NotReady::Away(error)
            }
        })?;
        if !fits(network.spec()) {
            let reason = format!("its shape is {}; this game needs 108 inputs and 10 actions", network.spec());
            return Err(NotReady::Refused(reason));
        }
        let network = VersionedNetwork::new(model.clone(), network);
        match network.warm(&mut Scratch::default()) {
            Ok(()) => Ok(network),
            Err(values) => Err(NotReady::Refused(format!("its answers are not finite: {values:?}"))),
        }
    }
}

/// The next version that is published. Never, without a watch.
async fn next(candidates: &mut Option<watch::Receiver<Option<AliasState>>>) -> Option<AliasState> {
    if let Some(receiver) = candidates
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    std::future::pending().await
}

enum NotReady {
    Refused(String),
    Away(RegistryError),
}

/// The error with what caused it.
fn chain(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
