//! The thread behind a [`Follower`](super::Follower): asks, fetches, checks, exchanges.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use flywheel_events::{BaseKey, ModelRef};
use flywheel_policy::{LivePolicy, MAX_FILE_BYTES, Network, Scratch, VersionedNetwork};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tracing::{info, warn};

use super::Shared;
use crate::{
    ClientError, ClientErrorKind, FollowConfig, Problem,
    clock::jittered,
    http::{Failure, Http},
    keep,
};

/// Longest pause while the server is away.
const AWAY_MAX: Duration = Duration::from_secs(10);
/// Versions kept ready: a move back to one of these only exchanges a pointer.
const KEPT_READY: usize = 3;

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

/// Which weights a name stands for: a server that began anew may give an old name to others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    model: ModelRef,
    sha256: String,
}

impl Named {
    fn identity(&self) -> Identity {
        Identity { model: self.name.clone(), sha256: self.card.sha256.to_ascii_lowercase() }
    }
}

/// A version that was fetched and checked.
#[derive(Debug, Clone)]
struct Ready {
    identity: Identity,
    network: Arc<VersionedNetwork>,
    /// The file, where it is kept for the next start.
    weights: Option<Arc<[u8]>>,
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
        identity: Identity,
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

pub(super) struct Task {
    shared: Arc<Shared>,
    http: Http,
    config: FollowConfig,
    model: Option<BaseKey>,
    shape: Option<(usize, usize)>,
    /// Of the answer that was last acted upon.
    tag: Option<String>,
    /// Revision and version that are in place, or were refused.
    seen: Option<(u64, Identity)>,
    ready: VecDeque<Ready>,
    /// What the kept file holds.
    on_disk: Option<Identity>,
}

impl Task {
    pub fn new(shared: Arc<Shared>, http: Http, config: FollowConfig) -> Self {
        let (model, shape) = (config.model.clone(), config.shape);
        Self { shared, http, config, model, shape, tag: None, seen: None, ready: VecDeque::new(), on_disk: None }
    }

    pub fn run(mut self, runtime: &Runtime) {
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
            Err(NotReady::Unusable { identity, revision, why }) => {
                *failures = 0;
                let model = &identity.model;
                warn!(%model, why, "this version is not played; the one before plays on");
                let mut state = self.shared.lock();
                (state.stats.refused, state.stats.away) = (state.stats.refused + 1, None);
                state.stats.refusal = Some(format!("{model}: {why}"));
                if state.live.is_none() {
                    state.hopeless =
                        Some(ClientError::new(ClientErrorKind::BadModel, "loading the version", model, why));
                }
                self.seen = Some((revision, identity));
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
        Some(jittered(wait).max(retry_after.min(AWAY_MAX)))
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
        if let Some(kept) = &kept {
            info!(model = %kept.identity.model, "the server is away; play begins with the version that was kept");
            state.stats.model = Some(kept.identity.model.clone());
            state.live = Some(Arc::new(LivePolicy::new(kept.network.clone())));
        }
        let hopeless = state.hopeless.is_some();
        drop(state);
        if let Some(kept) = kept {
            self.on_disk = Some(kept.identity.clone());
            self.remember(kept);
        }
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
        let now = (named.revision, named.identity());
        if self.seen.as_ref() != Some(&now) {
            let ready = self.fetch(&named).await?;
            self.install(&ready, named.revision);
            self.keep(&ready);
            self.remember(ready);
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

    async fn fetch(&mut self, named: &Named) -> Result<Ready, NotReady> {
        let identity = named.identity();
        if let Some(ready) = self.ready.iter().find(|ready| ready.identity == identity) {
            return Ok(ready.clone());
        }
        let model = &identity.model;
        let version = model.version.to_string();
        let url = self.http.url(&["v1", "models", model.base_key.as_str(), "versions", &version, "weights"]);
        let weights = self.http.get_bytes(url, MAX_FILE_BYTES).await?;
        let found = hex::encode(Sha256::digest(&weights));
        let checked = if found == identity.sha256 {
            self.checked(model, &weights)
        } else {
            Err(format!("its sha256 is {found}, the card says {}", named.card.sha256))
        };
        match checked {
            Err(why) => Err(NotReady::Unusable { identity, revision: named.revision, why }),
            Ok(network) => {
                let weights = self.config.keep.is_some().then(|| weights.into());
                Ok(Ready { identity, network, weights })
            }
        }
    }

    /// For the next start while the server is away, also after a move back.
    fn keep(&mut self, ready: &Ready) {
        let (Some(path), Some(weights)) = (&self.config.keep, &ready.weights) else { return };
        if self.on_disk.as_ref() == Some(&ready.identity) {
            return;
        }
        match keep::write(path, &ready.identity.model, weights) {
            Ok(()) => self.on_disk = Some(ready.identity.clone()),
            Err(error) => warn!(path = %path.display(), %error, "the version cannot be kept for the next start"),
        }
    }

    fn kept(&self) -> Option<Ready> {
        let path = self.config.keep.as_deref()?;
        let usable = |(model, weights): (ModelRef, Vec<u8>)| {
            let network = self.checked(&model, &weights)?;
            let sha256 = hex::encode(Sha256::digest(&weights));
            Ok::<_, String>(Ready { identity: Identity { model, sha256 }, network, weights: Some(weights.into()) })
        };
        let read = keep::read(path).map_err(|error| error.to_string());
        read.and_then(|kept| kept.map(usable).transpose()).unwrap_or_else(|why| {
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

    /// What decides sets the shape of all that follow, and stays ready for a move back.
    fn remember(&mut self, ready: Ready) {
        let spec = ready.network.network.spec();
        self.shape = Some((spec.inputs, spec.outputs));
        self.ready.retain(|other| other.identity != ready.identity);
        self.ready.push_back(ready);
        if self.ready.len() > KEPT_READY {
            self.ready.pop_front();
        }
    }

    fn install(&self, ready: &Ready, revision: u64) {
        let (model, network) = (&ready.identity.model, &ready.network);
        let mut state = self.shared.lock();
        match &state.live {
            // The one that was kept is confirmed, or a move named the same weights again.
            Some(live) if Arc::ptr_eq(&live.load(), network) => {}
            Some(live) => {
                live.swap(network.clone());
                state.stats.swaps += 1;
                info!(%model, revision, "another version decides");
            }
            None => state.live = Some(Arc::new(LivePolicy::new(network.clone()))),
        }
        (state.stats.model, state.stats.revision) = (Some(model.clone()), Some(revision));
        drop(state);
        self.shared.changed.notify_all();
    }
}
