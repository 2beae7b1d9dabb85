//! One session's model: what decides, what learns, and where it came from.

use std::sync::Arc;

use flywheel_events::ModelRef;
use flywheel_policy::{
    Network, NetworkSpec, OnlineQ, OnlineTransition, OnlineUpdate, Policy as _, Scratch, VersionedNetwork, argmax,
};
use flywheel_tank::{ACTIONS, OBSERVATION_LEN};
use parking_lot::Mutex;

/// Standard deviation of a fresh network's weights.
const FRESH_STD_DEV: f32 = 0.01;

/// What values the actions.
#[derive(Debug, Clone)]
enum Weights {
    /// A version as it was published, shared with whoever else plays it.
    Fixed(Arc<VersionedNetwork>),
    /// A copy of our own, which learns.
    Online(Box<OnlineQ>),
}

/// A model under a key. Two sessions never hold one key at the same time.
#[derive(Debug, Clone)]
pub struct Model {
    pub key: String,
    pub base: String,
    weights: Weights,
    /// The champion that it is, or began from.
    champion: Option<ModelRef>,
    /// The newest version under which this very copy was registered.
    registered: Arc<Mutex<Option<ModelRef>>>,
    pub steps: u64,
    pub episodes: u64,
    pub epsilon: f32,
    pub unsaved_steps: u64,
    /// Why it stands in for a model that was refused; told to the first session that gets it.
    pub stands_in: Option<String>,
}

/// Whether a network fits this game.
pub fn fits(spec: &NetworkSpec) -> bool {
    spec.inputs == OBSERVATION_LEN && spec.outputs == ACTIONS
}

impl Model {
    pub fn new(key: String, base: String, network: Network, epsilon: f32, learns: bool) -> Self {
        Self {
            key,
            base,
            weights: weights(Arc::new(VersionedNetwork::unpublished(network)), learns),
            champion: None,
            registered: Arc::default(),
            steps: 0,
            episodes: 0,
            epsilon,
            unsaved_steps: 0,
            stands_in: None,
        }
    }

    /// A network with small normal weights and zero biases.
    pub fn fresh(key: String, base: String, hidden: usize, seed: u64, epsilon: f32, learns: bool) -> Self {
        let network = Network::random(&NetworkSpec::new(OBSERVATION_LEN, [hidden], ACTIONS), seed, FRESH_STD_DEV)
            .expect("the settings bound the hidden units");
        Self::new(key, base, network, epsilon, learns)
    }

    /// The same weights, steps, episodes and epsilon under another key.
    pub fn clone_as(&self, key: String) -> Self {
        let registered = Arc::new(Mutex::new(self.registered.lock().clone()));
        Self { key, registered, unsaved_steps: 0, stands_in: None, ..self.clone() }
    }

    /// Whether it is, or began from, this champion.
    pub fn follows(&self, champion: &VersionedNetwork) -> bool {
        self.champion.is_some() && self.champion.as_ref() == champion.model()
    }

    /// Takes a champion: as it is, or as the parent of a copy that learns on. Returns the version before.
    /// Epsilon stays where it is above the minimum.
    pub fn adopt(&mut self, champion: &Arc<VersionedNetwork>, learns: bool, epsilon_min: f32) -> Option<ModelRef> {
        self.weights = weights(champion.clone(), learns);
        self.registered = Arc::default();
        self.unsaved_steps = 0;
        self.epsilon = self.epsilon.max(epsilon_min);
        std::mem::replace(&mut self.champion, champion.model().cloned())
    }

    /// The version named in decisions: a copy that learns is named after the newest version that was registered
    /// of it, or else after the one it began from.
    pub fn reference(&self) -> Option<ModelRef> {
        match &self.weights {
            Weights::Fixed(network) => network.model().cloned(),
            Weights::Online(_) => self.registered.lock().clone().or_else(|| self.champion.clone()),
        }
    }

    /// The champion that it is, or began from.
    pub fn champion(&self) -> Option<&ModelRef> {
        self.champion.as_ref()
    }

    /// Where a save leaves the version that it got.
    pub fn registration(&self) -> Arc<Mutex<Option<ModelRef>>> {
        self.registered.clone()
    }

    pub fn learns(&self) -> bool {
        matches!(self.weights, Weights::Online(_))
    }

    pub fn spec(&self) -> NetworkSpec {
        match &self.weights {
            Weights::Fixed(network) => network.spec().clone(),
            Weights::Online(online) => online.spec(),
        }
    }

    /// The weights of now.
    pub fn network(&self) -> Network {
        match &self.weights {
            Weights::Fixed(network) => network.network.clone(),
            Weights::Online(online) => online.to_network(),
        }
    }

    /// The best action for each of `n` observations, the lowest index winning ties.
    pub fn best(&mut self, observations: &[f32], buffers: &mut Buffers, actions: &mut Vec<u8>) {
        let n = observations.len() / OBSERVATION_LEN;
        match &mut self.weights {
            Weights::Fixed(network) => {
                buffers.values.resize(n * ACTIONS, 0.0);
                network.evaluate(observations, &mut buffers.values, &mut buffers.scratch);
                actions.extend(buffers.values.chunks_exact(ACTIONS).map(|values| argmax(values) as u8));
            }
            Weights::Online(online) => {
                actions.extend(observations.chunks_exact(OBSERVATION_LEN).map(|s| online.act(s) as u8));
            }
        }
    }

    /// One Q-learning step; `None` if this model does not learn.
    pub fn learn(&mut self, transition: OnlineTransition<'_>, rule: &LearningRule) -> Option<OnlineUpdate> {
        let Weights::Online(online) = &mut self.weights else { return None };
        let update = online.update(transition, rule.gamma, rule.learning_rate);
        self.steps += 1;
        self.unsaved_steps += 1;
        self.epsilon = rule.epsilon_min.max(self.epsilon * rule.epsilon_decay);
        Some(update)
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        4 * self.spec().parameters()
    }
}

fn weights(network: Arc<VersionedNetwork>, learns: bool) -> Weights {
    if !learns {
        return Weights::Fixed(network);
    }
    match OnlineQ::from_network(&network.network) {
        Ok(online) => Weights::Online(Box::new(online)),
        Err(reason) => {
            tracing::info!(%reason, "this network is played as it is; online learning takes one hidden layer at most");
            Weights::Fixed(network)
        }
    }
}

/// Buffers of a decision, kept from tick to tick.
#[derive(Debug, Default)]
pub struct Buffers {
    pub values: Vec<f32>,
    pub scratch: Scratch,
}

/// The constants of a learning step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRule {
    pub gamma: f32,
    pub learning_rate: f32,
    pub epsilon_min: f32,
    pub epsilon_decay: f32,
}

impl From<&crate::AgentConfig> for LearningRule {
    fn from(config: &crate::AgentConfig) -> Self {
        Self {
            gamma: config.gamma,
            learning_rate: config.learning_rate,
            epsilon_min: config.epsilon_min,
            epsilon_decay: config.epsilon_decay,
        }
    }
}
