//! An event as it lies in a record: the same checks as [`Event::decode`], nothing copied.

use std::borrow::Cow;

use flywheel_events::{DecodeError, ENVELOPE_VERSION, Event, MAX_DEPTH, MAX_EVENT_BYTES, ModelRef, System};
use serde::Deserialize;
use serde_json::value::RawValue;

/// One event, borrowed from its JSON bytes. Accepts and refuses exactly what [`Event::decode`] does (a property
/// test holds them together), at about a third of its cost.
#[derive(Debug, Clone, Deserialize)]
pub struct EventView<'a> {
    pub v: u32,
    pub system: System,
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub game_id: Cow<'a, str>,
    pub seq: u64,
    pub ts_ms: i64,
    #[serde(borrow, default)]
    pub actor: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// How a record becomes an event. [`EventView::decode`] is the one that programs use; tests stand in with a newer one.
pub type DecodeView = for<'a> fn(&'a [u8]) -> Result<EventView<'a>, DecodeError>;

impl<'a> EventView<'a> {
    /// # Errors
    /// As [`Event::decode`]; the reason is the same.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let Ok(text) = std::str::from_utf8(bytes) else { return Err(refusal(bytes)) };
        // As many opening brackets as may be nested at most cannot nest deeper; counting them is much cheaper
        // than following strings and escapes, which the full check does for the rest.
        let opening = bytes.iter().filter(|&&b| b == b'{' || b == b'[').count();
        if opening > MAX_DEPTH && too_deep(bytes) {
            return Err(DecodeError::TooDeep);
        }
        match serde_json::from_str::<Self>(text) {
            Ok(view) if view.is_valid() => Ok(view),
            _ => Err(refusal(bytes)),
        }
    }

    /// The payload as the JSON text that was sent.
    pub fn payload(&self) -> &'a str {
        self.payload.get()
    }

    fn is_valid(&self) -> bool {
        let area = self.kind.split('.').next().unwrap_or_default();
        self.v != 0
            && self.v <= ENVELOPE_VERSION
            && self.payload.get().trim_start().starts_with('{')
            && self.kind.len() <= 128
            && area.len() < self.kind.len()
            && (area == self.system.as_str() || area == "model")
            && is_game_id(&self.game_id)
            && self.model.as_deref().is_none_or(|model| model.parse::<ModelRef>().is_ok())
    }
}

/// The slow decoder says why.
fn refusal(bytes: &[u8]) -> DecodeError {
    match Event::decode(bytes) {
        Err(error) => error,
        Ok(_) => DecodeError::Malformed(serde::de::Error::custom("the event cannot be stored")),
    }
}

/// The rule of [`flywheel_events::GameId`], without keeping the id.
fn is_game_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':');
    !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(plain)
        && (!id.bytes().any(|b| b == b'.' || b == b'/')
            || id.split('/').all(|part| !part.is_empty() && part != "." && part != ".."))
}

fn too_deep(bytes: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
