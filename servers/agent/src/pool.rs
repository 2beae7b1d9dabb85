//! Keys and their models: who holds which, and what a newcomer gets.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::{AgentConfig, model::Model};

/// Free models kept per base key; older ones beyond that are forgotten (the store still has them).
const MAX_FREE: usize = 1024;

/// All models of an AI backend, by base key.
#[derive(Debug)]
pub struct Pool {
    hidden: usize,
    epsilon_start: f32,
    learns: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bases: HashMap<String, Base>,
    /// Keys that sessions hold.
    held: HashSet<String>,
    last_stamp: u64,
    fresh: u64,
    seed: u64,
}

#[derive(Debug, Default)]
struct Base {
    free: VecDeque<Model>,
    /// The model loaded or released last.
    latest: Option<Model>,
}

/// Sizes shown in debug objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    pub available: usize,
    pub in_use: usize,
}

impl Pool {
    pub fn new(config: &AgentConfig, seed: u64) -> Self {
        Self {
            hidden: config.hidden,
            epsilon_start: config.epsilon_start,
            learns: config.online_learning,
            state: Mutex::new(State { seed, ..State::default() }),
        }
    }

    /// Puts loaded models into the pool, oldest first: the last of each base key becomes its latest.
    pub fn fill(&self, models: Vec<Model>) {
        let mut state = self.state.lock();
        for model in models {
            if state.held.contains(&model.key) {
                continue;
            }
            let base = state.bases.entry(model.base.clone()).or_default();
            if base.free.iter().any(|known| known.key == model.key) {
                continue;
            }
            base.latest = Some(model.clone());
            base.put(model);
        }
    }

    /// The first free model of a base key; without one a copy of its latest, under a new key; without that a
    /// fresh one. The key is the caller's until [`Pool::release`].
    pub fn allocate(&self, base_key: &str) -> Model {
        let mut state = self.state.lock();
        if let Some(model) = state.bases.get_mut(base_key).and_then(|base| base.free.pop_front()) {
            state.held.insert(model.key.clone());
            return model;
        }
        let key = state.new_key(base_key);
        state.held.insert(key.clone());
        match state.bases.get(base_key).and_then(|base| base.latest.as_ref()) {
            Some(latest) => latest.clone_as(key),
            None => {
                state.fresh += 1;
                let seed = state.seed.wrapping_add(state.fresh);
                let model = Model::fresh(key, base_key.to_owned(), self.hidden, seed, self.epsilon_start, self.learns);
                state.bases.entry(base_key.to_owned()).or_default().latest = Some(model.clone());
                model
            }
        }
    }

    /// The in-memory latest of a base key: what the next newcomer will be a copy of.
    pub fn remember(&self, model: &Model) {
        self.state.lock().bases.entry(model.base.clone()).or_default().latest = Some(model.clone());
    }

    /// Puts a model back at the end of the pool. A key that is not held is not put back again.
    pub fn release(&self, model: Model) {
        let mut state = self.state.lock();
        if !state.held.remove(&model.key) {
            return;
        }
        let base = state.bases.entry(model.base.clone()).or_default();
        base.latest = Some(model.clone());
        base.put(model);
    }

    pub fn counts(&self, base_key: &str) -> PoolCounts {
        let state = self.state.lock();
        PoolCounts { available: state.bases.get(base_key).map_or(0, |base| base.free.len()), in_use: state.held.len() }
    }

    /// Keys of the free models of a base key, in the order in which they will be taken.
    pub fn free_keys(&self, base_key: &str) -> Vec<String> {
        let state = self.state.lock();
        state.bases.get(base_key).map_or_else(Vec::new, |base| base.free.iter().map(|m| m.key.clone()).collect())
    }
}

impl Base {
    fn put(&mut self, model: Model) {
        if self.free.len() >= MAX_FREE {
            self.free.pop_front();
        }
        self.free.push_back(model);
    }
}

impl State {
    /// `{base}-{epoch ms}`, never the same twice.
    fn new_key(&mut self, base_key: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        self.last_stamp = now.max(self.last_stamp + 1);
        format!("{base_key}-{}", self.last_stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(&AgentConfig::default(), 7)
    }

    #[test]
    fn with_an_empty_pool_a_newcomer_gets_a_copy_of_the_latest_under_a_new_key() {
        let pool = pool();
        let mut loaded = Model::fresh("b-1763700000000".into(), "b".into(), 8, 1, 0.5, true);
        (loaded.steps, loaded.episodes, loaded.epsilon) = (812, 3, 0.19);
        pool.fill(vec![loaded.clone()]);
        let first = pool.allocate("b");
        assert_eq!(first.key, loaded.key);
        let second = pool.allocate("b");
        assert_ne!(second.key, first.key);
        assert_eq!(second.network(), loaded.network());
        assert_eq!((second.steps, second.episodes, second.epsilon), (812, 3, 0.19));
    }

    #[test]
    fn with_no_model_at_all_a_fresh_one_is_made() {
        let pool = pool();
        let (a, b) = (pool.allocate("b"), pool.allocate("b"));
        assert_ne!(a.key, b.key);
        assert!(a.key.starts_with("b-") && a.key.len() == "b-1763700000000".len());
        assert_eq!(a.spec(), flywheel_policy::NetworkSpec::new(108, [64], 10));
        assert_eq!(a.steps, 0);
    }

    #[test]
    fn a_key_goes_back_to_the_end_of_the_pool_and_only_once() {
        let pool = pool();
        let (a, b) = (pool.allocate("b"), pool.allocate("b"));
        pool.release(a.clone());
        pool.release(b.clone());
        pool.release(a.clone());
        assert_eq!(pool.free_keys("b"), [a.key.clone(), b.key]);
        assert_eq!(pool.allocate("b").key, a.key);
    }

    #[test]
    fn base_keys_do_not_share_models() {
        let pool = pool();
        let a = pool.allocate("tank-ai-dqn-stage01");
        pool.release(a);
        assert!(pool.allocate("tank-ai-dqn-stage02").key.starts_with("tank-ai-dqn-stage02-"));
    }
}
