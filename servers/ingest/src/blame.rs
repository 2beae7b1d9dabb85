//! Which field of an event is to blame, for people who read the answer.

use std::{borrow::Cow, collections::BTreeMap};

use flywheel_events::{DecodeError, GameId, ModelRef, System};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Refusal;

/// Turns a decoding error into a refusal that names the field.
pub(crate) fn blame(bytes: &[u8], error: &DecodeError) -> Refusal {
    let field = match error {
        DecodeError::UnknownVersion(_) => Some("v"),
        DecodeError::PayloadNotObject | DecodeError::BadPayload { .. } => Some("payload"),
        DecodeError::BadKind(_) => Some("kind"),
        DecodeError::Malformed(source) => return malformed(bytes, source),
        DecodeError::TooLarge(_) | DecodeError::TooDeep | DecodeError::NotUtf8(_) => None,
    };
    Refusal::new(error.reason(), field, error.to_string())
}

fn malformed(bytes: &[u8], source: &serde_json::Error) -> Refusal {
    let whole = |field: Option<String>, detail| Refusal { reason: "malformed", field, detail };
    if !source.is_data() {
        let field = std::str::from_utf8(bytes).ok().and_then(|text| key_before(text, source));
        let at = field.as_ref().map_or_else(String::new, |field| format!("`{field}`: "));
        return whole(field, format!("{at}the event is not JSON: {source}"));
    }
    let Ok(fields) = serde_json::from_slice::<BTreeMap<Cow<str>, &RawValue>>(bytes) else {
        return whole(None, format!("the event is not a JSON object: {source}"));
    };
    let checks: [(&'static str, Check); 9] = [
        ("v", fits::<u32>),
        ("system", fits::<System>),
        ("kind", fits::<String>),
        ("game_id", fits::<GameId>),
        ("seq", fits::<u64>),
        ("ts_ms", fits::<i64>),
        ("actor", fits::<Option<String>>),
        ("model", fits::<Option<ModelRef>>),
        ("payload", fits::<serde::de::IgnoredAny>),
    ];
    for (name, check) in checks {
        let Some(value) = fields.get(name) else {
            if matches!(name, "actor" | "model") {
                continue;
            }
            return Refusal::new("malformed", name, format!("`{name}` is missing"));
        };
        if let Err(error) = check(value.get()) {
            // The column counts from the value's start, which nobody sees.
            let text = error.to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
            let reason = if name == "system" && value.get().starts_with('"') { "unknown_system" } else { "malformed" };
            return Refusal::new(reason, name, format!("`{name}`: {text}"));
        }
    }
    whole(None, format!("the event is malformed: {source}"))
}

type Check = fn(&str) -> Result<(), serde_json::Error>;

fn fits<T: for<'a> Deserialize<'a>>(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<T>(text).map(drop)
}

/// The last key of the outermost object before the place where parsing failed.
fn key_before(text: &str, error: &serde_json::Error) -> Option<String> {
    let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let end = (line_start + error.column()).min(text.len());
    let (mut depth, mut escaped) = (0usize, false);
    let (mut string_start, mut last_string, mut key) = (None, None, None);
    for (at, byte) in text.bytes().enumerate().take(end) {
        if let Some(start) = string_start {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    string_start = None;
                    last_string = Some(start..at);
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => string_start = Some(at + 1),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' if depth == 1 => key = last_string.take(),
            _ => {}
        }
    }
    key.and_then(|range| text.get(range)).filter(|key| key.len() <= 64).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use flywheel_events::Event;

    use super::*;

    fn refused(text: &str) -> Refusal {
        blame(text.as_bytes(), &Event::decode(text.as_bytes()).unwrap_err())
    }

    #[test]
    fn each_wrong_field_is_named() {
        let good = r#"{"v":1,"system":"tank","kind":"tank.x","game_id":"g","seq":3,"ts_ms":1,"actor":"a","model":null,"payload":{}}"#;
        assert!(Event::decode(good.as_bytes()).is_ok());
        for (from, to, field, reason) in [
            ("\"v\":1", "\"v\":\"1\"", "v", "malformed"),
            ("\"v\":1", "\"v\":7", "v", "unknown_version"),
            ("\"tank\"", "\"chess\"", "system", "unknown_system"),
            ("\"tank.x\"", "17", "kind", "malformed"),
            ("\"tank.x\"", "\"baloot.x\"", "kind", "bad_kind"),
            ("\"g\"", "\"../g\"", "game_id", "malformed"),
            ("\"seq\":3", "\"seq\":-3", "seq", "malformed"),
            ("\"seq\":3,", "", "seq", "malformed"),
            ("\"ts_ms\":1", "\"ts_ms\":1.5", "ts_ms", "malformed"),
            ("\"actor\":\"a\"", "\"actor\":[]", "actor", "malformed"),
            ("\"model\":null", "\"model\":\"x\"", "model", "malformed"),
            ("\"payload\":{}", "\"payload\":[1]", "payload", "payload_not_object"),
            ("\"payload\":{}", "\"payload\":{\"a\":{\"b\":NaN}}", "payload", "malformed"),
            ("\"seq\":3", "\"seq\":NaN", "seq", "malformed"),
        ] {
            let refusal = refused(&good.replace(from, to));
            assert_eq!((refusal.field.as_deref(), refusal.reason), (Some(field), reason), "{to}: {refusal:?}");
        }
        assert_eq!(refused("17").field, None);
        assert_eq!(refused("").field, None);
        assert_eq!(refused("{").field, None);
    }
}
