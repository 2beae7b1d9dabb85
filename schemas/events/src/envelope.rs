//! The envelope: what every event of every system carries.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{GameId, ModelRef, System};

/// The envelope version that this code writes, and the newest that it reads.
pub const ENVELOPE_VERSION: u32 = 1;
/// One encoded event is at most this long; longer ones are refused by name.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// Deepest nesting of objects and lists in one event.
pub const MAX_DEPTH: usize = 64;

/// One immutable fact from a game.
///
/// `(game_id, seq)` is its identity and order: a producer that retries sends the same pair, a consumer drops
/// repeats. `payload` is kept as the JSON text that was sent, so unknown fields survive storage.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    pub v: u32,
    pub system: System,
    /// Dotted name, such as `tank.tick`; see [`crate::kinds`].
    pub kind: String,
    pub game_id: GameId,
    /// Per game: starts at 0, no gaps, no repeats.
    pub seq: u64,
    /// The producer's clock, milliseconds since 1970-01-01 UTC. Never used for order.
    pub ts_ms: i64,
    /// Who caused it: a player, a bot, `server`, `controller`.
    pub actor: Option<String>,
    /// The model that made the decision.
    pub model: Option<ModelRef>,
    /// A JSON object.
    pub payload: Box<RawValue>,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        let head = |e: &Self| {
            (e.v, e.system, e.kind.clone(), e.game_id.clone(), e.seq, e.ts_ms, e.actor.clone(), e.model.clone())
        };
        head(self) == head(other) && self.payload.get() == other.payload.get()
    }
}

/// Why bytes are not an event. `reason()` is the stable word that tables and metrics use.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the event is {0} bytes long; at most {MAX_EVENT_BYTES} are allowed")]
    TooLarge(usize),
    #[error("the event nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the event is not UTF-8: {0}")]
    NotUtf8(std::str::Utf8Error),
    #[error("the event is not a JSON event: {0}")]
    Malformed(serde_json::Error),
    #[error("envelope version {0} is unknown; this program reads up to {ENVELOPE_VERSION}")]
    UnknownVersion(u32),
    #[error("`payload` is not a JSON object")]
    PayloadNotObject,
    #[error("`kind` is empty, longer than 128 bytes, or does not begin with `{0}.` or `model.`")]
    BadKind(System),
    #[error("the payload of `{kind}` does not fit: {source}")]
    BadPayload { kind: String, source: serde_json::Error },
}

impl DecodeError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::TooDeep => "too_deep",
            Self::NotUtf8(_) => "not_utf8",
            Self::Malformed(_) => "malformed",
            Self::UnknownVersion(_) => "unknown_version",
            Self::PayloadNotObject => "payload_not_object",
            Self::BadKind(_) => "bad_kind",
            Self::BadPayload { .. } => "bad_payload",
        }
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    v: u32,
    system: System,
    kind: String,
    game_id: GameId,
    seq: u64,
    ts_ms: i64,
    #[serde(default)]
    actor: Option<String>,
    #[serde(default)]
    model: Option<ModelRef>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

impl Event {
    /// An event with an empty payload, no actor and no model.
    pub fn new(system: System, kind: impl Into<String>, game_id: GameId, seq: u64, ts_ms: i64) -> Self {
        let payload = RawValue::from_string("{}".to_owned()).expect("`{}` is JSON");
        Self { v: ENVELOPE_VERSION, system, kind: kind.into(), game_id, seq, ts_ms, actor: None, model: None, payload }
    }

    /// # Panics
    /// If `payload` does not serialise (a map with keys that are not text); our payload types all do.
    pub fn payload(mut self, payload: &impl Serialize) -> Self {
        self.payload = serde_json::value::to_raw_value(payload).expect("payload types serialise");
        self
    }

    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    pub fn model(mut self, model: Option<ModelRef>) -> Self {
        self.model = model;
        self
    }

    /// One JSON object, no newline.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an event serialises")
    }

    /// Reads one event from JSON bytes; unknown fields of the envelope are ignored, those of the payload kept.
    ///
    /// # Errors
    /// One [`DecodeError`] that names what is wrong. Cost is linear in the input and bounded by
    /// [`MAX_EVENT_BYTES`] and [`MAX_DEPTH`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(DecodeError::NotUtf8)?;
        if nesting(bytes) > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let wire: Wire = match serde_json::from_str(text) {
            Ok(wire) => wire,
            // A newer envelope may have other fields: say "unknown version", not "missing field".
            Err(error) => match serde_json::from_str::<VersionOnly>(text) {
                Ok(VersionOnly { v }) if v != ENVELOPE_VERSION => return Err(DecodeError::UnknownVersion(v)),
                _ => return Err(DecodeError::Malformed(error)),
            },
        };
        if wire.v == 0 || wire.v > ENVELOPE_VERSION {
            return Err(DecodeError::UnknownVersion(wire.v));
        }
        if !wire.payload.get().trim_start().starts_with('{') {
            return Err(DecodeError::PayloadNotObject);
        }
        let area = wire.kind.split('.').next().unwrap_or_default();
        if wire.kind.len() > 128 || !wire.kind.contains('.') || (area != wire.system.as_str() && area != "model") {
            return Err(DecodeError::BadKind(wire.system));
        }
        Ok(Self {
            v: wire.v,
            system: wire.system,
            kind: wire.kind,
            game_id: wire.game_id,
            seq: wire.seq,
            ts_ms: wire.ts_ms,
            actor: wire.actor,
            model: wire.model,
            payload: wire.payload.to_owned(),
        })
    }

    /// The payload as a type.
    ///
    /// # Errors
    /// [`DecodeError::BadPayload`] if it does not fit.
    pub fn payload_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, DecodeError> {
        serde_json::from_str(self.payload.get())
            .map_err(|source| DecodeError::BadPayload { kind: self.kind.clone(), source })
    }
}

/// Deepest nesting of brackets outside strings; of malformed text it is some number. Linear, and never recursive:
/// for those who must look at a text before they parse it.
pub fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
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
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::new(System::Tank, "tank.tick", GameId::new("g-1").unwrap(), 7, 1_700_000_000_123)
            .actor("server")
            .model(Some("tank-ai-dqn@3".parse().unwrap()))
            .payload(&serde_json::json!({"tick": 9, "later": {"field": [1, 2]}}))
    }

    #[test]
    fn an_event_survives_the_wire_with_fields_nobody_knows() {
        let event = event();
        assert_eq!(Event::decode(&event.encode()).unwrap(), event);
        let text = String::from_utf8(event.encode()).unwrap().replacen('{', r#"{"future":1,"#, 1);
        assert_eq!(Event::decode(text.as_bytes()).unwrap(), event);
    }

    #[test]
    fn every_way_to_be_wrong_has_its_own_reason() {
        let good = String::from_utf8(event().encode()).unwrap();
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (b"not json".to_vec(), "malformed"),
            (vec![0xff, 0xfe], "not_utf8"),
            (good.replace("\"v\":1", "\"v\":2").into_bytes(), "unknown_version"),
            (br#"{"v":9,"brave":"new world"}"#.to_vec(), "unknown_version"),
            (good.replace("\"seq\":7", "\"seq\":-1").into_bytes(), "malformed"),
            (good.replace("g-1", "../etc").into_bytes(), "malformed"),
            (good.replace("tank.tick", "baloot.trick").into_bytes(), "bad_kind"),
            (good.replace("\"system\":\"tank\"", "\"system\":\"chess\"").into_bytes(), "malformed"),
            (
                br#"{"v":1,"system":"tank","kind":"tank.x","game_id":"g","seq":0,"ts_ms":0,"payload":[1]}"#.to_vec(),
                "payload_not_object",
            ),
            ([b"{\"a\":".repeat(10_000), b"}".repeat(10_000)].concat(), "too_deep"),
            (vec![b' '; MAX_EVENT_BYTES + 1], "too_large"),
        ];
        for (bytes, reason) in cases {
            let error = Event::decode(&bytes).expect_err(reason);
            assert_eq!(error.reason(), reason, "{error}");
        }
    }
}
