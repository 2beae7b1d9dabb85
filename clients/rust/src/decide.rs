//! An action for an observation, by the version of the moment.

use std::sync::Arc;

use flywheel_events::ModelRef;
use flywheel_policy::{LivePolicy, Policy as _, Scratch, VersionedNetwork, argmax};

/// What to do, and whose idea it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Index of the action.
    pub action: usize,
    /// The version that decided; for the event's `model`.
    pub model: Option<ModelRef>,
}

/// Decides with the version that is followed. Holds the buffers: one for each thread that decides.
#[derive(Debug)]
pub struct Decider {
    live: Arc<LivePolicy>,
    scratch: Scratch,
    values: Vec<f32>,
}

impl Decider {
    pub(crate) fn new(live: Arc<LivePolicy>) -> Self {
        Self { live, scratch: Scratch::default(), values: Vec::new() }
    }

    /// The action of the highest value.
    ///
    /// # Panics
    /// If the observation has not the length that the followed model takes
    /// (see [`FollowConfig::shape`](crate::FollowConfig::shape)).
    pub fn decide(&mut self, observation: &[f32]) -> Decision {
        let network = self.live.load();
        let values = self.evaluate(&network, observation);
        Decision { action: argmax(values), model: network.model.clone() }
    }

    /// The legal action of the highest value; `None` if none is legal.
    ///
    /// # Panics
    /// As [`Decider::decide`].
    pub fn decide_among(&mut self, observation: &[f32], legal: impl Fn(usize) -> bool) -> Option<Decision> {
        let network = self.live.load();
        let values = self.evaluate(&network, observation);
        let mut best: Option<usize> = None;
        for action in (0..values.len()).filter(|&action| legal(action)) {
            if best.is_none_or(|best| values[action] > values[best]) {
                best = Some(action);
            }
        }
        best.map(|action| Decision { action, model: network.model.clone() })
    }

    /// One action for each observation (shape `[n, inputs]`), all by one version, which is returned.
    ///
    /// # Panics
    /// If `observations` is not a whole number of observations.
    pub fn decide_all(&mut self, observations: &[f32], actions: &mut Vec<usize>) -> Option<ModelRef> {
        let network = self.live.load();
        let outputs = network.spec().outputs;
        actions.extend(self.evaluate(&network, observations).chunks_exact(outputs).map(argmax));
        network.model.clone()
    }

    /// The value of each action, by the version of now.
    ///
    /// # Panics
    /// As [`Decider::decide`].
    pub fn values(&mut self, observation: &[f32]) -> &[f32] {
        let network = self.live.load();
        self.evaluate(&network, observation)
    }

    fn evaluate(&mut self, network: &VersionedNetwork, observations: &[f32]) -> &[f32] {
        let spec = network.spec();
        let (n, rest) = (observations.len() / spec.inputs, observations.len() % spec.inputs);
        assert!(rest == 0, "{} numbers are no observations of {}", observations.len(), spec.inputs);
        self.values.clear();
        self.values.resize(n * spec.outputs, 0.0);
        network.evaluate(observations, &mut self.values, &mut self.scratch);
        &self.values
    }
}
