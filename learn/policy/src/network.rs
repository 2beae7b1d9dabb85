//! A network with its weights: read, checked, evaluated, written.

use std::collections::HashMap;

use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    Head, NetworkSpec, PolicyError,
    kernel::{Instructions, Layer, Rows},
};

/// Largest weight file.
pub const MAX_FILE_BYTES: usize = 4 * crate::spec::MAX_PARAMETERS + MAX_HEADER_BYTES + 8;
/// Largest safetensors header; the format itself would allow 100 MB.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// Entry of the safetensors header that holds the [`NetworkSpec`] as JSON.
pub const SPEC_KEY: &str = "flywheel.network";

/// A network whose weights are packed for evaluation. Immutable.
#[derive(Debug, Clone)]
pub struct Network {
    spec: NetworkSpec,
    /// In the order of [`NetworkSpec::tensors`], row-major.
    tensors: Vec<Vec<f32>>,
    layers: Vec<Layer>,
    /// The advantage layer of a dueling head; `layers` ends with its value layer then.
    advantage: Option<Layer>,
    instructions: Instructions,
}

impl PartialEq for Network {
    /// Same shape, same weights, bit for bit.
    fn eq(&self, other: &Self) -> bool {
        let bits = |n: &Self| n.tensors.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        self.spec == other.spec && bits(self) == bits(other)
    }
}

/// Buffers of an evaluation, kept between calls so that none allocates.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    advantage: Vec<f32>,
}

impl Network {
    /// Checks `tensors` (by name, row-major) against the shape and packs them.
    ///
    /// # Errors
    /// The first tensor that is missing, of another length, left over, or holds a number that is not finite.
    pub fn from_tensors(spec: NetworkSpec, mut tensors: HashMap<String, Vec<f32>>) -> Result<Self, PolicyError> {
        spec.validate()?;
        let mut ordered = Vec::new();
        let expected = spec.tensors();
        for (name, shape) in &expected {
            let values = tensors
                .remove(name)
                .ok_or_else(|| PolicyError::MissingTensor { name: name.clone(), expected: shape.clone() })?;
            let n: usize = shape.iter().product();
            if values.len() != n {
                return Err(PolicyError::Length {
                    name: name.clone(),
                    shape: shape.clone(),
                    expected: n,
                    found: values.len(),
                });
            }
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                return Err(PolicyError::NotFinite { name: name.clone(), index, value: values[index] });
            }
            ordered.push(values);
        }
        if let Some(name) = tensors.keys().min() {
            let names: Vec<_> = expected.iter().map(|(name, _)| name.as_str()).collect();
            return Err(PolicyError::UnexpectedTensor { name: name.clone(), expected: names.join(", ") });
        }
        Ok(Self::pack(spec, ordered))
    }

    fn pack(spec: NetworkSpec, tensors: Vec<Vec<f32>>) -> Self {
        let mut pairs = tensors.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
        let mut layers: Vec<Layer> = (0..spec.hidden.len())
            .map(|_| pairs.next().expect("a pair of tensors a layer"))
            .map(|(weight, bias)| Layer::pack(weight, bias, true))
            .collect();
        layers.extend(pairs.next().map(|(weight, bias)| Layer::pack(weight, bias, false)));
        let advantage = pairs.next().map(|(weight, bias)| Layer::pack(weight, bias, false));
        Self { spec, tensors, layers, advantage, instructions: Instructions::detect() }
    }

    /// Normally distributed weights and zero biases, drawn tensor by tensor from ChaCha8.
    ///
    /// # Panics
    /// If the shape is not valid or `std_dev` is negative or not finite.
    pub fn random(spec: &NetworkSpec, seed: u64, std_dev: f32) -> Self {
        spec.validate().expect("a valid shape");
        let normal = Normal::new(0.0, std_dev).expect("a standard deviation that is finite and not negative");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let tensors = spec
            .tensors()
            .iter()
            .map(|(_, shape)| {
                let n = shape.iter().product();
                if shape.len() == 1 { vec![0.0; n] } else { (0..n).map(|_| normal.sample(&mut rng)).collect() }
            })
            .collect();
        Self::pack(spec.clone(), tensors)
    }

    /// Reads and checks a safetensors file.
    ///
    /// # Errors
    /// Names what is wrong: size, header, shape, dtype, a missing or foreign tensor, a number that is not finite.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(PolicyError::FileTooLarge { found: bytes.len(), limit: MAX_FILE_BYTES });
        }
        let broken = |reason: String| PolicyError::NotSafetensors(reason);
        let Some(head) = bytes.first_chunk::<8>() else {
            return Err(broken(format!("it is {} bytes long", bytes.len())));
        };
        // A safetensors file can begin with the same two bytes as a pickle, but byte 9 opens its JSON header.
        let pickle = bytes[0] == 0x80 && bytes[1] <= 5 && bytes.get(8) != Some(&b'{');
        if bytes.starts_with(b"PK\x03\x04") || pickle {
            return Err(broken("it is a zip or pickle file, which may carry code".to_owned()));
        }
        let header = u64::from_le_bytes(*head);
        if header > MAX_HEADER_BYTES as u64 {
            return Err(PolicyError::HeaderTooLarge { found: header, limit: MAX_HEADER_BYTES });
        }
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| broken(e.to_string()))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| broken(e.to_string()))?;
        let text = metadata.metadata().as_ref().and_then(|m| m.get(SPEC_KEY));
        let text = text.ok_or(PolicyError::MissingSpec { key: SPEC_KEY })?;
        let spec: NetworkSpec = serde_json::from_str(text).map_err(|e| PolicyError::Spec(e.to_string()))?;
        spec.validate()?;
        let shapes: HashMap<_, _> = spec.tensors().into_iter().collect();
        let mut tensors = HashMap::new();
        for (name, view) in file.tensors() {
            if let Some(expected) = shapes.get(&name) {
                if view.dtype() != Dtype::F32 {
                    return Err(PolicyError::Dtype { name, found: format!("{:?}", view.dtype()) });
                }
                if view.shape() != expected {
                    return Err(PolicyError::Shape { name, expected: expected.clone(), found: view.shape().to_vec() });
                }
            }
            tensors.insert(name, floats(view.data()));
        }
        Self::from_tensors(spec, tensors)
    }

    /// The file that [`Network::from_safetensors`] reads. The same network gives the same bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let spec = serde_json::to_string(&self.spec).expect("a shape serialises");
        let bytes: Vec<Vec<u8>> =
            self.tensors.iter().map(|t| t.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = self.spec.tensors().into_iter().zip(&bytes).map(|((name, shape), data)| {
            (name, TensorView::new(Dtype::F32, shape, data).expect("shape and bytes were checked together"))
        });
        let metadata = HashMap::from([(SPEC_KEY.to_owned(), spec)]);
        safetensors::serialize(views, Some(metadata)).expect("names are unique and shapes fit")
    }

    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Tensors by name, row-major, in the order of [`NetworkSpec::tensors`].
    pub fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>, &[f32])> {
        self.spec.tensors().into_iter().zip(&self.tensors).map(|((name, shape), v)| (name, shape, v.as_slice()))
    }

    /// Values of all actions for `n` observations: `inputs` is `[n, inputs]`, `out` is `[n, outputs]`.
    ///
    /// A row's answer does not depend on the other rows. No allocation once `scratch` has grown.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn evaluate(&self, inputs: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        let n = inputs.len() / self.spec.inputs;
        assert_eq!(inputs.len(), n * self.spec.inputs, "inputs are not whole observations");
        assert_eq!(out.len(), n * self.spec.outputs, "one row of values an observation");
        let (last, hidden) = self.layers.split_last().expect("there is always a last layer");
        let Scratch { a, b, advantage } = scratch;
        let (mut source, mut target) = (a, b);
        let mut x = Rows { data: inputs, stride: self.spec.inputs, n };
        for layer in hidden {
            target.resize(n * layer.out_stride(), 0.0);
            layer.forward(x, target, self.instructions);
            std::mem::swap(&mut source, &mut target);
            x = Rows { data: source, stride: layer.out_stride(), n };
        }
        target.resize(n * last.out_stride(), 0.0);
        last.forward(x, target, self.instructions);
        let outputs = self.spec.outputs;
        match &self.advantage {
            None => {
                for (row, values) in out.chunks_exact_mut(outputs).zip(target.chunks_exact(last.out_stride())) {
                    row.copy_from_slice(&values[..outputs]);
                }
            }
            Some(layer) => {
                advantage.resize(n * layer.out_stride(), 0.0);
                layer.forward(x, advantage, self.instructions);
                let rows = out.chunks_exact_mut(outputs).zip(advantage.chunks_exact(layer.out_stride()));
                for ((row, a), v) in rows.zip(target.chunks_exact(last.out_stride())) {
                    let mean = a[..outputs].iter().sum::<f32>() / outputs as f32;
                    row.iter_mut().zip(a).for_each(|(q, a)| *q = v[0] + a - mean);
                }
            }
        }
    }

    /// Which head the network has.
    pub fn head(&self) -> Head {
        self.spec.head
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

/// Index of the largest value; the lowest index wins ties, and a value that is not a number never wins.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] || values[best].is_nan() {
            best = index;
        }
    }
    best
}
