//! A scripted player as an ordinary client: opens a session, joins it, plays by what it is sent, and begins anew.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flywheel_tank::{Action, ClientView, Script, ScriptedPlayer, StateMerger, TankId};
use futures::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::TankServerError;

/// Longest answer read from the game backend.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A socket on which nothing comes for so long is given up.
const SILENCE: Duration = Duration::from_secs(15);

/// What a scripted client plays.
#[derive(Debug, Clone)]
pub struct ScriptedClientConfig {
    pub game_backend: SocketAddr,
    pub script: Script,
    /// Names of maps, played in turn.
    pub maps: Vec<String>,
    /// Index of the first map.
    pub first_map: usize,
    pub seed: u64,
    /// Pause between two games.
    pub pause: Duration,
    /// Games to play; absent: until told to stop.
    pub games: Option<u64>,
}

/// What scripted clients have done. Shared by all that are given it.
#[derive(Debug, Default)]
pub struct ScriptedStats {
    pub games: AtomicU64,
    pub inputs: AtomicU64,
    pub failures: AtomicU64,
}

/// A scripted player that plays one game after another.
#[derive(Debug)]
pub struct ScriptedClient {
    config: ScriptedClientConfig,
    stats: Arc<ScriptedStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Admission {
    session_id: String,
    player_id: String,
    map: AdmissionMap,
    state: Value,
}

#[derive(Deserialize)]
struct AdmissionMap {
    tiles: Vec<Vec<u8>>,
}

type Socket = WebSocketStream<TcpStream>;

impl ScriptedClient {
    pub fn new(config: ScriptedClientConfig, stats: Arc<ScriptedStats>) -> Self {
        Self { config, stats }
    }

    /// Plays until told to stop, or until the games asked for are played. A game that fails is counted and, after
    /// a pause that grows to 5 s, the next one begun.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Duration::from_millis(100);
        let mut played = 0;
        while !stop.is_cancelled() && self.config.games.is_none_or(|games| played < games) {
            let pause = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = self.play(played) => match outcome {
                    Ok(()) => {
                        self.stats.games.fetch_add(1, Ordering::Relaxed);
                        backoff = Duration::from_millis(100);
                        played += 1;
                        self.config.pause
                    }
                    Err(error) => {
                        self.stats.failures.fetch_add(1, Ordering::Relaxed);
                        warn!(%error, script = %self.config.script, "a scripted game broke off");
                        let pause = backoff;
                        backoff = (backoff * 2).min(Duration::from_secs(5));
                        pause
                    }
                },
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn play(&self, n: u64) -> Result<(), TankServerError> {
        let maps = &self.config.maps;
        let map = maps.get((self.config.first_map + n as usize) % maps.len().max(1));
        let admission = self.open(map.map(String::as_str)).await?;
        let mut socket = self.connect(&admission.session_id).await?;
        let join = json!({
            "type": "join",
            "role": "player",
            "sessionId": admission.session_id,
            "playerId": admission.player_id,
            "opponent": self.config.script,
        });
        self.send(&mut socket, join.to_string()).await?;
        let own = TankId::parse(&admission.player_id).ok_or_else(|| self.fail("joining", "an odd player id"))?;
        let mut view = ClientView::from_rows(&admission.map.tiles).ok_or_else(|| self.fail("joining", "an odd map"))?;
        let mut merger = StateMerger::new();
        if merger.merge(&admission.state).is_ok() {
            view.apply(merger.state());
        }
        let mut player = ScriptedPlayer::new(self.config.script, self.config.seed.wrapping_add(n));
        loop {
            let message = tokio::time::timeout(SILENCE, socket.next())
                .await
                .map_err(|_| self.fail("playing", "the game backend has gone silent"))?;
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_))) | None => break,
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(self.fail("playing", &error.to_string())),
            };
            let Ok(message) = serde_json::from_str::<Value>(&text) else { continue };
            if message["type"] != "state" || merger.merge(&message["state"]).is_err() {
                continue;
            }
            view.apply(merger.state());
            let action = player.act(&view, own);
            if action != Action::NOTHING {
                let input = json!({
                    "type": "input",
                    "role": "player",
                    "tankId": admission.player_id,
                    "move": action.movement.map(|m| m.as_str()),
                    "fire": action.fire,
                });
                if self.send(&mut socket, input.to_string()).await.is_err() {
                    break;
                }
                self.stats.inputs.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !merger.state().game_over {
            debug!(session = admission.session_id, "the socket closed before the game was over");
        }
        Ok(())
    }

    fn fail(&self, operation: &'static str, reason: &str) -> TankServerError {
        TankServerError::Client { operation, target: self.config.game_backend.to_string(), reason: reason.to_owned() }
    }

    async fn send(&self, socket: &mut Socket, text: String) -> Result<(), TankServerError> {
        socket.send(Message::Text(text.into())).await.map_err(|e| self.fail("sending", &e.to_string()))
    }

    /// `POST /session`. One small request over a connection of its own needs no HTTP library.
    async fn open(&self, map: Option<&str>) -> Result<Admission, TankServerError> {
        let body = json!({"mapName": map, "opponent": self.config.script}).to_string();
        let request = format!(
            "POST /session HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.config.game_backend,
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(self.config.game_backend).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, exchange)
            .await
            .map_err(|_| self.fail("opening a session", "no answer in 10 s"))?
            .map_err(|error| self.fail("opening a session", &error.to_string()))?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if !head.starts_with("HTTP/1.1 200") {
            let status = head.lines().next().unwrap_or("no answer");
            return Err(self.fail("opening a session", &format!("{status}: {body}")));
        }
        serde_json::from_str(body).map_err(|error| self.fail("opening a session", &error.to_string()))
    }

    async fn connect(&self, session: &str) -> Result<Socket, TankServerError> {
        let address = self.config.game_backend;
        let connecting = async {
            let stream = TcpStream::connect(address).await.map_err(|e| self.fail("connecting", &e.to_string()))?;
            let _ = stream.set_nodelay(true);
            let config = WebSocketConfig::default().max_message_size(Some(4 << 20)).max_frame_size(Some(4 << 20));
            let url = format!("ws://{address}/ws?sessionId={session}");
            let (socket, _) = client_async_with_config(url, stream, Some(config))
                .await
                .map_err(|error| self.fail("connecting", &error.to_string()))?;
            Ok(socket)
        };
        tokio::time::timeout(REQUEST_TIMEOUT, connecting)
            .await
            .map_err(|_| self.fail("connecting", "no answer in 10 s"))?
    }
}
