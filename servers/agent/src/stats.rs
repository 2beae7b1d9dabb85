//! What the AI backend has done, in numbers.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use flywheel_events::ModelRef;
use parking_lot::Mutex;

use crate::{
    histogram::{Latency, Quantiles},
    metrics as names,
};

/// Versions whose decisions are counted one by one; later ones are counted together.
const MAX_VERSIONS: usize = 4096;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters; see [`AgentStats`] for their meaning.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub $name: AtomicU64,)*
            pub decision: Latency,
            pub train: Latency,
            pub save: Latency,
            pub swap: Latency,
            pub by_version: Mutex<BTreeMap<String, u64>>,
            pub learning: Mutex<Learning>,
        }

        /// A snapshot of everything counted.
        #[derive(Debug, Clone, Default)]
        pub struct AgentStats {
            $($(#[$doc])* pub $name: u64,)*
            /// From a transition parsed to its actions computed, since the start.
            pub decision: Quantiles,
            /// The same, of the last minute.
            pub decision_recent: Quantiles,
            /// Time to train on one transition.
            pub train: Quantiles,
            /// Time of successful saves.
            pub save: Quantiles,
            /// From a champion's promotion to the first decision by it.
            pub swap: Quantiles,
            /// Decisions by version; `none` for models that were never published.
            pub by_version: BTreeMap<String, u64>,
            /// Sums and means of online learning.
            pub learning: Learning,
        }

        impl Counters {
            pub fn snapshot(&self) -> AgentStats {
                AgentStats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    decision: self.decision.total(),
                    decision_recent: self.decision.recent(),
                    train: self.train.total(),
                    save: self.save.total(),
                    swap: self.swap.total(),
                    by_version: self.by_version.lock().clone(),
                    learning: self.learning.lock().clone(),
                }
            }
        }
    };
}

counters! {
    /// Polls with a usable answer.
    polls,
    /// Polls without.
    polls_failed,
    /// Sessions served now.
    sessions,
    /// Sessions ever found.
    sessions_found,
    /// Sockets opened, reconnects included.
    sockets_opened,
    /// Sockets lost and tried again.
    reconnects,
    /// Sockets that another AI backend took over.
    replaced,
    /// `transition` messages taken.
    transitions,
    /// Rounds of actions, one per transition with AI tanks.
    rounds,
    /// AI tanks that waited for an action.
    decisions_requested,
    /// Actions handed to the socket.
    decisions_answered,
    /// Actions of one round by another version than the round began with. Always 0.
    decisions_mixed,
    /// Frames that were not JSON.
    bad_frames,
    /// States that could not be merged.
    bad_states,
    /// Reward entries and list entries that could not be used.
    entries_skipped,
    /// Rounds left out because that tick had one already.
    repeated_ticks,
    /// Online training steps.
    train_steps,
    /// Updates left out because they would not have been finite.
    train_refused,
    /// Episodes seen to their end.
    episodes,
    /// Episodes that the AI side won.
    wins,
    /// Versions taken at swap points.
    swaps,
    /// Versions refused.
    swaps_refused,
    /// Saves accepted by the store.
    saves,
    /// Tries that failed.
    save_failures,
    /// Saves given up after the last try.
    saves_lost,
    /// Waiting saves replaced by newer ones of their key.
    saves_superseded,
    /// Milliseconds of the last finished save.
    last_save_ms,
    /// Models taken from the store at start-up.
    models_loaded,
    /// Models refused at start-up.
    models_refused,
}

/// Online learning so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Learning {
    /// Reward entries used, and their sum.
    pub reward_count: u64,
    pub reward_sum: f64,
    /// Of the last transition trained on.
    pub td_loss: f32,
    pub q_mean: f32,
    /// Bytes of state vectors that the last transition's training used.
    pub state_bytes: u64,
}

impl Counters {
    pub fn add(&self, counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// One round of `n` actions by one version.
    pub fn round(&self, n: u64, took: Duration, model: Option<&ModelRef>) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.decision.record(took);
        metrics::histogram!(names::DECISION_SECONDS).record(took.as_secs_f64());
        metrics::counter!(names::DECISIONS).increment(n);
        let mut versions = self.by_version.lock();
        let name = model.map_or_else(|| "none".to_owned(), ToString::to_string);
        let name = if versions.len() >= MAX_VERSIONS && !versions.contains_key(&name) { "others".into() } else { name };
        *versions.entry(name).or_default() += n;
    }
}
