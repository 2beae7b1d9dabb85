//! From the bytes of a request to checked events, or the first one that is not an event.

use std::fmt;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flywheel_events::{DecodeError, Event, GameId, MAX_DEPTH, System, kinds, nesting, tank};
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::{IngestConfig, Problem, Refusal, Source, blame::blame, clock, cloudevents, spool::now_ms};

/// An event that was checked, as it will be appended.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub system: System,
    pub game: GameId,
    pub seq: u64,
    /// The producer's clock.
    pub ts_ms: i64,
    /// The envelope as JSON.
    pub bytes: Bytes,
}

/// How events lie in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One envelope or an array of them.
    Json,
    /// One envelope a line.
    Lines,
    /// One CloudEvent as JSON.
    CloudEvent,
    /// An array of CloudEvents.
    CloudEvents,
    /// One CloudEvent: its attributes in the headers, its data in the body.
    CloudEventBinary,
}

impl Format {
    /// # Errors
    /// 415 with the types that are known.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/cloudevents+json" => Ok(Self::CloudEvent),
            "application/cloudevents-batch+json" => Ok(Self::CloudEvents),
            _ if headers.contains_key("ce-specversion") => Ok(Self::CloudEventBinary),
            "" | "application/json" | "text/json" => Ok(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Self::Lines),
            _ => Err(Problem::unsupported("content_type", format!("content-type `{kind}` is not known here")).hint(
                "application/json, application/x-ndjson, application/cloudevents+json, \
                 application/cloudevents-batch+json, or binary mode with ce- headers",
            )),
        }
    }
}

/// Reads and checks every event of a body; the first bad one ends it.
///
/// # Errors
/// A [`Problem`] with the index and field of the first bad event, or what is wrong with the whole.
pub fn parse(
    format: Format,
    headers: &HeaderMap,
    body: &Bytes,
    source: &Source,
    config: &IngestConfig,
) -> Result<Vec<Incoming>, Problem> {
    let (mut events, now_ms) = (Vec::new(), now_ms());
    let mut take = |bytes: Result<Bytes, Refusal>| {
        let index = events.len();
        if index >= config.events_max {
            return Err(too_many(config));
        }
        let checked = bytes.and_then(|bytes| check(bytes, source, config, now_ms));
        events.push(checked.map_err(|refusal| Problem::bad_event(index, refusal))?);
        Ok(())
    };
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    match format {
        Format::Json if first == Some(&b'[') => elements(body, &mut |raw| take(Ok(body.slice_ref(raw))))?,
        Format::Json => take(Ok(body.slice_ref(body.trim_ascii())))?,
        Format::Lines => {
            for line in body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
                take(Ok(body.slice_ref(line)))?;
            }
        }
        Format::CloudEvent => take(cloudevents::structured(body))?,
        Format::CloudEvents => elements(body, &mut |raw| take(cloudevents::structured(raw)))?,
        Format::CloudEventBinary => take(cloudevents::binary(headers, body))?,
    }
    if events.is_empty() {
        return Err(Problem::bad_request("empty", "there is no event in the request"));
    }
    Ok(events)
}

fn too_many(config: &IngestConfig) -> Problem {
    let detail = format!("there are more than {} events; nothing was appended", config.events_max);
    Problem::too_large("too_many_events", detail).hint("send fewer events in one request")
}

fn check(bytes: Bytes, source: &Source, config: &IngestConfig, now_ms: i64) -> Result<Incoming, Refusal> {
    let event = Event::decode(&bytes).map_err(|error| blame(&bytes, &error))?;
    if !config.systems.contains(&event.system) {
        let known: Vec<_> = config.systems.iter().map(|system| system.as_str()).collect();
        let detail = format!("`{}` is not a system that is served here ({})", event.system, known.join(", "));
        return Err(Refusal::new("system_not_served", "system", detail));
    }
    // Tables have no unsigned numbers.
    if i64::try_from(event.seq).is_err() {
        return Err(Refusal::new("bad_seq", "seq", format!("`seq` {} does not fit 63 bits", event.seq)));
    }
    clock::check(event.ts_ms, now_ms, config.max_ahead_ms)?;
    source.check(&event.game_id)?;
    if config.check_payloads {
        payload_fits(&event).map_err(|error| blame(&bytes, &error))?;
    }
    Ok(Incoming { system: event.system, game: event.game_id, seq: event.seq, ts_ms: event.ts_ms, bytes })
}

/// Payloads of kinds that our own flows read must have the fields that they read.
fn payload_fits(event: &Event) -> Result<(), DecodeError> {
    match event.kind.as_str() {
        kinds::TANK_SESSION_OPENED => event.payload_as::<tank::SessionOpened>().map(drop),
        kinds::TANK_PLAYER_JOINED => event.payload_as::<tank::PlayerJoined>().map(drop),
        kinds::TANK_INPUT => event.payload_as::<tank::Input>().map(drop),
        kinds::TANK_TRANSITION => event.payload_as::<tank::Transition>().map(drop),
        kinds::TANK_CHECKPOINT => event.payload_as::<tank::Checkpoint>().map(drop),
        kinds::TANK_EPISODE_ENDED => event.payload_as::<tank::EpisodeEnded>().map(drop),
        kinds::TANK_SESSION_CLOSED => event.payload_as::<tank::SessionClosed>().map(drop),
        kinds::TANK_MODEL_ALLOCATED
        | kinds::TANK_MODEL_RELEASED
        | kinds::TANK_MODEL_SAVED
        | kinds::TANK_MODEL_SWAPPED => event.payload_as::<tank::ModelChange>().map(drop),
        kinds::MODEL_SWAP_REFUSED => event.payload_as::<tank::SwapRefused>().map(drop),
        _ => Ok(()),
    }
}

/// Gives each element of a JSON array to `each`, without building a tree and without recursion.
fn elements(body: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<(), Problem>) -> Result<(), Problem> {
    struct Walk<'f> {
        n: &'f mut usize,
        each: &'f mut dyn FnMut(&[u8]) -> Result<(), Problem>,
        refused: &'f mut Option<Problem>,
    }
    impl<'de> Visitor<'de> for Walk<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of events")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            while let Some(raw) = seq.next_element::<&'de RawValue>()? {
                if let Err(problem) = (self.each)(raw.get().as_bytes()) {
                    *self.refused = Some(problem);
                    return Err(serde::de::Error::custom("refused"));
                }
                *self.n += 1;
            }
            Ok(())
        }
    }
    let (mut n, mut refused) = (0, None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let walked = json.deserialize_seq(Walk { n: &mut n, each, refused: &mut refused }).and_then(|()| json.end());
    match (walked, refused) {
        (_, Some(problem)) => Err(problem),
        (Ok(()), None) => Ok(()),
        (Err(_), None) if nesting(body) > MAX_DEPTH + 1 => Err(Problem::bad_event(
            n,
            Refusal::new("too_deep", None, format!("the events nest deeper than {MAX_DEPTH} levels")),
        )),
        (Err(error), None) => {
            let reason = if std::str::from_utf8(body).is_err() { "not_utf8" } else { "malformed" };
            Err(Problem::bad_event(n, Refusal::new(reason, None, format!("the array is not JSON here: {error}"))))
        }
    }
}
