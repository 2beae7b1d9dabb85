//! A game backend and a model store that do exactly what a test tells them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State, WebSocketUpgrade, ws},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt as _,
};
use flywheel_agent::{Agent, AgentConfig};
use flywheel_kit::Emitter;
use futures::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;

/// What `GET /sessions` answers.
#[derive(Clone)]
pub enum Poll {
    List(Vec<Value>),
    Status(u16),
    Text(&'static str),
    /// Never answers.
    Hang,
}

struct GbeState {
    poll: Mutex<Poll>,
    polls: AtomicU64,
    refuse_sockets: AtomicBool,
    refused: AtomicU64,
    sockets: mpsc::UnboundedSender<FakeSocket>,
    open: AtomicU64,
}

pub struct FakeGbe {
    state: Arc<GbeState>,
    sockets: mpsc::UnboundedReceiver<FakeSocket>,
    pub address: SocketAddr,
}

/// One socket as the game backend sees it.
pub struct FakeSocket {
    pub session: String,
    frames: mpsc::UnboundedReceiver<Option<String>>,
    out: mpsc::UnboundedSender<ws::Message>,
}

impl FakeGbe {
    pub async fn new(sessions: &[&str]) -> Self {
        let (tx, sockets) = mpsc::unbounded_channel();
        let state = Arc::new(GbeState {
            poll: Mutex::new(Poll::List(list(sessions))),
            polls: AtomicU64::new(0),
            refuse_sockets: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            sockets: tx,
            open: AtomicU64::new(0),
        });
        let app = Router::new().route("/sessions", get(poll)).route("/ws", get(upgrade)).with_state(state.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { state, sockets, address }
    }

    pub fn answer_polls(&self, poll: Poll) {
        *self.state.poll.lock() = poll;
    }

    pub fn sessions(&self, sessions: &[&str]) {
        self.answer_polls(Poll::List(list(sessions)));
    }

    pub fn refuse_sockets(&self, refuse: bool) {
        self.state.refuse_sockets.store(refuse, Ordering::SeqCst);
    }

    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }

    /// Sockets open now.
    pub fn open(&self) -> u64 {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Waits for so many polls from now on.
    pub async fn polls(&self, n: u64) {
        let wanted = self.state.polls.load(Ordering::SeqCst) + n;
        until(|| self.state.polls.load(Ordering::SeqCst) >= wanted).await;
    }

    pub async fn socket(&mut self) -> FakeSocket {
        tokio::time::timeout(Duration::from_secs(20), self.sockets.recv()).await.expect("a socket").unwrap()
    }

    /// A socket whose join has been read.
    pub async fn joined(&mut self) -> FakeSocket {
        let mut socket = self.socket().await;
        assert_eq!(socket.next().await["type"], "join");
        socket
    }

    /// Sockets that came and were not looked at.
    pub fn no_more_sockets(&mut self) -> bool {
        self.sockets.try_recv().is_err()
    }
}

fn list(sessions: &[&str]) -> Vec<Value> {
    sessions.iter().map(|id| json!({"sessionId": id, "mapName": "Nowhere.json", "mapKey": "nowhere"})).collect()
}

async fn poll(State(state): State<Arc<GbeState>>) -> Response {
    let poll = state.poll.lock().clone();
    state.polls.fetch_add(1, Ordering::SeqCst);
    match poll {
        Poll::List(sessions) => Json(json!({"sessions": sessions})).into_response(),
        Poll::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Poll::Text(text) => text.into_response(),
        Poll::Hang => std::future::pending().await,
    }
}

async fn upgrade(
    State(state): State<Arc<GbeState>>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if state.refuse_sockets.load(Ordering::SeqCst) {
        state.refused.fetch_add(1, Ordering::SeqCst);
        return StatusCode::NOT_FOUND.into_response();
    }
    upgrade.on_upgrade(move |socket| async move {
        let (frame_tx, frames) = mpsc::unbounded_channel();
        let (out, mut out_rx) = mpsc::unbounded_channel();
        let session = query["sessionId"].clone();
        state.open.fetch_add(1, Ordering::SeqCst);
        state.sockets.send(FakeSocket { session, frames, out }).ok();
        let (mut sink, mut stream) = socket.split();
        loop {
            tokio::select! {
                message = out_rx.recv() => match message {
                    Some(message) => if sink.send(message).await.is_err() { break },
                    // The test has dropped its end: the connection is cut.
                    None => break,
                },
                message = stream.next() => match message {
                    Some(Ok(ws::Message::Text(text))) => drop(frame_tx.send(Some(text.to_string()))),
                    Some(Ok(ws::Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(_)) => {}
                },
            }
        }
        frame_tx.send(None).ok();
        state.open.fetch_sub(1, Ordering::SeqCst);
    })
}

impl FakeSocket {
    pub fn send(&self, message: &Value) {
        self.text(&message.to_string());
    }

    pub fn text(&self, text: &str) {
        self.out.send(ws::Message::text(text)).ok();
    }

    pub fn close(&self, code: u16, reason: &str) {
        let frame = ws::CloseFrame { code, reason: reason.to_owned().into() };
        self.out.send(ws::Message::Close(Some(frame))).ok();
    }

    /// The next frame; panics when the socket is closed instead.
    pub async fn next(&mut self) -> Value {
        self.next_or_closed().await.expect("the socket closed")
    }

    pub async fn next_or_closed(&mut self) -> Option<Value> {
        let frame = tokio::time::timeout(Duration::from_secs(20), self.frames.recv()).await.expect("a frame");
        Some(serde_json::from_str(&frame.flatten()?).unwrap())
    }

    /// The next `n` inputs, by tank.
    pub async fn inputs(&mut self, n: usize) -> HashMap<String, Value> {
        let mut inputs = HashMap::new();
        for _ in 0..n {
            let input = self.next().await;
            assert_eq!((&input["type"], &input["role"]), (&json!("input"), &json!("ai")), "{input}");
            inputs.insert(input["tankId"].as_str().unwrap().to_owned(), input);
        }
        inputs
    }

    /// Frames that have come and were not looked at.
    pub fn pending(&mut self) -> usize {
        std::iter::from_fn(|| self.frames.try_recv().ok().flatten()).count()
    }
}

/// Waits for a condition.
pub async fn until(condition: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the condition did not come true");
}

/// A square of soil with a brick at row 2, column 4, steel at row 10, column 10, and the HQ at row 30, column 16.
pub fn tiles() -> Vec<Vec<u8>> {
    let mut rows = vec![vec![0; 32]; 32];
    (rows[2][4], rows[10][10], rows[30][16]) = (2, 4, 7);
    rows
}

/// A full state with one player and these AI tanks at (x, y).
pub fn state(tick: u64, tanks: &[(&str, i32, i32)]) -> Value {
    let mut players = vec![json!({"id": "1", "label": "normal_pl", "role": "player", "x": 256, "y": 440,
        "dirX": 0, "dirY": -1, "health": 2, "maxHealth": 2})];
    players.extend(tanks.iter().map(|(id, x, y)| {
        json!({"id": id, "label": "rapid_en", "role": "ai", "x": x, "y": y, "dirX": 1, "dirY": 0, "health": 2,
            "maxHealth": 2, "speed": 3, "shootCooldown": 0, "cooldown": 7})
    }));
    json!({"tick": tick, "mapName": "Nowhere.json", "players": players, "bullets": [], "events": [],
        "gameOver": false, "gameOverReason": null, "stats": {"ticks": tick, "enemiesDestroyed": 0}})
}

pub fn transition(next: Value, rewards: &[(&str, f64)]) -> Value {
    let rewards: Vec<Value> = rewards
        .iter()
        .map(|(id, reward)| json!({"tankId": id, "reward": reward, "rewardReasons": ["mapTileTouched"]}))
        .collect();
    json!({"type": "transition", "tick": next["tick"], "reward": 0, "prevState": {"tick": 0}, "nextState": next,
        "aiRewards": rewards})
}

/// What `POST /api/rl-model/{key}` does.
#[derive(Clone)]
pub enum Saving {
    Take,
    Fail(u16),
    /// Answers only once the test says so.
    Block(Arc<Notify>),
}

struct StoreState {
    models: Mutex<Vec<(String, Value)>>,
    saving: Mutex<Saving>,
    attempts: AtomicU64,
    saved: Mutex<Vec<(String, Value)>>,
}

/// A model store that hands out given models and keeps what is saved.
pub struct FakeStore {
    state: Arc<StoreState>,
    pub url: String,
}

impl FakeStore {
    pub async fn new(models: Vec<(&str, Value)>) -> Self {
        let models = models.into_iter().map(|(key, payload)| (key.to_owned(), payload)).collect();
        let state = Arc::new(StoreState {
            models: Mutex::new(models),
            saving: Mutex::new(Saving::Take),
            attempts: AtomicU64::new(0),
            saved: Mutex::default(),
        });
        let app = Router::new()
            .route("/api/rl-model-keys", get(keys))
            .route("/api/rl-model/{key}", get(load).post(save))
            .with_state(state.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { state, url }
    }

    pub fn saving(&self, saving: Saving) {
        *self.state.saving.lock() = saving;
    }

    pub fn attempts(&self) -> u64 {
        self.state.attempts.load(Ordering::SeqCst)
    }

    pub fn saved(&self) -> Vec<(String, Value)> {
        self.state.saved.lock().clone()
    }
}

async fn keys(State(state): State<Arc<StoreState>>) -> Json<Value> {
    let models = state.models.lock();
    let list: Vec<Value> = models
        .iter()
        .enumerate()
        .map(|(i, (key, _))| json!({"modelKey": key, "mapKey": "nowhere", "updatedAt": 1_763_700_000_000_u64 + i as u64}))
        .collect();
    Json(json!({"models": list}))
}

async fn load(State(state): State<Arc<StoreState>>, Path(key): Path<String>) -> Response {
    match state.models.lock().iter().find(|(known, _)| *known == key) {
        Some((_, payload)) => Json(payload.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn save(State(state): State<Arc<StoreState>>, Path(key): Path<String>, Json(payload): Json<Value>) -> Response {
    state.attempts.fetch_add(1, Ordering::SeqCst);
    let saving = state.saving.lock().clone();
    match saving {
        Saving::Take => {}
        Saving::Fail(status) => return StatusCode::from_u16(status).unwrap().into_response(),
        Saving::Block(until) => until.notified().await,
    }
    state.saved.lock().push((key, payload));
    Json(json!({"ok": true, "updatedAt": 1})).into_response()
}

/// An agent for the fakes: quick polls, no randomness in its actions.
pub fn config(gbe: &FakeGbe, store: Option<&FakeStore>) -> AgentConfig {
    AgentConfig {
        gbe_url: format!("http://{}", gbe.address),
        model_store_url: store.map(|store| store.url.clone()),
        poll_interval: Duration::from_millis(20),
        poll_timeout: Duration::from_millis(500),
        reconnect_min: Duration::from_millis(10),
        reconnect_max: Duration::from_millis(80),
        epsilon_start: 0.0,
        epsilon_min: 0.0,
        epsilon_decay: 1.0,
        save_pauses: vec![Duration::from_millis(5); 3],
        seed: Some(17),
        ..AgentConfig::default()
    }
}

/// A running agent that stops with the test.
pub struct Running {
    pub agent: Arc<Agent>,
    pub stop: CancellationToken,
}

impl Running {
    pub fn new(config: AgentConfig, emitter: Option<Emitter>) -> Self {
        let stop = CancellationToken::new();
        let agent = Agent::start(config, None, None, emitter, stop.clone()).unwrap();
        Self { agent, stop }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
