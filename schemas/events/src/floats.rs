//! Observations travel as base64 of little-endian float32, never as decimal text.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Why text is not a list of floats.
#[derive(Debug, thiserror::Error)]
pub enum FloatsError {
    #[error("not base64: {0}")]
    NotBase64(#[from] base64::DecodeError),
    #[error("{0} bytes are not a whole number of float32")]
    Ragged(usize),
}

pub fn encode(values: &[f32]) -> String {
    STANDARD.encode(to_bytes(values))
}

/// # Errors
/// If `text` is not base64 or does not hold a whole number of float32.
pub fn decode(text: &str) -> Result<Vec<f32>, FloatsError> {
    from_bytes(&STANDARD.decode(text)?)
}

/// Little-endian float32, the form of the tables.
pub fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// # Errors
/// If the length is not a multiple of four.
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<f32>, FloatsError> {
    if !bytes.len().is_multiple_of(4) {
        return Err(FloatsError::Ragged(bytes.len()));
    }
    Ok(bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

/// For `#[serde(with = "flywheel_events::floats::text")]` on a `Vec<f32>`.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(values: &[f32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::encode(values))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f32>, D::Error> {
        super::decode(&std::borrow::Cow::<'de, str>::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn floats_survive_text_bit_for_bit() {
        let values = [0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::MAX, -3.25e-20];
        let back = super::decode(&super::encode(&values)).unwrap();
        assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
        // python3: base64.b64encode(struct.pack('<2f', 1.0, -2.0))
        assert_eq!(super::encode(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert!(super::decode("AACA").is_err());
    }
}
