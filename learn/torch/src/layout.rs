use flywheel_policy::{Head, NetworkSpec};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers in a cache line; every part begins on one, so that results do not depend on where memory lies.
const LINE: usize = 16;

/// One linear layer inside the flat parameter vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub inputs: usize,
    pub outputs: usize,
    /// Where `[outputs, inputs]` begins.
    pub weight: usize,
    /// Where `[outputs]` begins.
    pub bias: usize,
}

/// Where each layer of a network lies in one flat vector.
///
/// The head is one linear layer also when it is dueling: output 0 is the state's value, the others are the
/// advantages. Gaps between parts hold zeros and stay zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub layers: Vec<Layer>,
    /// Length of the flat vector.
    pub len: usize,
    spec: NetworkSpec,
}

impl Layout {
    pub fn new(spec: &NetworkSpec) -> Self {
        let head = match spec.head {
            Head::Plain => spec.outputs,
            Head::Dueling => spec.outputs + 1,
        };
        let (mut layers, mut at, mut inputs) = (Vec::new(), 0, spec.inputs);
        for &outputs in spec.hidden.iter().chain([&head]) {
            let weight = at;
            let bias = (weight + outputs * inputs).next_multiple_of(LINE);
            at = (bias + outputs).next_multiple_of(LINE);
            layers.push(Layer { inputs, outputs, weight, bias });
            inputs = outputs;
        }
        Self { layers, len: at, spec: spec.clone() }
    }

    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Numbers that the last layer gives for a row.
    pub fn head_outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// First weights: each layer even within `±1/sqrt(inputs)`, biases too, as PyTorch's `nn.Linear` has it.
    pub fn random(&self, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut flat = vec![0.0; self.len];
        for layer in &self.layers {
            let bound = 1.0 / (layer.inputs as f32).sqrt();
            let parts = [(layer.weight, layer.inputs * layer.outputs), (layer.bias, layer.outputs)];
            for (at, len) in parts {
                flat[at..at + len].iter_mut().for_each(|number| *number = rng.random_range(-bound..=bound));
            }
        }
        flat
    }

    /// Where each tensor of the exported network lies: name, shape, start. Names are those of
    /// [`NetworkSpec::tensors`], and so is the order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, usize)> {
        let mut starts = Vec::new();
        let (head, hidden) = self.layers.split_last().expect("a network has a last layer");
        for layer in hidden {
            starts.extend([layer.weight, layer.bias]);
        }
        match self.spec.head {
            Head::Plain => starts.extend([head.weight, head.bias]),
            Head::Dueling => starts.extend([head.weight, head.bias, head.weight + head.inputs, head.bias + 1]),
        }
        self.spec.tensors().into_iter().zip(starts).map(|((name, shape), start)| (name, shape, start)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_cover_every_parameter() {
        for spec in
            [NetworkSpec::new(7, [5, 3], 4), NetworkSpec::new(7, [5, 3], 4).dueling(), NetworkSpec::new(3, [], 2)]
        {
            let layout = Layout::new(&spec);
            let mut used = vec![0; layout.len];
            for (_, shape, start) in layout.tensors() {
                let len: usize = shape.iter().product();
                used[start..start + len].iter_mut().for_each(|count| *count += 1);
            }
            assert!(used.iter().all(|&count| count <= 1));
            assert_eq!(used.iter().sum::<usize>(), spec.parameters());
            assert!(layout.layers.iter().all(|layer| layer.weight % LINE == 0 && layer.bias % LINE == 0));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_first_weights_and_gaps_are_zero() {
        let layout = Layout::new(&NetworkSpec::new(7, [5], 3));
        assert_eq!(layout.random(1), layout.random(1));
        assert_ne!(layout.random(1), layout.random(2));
        let flat = layout.random(1);
        assert_eq!(flat[35..48], [0.0; 13], "between the first weight and its bias");
    }
}
