//! Networks as safetensors files. Files come from outside, so every claim in them is checked before it is used.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use crate::{Network, NetworkSpec, PolicyError, Tensor, spec::MAX_PARAMETERS};

/// Entry of the file's metadata that holds the [`NetworkSpec`] as JSON.
pub const SPEC_KEY: &str = "flywheel.network";
/// A longer header is refused before it is parsed.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// A longer file is refused before it is looked at.
pub const MAX_FILE_BYTES: usize = MAX_HEADER_BYTES + 8 + 4 * MAX_PARAMETERS;

impl Network {
    /// Reads a file that [`Network::to_safetensors`], or any program that follows it, wrote.
    ///
    /// # Errors
    /// [`PolicyError`] naming the tensor and what was expected. Cost is linear in the file; a claim of the header
    /// never leads to an allocation larger than the file.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(PolicyError::FileTooLarge { found: bytes.len(), limit: MAX_FILE_BYTES });
        }
        guess(bytes)?;
        let Some((length, rest)) = bytes.split_first_chunk() else {
            let n = bytes.len();
            return Err(PolicyError::NotSafetensors(format!("it is {n} bytes long; expected 8 and a header")));
        };
        let header = u64::from_le_bytes(*length);
        if header > MAX_HEADER_BYTES as u64 {
            return Err(PolicyError::HeaderTooLarge { found: header, limit: MAX_HEADER_BYTES });
        }
        if rest.len() < header as usize {
            let n = rest.len();
            return Err(PolicyError::NotSafetensors(format!("it ends {n} bytes into a header of {header}")));
        }
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(explain)?;
        let file = SafeTensors::deserialize(bytes).map_err(explain)?;
        let spec = metadata.metadata().as_ref().and_then(|entries| entries.get(SPEC_KEY));
        let spec = spec.ok_or(PolicyError::MissingSpec { key: SPEC_KEY })?;
        let spec: NetworkSpec =
            serde_json::from_str(spec).map_err(|error| PolicyError::Spec(format!("`{SPEC_KEY}`: {error}")))?;
        spec.validate()?;
        let mut tensors = Vec::with_capacity(file.len());
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(PolicyError::Dtype { name: name.to_owned(), found: format!("{:?}", view.dtype()) });
            }
            tensors.push(Tensor::new(name, view.shape(), floats(view.data())));
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self::from_tensors(&spec, tensors)
    }

    /// One safetensors file; equal networks give equal bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let spec = serde_json::to_string(self.spec()).expect("a spec serialises");
        let metadata = HashMap::from([(SPEC_KEY.to_owned(), spec)]);
        let data: Vec<Vec<u8>> = self.tensors().iter().map(|tensor| bytes_of(&tensor.data)).collect();
        let views = self.tensors().iter().zip(&data).map(|(tensor, data)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data).expect("data fits the checked shape");
            (tensor.name.as_str(), view)
        });
        safetensors::serialize(views, Some(metadata)).expect("a checked network serialises")
    }
}

/// Little-endian float32.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The usual wrong files by their first bytes, to say what they are rather than what they are not.
fn guess(bytes: &[u8]) -> Result<(), PolicyError> {
    let kind = match bytes {
        [b'P', b'K', 3 | 5, ..] => "a zip archive (a PyTorch checkpoint?)",
        [0x80, 2..=5, ..] if bytes.get(8) != Some(&b'{') => "a Python pickle, which is never loaded",
        [0x1f, 0x8b, ..] if bytes.get(8) != Some(&b'{') => "gzip data",
        [0x89, b'H', b'D', b'F', ..] => "an HDF5 file (a Keras model?)",
        [b'{', ..] if bytes.get(8) != Some(&b'{') => "JSON text",
        [] => "empty",
        _ => return Ok(()),
    };
    Err(PolicyError::NotSafetensors(format!("it is {kind}; expected safetensors")))
}

fn explain(error: SafeTensorError) -> PolicyError {
    PolicyError::NotSafetensors(match error {
        SafeTensorError::InvalidOffset(name) => {
            format!("the data of tensor `{name}` does not begin where the one before it ends")
        }
        SafeTensorError::TensorInvalidInfo => "a tensor's shape and its range of bytes disagree".to_owned(),
        SafeTensorError::MetadataIncompleteBuffer => {
            "the tensors' ranges do not end where the file ends; was it cut?".to_owned()
        }
        SafeTensorError::ValidationOverflow => "a tensor's shape overflows".to_owned(),
        SafeTensorError::InvalidHeader(error) => format!("the header is not UTF-8: {error}"),
        SafeTensorError::InvalidHeaderDeserialization(error) => format!("the header is not the expected JSON: {error}"),
        other => other.to_string(),
    })
}
