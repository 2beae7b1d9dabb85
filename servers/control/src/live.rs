//! The two kinds of sockets: the state of the loop, and the frames of one game.
//!
//! Both only send. What a page sends is read (so that a close is seen) and thrown away. A page that does not take a
//! message within the send limit is let go; in between it simply gets the newest state, not the ones it missed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use metrics::{counter, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::games::map_message;
use crate::metrics::{FRAMES_SENT, FRAMES_SKIPPED, SOCKETS};
use crate::router::Control;
use crate::{GameWatch, Problem};

/// Pages have nothing to say; a message above this closes the socket.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Messages a page may send in all; more is a flood.
const MESSAGES_MAX: usize = 256;
const SEND_LIMIT: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(15);
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// Games tick every 33 ms; faster ones are thinned to this.
const FRAME_EVERY: Duration = Duration::from_millis(30);

pub(crate) async fn status(State(control): State<Arc<Control>>, upgrade: WebSocketUpgrade) -> Response {
    let Some(place) = place(&control.status_places) else {
        return Problem::unavailable("all sockets for the state are taken").into_response();
    };
    limited(upgrade).on_upgrade(move |socket| async move {
        gauge!(SOCKETS, "kind" => "status").increment(1.0);
        let stop = control.stop.clone();
        run(socket, stop, StatusFeed { control }).await;
        gauge!(SOCKETS, "kind" => "status").decrement(1.0);
        drop(place);
    })
}

pub(crate) async fn game(
    State(control): State<Arc<Control>>,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(watch) = control.view.watch_game(&id) else {
        return Problem::not_found("no such game; it may have ended").into_response();
    };
    let Some(place) = place(&control.game_places) else {
        return Problem::unavailable("all sockets for games are taken").into_response();
    };
    limited(upgrade).on_upgrade(move |socket| async move {
        gauge!(SOCKETS, "kind" => "game").increment(1.0);
        run(socket, control.stop.clone(), GameFeed { watch, tiles: None, tick: None, over: false }).await;
        gauge!(SOCKETS, "kind" => "game").decrement(1.0);
        drop(place);
    })
}

fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().ok()
}

fn limited(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX).max_write_buffer_size(4 << 20)
}

/// What a socket sends next.
enum Next {
    Messages(Vec<Utf8Bytes>),
    End(&'static str),
}

trait Feed: Send {
    /// Waits for something new. Must be safe to drop between two calls.
    fn next(&mut self) -> impl Future<Output = Next> + Send;
    /// Shortest time between two sendings.
    const EVERY: Duration;
}

struct StatusFeed {
    control: Arc<Control>,
}

impl Feed for StatusFeed {
    const EVERY: Duration = STATUS_EVERY;

    async fn next(&mut self) -> Next {
        let status = self.control.status.get(self.control.view.as_ref());
        Next::Messages(vec![format!(r#"{{"type":"status","status":{status}}}"#).into()])
    }
}

struct GameFeed {
    watch: GameWatch,
    tiles: Option<u64>,
    tick: Option<u64>,
    over: bool,
}

impl Feed for GameFeed {
    const EVERY: Duration = FRAME_EVERY;

    async fn next(&mut self) -> Next {
        if self.over {
            return Next::End("the game is over");
        }
        if self.tick.is_some() && self.watch.frames.changed().await.is_err() {
            return Next::End("the game is gone");
        }
        let frame = Arc::clone(&self.watch.frames.borrow_and_update());
        let mut messages = Vec::with_capacity(3);
        if self.tiles != Some(frame.tiles.revision) {
            messages.push(map_message(&self.watch.info, &frame.tiles).into());
            self.tiles = Some(frame.tiles.revision);
        }
        messages.push(format!(r#"{{"type":"frame","tick":{},"state":{}}}"#, frame.tick, frame.state).into());
        if let Some(reason) = &frame.ended {
            messages.push(serde_json::json!({"type": "end", "reason": reason}).to_string().into());
            self.over = true;
        }
        let skipped = self.tick.map_or(0, |tick| frame.tick.saturating_sub(tick + 1));
        counter!(FRAMES_SENT).increment(1);
        counter!(FRAMES_SKIPPED).increment(skipped);
        self.tick = Some(frame.tick);
        Next::Messages(messages)
    }
}

async fn run(mut socket: WebSocket, stop: CancellationToken, mut feed: impl Feed) {
    let end = match pump(&mut socket, &stop, &mut feed).await {
        Some(end) => end,
        None => return,
    };
    let _ = timeout(SEND_LIMIT, socket.send(Message::Close(Some(end)))).await;
}

/// Sends until there is a reason to close; `None` means that the page is gone already.
async fn pump<F: Feed>(socket: &mut WebSocket, stop: &CancellationToken, feed: &mut F) -> Option<CloseFrame> {
    let close = |code, reason: &'static str| Some(CloseFrame { code, reason: reason.into() });
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    let mut due = Instant::now();
    let mut received = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return close(close_code::AWAY, "the loop is stopping"),
            message = socket.recv() => {
                match message {
                    None | Some(Err(_) | Ok(Message::Close(_))) => return None,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(_) | Message::Binary(_))) => received += 1,
                }
                if received > MESSAGES_MAX {
                    return close(close_code::POLICY, "too many messages");
                }
            }
            _ = ping.tick() => send(socket, Message::Ping(Default::default())).await?,
            next = async { tokio::time::sleep_until(due).await; feed.next().await } => {
                match next {
                    Next::End(reason) => return close(close_code::NORMAL, reason),
                    Next::Messages(messages) => {
                        for message in messages {
                            send(socket, Message::Text(message)).await?;
                        }
                    }
                }
                due = Instant::now() + F::EVERY;
            }
        }
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Option<()> {
    timeout(SEND_LIMIT, socket.send(message)).await.ok()?.ok()
}
