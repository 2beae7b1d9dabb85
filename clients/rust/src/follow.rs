//! Which version an alias names, fetched and checked away from every decision.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use flywheel_events::{BaseKey, ModelRef};
use flywheel_policy::{LivePolicy, MAX_FILE_BYTES, Network, Scratch, VersionedNetwork};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{runtime::Runtime, sync::Notify};
use tracing::{info, warn};

use crate::{
    ClientError, ClientErrorKind, Decider, FollowConfig, Problem,
    emitter::start_thread,
    http::{Failure, Http},
    keep,
};

/// Longest pause while the server is away.
const AWAY_MAX: Duration = Duration::from_secs(10);
/// Versions kept ready: a move back to one of these only exchanges a pointer.
const KEPT_READY: usize = 3;

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
    /// used, `Unavailable` after the patience of the settings, `Setting` for an address that is none.
    pub fn start(config: FollowConfig) -> Result<Self, ClientError> {
        let http = Http::new(&config.url, config.timeout)?;
        let shared = Arc::new(Shared::default());
        let (url, patience) = (config.url.clone(), config.patience);
        let task = Task {
            shared: shared.clone(),
            http,
            model: config.model.clone(),
            shape: config.shape,
            config,
            tag: None,
            seen: None,
            ready: VecDeque::new(),
        };
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
        let until = Instant::now() + patience;
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
        let until = Instant::now() + patience;
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

/// Answer of `GET /v1/models/{model}/{alias}`, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Named {
    name: ModelRef,
    revision: u64,
    card: Card,
}

#[derive(Debug, Deserialize)]
struct Card {
    sha256: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    items: Vec<ListedModel>,
}

#[derive(Debug, Deserialize)]
struct ListedModel {
    model_key: BaseKey,
}

enum NotReady {
    Away {
        why: String,
        retry_after: Option<Duration>,
    },
    NoSuch(Problem),
    /// The version is there and cannot be played.
    Unusable {
        model: ModelRef,
        revision: u64,
        why: String,
    },
}

impl From<Failure> for NotReady {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away { why, retry_after } => Self::Away { why, retry_after },
            Failure::Refused(problem) => Self::NoSuch(problem),
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    http: Http,
    config: FollowConfig,
    model: Option<BaseKey>,
    shape: Option<(usize, usize)>,
    /// Of the answer that was last acted upon.
    tag: Option<String>,
    /// Revision and version that are in place, or were refused.
    seen: Option<(u64, ModelRef)>,
    ready: VecDeque<Arc<VersionedNetwork>>,
}

impl Task {
    fn run(mut self, runtime: &Runtime) {
        let mut failures = 0_u32;
        loop {
            let shared = self.shared.clone();
            let stopped = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = shared.stop.notified() => true,
                    wait = self.turn(&mut failures) => match wait {
                        None => true,
                        Some(wait) => tokio::select! {
                            biased;
                            () = shared.stop.notified() => true,
                            () = tokio::time::sleep(wait) => false,
                        }
                    },
                }
            });
            if stopped {
                return;
            }
        }
    }

    /// Asks once, acts on it, and says how long to wait; `None` if there is no point in going on.
    async fn turn(&mut self, failures: &mut u32) -> Option<Duration> {
        let every = self.config.every;
        let looked = self.look().await;
        let away = match looked {
            Ok(()) => {
                *failures = 0;
                self.shared.lock().stats.away = None;
                self.shared.changed.notify_all();
                return Some(every);
            }
            Err(NotReady::Unusable { model, revision, why }) => {
                *failures = 0;
                warn!(%model, why, "this version is not played; the one before plays on");
                let mut state = self.shared.lock();
                (state.stats.refused, state.stats.away) = (state.stats.refused + 1, None);
                state.stats.refusal = Some(format!("{model}: {why}"));
                self.seen = Some((revision, model.clone()));
                if state.live.is_none() {
                    state.hopeless =
                        Some(ClientError::new(ClientErrorKind::BadModel, "loading the version", &model, why));
                }
                let goes_on = state.live.is_some();
                drop(state);
                self.shared.changed.notify_all();
                return goes_on.then_some(every);
            }
            Err(away) => away,
        };
        let retry_after = self.without(away)?;
        let wait = every.saturating_mul(1 << (*failures).min(20)).min(AWAY_MAX);
        *failures += 1;
        Some(wait.mul_f64(rand::random_range(0.5..=1.0)).max(retry_after.min(AWAY_MAX)))
    }

    /// The server has nothing for us now: play begins with what is kept, or waits. `None` if waiting is hopeless.
    fn without(&mut self, away: NotReady) -> Option<Duration> {
        let first = self.shared.lock().live.is_none();
        let kept = if first { self.kept() } else { None };
        let mut state = self.shared.lock();
        let retry_after = match away {
            NotReady::Away { why, retry_after } => {
                state.stats.away = Some(why);
                retry_after.unwrap_or_default()
            }
            // A server that has begun anew with less than it had may come back.
            NotReady::NoSuch(problem) => {
                if first && kept.is_none() {
                    let alias = &self.config.alias;
                    let why = format!("{problem}; is the model or the alias right?");
                    let error = ClientError::new(ClientErrorKind::Refused, "following", alias, why);
                    state.hopeless = Some(error);
                }
                state.stats.away = Some(problem.to_string());
                Duration::ZERO
            }
            NotReady::Unusable { .. } => Duration::ZERO,
        };
        if let Some(network) = kept {
            info!(model = ?network.model, "the server is away; play begins with the version that was kept");
            state.stats.model = network.model.clone();
            state.live = Some(Arc::new(LivePolicy::new(network)));
        }
        let hopeless = state.hopeless.is_some();
        drop(state);
        self.shared.changed.notify_all();
        (!hopeless).then_some(retry_after)
    }

    async fn look(&mut self) -> Result<(), NotReady> {
        let base = match &self.model {
            Some(base) => base.clone(),
            None => self.first_model().await?,
        };
        let url = self.http.url(&["v1", "models", base.as_str(), &self.config.alias]);
        let Some((named, tag)) = self.http.get_json::<Named>(url, self.tag.as_deref()).await? else { return Ok(()) };
        let now = (named.revision, named.name.clone());
        if self.seen.as_ref() != Some(&now) {
            let network = self.fetch(&named).await?;
            self.install(network, &named);
            self.seen = Some(now);
        }
        // Only now: what could not be fetched is asked for again.
        (self.model, self.tag) = (Some(base), tag);
        Ok(())
    }

    async fn first_model(&self) -> Result<BaseKey, NotReady> {
        let listed = self.http.get_json::<Listed>(self.http.url(&["v1", "models"]), None).await?;
        let first = listed.and_then(|(listed, _)| listed.items.into_iter().next());
        first.map(|model| model.model_key).ok_or_else(|| Failure::away("the server has no model yet").into())
    }

    async fn fetch(&mut self, named: &Named) -> Result<Arc<VersionedNetwork>, NotReady> {
        let model = &named.name;
        if let Some(ready) = self.ready.iter().find(|ready| ready.model.as_ref() == Some(model)) {
            return Ok(ready.clone());
        }
        let version = model.version.to_string();
        let url = self.http.url(&["v1", "models", model.base_key.as_str(), "versions", &version, "weights"]);
        let weights = self.http.get_bytes(url, MAX_FILE_BYTES).await?;
        let found = hex::encode(Sha256::digest(&weights));
        let checked = if found == named.card.sha256.to_ascii_lowercase() {
            self.checked(model, &weights)
        } else {
            Err(format!("its sha256 is {found}, the card says {}", named.card.sha256))
        };
        let network =
            checked.map_err(|why| NotReady::Unusable { model: model.clone(), revision: named.revision, why })?;
        if let Some(path) = &self.config.keep
            && let Err(error) = keep::write(path, model, &weights)
        {
            warn!(path = %path.display(), %error, "the version cannot be kept for the next start");
        }
        Ok(network)
    }

    fn kept(&self) -> Option<Arc<VersionedNetwork>> {
        let path = self.config.keep.as_deref()?;
        let read = keep::read(path).map_err(|error| error.to_string());
        let checked = read.and_then(|kept| kept.map(|(model, weights)| self.checked(&model, &weights)).transpose());
        checked.unwrap_or_else(|why| {
            warn!(path = %path.display(), why, "the version that was kept cannot be used");
            None
        })
    }

    /// A network of the right shape with finite answers.
    fn checked(&self, model: &ModelRef, weights: &[u8]) -> Result<Arc<VersionedNetwork>, String> {
        let network = Network::from_safetensors(weights).map_err(|error| error.to_string())?;
        let spec = network.spec();
        if let Some((inputs, outputs)) = self.shape.filter(|&shape| shape != (spec.inputs, spec.outputs)) {
            return Err(format!("its shape is {spec}; this game needs {inputs} inputs and {outputs} actions"));
        }
        let network = VersionedNetwork::new(model.clone(), network);
        network
            .warm(&mut Scratch::default())
            .map_err(|values| format!("its answers are not finite: {:?}", &values[..values.len().min(8)]))?;
        Ok(Arc::new(network))
    }

    fn install(&mut self, network: Arc<VersionedNetwork>, named: &Named) {
        self.ready.retain(|ready| ready.model != network.model);
        self.ready.push_back(network.clone());
        if self.ready.len() > KEPT_READY {
            self.ready.pop_front();
        }
        let spec = network.network.spec();
        self.shape = Some((spec.inputs, spec.outputs));
        let mut state = self.shared.lock();
        match &state.live {
            Some(live) if state.stats.model.as_ref() != Some(&named.name) => {
                live.swap(network);
                state.stats.swaps += 1;
                info!(model = %named.name, revision = named.revision, "another version decides");
            }
            // The one that was kept is confirmed.
            Some(_) => {}
            None => state.live = Some(Arc::new(LivePolicy::new(network))),
        }
        (state.stats.model, state.stats.revision) = (Some(named.name.clone()), Some(named.revision));
        drop(state);
        self.shared.changed.notify_all();
    }
}
