//! An event as it lies in a record: the same checks as [`Event::decode`], nothing copied.

use std::borrow::Cow;

use flywheel_events::{DecodeError, ENVELOPE_VERSION, Event, MAX_DEPTH, MAX_EVENT_BYTES, System, nesting};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::{Cursor, MAX_OPEN};

/// One event, borrowed from its JSON bytes. Accepts and refuses exactly what [`Event::decode`] does (property
/// tests hold them together), at about a tenth of its cost.
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
    #[serde(borrow, deserialize_with = "as_it_stands")]
    payload: &'a str,
}

fn as_it_stands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    <&RawValue>::deserialize(deserializer).map(RawValue::get)
}

/// How a record becomes an event. [`EventView::decode`] is the one that programs use; tests stand in with a newer one.
pub type DecodeView = for<'a> fn(&'a [u8]) -> Result<EventView<'a>, DecodeError>;

// One more than the payload may nest is the envelope, and what is not walked is asked of `serde_json`.
const _: () = assert!((MAX_OPEN as usize) < MAX_DEPTH);

impl<'a> EventView<'a> {
    /// # Errors
    /// As [`Event::decode`]; the reason is the same.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let Some(text) = utf8(bytes) else { return Err(refusal(bytes)) };
        match Self::read(text) {
            Some(view) if view.is_valid() => Ok(view),
            _ => Self::ask_serde(bytes, text),
        }
    }

    /// Reads an event as programs write it, in one pass; `None` if it has anything out of the ordinary, and if it is
    /// none.
    fn read(text: &'a str) -> Option<Self> {
        let (mut v, mut system, mut kind, mut game_id) = (None, None, None, None);
        let (mut seq, mut ts_ms, mut actor, mut model, mut payload) = (None, None, None, None, None);
        let mut cursor = Cursor::new(text);
        cursor.expect(b'{')?;
        for nth in 0.. {
            cursor.next_token();
            // Programs write the fields in this order, so the next one is known before it is read.
            let field = match nth {
                0 if cursor.takes(b"\"v\":") => Field::V,
                1 if cursor.takes(b"\"system\":") => Field::System,
                2 if cursor.takes(b"\"kind\":") => Field::Kind,
                3 if cursor.takes(b"\"game_id\":") => Field::GameId,
                4 if cursor.takes(b"\"seq\":") => Field::Seq,
                5 if cursor.takes(b"\"ts_ms\":") => Field::TsMs,
                6 if cursor.takes(b"\"actor\":") => Field::Actor,
                7 if cursor.takes(b"\"model\":") => Field::Model,
                8 if cursor.takes(b"\"payload\":") => Field::Payload,
                _ => Field::read(&mut cursor)?,
            };
            // A field that comes twice is a matter for `serde_json`.
            match field {
                Field::V if v.is_none() => v = Some(u32::try_from(cursor.number()?).ok()?),
                Field::System if system.is_none() => system = Some(cursor.plain_string()?.parse().ok()?),
                Field::Kind if kind.is_none() => kind = Some(cursor.plain_string()?),
                Field::GameId if game_id.is_none() => game_id = Some(cursor.plain_string()?),
                Field::Seq if seq.is_none() => seq = Some(cursor.number()?),
                Field::TsMs if ts_ms.is_none() => ts_ms = Some(i64::try_from(cursor.number()?).ok()?),
                Field::Actor if actor.is_none() => actor = Some(cursor.plain_string_or_null()?),
                Field::Model if model.is_none() => model = Some(cursor.plain_string_or_null()?),
                Field::Payload if payload.is_none() => payload = Some(cursor.object()?),
                Field::Unknown => cursor.skip_value()?,
                _ => return None,
            }
            if cursor.next_token() != b',' {
                break;
            }
            cursor.expect(b',')?;
        }
        cursor.expect(b'}')?;
        if !cursor.is_at_end() {
            return None;
        }
        Some(Self {
            v: v?,
            system: system?,
            kind: Cow::Borrowed(kind?),
            game_id: Cow::Borrowed(game_id?),
            seq: seq?,
            ts_ms: ts_ms?,
            actor: actor.flatten().map(Cow::Borrowed),
            model: model.flatten().map(Cow::Borrowed),
            payload: payload?,
        })
    }

    #[cold]
    fn ask_serde(bytes: &'a [u8], text: &'a str) -> Result<Self, DecodeError> {
        if nesting(bytes) > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        match serde_json::from_str::<Self>(text) {
            Ok(view) if view.is_valid() => Ok(view),
            _ => Err(refusal(bytes)),
        }
    }

    /// The payload as the JSON text that was sent.
    pub fn payload(&self) -> &'a str {
        self.payload
    }

    fn is_valid(&self) -> bool {
        let of = |area: &str| self.kind.strip_prefix(area).is_some_and(|rest| rest.starts_with('.'));
        self.v != 0
            && self.v <= ENVELOPE_VERSION
            && self.payload.starts_with('{')
            && self.kind.len() <= 128
            && (of(self.system.as_str()) || of("model"))
            && is_game_id(&self.game_id)
            && self.model.as_deref().is_none_or(is_model)
    }
}

/// What a member of the envelope is.
#[derive(Clone, Copy)]
enum Field {
    V,
    System,
    Kind,
    GameId,
    Seq,
    TsMs,
    Actor,
    Model,
    Payload,
    Unknown,
}

impl Field {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let field = match cursor.plain_string()? {
            "v" => Self::V,
            "system" => Self::System,
            "kind" => Self::Kind,
            "game_id" => Self::GameId,
            "seq" => Self::Seq,
            "ts_ms" => Self::TsMs,
            "actor" => Self::Actor,
            "model" => Self::Model,
            "payload" => Self::Payload,
            _ => Self::Unknown,
        };
        cursor.expect(b':')?;
        Some(field)
    }
}

/// Most events are ASCII throughout, which is seen without a call: that had 2 in 100 samples of a lander.
#[inline(always)]
fn utf8(bytes: &[u8]) -> Option<&str> {
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    simdutf8::basic::from_utf8(bytes).ok()
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
    let found = letters(id);
    found & !(DOTTED | GAME) == 0
        && (1..=128).contains(&id.len())
        && (found & DOTTED == 0 || id.split('/').all(|part| !part.is_empty() && part != "." && part != ".."))
}

/// The rule of [`flywheel_events::ModelRef`], without keeping it.
fn is_model(model: &str) -> bool {
    let Some((key, version)) = model.rsplit_once('@') else { return false };
    letters(key) & !DOTTED == 0
        && !key.contains('/')
        && (1..=128).contains(&key.len())
        && key != "."
        && key != ".."
        && version.parse::<u64>().is_ok()
}

/// A letter of no id.
const FOREIGN: u8 = 1;
/// One of game ids alone.
const GAME: u8 = 2;
/// A dot or a slash, which must not stand everywhere.
const DOTTED: u8 = 4;

const LETTERS: [u8; 256] = {
    let (mut letters, mut byte) = ([FOREIGN; 256], 0);
    while byte < 128 {
        letters[byte] = match byte as u8 {
            b'.' | b'/' => DOTTED,
            b':' => GAME,
            b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => 0,
            _ => FOREIGN,
        };
        byte += 1;
    }
    letters
};

/// What kinds of letters an id has.
fn letters(id: &str) -> u8 {
    id.bytes().fold(0, |found, byte| found | LETTERS[usize::from(byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_as_programs_write_them_never_need_the_slow_way() {
        let game = || flywheel_events::GameId::new("run/1:2").unwrap();
        let event = Event::new(System::Doom, "doom.step", game(), 0, 1_700_000_000_000);
        let model = Some("tank-ai-dqn@3".parse().unwrap());
        let full = event.clone().actor("pl\u{e9}").model(model).payload(&serde_json::json!({"a": [1.5, "\"", null]}));
        for event in [event, full] {
            let bytes = event.encode();
            let text = std::str::from_utf8(&bytes).unwrap();
            for text in [text.to_owned(), text.replace("\":", "\" :\n "), text.replacen('{', "{\"new\":[{}],", 1)] {
                assert!(EventView::read(&text).is_some_and(|view| view.is_valid()), "{text}");
            }
        }
    }
}
