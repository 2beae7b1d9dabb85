//! One session's task: its socket, and what happens when that is lost (tank spec, 10.1).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use flywheel_kit::GameEvents;
use flywheel_tank_server::{ModelPayload, protocol::CLOSE_REPLACED};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::{net::TcpStream, sync::watch, time::Instant};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Error as WsError, Message,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    agent::Shared,
    gbe::{self, Listed},
    metrics as names,
    model::Model,
    pilot::{Pilot, Reply, Surroundings},
    saver::Save,
};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionState {
    Allocating,
    Connecting,
    Active,
    Reconnecting,
    /// The game backend does not know it, or another AI backend has it: waiting for the next poll.
    StayingOut,
    Closing,
}

impl SessionState {
    const ALL: [Self; 6] =
        [Self::Allocating, Self::Connecting, Self::Active, Self::Reconnecting, Self::StayingOut, Self::Closing];
}

/// The state of a session task, readable from outside.
#[derive(Debug)]
pub(crate) struct StateCell(AtomicU8);

impl Default for StateCell {
    fn default() -> Self {
        Self(AtomicU8::new(SessionState::Allocating as u8))
    }
}

impl StateCell {
    pub fn get(&self) -> SessionState {
        SessionState::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    fn set(&self, state: SessionState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}

/// How long the frames of a session that is gone from the list are still waited for.
const LAST_FRAMES: Duration = Duration::from_secs(2);
/// A session that is gone and says nothing for so long has said everything.
const QUIET: Duration = Duration::from_millis(250);

async fn quiet(closing: Option<Instant>) {
    if let Some(end) = closing {
        tokio::time::sleep_until(end.min(Instant::now() + QUIET)).await;
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Told to: the session is gone from the list, or the program stops.
    Told,
    /// The socket is gone; `spoke` if anything came over it.
    Lost { spoke: bool },
    /// The game backend does not know the session.
    Unknown,
    /// Another AI backend took it over.
    Replaced,
}

pub(crate) struct SessionTask {
    pub shared: Arc<Shared>,
    pub listed: Listed,
    pub closing: CancellationToken,
    /// The program ends.
    pub stop: CancellationToken,
    pub state: Arc<StateCell>,
    /// Counts finished polls that still listed this session.
    pub polls: watch::Receiver<u64>,
    pub seed: u64,
}

impl SessionTask {
    /// From ALLOCATING to gone. The key is released exactly once, at the end.
    pub async fn run(mut self) {
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            () = self.closing.cancelled() => return,
            () = shared.follow(&self.listed.model_key) => {}
        }
        let model = shared.pool.allocate(&self.listed.model_key);
        let events = self.events();
        let mut pilot = Pilot::new(
            &self.listed.session_id,
            &self.listed.map_name,
            &self.listed.map_key,
            model,
            shared.config.clone(),
            shared.champions.clone(),
            events,
            shared.stats.clone(),
            self.seed,
        );
        pilot.begin();
        info!(session = self.listed.session_id, key = pilot.model.key, "session found");
        self.keep_connected(&mut pilot).await;
        self.state.set(SessionState::Closing);
        pilot.finish();
        if pilot.model.learns() && pilot.model.unsaved_steps > 0 {
            self.save(&mut pilot);
        }
        debug!(session = self.listed.session_id, key = pilot.model.key, "key released");
        shared.pool.release(pilot.model);
    }

    fn events(&self) -> Option<GameEvents> {
        let id = flywheel_events::GameId::new(&self.listed.session_id).ok()?;
        Some(self.shared.emitter.as_ref()?.game(flywheel_events::System::Tank, id))
    }

    async fn keep_connected(&mut self, pilot: &mut Pilot) {
        let config = self.shared.config.clone();
        let mut backoff = config.reconnect_min;
        loop {
            self.state.set(SessionState::Connecting);
            match self.connect_and_play(pilot).await {
                Ended::Told => return,
                Ended::Lost { spoke } => {
                    if spoke {
                        backoff = config.reconnect_min;
                    }
                    self.state.set(SessionState::Reconnecting);
                    self.shared.stats.add(&self.shared.stats.reconnects, 1);
                    metrics::counter!(names::RECONNECTS).increment(1);
                    if !self.pause(backoff).await {
                        return;
                    }
                    backoff = (backoff * 2).min(config.reconnect_max);
                }
                Ended::Unknown => {
                    self.state.set(SessionState::StayingOut);
                    if !self.next_poll().await {
                        return;
                    }
                }
                Ended::Replaced => {
                    self.shared.stats.add(&self.shared.stats.replaced, 1);
                    self.state.set(SessionState::StayingOut);
                    info!(session = self.listed.session_id, "another AI backend has taken this session");
                    self.closing.cancelled().await;
                    return;
                }
            }
        }
    }

    /// False if told to close meanwhile.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    async fn next_poll(&mut self) -> bool {
        self.polls.mark_unchanged();
        tokio::select! {
            biased;
            () = self.closing.cancelled() => false,
            changed = self.polls.changed() => changed.is_ok(),
        }
    }

    async fn connect_and_play(&self, pilot: &mut Pilot) -> Ended {
        let url = gbe::socket_url(&self.shared.config.gbe_url, &self.listed.session_id);
        let config = WebSocketConfig::default().max_message_size(Some(4 << 20)).max_frame_size(Some(4 << 20));
        let connecting = connect_async_with_config(url, Some(config), true);
        let connected = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Ended::Told,
            connected = tokio::time::timeout(self.shared.config.poll_timeout, connecting) => connected,
        };
        let mut socket = match connected {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(WsError::Http(answer))) if answer.status() == 404 => return Ended::Unknown,
            Ok(Err(error)) => {
                debug!(session = self.listed.session_id, %error, "the socket did not open");
                return Ended::Lost { spoke: false };
            }
            Err(_) => return Ended::Lost { spoke: false },
        };
        self.shared.stats.add(&self.shared.stats.sockets_opened, 1);
        let join = json!({"type": "join", "role": "ai", "sessionId": self.listed.session_id});
        if socket.send(Message::text(join.to_string())).await.is_err() {
            return Ended::Lost { spoke: false };
        }
        self.state.set(SessionState::Active);
        self.play(pilot, &mut socket).await
    }

    async fn play(&self, pilot: &mut Pilot, socket: &mut Socket) -> Ended {
        pilot.connected();
        let mut spoke = false;
        // Once told to close: until when frames that are still under way are taken.
        let mut closing = None;
        loop {
            let message = tokio::select! {
                biased;
                () = self.closing.cancelled(), if closing.is_none() => {
                    // A session that is gone from the list may have sent its last transition just before.
                    let patience = if self.stop.is_cancelled() { Duration::ZERO } else { LAST_FRAMES };
                    closing = Some(Instant::now() + patience);
                    continue;
                }
                () = quiet(closing), if closing.is_some() => {
                    let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
                    return Ended::Told;
                }
                message = socket.next() => message,
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => {
                    // Whatever came before it has been taken; the answering close frame goes out with the flush.
                    let _ = tokio::time::timeout(Duration::from_secs(1), socket.flush()).await;
                    return ended_by(frame, spoke);
                }
                Some(Ok(Message::Binary(_))) => {
                    self.shared.stats.add(&self.shared.stats.bad_frames, 1);
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    debug!(session = self.listed.session_id, %error, "the socket was lost");
                    return Ended::Lost { spoke };
                }
                None => return Ended::Lost { spoke },
            };
            let reply = pilot.take(&text, self.surroundings());
            spoke = true;
            if self.answer(socket, &reply).await.is_err() {
                return Ended::Lost { spoke };
            }
            if reply.save {
                self.save(pilot);
            }
        }
    }

    fn surroundings(&self) -> Surroundings {
        if !self.shared.config.send_debug {
            return Surroundings::default();
        }
        let counts = self.shared.pool.counts(&self.listed.model_key);
        Surroundings {
            available: counts.available,
            in_use: counts.in_use,
            async_save_ms: self.shared.stats.last_save_ms.load(Ordering::Relaxed),
        }
    }

    async fn answer(&self, socket: &mut Socket, reply: &Reply) -> Result<(), WsError> {
        if reply.inputs.is_empty() && reply.episode_log.is_none() {
            return Ok(());
        }
        for text in reply.inputs.iter().chain(&reply.episode_log) {
            socket.feed(Message::text(text.as_str())).await?;
        }
        socket.flush().await
    }

    /// Serialises the model here and leaves the rest to the persistence thread.
    fn save(&self, pilot: &mut Pilot) {
        self.shared.pool.remember(&pilot.model);
        let Some(saver) = &self.shared.saver else { return };
        let model = &mut pilot.model;
        model.unsaved_steps = 0;
        let body = payload_of(model, &self.listed.map_key);
        saver.put(Save {
            key: model.key.clone(),
            body,
            base_key: model.base.clone(),
            steps: model.steps,
            epsilon: model.epsilon,
            events: pilot.events().cloned(),
            registered: pilot.model.registration(),
        });
    }
}

/// A model as the store keeps it; steps, episodes and epsilon travel in the metadata.
fn payload_of(model: &Model, map_key: &str) -> Vec<u8> {
    let mut payload = ModelPayload::from_network(&model.network());
    payload.user_defined_metadata = Some(json!({
        "mapKey": map_key,
        "baseKey": model.base,
        "steps": model.steps,
        "episodes": model.episodes,
        "epsilon": model.epsilon,
        "parent": model.champion().map(ToString::to_string),
    }));
    serde_json::to_vec(&payload).expect("a payload serialises")
}

fn ended_by(frame: Option<CloseFrame>, spoke: bool) -> Ended {
    match frame {
        Some(CloseFrame { code: CloseCode::Library(code), .. }) if code == CLOSE_REPLACED => Ended::Replaced,
        Some(CloseFrame { code, .. }) if u16::from(code) == CLOSE_REPLACED => Ended::Replaced,
        _ => Ended::Lost { spoke },
    }
}
