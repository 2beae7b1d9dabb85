//! The shape of a network, and the names and shapes of its tensors.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::PolicyError;

/// Largest numbers of inputs, of outputs, and of units in one hidden layer.
pub const MAX_WIDTH: usize = 65_536;
/// Largest number of hidden layers.
pub const MAX_HIDDEN_LAYERS: usize = 16;
/// Largest number of parameters: 256 MiB of float32.
pub const MAX_PARAMETERS: usize = 64 << 20;

/// What turns the last hidden layer into one value an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// One linear layer.
    #[default]
    Plain,
    /// A state value and an advantage for each action: `q = v + a - mean(a)`.
    ///
    /// Source: Wang et al., *Dueling Network Architectures for Deep Reinforcement Learning*, 2016, eq. 9.
    Dueling,
}

/// A multi-layer perceptron: linear layers with ReLU between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Length of one observation.
    pub inputs: usize,
    /// Units of each hidden layer; empty for a linear network.
    pub hidden: Vec<usize>,
    /// Number of actions.
    pub outputs: usize,
    #[serde(default)]
    pub head: Head,
}

impl NetworkSpec {
    /// A network with a plain head.
    pub fn new(inputs: usize, hidden: impl Into<Vec<usize>>, outputs: usize) -> Self {
        Self { inputs, hidden: hidden.into(), outputs, head: Head::Plain }
    }

    pub fn dueling(mut self) -> Self {
        self.head = Head::Dueling;
        self
    }

    /// Checks that every size is in range, so that no later arithmetic on sizes overflows.
    ///
    /// # Errors
    /// [`PolicyError::Spec`] with the size and its bound.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let bounded = |what: &str, width: usize| {
            if (1..=MAX_WIDTH).contains(&width) {
                return Ok(());
            }
            Err(PolicyError::Spec(format!("`{what}` is {width}; expected 1 to {MAX_WIDTH}")))
        };
        bounded("inputs", self.inputs)?;
        bounded("outputs", self.outputs)?;
        if self.hidden.len() > MAX_HIDDEN_LAYERS {
            let n = self.hidden.len();
            return Err(PolicyError::Spec(format!("`hidden` has {n} layers; expected at most {MAX_HIDDEN_LAYERS}")));
        }
        self.hidden.iter().try_for_each(|&width| bounded("hidden", width))?;
        let n = self.parameters();
        if n > MAX_PARAMETERS {
            return Err(PolicyError::Spec(format!("it has {n} parameters; expected at most {MAX_PARAMETERS}")));
        }
        Ok(())
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        self.tensors()
            .iter()
            .map(|(_, shape)| shape.iter().fold(1, |n: usize, &d| n.saturating_mul(d)))
            .fold(0, usize::saturating_add)
    }

    /// Width of what feeds the head.
    pub fn features(&self) -> usize {
        self.hidden.last().copied().unwrap_or(self.inputs)
    }

    /// Every tensor with its shape, in the order of evaluation.
    ///
    /// Hidden layer `i` has `layers.{i}.weight` `[out, in]` and `layers.{i}.bias` `[out]`. The head of a network
    /// with `n` hidden layers is `layers.{n}` when plain; `value` (one output) and `advantage` when dueling.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::with_capacity(2 * self.hidden.len() + 4);
        let mut linear = |name: &str, inputs: usize, outputs: usize| {
            tensors.push((format!("{name}.weight"), vec![outputs, inputs]));
            tensors.push((format!("{name}.bias"), vec![outputs]));
        };
        let mut width = self.inputs;
        for (index, &units) in self.hidden.iter().enumerate() {
            linear(&format!("layers.{index}"), width, units);
            width = units;
        }
        match self.head {
            Head::Plain => linear(&format!("layers.{}", self.hidden.len()), width, self.outputs),
            Head::Dueling => {
                linear("value", width, 1);
                linear("advantage", width, self.outputs);
            }
        }
        tensors
    }
}

impl fmt::Display for NetworkSpec {
    /// `108-128-10`, with ` dueling` after it where that is so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inputs)?;
        self.hidden.iter().try_for_each(|width| write!(f, "-{width}"))?;
        write!(f, "-{}", self.outputs)?;
        if self.head == Head::Dueling { f.write_str(" dueling") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_out_of_range_is_refused_with_its_bound() {
        let refused = |spec: NetworkSpec, words: &str| {
            let text = spec.validate().unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        };
        refused(NetworkSpec::new(0, [], 4), "`inputs` is 0");
        refused(NetworkSpec::new(4, [], usize::MAX), "`outputs` is");
        refused(NetworkSpec::new(4, [0], 4), "`hidden` is 0");
        refused(NetworkSpec::new(4, [8; 17], 4), "17 layers");
        refused(NetworkSpec::new(65_536, [65_536], 65_536), "parameters; expected at most");
        NetworkSpec::new(108, [128], 10).dueling().validate().unwrap();
    }

    #[test]
    fn tensors_are_named_as_the_contract_says() {
        let names = |spec: NetworkSpec| spec.tensors().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(NetworkSpec::new(3, [5], 2)),
            ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
        );
        assert_eq!(
            names(NetworkSpec::new(3, [5], 2).dueling()),
            ["layers.0.weight", "layers.0.bias", "value.weight", "value.bias", "advantage.weight", "advantage.bias"]
        );
        assert_eq!(NetworkSpec::new(128, [256, 256], 8).parameters(), 100_872);
        assert_eq!(NetworkSpec::new(108, [128], 10).dueling().to_string(), "108-128-10 dueling");
    }
}
