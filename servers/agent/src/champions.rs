//! The champions of the moment, ready to decide: fetched, verified and warmed before anybody sees them here.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use flywheel_events::ModelRef;
use flywheel_policy::{LivePolicy, VersionedNetwork};
use parking_lot::RwLock;

use crate::{metrics as names, stats::Counters};

/// A version that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub model: String,
    pub reason: String,
}

#[derive(Debug)]
struct Current {
    network: Arc<VersionedNetwork>,
    /// When the alias was moved, microseconds since 1970; `None` for what was there at the start.
    promoted_us: Option<u64>,
    decided: AtomicBool,
}

#[derive(Debug, Default)]
struct Slot {
    current: ArcSwapOption<Current>,
    refusal: ArcSwapOption<Refusal>,
}

/// Champions by base key, with the general key as a fallback.
#[derive(Debug)]
pub struct Champions {
    general: String,
    slots: RwLock<HashMap<String, Arc<Slot>>>,
    /// Follows the general key's champion, for players that are not sessions.
    live: Option<Arc<LivePolicy>>,
    refusals: AtomicU64,
    stats: Arc<Counters>,
}

impl Champions {
    pub(crate) fn new(general: String, live: Option<Arc<LivePolicy>>, stats: Arc<Counters>) -> Self {
        Self { general, slots: RwLock::default(), live, refusals: AtomicU64::new(0), stats }
    }

    fn slot(&self, base: &str) -> Option<Arc<Slot>> {
        self.slots.read().get(base).cloned()
    }

    fn slot_or_new(&self, base: &str) -> Arc<Slot> {
        self.slot(base).unwrap_or_else(|| self.slots.write().entry(base.to_owned()).or_default().clone())
    }

    /// The champion for sessions of this base key: its own, or the general one.
    pub fn current(&self, base: &str) -> Option<Arc<VersionedNetwork>> {
        self.serving(base).map(|current| current.network.clone())
    }

    fn serving(&self, base: &str) -> Option<Arc<Current>> {
        let own = self.slot(base).and_then(|slot| slot.current.load_full());
        own.or_else(|| self.slot(&self.general)?.current.load_full())
    }

    /// Puts a champion in place. It must be warm.
    pub(crate) fn install(&self, base: &str, network: Arc<VersionedNetwork>, promoted_us: Option<u64>) {
        if base == self.general
            && let Some(live) = &self.live
        {
            live.swap(network.clone());
        }
        let current = Current { network, promoted_us, decided: AtomicBool::new(false) };
        let slot = self.slot_or_new(base);
        slot.current.store(Some(Arc::new(current)));
        slot.refusal.store(None);
    }

    /// A version was refused; whoever plays stays on what it has.
    pub(crate) fn refuse(&self, base: &str, refusal: Refusal) {
        tracing::warn!(model = refusal.model, reason = refusal.reason, "version refused");
        metrics::counter!(names::SWAPS_REFUSED).increment(1);
        self.stats.add(&self.stats.swaps_refused, 1);
        self.slot_or_new(base).refusal.store(Some(Arc::new(refusal)));
        self.refusals.fetch_add(1, Ordering::Release);
    }

    /// Rises with every refusal.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Acquire)
    }

    /// What was refused last among what this base key follows.
    pub fn last_refusal(&self, base: &str) -> Option<Refusal> {
        let of = |key: &str| self.slot(key).and_then(|slot| slot.refusal.load_full());
        of(base).or_else(|| of(&self.general)).map(|refusal| (*refusal).clone())
    }

    /// A decision by `model` was made; the first one by a champion ends its swap.
    pub(crate) fn decided(&self, base: &str, model: &ModelRef) {
        let Some(current) = self.serving(base) else { return };
        if current.network.model.as_ref() != Some(model) || current.decided.load(Ordering::Relaxed) {
            return;
        }
        if let (false, Some(promoted)) = (current.decided.swap(true, Ordering::Relaxed), current.promoted_us) {
            let took = Duration::from_micros(now_us().saturating_sub(promoted));
            tracing::info!(%model, took_ms = took.as_millis() as u64, "first decision by the new champion");
            self.stats.swap.record(took);
            metrics::histogram!(names::SWAP_SECONDS).record(took.as_secs_f64());
        }
    }
}

pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use flywheel_policy::{Network, NetworkSpec};

    use super::*;

    fn version(text: &str) -> Arc<VersionedNetwork> {
        let network = Network::random(&NetworkSpec::new(108, [4], 10), 1, 0.1).unwrap();
        Arc::new(VersionedNetwork::new(text.parse().unwrap(), network))
    }

    #[test]
    fn a_map_without_a_champion_of_its_own_follows_the_general_one() {
        let stats = Arc::new(Counters::default());
        let champions = Champions::new("tank".into(), None, stats.clone());
        assert!(champions.current("tank-stage01").is_none());
        champions.install("tank", version("tank@1"), Some(now_us()));
        champions.install("tank-stage02", version("tank-stage02@7"), None);
        let of = |base: &str| champions.current(base).unwrap().model.clone().unwrap().to_string();
        assert_eq!((of("tank-stage01"), of("tank-stage02")), ("tank@1".into(), "tank-stage02@7".into()));
        champions.decided("tank-stage02", &"tank-stage02@7".parse().unwrap());
        assert_eq!(stats.swap.total().count, 0, "what was there at the start is no swap");
        for _ in 0..3 {
            champions.decided("tank-stage01", &"tank@1".parse().unwrap());
        }
        assert_eq!(stats.swap.total().count, 1);
    }

    #[test]
    fn a_refused_version_leaves_the_old_one_in_place() {
        let champions = Champions::new("tank".into(), None, Arc::default());
        champions.install("tank", version("tank@1"), None);
        champions.refuse("tank", Refusal { model: "tank@2".into(), reason: "corrupt".into() });
        assert_eq!(champions.current("tank-x").unwrap().model, Some("tank@1".parse().unwrap()));
        assert_eq!(champions.refusals(), 1);
        assert_eq!(champions.last_refusal("tank-x").unwrap().model, "tank@2");
    }
}
