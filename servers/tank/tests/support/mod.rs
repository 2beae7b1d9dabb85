//! A game backend on a port of its own, its events in a memory log, and clients to talk to it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flywheel_events::{Event, System};
use flywheel_kit::{Emitter, EmitterConfig};
use flywheel_log::{EventLog, MemoryLog, Position, ReadLimit, Topic};
use flywheel_tank_server::{GameBackend, GameBackendConfig};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

pub struct Stage {
    pub backend: Arc<GameBackend>,
    pub log: Arc<MemoryLog>,
    pub emitter: Emitter,
    pub stop: CancellationToken,
    pub http: reqwest::Client,
    _spill: tempfile::TempDir,
}

/// Settings for tests: quick ticks, short waits, a port of the system's choosing.
pub fn quick() -> GameBackendConfig {
    GameBackendConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        tick_ms: 5,
        max_tick_catch_up: 3,
        seed: Some(11),
        ..GameBackendConfig::default()
    }
}

pub async fn emitter() -> (Emitter, Arc<MemoryLog>, tempfile::TempDir) {
    let log = MemoryLog::new();
    log.create_topic(&Topic::new(System::Tank.topic()), 2).await.unwrap();
    let spill = tempfile::tempdir().unwrap();
    let emitter = Emitter::start(log.clone(), EmitterConfig::new(spill.path())).unwrap();
    (emitter, log, spill)
}

/// All events, by game, in order.
pub async fn all_events(log: &MemoryLog, emitter: &Emitter) -> BTreeMap<String, Vec<Event>> {
    emitter.drain(Duration::from_secs(10)).await.unwrap();
    let mut games = BTreeMap::<String, Vec<Event>>::new();
    for partition in 0..2 {
        let of = Topic::new(System::Tank.topic()).partition(partition);
        let mut position = Position::Start;
        loop {
            let records = log.read(&of, position, ReadLimit::default()).await.unwrap();
            let Some(last) = records.last() else { break };
            position = Position::After(last.offset);
            for event in records.iter().map(|r| Event::decode(&r.value).unwrap()) {
                games.entry(event.game_id.to_string()).or_default().push(event);
            }
        }
    }
    for events in games.values_mut() {
        events.sort_by_key(|e| e.seq);
        assert!(events.iter().enumerate().all(|(i, e)| e.seq == i as u64), "seq has no gaps and no repeats");
    }
    games
}

pub async fn events_of(log: &MemoryLog, emitter: &Emitter, game: &str) -> Vec<Event> {
    all_events(log, emitter).await.remove(game).unwrap_or_default()
}

impl Stage {
    pub async fn new(config: GameBackendConfig) -> Self {
        let (emitter, log, spill) = emitter().await;
        let stop = CancellationToken::new();
        let backend = GameBackend::start(config, emitter.clone(), stop.clone()).await.unwrap();
        Self { backend, log, emitter, stop, http: reqwest::Client::new(), _spill: spill }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.backend.local_addr())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.http.get(self.url(path)).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        answer(self.http.post(self.url(path)).body(body.to_owned()).send().await.unwrap()).await
    }

    /// A new session: its id and its player.
    pub async fn open(&self, body: Value) -> (String, String) {
        let (status, answer) = self.post("/session", &body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        (answer["sessionId"].as_str().unwrap().to_owned(), answer["playerId"].as_str().unwrap().to_owned())
    }

    pub async fn socket(&self, session: &str) -> Client {
        let url = format!("ws://{}/ws?sessionId={session}", self.backend.local_addr());
        let (socket, _) = connect_async(url).await.unwrap();
        Client { socket, session: session.to_owned() }
    }

    pub async fn joined(&self, session: &str, role: &str, player: Option<&str>) -> Client {
        let mut client = self.socket(session).await;
        let mut join = json!({"type": "join", "role": role, "sessionId": session});
        if let Some(player) = player {
            join["playerId"] = player.into();
        }
        client.send(join).await;
        client
    }

    pub async fn events(&self, game: &str) -> Vec<Event> {
        events_of(&self.log, &self.emitter, game).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn answer(answer: reqwest::Response) -> (u16, Value) {
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub session: String,
}

impl Client {
    pub async fn send(&mut self, message: Value) {
        self.text(&message.to_string()).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next JSON message, or the close code.
    pub async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await.expect("a message");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.map_or(1005, |f| f.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(1006),
            }
        }
    }

    /// The next message of a type.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await.unwrap_or_else(|code| panic!("closed with {code} before a `{kind}`"));
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Reads until the socket closes, and returns the code.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }
}
