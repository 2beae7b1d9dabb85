//! The learner on libtorch, as a run steers it.

use flywheel_policy::{LearnError, Network};
use flywheel_torch::TorchDqn;

use crate::TrainLearner;

impl TrainLearner for TorchDqn {
    fn learning_rate(&self) -> f64 {
        TorchDqn::learning_rate(self)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        TorchDqn::set_learning_rate(self, learning_rate);
    }

    fn start_from(&mut self, network: &Network) -> Result<(), LearnError> {
        TorchDqn::start_from(self, network)
    }

    fn device(&self) -> &'static str {
        TorchDqn::device(self)
    }
}
