//! One game's events, numbered.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use flywheel_events::{Event, GameId, MAX_DEPTH, MAX_EVENT_BYTES, ModelRef, System, nesting};
use serde::Serialize;

use crate::{ClientError, ClientErrorKind, queue::Queue};

/// One game, with its `seq` counted from 0, or from where a restarted server goes on. May be used from several
/// threads; its events then have the order of their `emit` calls.
#[derive(Debug)]
pub struct Game {
    queue: Arc<Queue>,
    system: System,
    game_id: GameId,
    next: Mutex<u64>,
}

impl Game {
    pub(crate) fn new(queue: Arc<Queue>, system: System, game_id: GameId, next_seq: u64) -> Self {
        queue.opened(&game_id);
        Self { queue, system, game_id, next: Mutex::new(next_seq) }
    }

    pub fn id(&self) -> &GameId {
        &self.game_id
    }

    /// The `seq` of the next event.
    pub fn next_seq(&self) -> u64 {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last `seq` that the log has acknowledged.
    pub fn acknowledged(&self) -> Option<u64> {
        self.queue.last_seq(&self.game_id)
    }

    /// An event of this kind, to be filled and emitted.
    pub fn event(&self, kind: impl Into<String>) -> Draft<'_> {
        // The moment of the event is now, whenever it is sent.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = Event::new(self.system, kind, self.game_id.clone(), 0, since.as_millis() as i64);
        Draft { game: self, event, wrong: None }
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        self.queue.left(&self.game_id);
    }
}

/// An event that has no `seq` yet.
#[must_use = "an event is sent by `emit`"]
#[derive(Debug)]
pub struct Draft<'a> {
    game: &'a Game,
    event: Event,
    wrong: Option<String>,
}

impl Draft<'_> {
    /// Whose doing it was.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.event = self.event.actor(actor);
        self
    }

    /// The model that decided it.
    pub fn model(mut self, model: impl Into<Option<ModelRef>>) -> Self {
        self.event = self.event.model(model.into());
        self
    }

    /// When it happened, in milliseconds since 1970; without it, when it was drafted.
    pub fn at_ms(mut self, ts_ms: i64) -> Self {
        self.event.ts_ms = ts_ms;
        self
    }

    /// What happened. It must serialise to a JSON object; numbers that JSON has no words for become `null`.
    pub fn payload(mut self, payload: &impl Serialize) -> Self {
        match serde_json::value::to_raw_value(payload) {
            Ok(text) if text.get().starts_with('{') => self.event.payload = text,
            Ok(text) => self.wrong = Some(format!("its payload is `{:.20}`; expected an object", text.get())),
            Err(error) => self.wrong = Some(format!("its payload has no JSON: {error}")),
        }
        self
    }

    /// Gives the event the next `seq`, queues it, and returns the `seq`. Never waits for the server; while that is
    /// away it may write to the spool file.
    ///
    /// # Errors
    /// `BadEvent` if the server would refuse it, `Closed` if the emitter is; no `seq` is taken then.
    pub fn emit(self) -> Result<u64, ClientError> {
        let Self { game, mut event, wrong } = self;
        let failed = |kind, why: String| ClientError::new(kind, "emitting", &event.kind, why);
        if let Some(why) = wrong {
            return Err(failed(ClientErrorKind::BadEvent, why));
        }
        let area = event.kind.split_once('.').map_or("", |(area, _)| area);
        if event.kind.len() > 128 || (area != game.system.as_str() && area != "model") {
            let why = format!("expected a kind of at most 128 bytes that begins with `{}.` or `model.`", game.system);
            return Err(failed(ClientErrorKind::BadEvent, why));
        }
        let mut next = game.next.lock().unwrap_or_else(PoisonError::into_inner);
        event.seq = *next;
        let line = event.encode();
        if line.len() > MAX_EVENT_BYTES || nesting(&line) > MAX_DEPTH {
            let n = line.len();
            let why = format!("it has {n} bytes; at most {MAX_EVENT_BYTES}, nested {MAX_DEPTH} deep, are allowed");
            return Err(ClientError::new(ClientErrorKind::BadEvent, "emitting", &event.kind, why));
        }
        if !game.queue.push(line) {
            let why = "the emitter is closed; keep it open as long as its games";
            return Err(ClientError::new(ClientErrorKind::Closed, "emitting", &event.kind, why));
        }
        *next += 1;
        Ok(event.seq)
    }
}
