//! Which network decides now, and how it is exchanged while decisions are being made.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use flywheel_events::ModelRef;

use crate::{Network, NetworkSpec, Scratch};

/// Something that values actions.
pub trait Policy: Send + Sync + fmt::Debug {
    /// The published version that this is; `None` for one that was never published.
    fn model(&self) -> Option<&ModelRef>;

    fn spec(&self) -> &NetworkSpec;

    /// As [`Network::evaluate`]: `inputs` `[n, spec.inputs]` into `out` `[n, spec.outputs]`; a row's answer does
    /// not depend on the others.
    fn evaluate(&self, inputs: &[f32], out: &mut [f32], scratch: &mut Scratch);
}

/// A network and the version that it is.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionedNetwork {
    pub model: Option<ModelRef>,
    pub network: Network,
}

impl VersionedNetwork {
    pub fn new(model: ModelRef, network: Network) -> Self {
        Self { model: Some(model), network }
    }

    /// A network that was never published, such as a fresh one.
    pub fn unpublished(network: Network) -> Self {
        Self { model: None, network }
    }

    /// Evaluates one row of zeros, so that the first real decision finds weights and code in memory.
    ///
    /// # Errors
    /// The answers, if one of them is not finite.
    pub fn warm(&self, scratch: &mut Scratch) -> Result<(), Vec<f32>> {
        let spec = self.network.spec();
        let mut out = vec![0.0; spec.outputs];
        self.network.evaluate(&vec![0.0; spec.inputs], &mut out, scratch);
        if out.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(out) }
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

/// The network that decides now. Readers never wait; an exchange is one pointer.
///
/// A decision, or a whole game where swap points are episodes, takes the network **once** and uses only that:
/// it is then made by one version, and names it. Versions that were replaced are freed by a later exchange,
/// never by the thread that decides.
pub struct LivePolicy {
    current: ArcSwap<VersionedNetwork>,
    swaps: AtomicU64,
    /// Replaced versions that somebody may still hold, and the last one.
    retired: Mutex<Vec<Arc<VersionedNetwork>>>,
}

impl LivePolicy {
    pub fn new(first: Arc<VersionedNetwork>) -> Self {
        Self { current: ArcSwap::new(first), swaps: AtomicU64::new(0), retired: Mutex::default() }
    }

    /// The network of now, to keep for as long as wanted.
    pub fn load(&self) -> Arc<VersionedNetwork> {
        self.current.load_full()
    }

    /// As [`LivePolicy::load`] without touching the reference count; for one decision, not to be kept.
    pub fn guard(&self) -> Guard<Arc<VersionedNetwork>> {
        self.current.load()
    }

    /// Makes `new` the network of every later [`LivePolicy::load`] and returns the one before.
    pub fn swap(&self, new: Arc<VersionedNetwork>) -> Arc<VersionedNetwork> {
        let old = self.current.swap(new);
        self.swaps.fetch_add(1, Ordering::Relaxed);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|network| Arc::strong_count(network) > 1);
        retired.push(Arc::clone(&old));
        old
    }

    /// The version of now.
    pub fn model(&self) -> Option<ModelRef> {
        self.guard().model.clone()
    }

    /// How many exchanges there were.
    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }

    /// Versions that are replaced and not yet freed.
    pub fn retired(&self) -> usize {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl fmt::Debug for LivePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LivePolicy").field(&*self.guard()).finish()
    }
}
