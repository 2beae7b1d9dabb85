//! The two forms in which the tank system's model store carries networks.
//!
//! `linear-q`: `kernel` `[actions, state]`, `bias` `[actions]`. `mlp-q`: `w1` `[hidden, state]`, `b1` `[hidden]`,
//! `w2` `[actions, hidden]`, `b2` `[actions]`, ReLU between. Weights travel as one block of little-endian
//! float32, tensor after tensor. Source: tank specification, section 6.

use crate::{
    Head, Network, NetworkSpec, PolicyError, Tensor,
    file::{bytes_of, floats},
};

/// `modelTopology.format` with the sizes beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreForm {
    LinearQ { state_size: usize, action_size: usize },
    MlpQ { state_size: usize, action_size: usize, hidden_size: usize },
}

impl StoreForm {
    /// `linear-q` or `mlp-q`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LinearQ { .. } => "linear-q",
            Self::MlpQ { .. } => "mlp-q",
        }
    }

    /// The form of a network of this shape.
    ///
    /// # Errors
    /// [`PolicyError::NoStoreForm`] for more than one hidden layer. A dueling head is folded into a plain one.
    pub fn of(spec: &NetworkSpec) -> Result<Self, PolicyError> {
        match spec.hidden[..] {
            [] => Ok(Self::LinearQ { state_size: spec.inputs, action_size: spec.outputs }),
            [hidden_size] => Ok(Self::MlpQ { state_size: spec.inputs, action_size: spec.outputs, hidden_size }),
            _ => Err(PolicyError::NoStoreForm {
                spec: spec.to_string(),
                format: "mlp-q",
                reason: "it holds one hidden layer at most",
            }),
        }
    }

    /// The shape of the network that this form describes.
    pub fn spec(self) -> NetworkSpec {
        match self {
            Self::LinearQ { state_size, action_size } => NetworkSpec::new(state_size, [], action_size),
            Self::MlpQ { state_size, action_size, hidden_size } => {
                NetworkSpec::new(state_size, [hidden_size], action_size)
            }
        }
    }

    /// Names and shapes of the tensors, in the order in which their data follow each other.
    pub fn tensors(self) -> Vec<(&'static str, Vec<usize>)> {
        let names: &[&'static str] = match self {
            Self::LinearQ { .. } => &["kernel", "bias"],
            Self::MlpQ { .. } => &["w1", "b1", "w2", "b2"],
        };
        names.iter().copied().zip(self.spec().tensors().into_iter().map(|(_, shape)| shape)).collect()
    }

    /// Bytes of the weight block.
    pub fn data_bytes(self) -> usize {
        4 * self.spec().parameters()
    }

    /// The network in a payload: `listed` are its `weightSpecs` as name, shape and dtype, `data` the decoded
    /// weight block.
    ///
    /// # Errors
    /// If a size is out of range, a tensor is missing, foreign or ill-shaped, the block has another length than
    /// the shapes say, or a number is not finite.
    pub fn read(self, listed: &[(String, Vec<usize>, String)], data: &[u8]) -> Result<Network, PolicyError> {
        let spec = self.spec();
        spec.validate()?;
        let form = self.tensors();
        if let Some((name, _, found)) = listed.iter().find(|(_, _, dtype)| dtype != "float32") {
            return Err(PolicyError::Dtype { name: name.clone(), found: format!("`{found}`") });
        }
        if let Some((name, ..)) = listed.iter().find(|(name, ..)| form.iter().all(|(known, _)| name != known)) {
            let expected = form.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(PolicyError::UnexpectedTensor { name: name.clone(), expected });
        }
        for (at, (name, expected)) in form.iter().enumerate() {
            match listed.get(at).filter(|(listed, ..)| listed == name) {
                Some((_, found, _)) if found == expected => {}
                Some((name, found, _)) => {
                    let (name, expected, found) = (name.clone(), expected.clone(), found.clone());
                    return Err(PolicyError::Shape { name, expected, found });
                }
                // Missing, twice, or out of order: the data would be read as another tensor's.
                None => {
                    return Err(PolicyError::MissingTensor {
                        name: format!("{name} (in place {at})"),
                        expected: expected.clone(),
                    });
                }
            }
        }
        if listed.len() != form.len() || data.len() != self.data_bytes() {
            return Err(PolicyError::Length {
                name: "weightData".to_owned(),
                shape: vec![spec.parameters()],
                expected: spec.parameters(),
                found: data.len() / 4,
            });
        }
        let mut rest = data;
        let tensors = spec.tensors().into_iter().map(|(name, shape)| {
            let (bytes, after) = rest.split_at(4 * shape.iter().product::<usize>());
            rest = after;
            Tensor { name, shape, data: floats(bytes) }
        });
        let tensors = tensors.collect();
        Network::from_tensors(&spec, tensors).map_err(|error| self.in_store_words(error))
    }

    /// The weight block of `network`.
    ///
    /// # Errors
    /// As [`StoreForm::of`].
    pub fn write(network: &Network) -> Result<(Self, Vec<u8>), PolicyError> {
        let form = Self::of(network.spec())?;
        let write = |network: &Network| network.tensors().iter().flat_map(|tensor| bytes_of(&tensor.data)).collect();
        let data = match network.spec().head {
            Head::Plain => write(network),
            Head::Dueling => write(&network.folded()),
        };
        Ok((form, data))
    }

    /// The sender knows `w1`, not `layers.0.weight`.
    fn in_store_words(self, error: PolicyError) -> PolicyError {
        match error {
            PolicyError::NotFinite { name, index, value } => {
                let place = self.spec().tensors().iter().position(|(ours, _)| *ours == name);
                let name = place.map_or(name, |place| self.tensors()[place].0.to_owned());
                PolicyError::NotFinite { name, index, value }
            }
            other => other,
        }
    }
}
