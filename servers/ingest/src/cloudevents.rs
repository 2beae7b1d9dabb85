//! CloudEvents 1.0 as another spelling of the envelope.
//!
//! | CloudEvent | envelope |
//! | --- | --- |
//! | `type` `flywheel.<kind>.v1` | `kind`, `v`; the first word of the kind is `system` |
//! | `subject` | `game_id` |
//! | extension `sessionseq` (number or text) | `seq` |
//! | `time` (RFC 3339) | `ts_ms` |
//! | extensions `actor`, `model`, `system` | the same; `system` is needed for kinds that begin with `model.` |
//! | `data` (a JSON object) | `payload` |
//!
//! `id` and `source` must be there, as the standard says; identity is `(subject, sessionseq)`.

use std::{borrow::Cow, collections::BTreeMap};

use axum::http::HeaderMap;
use bytes::Bytes;
use flywheel_events::{ENVELOPE_VERSION, Event, GameId, MAX_DEPTH, MAX_EVENT_BYTES, ModelRef, System, nesting};
use serde_json::value::RawValue;

use crate::Refusal;

/// Structured mode: attributes and data in one object.
pub(crate) fn structured(body: &[u8]) -> Result<Bytes, Refusal> {
    if body.len() > MAX_EVENT_BYTES {
        return Err(Refusal::new("too_large", None, format!("the event is longer than {MAX_EVENT_BYTES} bytes")));
    }
    if nesting(body) > MAX_DEPTH {
        return Err(Refusal::new("too_deep", None, format!("the event nests deeper than {MAX_DEPTH} levels")));
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| Refusal::new("not_utf8", None, format!("the event is not UTF-8: {error}")))?;
    let fields: BTreeMap<Cow<str>, &RawValue> = serde_json::from_str(text)
        .map_err(|error| Refusal::new("malformed", None, format!("the CloudEvent is not a JSON object: {error}")))?;
    if fields.contains_key("data_base64") {
        return Err(Refusal::new("unsupported_data", "data_base64", "`data_base64` is not read here; send `data`"));
    }
    let attribute = |name: &'static str| match fields.get(name).map(|raw| raw.get()) {
        None | Some("null") => Ok(None),
        Some(raw) if raw.starts_with('"') => serde_json::from_str::<String>(raw)
            .map(Some)
            .map_err(|error| Refusal::new("malformed", name, format!("`{name}`: {error}"))),
        Some(raw) if raw.starts_with(['{', '[']) => {
            Err(Refusal::new("malformed", name, format!("`{name}` is neither text nor a number")))
        }
        Some(raw) => Ok(Some(raw.to_owned())),
    };
    envelope(&attribute, fields.get("data").map(|raw| raw.get()))
}

/// Binary mode: attributes in `ce-` headers, data in the body.
pub(crate) fn binary(headers: &HeaderMap, body: &[u8]) -> Result<Bytes, Refusal> {
    let attribute = |name: &'static str| {
        let Some(value) = headers.get(format!("ce-{name}")) else { return Ok(None) };
        let text = value.to_str().ok().and_then(unescape);
        text.map(Some)
            .ok_or_else(|| Refusal::new("malformed", name, format!("header `ce-{name}` is not percent-encoded text")))
    };
    let text = std::str::from_utf8(body)
        .map_err(|error| Refusal::new("not_utf8", "data", format!("the data is not UTF-8: {error}")))?;
    envelope(&attribute, Some(text).filter(|text| !text.trim().is_empty()))
}

type Attribute<'a> = dyn Fn(&'static str) -> Result<Option<String>, Refusal> + 'a;

fn envelope(attribute: &Attribute<'_>, data: Option<&str>) -> Result<Bytes, Refusal> {
    let bad = |name: &'static str, why: String| Refusal::new("malformed", name, format!("`{name}`: {why}"));
    let need = |name| attribute(name)?.ok_or_else(|| bad(name, "it is missing".to_owned()));
    let version = need("specversion")?;
    if version != "1.0" {
        return Err(Refusal::new("unknown_version", "specversion", format!("specversion `{version}` is not 1.0")));
    }
    need("id")?;
    need("source")?;
    let kind = need("type")?;
    let parts = kind.strip_prefix("flywheel.").and_then(|rest| rest.rsplit_once(".v"));
    let Some((kind, major)) = parts else {
        return Err(bad("type", format!("`{kind}` is not of the form `flywheel.<kind>.v{ENVELOPE_VERSION}`")));
    };
    if major.parse() != Ok(ENVELOPE_VERSION) {
        return Err(Refusal::new("unknown_version", "type", format!("version `{major}` of the envelope is unknown")));
    }
    let named = attribute("system")?;
    let system = named.as_deref().unwrap_or_else(|| kind.split('.').next().unwrap_or_default());
    let system: System = system.parse().map_err(|error| {
        let field = if named.is_some() { "system" } else { "type" };
        Refusal::new("unknown_system", field, format!("{error}"))
    })?;
    let game = need("subject")?;
    let game = GameId::new(game).map_err(|error| bad("subject", error.to_string()))?;
    let seq = need("sessionseq")?;
    let seq = seq.parse().map_err(|_| bad("sessionseq", format!("`{seq}` is not a number from 0")))?;
    let time = need("time")?;
    let time: jiff::Timestamp = time.parse().map_err(|error| bad("time", format!("{error}")))?;
    let model = attribute("model")?
        .map(|model| model.parse::<ModelRef>().map_err(|error| bad("model", error.to_string())))
        .transpose()?;
    let data = data.ok_or_else(|| bad("data", "it is missing".to_owned()))?;
    if nesting(data.as_bytes()) > MAX_DEPTH {
        return Err(Refusal::new("too_deep", "data", format!("the data nests deeper than {MAX_DEPTH} levels")));
    }
    let payload: Box<RawValue> = serde_json::from_str(data).map_err(|error| bad("data", error.to_string()))?;
    let event = Event { actor: attribute("actor")?, ..Event::new(system, kind, game, seq, time.as_millisecond()) };
    Ok(Event { payload, ..event.model(model) }.encode().into())
}

/// `%41` is `A`; anything that is not UTF-8 then is nothing.
fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        out.push((digit(bytes.next())? * 16 + digit(bytes.next())?) as u8);
    }
    String::from_utf8(out).ok()
}
