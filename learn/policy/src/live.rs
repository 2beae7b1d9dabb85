//! A policy that can be exchanged while it decides.

use std::{fmt, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use flywheel_events::ModelRef;

use crate::{Network, NetworkSpec, Scratch};

/// Values of actions for observations.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Which version this is; `None` for one that was never published.
    fn model(&self) -> Option<&ModelRef>;

    fn spec(&self) -> &NetworkSpec;

    /// `inputs` is `[n, inputs]`, `out` is `[n, outputs]`; see [`Network::evaluate`].
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    fn evaluate(&self, inputs: &[f32], out: &mut [f32], scratch: &mut Scratch);
}

/// A network and the version that it is.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionedNetwork {
    model: Option<ModelRef>,
    network: Network,
}

impl VersionedNetwork {
    pub fn new(model: Option<ModelRef>, network: Network) -> Self {
        Self { model, network }
    }

    pub fn network(&self) -> &Network {
        &self.network
    }
}

impl Policy for VersionedNetwork {
    fn model(&self) -> Option<&ModelRef> {
        self.model.as_ref()
    }

    fn spec(&self) -> &NetworkSpec {
        self.network.spec()
    }

    fn evaluate(&self, inputs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        self.network.evaluate(inputs, out, scratch);
    }
}

/// The version that decides now.
///
/// A decision takes one [`LivePolicy::load`] and uses nothing else, so it is made by exactly one version, whatever
/// is swapped in meanwhile; the old version is freed after the last decision that holds it. Loading is wait-free.
#[derive(Debug)]
pub struct LivePolicy(ArcSwap<VersionedNetwork>);

impl LivePolicy {
    pub fn new(first: Arc<VersionedNetwork>) -> Self {
        Self(ArcSwap::new(first))
    }

    pub fn load(&self) -> Guard<Arc<VersionedNetwork>> {
        self.0.load()
    }

    /// For holding a version longer than a decision, such as for a whole game.
    pub fn load_full(&self) -> Arc<VersionedNetwork> {
        self.0.load_full()
    }

    /// Puts `new` in place and returns what was there. Warm `new` first: [`warm`].
    pub fn swap(&self, new: Arc<VersionedNetwork>) -> Arc<VersionedNetwork> {
        self.0.swap(new)
    }
}

/// Evaluates a few rows so that weights and code are in the caches before the first decision, and says whether all
/// values are finite.
pub fn warm(policy: &dyn Policy) -> bool {
    let spec = policy.spec();
    let inputs = vec![0.5; 4 * spec.inputs];
    let mut out = vec![0.0; 4 * spec.outputs];
    let mut scratch = Scratch::default();
    (0..4).all(|_| {
        policy.evaluate(&inputs, &mut out, &mut scratch);
        out.iter().all(|v| v.is_finite())
    })
}
