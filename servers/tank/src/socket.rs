//! One WebSocket: frames in, messages out, and when it is closed.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use flywheel_tank::Role;
use futures::{SinkExt as _, StreamExt as _, stream::SplitSink};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    messages,
    metrics::{FRAMES_DROPPED, SOCKETS},
    protocol::{self, CLOSE_GOING_AWAY, CLOSE_POLICY, ClientFrame, Dropped},
    session::{Outgoing, Session, SocketSeat},
};

/// Frames that are not JSON in one minute before the socket is closed.
const MAX_GARBAGE: usize = 100;
const GARBAGE_WINDOW: Duration = Duration::from_secs(60);
/// How long a closing handshake may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Messages written to the socket in one go.
const WRITE_BATCH: usize = 32;

/// Counts garbage frames of the last minute.
#[derive(Debug, Default)]
struct GarbageMeter(VecDeque<Instant>);

impl GarbageMeter {
    /// Whether this frame is one too many.
    fn count(&mut self, now: Instant) -> bool {
        while self.0.front().is_some_and(|&seen| now.duration_since(seen) >= GARBAGE_WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        self.0.len() >= MAX_GARBAGE
    }
}

/// Serves one upgraded socket until either side closes it. The caller has reserved its place.
pub(crate) async fn serve(
    session: Arc<Session>,
    socket: WebSocket,
    id: u64,
    queue_len: usize,
    stop: CancellationToken,
) {
    metrics::gauge!(SOCKETS).increment(1);
    let (sink, mut stream) = socket.split();
    let (queue, outgoing) = mpsc::channel(queue_len);
    let (close, close_order) = oneshot::channel();
    let written = CancellationToken::new();
    let writer = tokio::spawn(write(sink, outgoing, close_order, written.clone(), stop.clone()));
    let mut conversation =
        Conversation { session: &session, id, queue, close: Some(close), garbage: GarbageMeter::default() };
    // After the closing frame the peer may still speak: the AI backend's last words come now.
    let deadline = async {
        tokio::select! {
            () = written.cancelled() => {}
            () = session.gone.cancelled() => {}
        }
        tokio::time::sleep(CLOSE_PATIENCE).await;
    };
    tokio::pin!(deadline);
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut deadline => break,
            frame = stream.next() => frame,
        };
        match frame {
            Some(Ok(Message::Text(text))) => conversation.take(text.as_str()),
            // Everything on this socket is JSON text; bytes are not.
            Some(Ok(Message::Binary(_))) => conversation.drop_frame(Dropped::NotJson),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => break,
            Some(Err(error)) => {
                debug!(game_id = %session.id, %error, "socket lost");
                break;
            }
        }
    }
    session.leave(id);
    // With its last sender gone the writer ends by itself, unless the peer has stopped reading.
    drop(conversation);
    let abort = writer.abort_handle();
    if tokio::time::timeout(CLOSE_PATIENCE, writer).await.is_err() {
        abort.abort();
    }
    metrics::gauge!(SOCKETS).decrement(1);
}

struct Conversation<'a> {
    session: &'a Session,
    id: u64,
    queue: mpsc::Sender<Outgoing>,
    /// Ours until the first join hands it to the session.
    close: Option<oneshot::Sender<(u16, &'static str)>>,
    garbage: GarbageMeter,
}

impl Conversation<'_> {
    fn take(&mut self, text: &str) {
        let own = self.session.id.as_str();
        let elsewhere = |id: &Option<std::borrow::Cow<str>>| id.as_ref().is_some_and(|id| id != own);
        let outcome = match protocol::parse(text) {
            Err(why) => Err(why),
            Ok(ClientFrame::Join { session_id, .. } | ClientFrame::Input { session_id, .. })
                if elsewhere(&session_id) =>
            {
                let _ = self.queue.try_send(Outgoing::Text(messages::error("wrong_session")));
                Err(Dropped::WrongSession)
            }
            Ok(ClientFrame::Join { role, player_id, opponent, .. }) => {
                self.join(role, player_id.as_deref(), opponent.as_deref());
                Ok(())
            }
            Ok(ClientFrame::Input { role, tank_id, action, debug, .. }) => {
                self.session.input(self.id, role, tank_id.as_deref(), action, debug)
            }
            Ok(ClientFrame::EpisodeLog { text, tick }) => {
                self.session.episode_log(self.id, &text, tick);
                Ok(())
            }
            Ok(ClientFrame::DebugAi(on)) => {
                self.session.toggle_debug(self.id, Some(on), None);
                Ok(())
            }
            Ok(ClientFrame::DebugGbe(on)) => {
                self.session.toggle_debug(self.id, None, Some(on));
                Ok(())
            }
        };
        if let Err(why) = outcome {
            self.drop_frame(why);
        }
    }

    fn join(&mut self, role: Role, player: Option<&str>, opponent: Option<&str>) {
        let seat = SocketSeat {
            id: self.id,
            role,
            player: None,
            queue: self.queue.clone(),
            close: self.close.take(),
            debug_ai: false,
            debug_gbe: false,
        };
        self.session.join(seat, player, opponent.map(clean_name).as_deref());
    }

    fn drop_frame(&mut self, why: Dropped) {
        metrics::counter!(FRAMES_DROPPED, "reason" => why.as_str()).increment(1);
        self.session.count_dropped(why);
        if why == Dropped::NotJson && self.garbage.count(Instant::now()) {
            let _ = self.queue.try_send(Outgoing::Close(CLOSE_POLICY, "too many frames that are not JSON"));
        }
    }
}

/// A name to show: printable ASCII without markup, at most 32 characters.
pub(crate) fn clean_name(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_ .".contains(*c)).take(32).collect()
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    close_order: oneshot::Receiver<(u16, &'static str)>,
    written: CancellationToken,
    stop: CancellationToken,
) {
    let _told = written.drop_guard();
    let at_once = async {
        tokio::select! {
            () = stop.cancelled() => (CLOSE_GOING_AWAY, "the server stops"),
            Ok(order) = close_order => order,
            // The other sender can only be dropped with the session's seat, whose queue says what is to be done.
            else => std::future::pending().await,
        }
    };
    tokio::pin!(at_once);
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    loop {
        let n = tokio::select! {
            biased;
            (code, reason) = &mut at_once => return say_close(&mut sink, code, reason).await,
            n = outgoing.recv_many(&mut batch, WRITE_BATCH) => n,
        };
        if n == 0 {
            return;
        }
        let mut close = None;
        let writing = async {
            for message in batch.drain(..) {
                match message {
                    Outgoing::Text(text) => sink.feed(Message::Text(text)).await?,
                    Outgoing::Close(code, reason) => {
                        close = Some((code, reason));
                        break;
                    }
                }
            }
            sink.flush().await
        };
        let done = tokio::select! {
            biased;
            (code, reason) = &mut at_once => return say_close(&mut sink, code, reason).await,
            done = writing => done,
        };
        if done.is_err() {
            return;
        }
        if let Some((code, reason)) = close {
            return say_close(&mut sink, code, reason).await;
        }
    }
}

async fn say_close(sink: &mut SplitSink<WebSocket, Message>, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    let _ = tokio::time::timeout(Duration::from_secs(1), sink.send(Message::Close(Some(frame)))).await;
}
