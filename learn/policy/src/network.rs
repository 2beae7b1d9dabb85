//! A network that answers: checked tensors, and the packed copy that the arithmetic reads.

use std::fmt;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::{
    Head, NetworkSpec, PolicyError,
    kernel::{Instructions, Layer, Rows},
};

/// Rows that go through all layers together. Their activations and one panel of weights stay in the first-level
/// cache, and the weights are read from the second level once for so many rows.
const BLOCK: usize = 24;

/// A named tensor of float32, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl Tensor {
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { name: name.into(), shape: shape.into(), data }
    }
}

/// An immutable multi-layer perceptron. Every number in it is finite and every shape is as its spec says.
#[derive(Clone)]
pub struct Network {
    spec: NetworkSpec,
    tensors: Vec<Tensor>,
    layers: Vec<Layer>,
    instructions: Instructions,
}

/// Buffers of one thread that evaluates networks. They grow at the first use of a larger network, and are
/// reused, without allocation, from then on.
#[derive(Debug, Default)]
pub struct Scratch {
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Scratch {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Network {
    /// Weights drawn from a normal distribution around zero with `std_dev`, biases zero; the same seed gives the
    /// same bits.
    ///
    /// # Errors
    /// If `spec` is out of range, or `std_dev` is negative or not finite.
    pub fn random(spec: &NetworkSpec, seed: u64, std_dev: f32) -> Result<Self, PolicyError> {
        Self::drawn(spec, seed, |_| std_dev)
    }

    /// As [`Network::random`], with `sqrt(2 / inputs of the layer)` as each layer's deviation.
    ///
    /// Source: He et al., *Delving Deep into Rectifiers*, 2015, eq. 10.
    ///
    /// # Errors
    /// If `spec` is out of range.
    pub fn he(spec: &NetworkSpec, seed: u64) -> Result<Self, PolicyError> {
        Self::drawn(spec, seed, |inputs| (2.0 / inputs as f32).sqrt())
    }

    fn drawn(spec: &NetworkSpec, seed: u64, std_dev: impl Fn(usize) -> f32) -> Result<Self, PolicyError> {
        spec.validate()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let tensors = spec.tensors().into_iter().map(|(name, shape)| {
            let n = shape.iter().product();
            let data = match shape[..] {
                [_, inputs] => {
                    let std_dev = std_dev(inputs);
                    let normal = Normal::new(0.0, std_dev).ok().filter(|_| std_dev >= 0.0);
                    let wrong = || PolicyError::Spec(format!("a standard deviation of {std_dev} makes no weights"));
                    let normal = normal.ok_or_else(wrong)?;
                    (0..n).map(|_| normal.sample(&mut rng)).collect()
                }
                _ => vec![0.0; n],
            };
            Ok(Tensor { name, shape, data })
        });
        let tensors = tensors.collect::<Result<_, PolicyError>>()?;
        Self::from_tensors(spec, tensors)
    }

    /// A network of exactly the tensors that [`NetworkSpec::tensors`] names, in any order.
    ///
    /// Copies every weight once into its packed place: about 0.3 ms for 100,000 parameters, so not on a thread
    /// that decides.
    ///
    /// # Errors
    /// If a tensor is missing, foreign, of another shape or length, or holds a number that is not finite; the
    /// message names the tensor and what was expected.
    pub fn from_tensors(spec: &NetworkSpec, tensors: Vec<Tensor>) -> Result<Self, PolicyError> {
        spec.validate()?;
        let mut given = tensors;
        let mut ordered = Vec::with_capacity(given.len());
        for (name, expected) in spec.tensors() {
            let Some(at) = given.iter().position(|tensor| tensor.name == name) else {
                return Err(PolicyError::MissingTensor { name, expected });
            };
            let tensor = given.swap_remove(at);
            if tensor.shape != expected {
                return Err(PolicyError::Shape { name, expected, found: tensor.shape });
            }
            let n = expected.iter().product();
            if tensor.data.len() != n {
                return Err(PolicyError::Length { name, shape: expected, expected: n, found: tensor.data.len() });
            }
            if let Some(index) = tensor.data.iter().position(|value| !value.is_finite()) {
                return Err(PolicyError::NotFinite { name, index, value: tensor.data[index] });
            }
            ordered.push(tensor);
        }
        if let Some(foreign) = given.first() {
            let expected = ordered.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(PolicyError::UnexpectedTensor { name: foreign.name.clone(), expected });
        }
        let layers = pack(spec, &ordered);
        Ok(Self { spec: spec.clone(), tensors: ordered, layers, instructions: Instructions::detect() })
    }

    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// All tensors, in the order of [`NetworkSpec::tensors`].
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }

    /// Evaluates `inputs`, shape `[n, spec.inputs]`, into `out`, shape `[n, spec.outputs]`: one value an action.
    ///
    /// A row's answer has the same bits whatever other rows are evaluated with it. Nothing is allocated once
    /// `scratch` has seen a network of this size. Inputs that are not finite give answers that are not.
    ///
    /// # Panics
    /// If the two slices are not `n` whole rows for one `n`.
    pub fn evaluate(&self, inputs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        let (width, outputs) = (self.spec.inputs, self.spec.outputs);
        let n = inputs.len() / width;
        assert!(
            inputs.len() == n * width && out.len() == n * outputs,
            "{} inputs and {} outputs are not rows of {width} and {outputs}",
            inputs.len(),
            out.len()
        );
        let needed = BLOCK.min(n) * self.layers.iter().map(Layer::out_stride).max().unwrap_or(0);
        for buffer in [&mut scratch.from, &mut scratch.to] {
            if buffer.len() < needed {
                buffer.resize(needed, 0.0);
            }
        }
        for (inputs, out) in inputs.chunks(BLOCK * width).zip(out.chunks_mut(BLOCK * outputs)) {
            self.block(inputs, out, scratch);
        }
    }

    fn block(&self, inputs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        let outputs = self.spec.outputs;
        let n = out.len() / outputs;
        let Scratch { from, to } = scratch;
        let mut rows = Rows { data: inputs, stride: self.spec.inputs, n };
        let mut last = &mut *from;
        let mut next = &mut *to;
        for layer in &self.layers {
            layer.forward(rows, next, self.instructions);
            (last, next) = (next, last);
            rows = Rows { data: last, stride: layer.out_stride(), n };
        }
        for (row, q) in rows.data.chunks_exact(rows.stride).zip(out.chunks_exact_mut(outputs)) {
            match self.spec.head {
                Head::Plain => q.copy_from_slice(&row[..outputs]),
                // The state value is output 0 of the last layer, the advantages follow.
                Head::Dueling => {
                    let advantages = &row[1..=outputs];
                    let mean = advantages.iter().sum::<f32>() / outputs as f32;
                    for (q, advantage) in q.iter_mut().zip(advantages) {
                        *q = row[0] + (advantage - mean);
                    }
                }
            }
        }
    }

    /// The same answers (to within rounding) from a plain head: `v + a - mean(a)` is linear in what feeds it.
    pub fn folded(&self) -> Self {
        if self.spec.head == Head::Plain {
            return self.clone();
        }
        let spec = NetworkSpec { head: Head::Plain, ..self.spec.clone() };
        let (hidden, head) = self.tensors.split_at(2 * self.spec.hidden.len());
        let [value, value_bias, advantage, advantage_bias] = head else {
            unreachable!("a dueling head has four tensors")
        };
        let fold = |value: &[f32], advantage: &[f32], width: usize| {
            let mean = |k: usize| {
                advantage.iter().skip(k).step_by(width).map(|&a| f64::from(a)).sum::<f64>() / spec.outputs as f64
            };
            let shift: Vec<f64> = (0..width).map(|k| f64::from(value[k]) - mean(k)).collect();
            advantage.iter().zip(shift.iter().cycle()).map(|(&a, s)| (f64::from(a) + s) as f32).collect::<Vec<_>>()
        };
        let width = spec.features();
        let weight = fold(&value.data, &advantage.data, width);
        let bias = fold(&value_bias.data, &advantage_bias.data, 1);
        let name = format!("layers.{}", spec.hidden.len());
        let mut tensors = hidden.to_vec();
        tensors.push(Tensor::new(format!("{name}.weight"), [spec.outputs, width], weight));
        tensors.push(Tensor::new(format!("{name}.bias"), [spec.outputs], bias));
        let layers = pack(&spec, &tensors);
        Self { spec, tensors, layers, instructions: self.instructions }
    }

    #[cfg(test)]
    pub(crate) fn portable(mut self) -> Self {
        self.instructions = Instructions::Portable;
        self
    }
}

fn pack(spec: &NetworkSpec, tensors: &[Tensor]) -> Vec<Layer> {
    let (hidden, head) = tensors.split_at(2 * spec.hidden.len());
    let mut layers: Vec<Layer> =
        hidden.chunks_exact(2).map(|pair| Layer::pack(&pair[0].data, &pair[1].data, true)).collect();
    // Value and advantages are one layer, so that a dueling head costs one output more and nothing else.
    let (weight, bias) = match head {
        [weight, bias] => (weight.data.clone(), bias.data.clone()),
        [value, value_bias, advantage, advantage_bias] => {
            ([&value.data[..], &advantage.data].concat(), [&value_bias.data[..], &advantage_bias.data].concat())
        }
        _ => unreachable!("a head has two or four tensors"),
    };
    layers.push(Layer::pack(&weight, &bias, false));
    layers
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({})", self.spec)
    }
}

impl PartialEq for Network {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec && self.tensors == other.tensors
    }
}

/// Index of the largest value; the lowest index wins ties. NaN is never the largest; all NaN gives 0.
///
/// # Panics
/// If `values` is empty.
pub fn argmax(values: &[f32]) -> usize {
    assert!(!values.is_empty(), "there is no largest of no values");
    let mut best = 0;
    for (index, &value) in values.iter().enumerate().skip(1) {
        if value > values[best] || (values[best].is_nan() && !value.is_nan()) {
            best = index;
        }
    }
    best
}
