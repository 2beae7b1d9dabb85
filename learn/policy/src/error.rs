//! What can be wrong with a network.

/// Why bytes, tensors or a shape are not a network that this crate runs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    #[error("the network shape is not usable: {0}")]
    Spec(String),
    #[error("the file is not a safetensors network: {0}")]
    NotSafetensors(String),
    #[error("the file is {found} bytes long; at most {limit} are allowed")]
    FileTooLarge { found: usize, limit: usize },
    #[error("the header claims {found} bytes; at most {limit} are allowed")]
    HeaderTooLarge { found: u64, limit: usize },
    #[error(
        "the header has no `{key}` entry that says the network's shape; write the file with `Network::to_safetensors`"
    )]
    MissingSpec { key: &'static str },
    #[error("tensor `{name}` is missing; expected shape {expected:?}")]
    MissingTensor { name: String, expected: Vec<usize> },
    #[error("tensor `{name}` does not belong to this network; expected only {expected}")]
    UnexpectedTensor { name: String, expected: String },
    #[error("tensor `{name}` has shape {found:?}; expected {expected:?}")]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("tensor `{name}` holds {found}; expected F32")]
    Dtype { name: String, found: String },
    #[error("tensor `{name}` has {found} numbers; its shape {shape:?} needs {expected}")]
    Length { name: String, shape: Vec<usize>, expected: usize, found: usize },
    #[error("tensor `{name}` holds {value} at index {index}; expected finite numbers")]
    NotFinite { name: String, index: usize, value: f32 },
    #[error("a network of shape {spec} has no `{format}` form: {reason}")]
    NoStoreForm { spec: String, format: &'static str, reason: &'static str },
}
