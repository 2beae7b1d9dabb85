//! The WebSocket door, for producers that live long.
//!
//! A text frame is one envelope or an array of them. Frames that are there already are appended together; then one
//! answer, in order: `{"frames":n,"accepted":…,"repeated":…,"durability":…,"games":{…}}`, where `frames` is how many
//! frames of this socket are acknowledged so far. A frame that cannot be taken is answered by `{"problem":{…}}`
//! (RFC 9457) and the close; frames behind it are not looked at, so that no later event overtakes it. After any close
//! the producer connects again and sends everything behind its last answer.
//!
//! | close code | means |
//! | --- | --- |
//! | 1003 | a binary frame |
//! | 1007 | a malformed event; the problem names its index and field |
//! | 1008 | no sign of life: neither frame nor pong for two ping intervals; a game of another source, a key that ended |
//! | 1009 | a frame, or its number of events, is over the limit |
//! | 1012 | the server stops |
//! | 1013 | the log is away, its disk nearly full, or too much is under way; come back after a pause |

use std::sync::Arc;

use axum::{
    extract::{
        State,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::FutureExt;
use metrics::{counter, gauge};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{
    Door, Format, Problem,
    body::Ticket,
    http::checked,
    keys::Credential,
    metrics::{REFUSED, SOCKETS},
};

/// Frames that may share one append.
const FRAMES_TOGETHER: usize = 256;
/// Bytes of them.
const BYTES_TOGETHER: usize = 4 << 20;

/// Longest answer. It names each game, and each gap, of the frames that it is about, which takes less than their events
/// did; a bound below that would break the socket over and over, since the same events are sent again each time.
const fn answer_bytes_max(frame_bytes: usize) -> usize {
    frame_bytes.saturating_add(BYTES_TOGETHER + (256 << 10))
}

pub(crate) async fn open(State(door): State<Arc<Door>>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let origin = headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or("null"));
    let ours = |origin: &str| origin.split_once("://").is_some_and(|(_, name)| Some(name) == host);
    if origin.is_some_and(|origin| !ours(origin)) {
        let problem = Problem::bad_request("foreign_origin", "the socket is opened by a page of another origin");
        counter!(REFUSED, "reason" => problem.reason).increment(1);
        return problem.into_response();
    }
    let credential = match door.authenticate(&headers).await {
        Ok(credential) => credential,
        Err(problem) => {
            counter!(REFUSED, "reason" => problem.reason).increment(1);
            return problem.into_response();
        }
    };
    // What it may write is asked for each frame; whether anything, now.
    if let Err(problem) = door.source(&credential) {
        counter!(REFUSED, "reason" => problem.reason).increment(1);
        return problem.into_response();
    }
    let Ok(place) = Arc::clone(&door.sockets).try_acquire_owned() else {
        let problem = Problem::unavailable(door.config.retry_after_s, "sockets_taken", "all sockets are taken");
        counter!(REFUSED, "reason" => problem.reason).increment(1);
        return problem.into_response();
    };
    let limit = door.config.frame_bytes;
    upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .max_write_buffer_size(answer_bytes_max(limit))
        .write_buffer_size(0)
        .on_upgrade(move |socket| async move {
            gauge!(SOCKETS).increment(1.0);
            let mut producer = Producer { door, credential, socket, frames: 0, pinged: false };
            let (code, why) = producer.follow().await;
            let close = CloseFrame { code, reason: Utf8Bytes::from(why) };
            // Whoever does not read is not waited for.
            let _gone = timeout(producer.door.config.ping(), producer.socket.send(Message::Close(Some(close)))).await;
            gauge!(SOCKETS).decrement(1.0);
            drop(place);
        })
}

struct Producer {
    door: Arc<Door>,
    credential: Credential,
    socket: WebSocket,
    frames: u64,
    pinged: bool,
}

type End = (u16, &'static str);

impl Producer {
    async fn follow(&mut self) -> End {
        let stop = self.door.stop.clone();
        let ping = self.door.config.ping();
        let mut silent_until = Instant::now() + ping;
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => return (1012, "the server stops"),
                message = self.socket.recv() => message,
                () = tokio::time::sleep_until(silent_until) => {
                    if self.pinged || self.say(Message::Ping(Bytes::new())).await.is_err() {
                        return (1008, "no sign of life");
                    }
                    self.pinged = true;
                    silent_until = Instant::now() + ping;
                    continue;
                }
            };
            silent_until = Instant::now() + ping;
            self.pinged = false;
            let taken = match self.gather(message) {
                Ok((frames, end)) => self.take(frames).await.and(end.map_or(Ok(()), Err)),
                Err(end) => Err(end),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    /// The frame, and those behind it that have arrived already; and why to stop after them.
    #[allow(clippy::type_complexity)]
    fn gather(
        &mut self,
        first: Option<Result<Message, axum::Error>>,
    ) -> Result<(Vec<(Bytes, Ticket)>, Option<End>), End> {
        let (mut frames, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        while let Some(message) = next.take() {
            let end = match message {
                Some(Ok(Message::Text(text))) => {
                    let frame = Bytes::from(text);
                    let mut ticket = self.door.budget.ticket();
                    if ticket.grow(frame.len()).is_err() {
                        Some((1013, "too much is under way"))
                    } else {
                        bytes += frame.len();
                        frames.push((frame, ticket));
                        None
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
                Some(Ok(Message::Binary(_))) => Some((1003, "events are text frames")),
                Some(Ok(Message::Close(_))) | None => Some((1000, "")),
                Some(Err(error)) if error.to_string().contains("too long") => Some((1009, "the frame is too long")),
                Some(Err(_)) => Some((1002, "the socket broke")),
            };
            if let Some(end) = end {
                return if frames.is_empty() { Err(end) } else { Ok((frames, Some(end))) };
            }
            if frames.len() < FRAMES_TOGETHER && bytes < BYTES_TOGETHER {
                next = self.socket.recv().now_or_never();
            }
        }
        Ok((frames, None))
    }

    /// Appends the frames up to the first bad one, answers, then says what is wrong with that one.
    async fn take(&mut self, frames: Vec<(Bytes, Ticket)>) -> Result<(), End> {
        if frames.is_empty() {
            return Ok(());
        }
        let (mut events, mut good, mut bad) = (Vec::new(), 0, None);
        for (frame, _ticket) in &frames {
            let read = match self.door.source(&self.credential) {
                Ok(source) => checked(&self.door, Format::Json, HeaderMap::new(), frame.clone(), source).await,
                Err(problem) => Err(problem),
            };
            match read {
                Ok(more) => {
                    events.extend(more);
                    good += 1;
                }
                Err(problem) => {
                    bad = Some(problem);
                    break;
                }
            }
        }
        if good > 0 {
            match self.door.accept(events, "ws").await {
                Ok(ack) => {
                    self.frames += good;
                    let mut answer = serde_json::to_value(&ack).expect("an answer serialises");
                    answer["frames"] = self.frames.into();
                    self.say(Message::Text(answer.to_string().into())).await?;
                }
                Err(problem) => bad = Some(problem),
            }
        }
        let Some(problem) = bad else { return Ok(()) };
        counter!(REFUSED, "reason" => problem.reason).increment(1);
        let end = match problem.status {
            503 | 429 => (1013, "come back later"),
            413 => (1009, "too much in one frame"),
            401 | 403 => (1008, "the key does not allow it"),
            _ => (1007, "an event is malformed"),
        };
        self.say(Message::Text(json!({ "problem": problem }).to_string().into())).await?;
        Err(end)
    }

    /// A producer that does not read its answers does not hold us.
    async fn say(&mut self, message: Message) -> Result<(), End> {
        match timeout(self.door.config.ping(), self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err((1002, "the socket broke")),
            Err(_) => Err((1008, "answers are not read")),
        }
    }
}
