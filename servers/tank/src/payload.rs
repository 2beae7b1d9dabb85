//! The model payload of tank spec, section 6: a network as JSON with base64 weights.
//!
//! The two formats of the spec are `linear-q` (no hidden layer) and `mlp-q` (one; a dueling head is folded into a
//! plain one). Deeper networks, which only a trainer of ours makes, travel as `safetensors`: the shape is in `spec`,
//! the weight data are the whole file.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flywheel_policy::{Network, PolicyError, StoreForm};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One tensor as the payload lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightSpec {
    pub name: String,
    pub shape: Vec<usize>,
    #[serde(default = "float32")]
    pub dtype: String,
}

fn float32() -> String {
    "float32".to_owned()
}

/// A model as it travels between the AI backend and the model store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelPayload {
    pub model_topology: Value,
    pub weight_specs: Vec<WeightSpec>,
    pub weight_data_base64: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_config: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_defined_metadata: Option<Value>,
    /// Set in answers of the store: milliseconds since 1970-01-01 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<i64>,
}

/// Why a payload is not a model. `Missing` answers 400, the rest 422.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// One of the first three fields is absent or empty.
    #[error("Missing model data")]
    Missing,
    #[error("the model payload does not fit: {0}")]
    Malformed(String),
    #[error("`modelTopology.format` is `{0}`; expected `linear-q`, `mlp-q` or `safetensors`")]
    UnknownFormat(String),
    #[error("`modelTopology.{field}` is {found}; expected {expected}")]
    Topology { field: &'static str, found: String, expected: String },
    #[error("`weightDataBase64` is not base64: {0}")]
    NotBase64(String),
    #[error("`weightDataBase64` holds {found} bytes; the shapes need {expected}")]
    Length { found: usize, expected: usize },
    #[error("the model is refused: {0}")]
    Network(#[from] PolicyError),
}

impl ModelPayload {
    /// Reads a payload, telling absent fields from wrong ones.
    ///
    /// # Errors
    /// [`PayloadError::Missing`] or [`PayloadError::Malformed`].
    pub fn from_value(value: Value) -> Result<Self, PayloadError> {
        let empty = |field: &str| match &value[field] {
            Value::Null => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if ["modelTopology", "weightSpecs", "weightDataBase64"].into_iter().any(empty) {
            return Err(PayloadError::Missing);
        }
        serde_json::from_value(value).map_err(|e| PayloadError::Malformed(e.to_string()))
    }

    /// The payload of a network, in the spec's format where the shape has one.
    pub fn from_network(network: &Network) -> Self {
        let (model_topology, listed, data) = match StoreForm::write(network) {
            Ok((form, data)) => {
                let listed: Vec<_> = form.tensors().into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
                let topology = match form {
                    StoreForm::LinearQ { state_size, action_size } => {
                        json!({"format": form.name(), "stateSize": state_size, "actionSize": action_size})
                    }
                    StoreForm::MlpQ { state_size, action_size, hidden_size } => json!({
                        "format": form.name(),
                        "stateSize": state_size,
                        "actionSize": action_size,
                        "hiddenSize": hidden_size,
                    }),
                };
                (topology, listed, data)
            }
            // No form of the spec: the file itself.
            Err(_) => {
                let spec = network.spec();
                let topology = json!({
                    "format": "safetensors",
                    "stateSize": spec.inputs,
                    "actionSize": spec.outputs,
                    "spec": spec,
                });
                (topology, spec.tensors(), network.to_safetensors())
            }
        };
        Self {
            model_topology,
            weight_specs: listed
                .into_iter()
                .map(|(name, shape)| WeightSpec { name, shape, dtype: float32() })
                .collect(),
            weight_data_base64: STANDARD.encode(data),
            training_config: None,
            user_defined_metadata: None,
            updated_at: None,
        }
    }

    /// The network, with every length, shape and number checked.
    ///
    /// # Errors
    /// What does not fit.
    pub fn to_network(&self) -> Result<Network, PayloadError> {
        let form = self.form()?;
        let data = STANDARD.decode(&self.weight_data_base64).map_err(|e| PayloadError::NotBase64(e.to_string()))?;
        let Some(form) = form else { return Ok(Network::from_safetensors(&data)?) };
        form.spec().validate()?;
        let sum = self.weight_specs.iter().map(|spec| spec.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d)));
        let expected = sum.fold(0usize, usize::saturating_add).saturating_mul(4);
        if data.len() != expected {
            return Err(PayloadError::Length { found: data.len(), expected });
        }
        let listed: Vec<_> =
            self.weight_specs.iter().map(|w| (w.name.clone(), w.shape.clone(), w.dtype.clone())).collect();
        Ok(form.read(&listed, &data)?)
    }

    /// Length of one observation, as the topology says; `None` if it says nothing.
    pub fn state_size(&self) -> Option<u64> {
        self.model_topology["stateSize"].as_u64()
    }

    /// `None` for a safetensors file.
    fn form(&self) -> Result<Option<StoreForm>, PayloadError> {
        let topology = &self.model_topology;
        let size = |field: &'static str| {
            topology[field].as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| PayloadError::Topology {
                field,
                found: topology[field].to_string().chars().take(64).collect(),
                expected: "a whole number".to_owned(),
            })
        };
        match topology["format"].as_str() {
            Some("linear-q") => {
                let (state_size, action_size) = (size("stateSize")?, size("actionSize")?);
                Ok(Some(StoreForm::LinearQ { state_size, action_size }))
            }
            Some("mlp-q") => {
                let (state_size, action_size) = (size("stateSize")?, size("actionSize")?);
                Ok(Some(StoreForm::MlpQ { state_size, action_size, hidden_size: size("hiddenSize")? }))
            }
            Some("safetensors") => Ok(None),
            _ => Err(PayloadError::UnknownFormat(topology["format"].to_string().chars().take(64).collect())),
        }
    }

    /// A field of `userDefinedMetadata`, if it is text.
    pub fn metadata(&self, field: &str) -> Option<&str> {
        self.user_defined_metadata.as_ref()?.get(field)?.as_str()
    }
}

/// Text without a trailing `-` and a timestamp of at least ten digits: the base key of a model key.
pub fn base_of(model_key: &str) -> &str {
    match model_key.rsplit_once('-') {
        Some((base, stamp)) if stamp.len() >= 10 && stamp.bytes().all(|b| b.is_ascii_digit()) && !base.is_empty() => {
            base
        }
        _ => model_key,
    }
}

#[cfg(test)]
mod tests {
    use flywheel_policy::NetworkSpec;

    use super::*;

    fn linear() -> Value {
        json!({
            "modelTopology": {"format": "linear-q", "stateSize": 2, "actionSize": 1},
            "weightSpecs": [
                {"name": "kernel", "shape": [1, 2], "dtype": "float32"},
                {"name": "bias", "shape": [1], "dtype": "float32"},
            ],
            // python3: base64.b64encode(struct.pack('<3f', 1.0, -2.0, 0.5))
            "weightDataBase64": "AACAPwAAAMAAAAA/",
        })
    }

    #[test]
    fn a_hand_made_linear_payload_gives_the_values_it_should() {
        let network = ModelPayload::from_value(linear()).unwrap().to_network().unwrap();
        let mut out = [0.0];
        network.evaluate(&[3.0, 1.0], &mut out, &mut Default::default());
        assert_eq!(out, [3.0 - 2.0 + 0.5]);
    }

    #[test]
    fn every_shape_survives_the_wire_in_its_format() {
        for (spec, format) in [
            (NetworkSpec::new(108, [], 10), "linear-q"),
            (NetworkSpec::new(108, [64], 10), "mlp-q"),
            (NetworkSpec::new(108, [32, 16], 10), "safetensors"),
            (NetworkSpec::new(108, [32, 16], 10).dueling(), "safetensors"),
        ] {
            let network = Network::random(&spec, 3, 0.1).unwrap();
            let payload = ModelPayload::from_network(&network);
            assert_eq!(payload.model_topology["format"], format);
            let value = serde_json::to_value(&payload).unwrap();
            assert_eq!(ModelPayload::from_value(value).unwrap().to_network().unwrap(), network);
        }
    }

    #[test]
    fn each_bad_payload_says_what_is_wrong() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 11] = [
            (|v| v["modelTopology"] = json!({}), "Missing model data"),
            (|v| v["weightSpecs"] = json!([]), "Missing model data"),
            (|v| v["weightDataBase64"] = json!(""), "Missing model data"),
            (|v| v["weightDataBase64"] = Value::Null, "Missing model data"),
            (|v| v["weightSpecs"] = json!(7), "does not fit"),
            (|v| v["modelTopology"]["format"] = json!("cnn"), "expected `linear-q`"),
            (|v| v["modelTopology"]["stateSize"] = json!(-2), "stateSize"),
            (|v| v["modelTopology"]["stateSize"] = json!(3), "kernel"),
            (|v| v["weightDataBase64"] = json!("AACAPwAAAMA="), "holds 8 bytes; the shapes need 12"),
            (|v| v["weightDataBase64"] = json!("*"), "not base64"),
            // python3: struct.pack('<3f', 1.0, float('nan'), 0.5)
            (|v| v["weightDataBase64"] = json!("AACAPwAAwH8AAAA/"), "finite"),
        ];
        for (change, words) in cases {
            let mut value = linear();
            change(&mut value);
            let error = ModelPayload::from_value(value).and_then(|p| p.to_network()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_base_of_a_key_is_what_stands_before_its_timestamp() {
        assert_eq!(base_of("tank-ai-dqn-stage03-1763700000000"), "tank-ai-dqn-stage03");
        assert_eq!(base_of("tank-ai-dqn-stage03"), "tank-ai-dqn-stage03");
        assert_eq!(base_of("tank-2024"), "tank-2024");
    }
}
