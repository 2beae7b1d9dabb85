//! The WebSocket door, for producers that live long.
//!
//! A text frame is one envelope or an array of them. Frames that are there already are appended together; then one
//! answer, in order: `{"frames":n,"accepted":…,"repeated":…,"durability":…,"games":{…}}`, where `frames` is how many
//! frames of this socket are acknowledged so far. A frame that cannot be taken is answered by `{"problem":{…}}`
//! (RFC 9457) and the close; frames behind it are not looked at, so that no later event overtakes it. After any close
//! the producer connects again and sends everything behind its last answer.
//! Every refusal is counted by its reason in `flywheel_ingest_refused_total`, and the close repeats that reason.
//!
//! | close code | means |
//! | --- | --- |
//! | 1002 | no WebSocket frame, or the socket broke |
//! | 1003 | a binary frame |
//! | 1007 | a malformed event, whose index and field the problem names, or text that is not UTF-8 |
//! | 1008 | no sign of life: neither frame nor pong for two ping intervals; a game of another source, a key that ended |
//! | 1009 | a frame, or its number of events, is over the limit |
//! | 1012 | the server stops |
//! | 1013 | the log is away, its disk nearly full, or too much is under way; come back after a pause |

use std::{borrow::Cow, sync::Arc, time::Duration};

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

/// A producer that goes on sending has so long to read why it was refused.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
            let close = CloseFrame { code, reason: Utf8Bytes::from(why.as_ref()) };
            // Whoever does not read is not waited for.
            let _gone = timeout(producer.door.config.ping(), producer.socket.send(Message::Close(Some(close)))).await;
            // What lies unread when a socket is dropped takes with it what the producer has not read yet.
            let _silent = timeout(LAST_WORDS, async { while let Some(Ok(_)) = producer.socket.recv().await {} }).await;
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

type End = (u16, Cow<'static, str>);

fn end(code: u16, why: &'static str) -> End {
    (code, why.into())
}

/// Why nothing is read any more.
enum Stopped {
    Ended(End),
    /// A frame that cannot be taken.
    Refused(Problem),
}

/// What a failure to read a frame says of it.
fn unread(error: &axum::Error) -> Stopped {
    let text = error.to_string();
    if text.contains("Message too long") {
        let detail = format!("the frame is too long: {text}; nothing of it was appended");
        return Stopped::Refused(Problem::too_large("frame_too_long", detail).hint("send fewer events in one frame"));
    }
    if text.starts_with("UTF-8 encoding error") {
        return Stopped::Refused(Problem::bad_request(
            "not_utf8",
            "the frame is not UTF-8; nothing of it was appended",
        ));
    }
    // A socket that breaks off is nobody's fault.
    if text.starts_with("WebSocket protocol error") && !text.contains("clos") {
        return Stopped::Refused(Problem::bad_request("malformed_frame", text));
    }
    Stopped::Ended(end(1002, "the socket broke"))
}

/// The close that follows a problem.
fn close_of(problem: &Problem) -> End {
    let (code, why) = match problem.status {
        _ if problem.reason == "malformed_frame" => (1002, "that is no frame"),
        503 | 429 => (1013, "come back later"),
        413 => (1009, "too much in one frame"),
        415 => (1003, "events are text frames"),
        401 | 403 => (1008, "the key does not allow it"),
        _ if problem.index.is_none() => (1007, "the frame is malformed"),
        _ => (1007, "an event is malformed"),
    };
    // A close has room for 123 bytes.
    (code, format!("{}: {why}", problem.reason).into())
}

impl Producer {
    async fn follow(&mut self) -> End {
        let stop = self.door.stop.clone();
        let ping = self.door.config.ping();
        let mut silent_until = Instant::now() + ping;
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => return end(1012, "the server stops"),
                message = self.socket.recv() => message,
                () = tokio::time::sleep_until(silent_until) => {
                    if self.pinged || self.say(Message::Ping(Bytes::new())).await.is_err() {
                        return end(1008, "no sign of life");
                    }
                    self.pinged = true;
                    silent_until = Instant::now() + ping;
                    continue;
                }
            };
            silent_until = Instant::now() + ping;
            self.pinged = false;
            let (frames, stopped) = self.gather(message);
            if let Err(end) = self.take(frames).await {
                return end;
            }
            match stopped {
                None => {}
                Some(Stopped::Ended(end)) => return end,
                Some(Stopped::Refused(problem)) => return self.refuse(&problem).await,
            }
        }
    }

    /// Counts it and says it; the close that follows.
    async fn refuse(&mut self, problem: &Problem) -> End {
        counter!(REFUSED, "reason" => problem.reason).increment(1);
        let said = self.say(Message::Text(json!({ "problem": problem }).to_string().into())).await;
        said.err().unwrap_or_else(|| close_of(problem))
    }

    /// The frame, and those behind it that have arrived already; and why to stop after them.
    fn gather(&mut self, first: Option<Result<Message, axum::Error>>) -> (Vec<(Bytes, Ticket)>, Option<Stopped>) {
        let (mut frames, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        while let Some(message) = next.take() {
            let stopped = match message {
                Some(Ok(Message::Text(text))) => {
                    let frame = Bytes::from(text);
                    let mut ticket = self.door.budget.ticket();
                    match ticket.grow(frame.len()) {
                        Err(problem) => Some(Stopped::Refused(problem)),
                        Ok(()) => {
                            bytes += frame.len();
                            frames.push((frame, ticket));
                            None
                        }
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
                Some(Ok(Message::Binary(_))) => {
                    let detail = "a binary frame; events are text frames, and nothing of it was appended";
                    Some(Stopped::Refused(Problem::unsupported("binary_frame", detail)))
                }
                Some(Ok(Message::Close(_))) | None => Some(Stopped::Ended(end(1000, ""))),
                Some(Err(error)) => Some(unread(&error)),
            };
            if stopped.is_some() {
                return (frames, stopped);
            }
            if frames.len() < FRAMES_TOGETHER && bytes < BYTES_TOGETHER {
                next = self.socket.recv().now_or_never();
            }
        }
        (frames, None)
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
        match bad {
            None => Ok(()),
            Some(problem) => Err(self.refuse(&problem).await),
        }
    }

    /// A producer that does not read its answers does not hold us.
    async fn say(&mut self, message: Message) -> Result<(), End> {
        match timeout(self.door.config.ping(), self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(end(1002, "the socket broke")),
            Err(_) => Err(end(1008, "answers are not read")),
        }
    }
}
