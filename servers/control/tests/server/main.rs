//! Every route over a fake loop, on a port of the system's choice.

mod doors;
mod models;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Bytes;
use flywheel_control::{
    AliasInfo, AliasMove, Champion, ControlConfig, ControlError, ControlErrorKind, Degraded, FrameMaker, GameFrame,
    GameInfo, GameWatch, History, HistoryKeeper, Lack, LatencyPoint, LoopStatus, LoopView, LossPoint, ModelInfo,
    OpponentScore, Promote, Rollback, Stage, StageStatus, SwapPoint, Tiles, Verdict, Weights, install_metrics, router,
    serve,
};
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

struct FakeLoop {
    history: HistoryKeeper,
    failed: Mutex<Option<String>>,
    frames: Mutex<Option<watch::Sender<Arc<GameFrame>>>>,
    maker: Mutex<FrameMaker>,
    moved: Mutex<Vec<(String, Option<u64>)>>,
    /// Revision and version of `champion`.
    champion: Mutex<(u64, u64)>,
}

impl FakeLoop {
    fn new() -> Arc<Self> {
        let history = HistoryKeeper::default();
        history.loss(LossPoint { t_ms: 10, step: 1, loss: 0.5 });
        history.loss(LossPoint { t_ms: 20, step: 2, loss: 0.4 });
        history.latency(LatencyPoint { t_ms: 10, p50_us: 9.0, p99_us: 30.0 });
        history.swap(SwapPoint { t_ms: 5, from: None, to: 1, reason: "promoted".into(), took_ms: Some(4.0) });
        let mut maker = FrameMaker::new(Tiles::from_grid(16, &[vec![0, 2], vec![7, 5]]).unwrap());
        let first = maker.frame(json!({"tick": 1, "players": [], "bullets": [], "gameOver": false})).unwrap();
        Arc::new(Self {
            history,
            failed: Mutex::new(None),
            frames: Mutex::new(Some(watch::channel(Arc::new(first)).0)),
            maker: Mutex::new(maker),
            moved: Mutex::default(),
            champion: Mutex::new((2, 3)),
        })
    }

    fn play(&self, state: Value) {
        let frame = self.maker.lock().frame(state).unwrap();
        self.frames.lock().as_ref().unwrap().send_replace(Arc::new(frame));
    }

    fn info() -> GameInfo {
        GameInfo {
            id: "game-1".into(),
            system: "tank".into(),
            map: "<img src=x onerror=alert(1)>".into(),
            opponent: "hunter".into(),
            model: Some("tank-ai-dqn@3".into()),
            source: "live".into(),
            tick: 1,
            started_at_ms: 0,
            ended: None,
        }
    }
}

#[async_trait]
impl LoopView for FakeLoop {
    fn status(&self) -> LoopStatus {
        let mut status = LoopStatus::new(1_000, 61_000);
        status.set_stage(StageStatus::new(Stage::Play).running("2 games").rate(60.0, "ticks/s").detail("games", 2));
        status.set_stage(StageStatus::new(Stage::Learn).waiting("12,400 of 20,000 transitions").progress(0.62));
        if let Some(why) = self.failed.lock().clone() {
            status.set_stage(StageStatus::new(Stage::Land).failed(why));
        }
        status.champion = Some(Champion {
            model_key: "tank-ai-dqn".into(),
            version: 3,
            since_ms: 2_000,
            previous: Some(2),
            scores: vec![OpponentScore { opponent: "hunter".into(), games: 40, score: 0.625 }],
            rating: None,
        });
        status.degraded.push(Degraded::new(Lack::Store, 31_000, "putting `x`: <b>refused</b>"));
        status.count("events_acknowledged", 12.0);
        status
    }

    fn history(&self) -> History {
        self.history.get()
    }

    fn games(&self) -> Vec<GameInfo> {
        vec![Self::info()]
    }

    fn watch_game(&self, id: &str) -> Option<GameWatch> {
        let frames = self.frames.lock().as_ref()?.subscribe();
        (id == "game-1").then(|| GameWatch { info: Self::info(), frames })
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, ControlError> {
        Ok(vec![ModelInfo {
            model_key: "tank-ai-dqn".into(),
            version: 3,
            parent: Some(2),
            published_at_ms: 1,
            aliases: vec!["champion".into()],
            verdict: Verdict::Promoted,
            verdict_line: String::new(),
            scores: Vec::new(),
            rating: None,
            train_steps: Some(10),
            size_bytes: 1,
            sha256: "00".into(),
        }])
    }

    async fn alias(&self, base_key: &str, alias: &str) -> Result<AliasInfo, ControlError> {
        if (base_key, alias) != ("tank-ai-dqn", "champion") {
            return Err(ControlError::new(ControlErrorKind::NotFound, "reading an alias", "it names nothing"));
        }
        let (revision, version) = *self.champion.lock();
        let card = ModelInfo { version, ..self.models().await?.remove(0) };
        let (name, alias) = (format!("{base_key}@{version}"), alias.to_owned());
        Ok(AliasInfo { name, alias, revision, moved_at_ms: 5, reason: "better".to_owned(), card })
    }

    async fn weights(&self, base_key: &str, version: u64) -> Result<Weights, ControlError> {
        if (base_key, version) != ("tank-ai-dqn", 3) {
            return Err(ControlError::new(ControlErrorKind::NotFound, "reading weights", "there is no such version"));
        }
        // More than the buffers of a connection take.
        Ok(Weights { sha256: "00".into(), bytes: Bytes::from(vec![7; 32 << 20]) })
    }

    async fn promote(&self, base_key: &str, request: Promote) -> Result<AliasMove, ControlError> {
        if request.expected_revision == Some(1) {
            let moved = ControlError::new(ControlErrorKind::Conflict, "promoting", "`champion` moved to revision 2");
            return Err(moved.hint("read the alias again"));
        }
        if request.version > 9 {
            return Err(ControlError::new(ControlErrorKind::NotFound, "promoting", "no such version"));
        }
        self.moved.lock().push((base_key.to_owned(), Some(request.version)));
        let model_key = base_key.to_owned();
        Ok(AliasMove { model_key, alias: "champion".into(), version: request.version, previous: Some(3), revision: 2 })
    }

    async fn rollback(&self, base_key: &str, request: Rollback) -> Result<AliasMove, ControlError> {
        self.moved.lock().push((base_key.to_owned(), request.to));
        let model_key = base_key.to_owned();
        Ok(AliasMove { model_key, alias: "champion".into(), version: 2, previous: Some(3), revision: 3 })
    }
}

struct Running {
    address: SocketAddr,
    view: Arc<FakeLoop>,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Running {
    async fn start(config: ControlConfig) -> Self {
        let (view, stop) = (FakeLoop::new(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = router(Arc::clone(&view) as Arc<dyn LoopView>, install_metrics().unwrap(), config, stop.clone());
        tokio::spawn(serve(listener, app, stop.clone()));
        Self { address, view, stop }
    }

    async fn stub() -> Self {
        Self::start(ControlConfig { stub_page: true, ..ControlConfig::default() }).await
    }

    /// One request as bytes, so that tests control every header.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            text += &format!("host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("content-length: {}\r\n\r\n{body}", body.len());
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Answer { status, headers: lines.map(pair).collect(), body: bytes[split + 4..].to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    async fn socket(&self, path: &str, origin: Option<&str>) -> Result<Socket, SocketError> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        connect_async(request).await.map(|(socket, _)| socket)
    }

    fn own_origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn next_json(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.expect("the socket is open").unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Close(frame) => panic!("closed: {frame:?}"),
            _ => {}
        }
    }
}

async fn close_reason(socket: &mut Socket) -> String {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return frame.map_or(String::new(), |frame| frame.reason.to_string()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.to_string(),
            None => return "gone".to_owned(),
        }
    }
}

fn refusal(result: Result<Socket, SocketError>) -> u16 {
    match result {
        Err(SocketError::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the socket was opened"),
    }
}

#[tokio::test]
async fn the_state_has_six_stages_and_says_why_one_waits() {
    let server = Running::stub().await;
    let status = server.get("/v1/status").await.json();
    let names: Vec<_> = status["stages"].as_array().unwrap().iter().map(|stage| stage["name"].clone()).collect();
    assert_eq!(names, ["play", "stream", "land", "learn", "judge", "swap"]);
    assert_eq!(status["stages"][3]["why_waiting"], "12,400 of 20,000 transitions");
    assert_eq!(status["stages"][0]["state"], "running");
    assert_eq!((&status["seconds"], &status["champion"]["version"]), (&json!(60.0), &json!(3)));
}

#[tokio::test]
async fn history_comes_whole_or_from_a_time_on() {
    let server = Running::stub().await;
    let whole = server.get("/v1/history").await.json();
    assert_eq!(whole["loss"].as_array().unwrap().len(), 2);
    let rest = server.get("/v1/history?since_ms=10").await.json();
    assert_eq!(rest["loss"], json!([{"t_ms": 20, "step": 2, "loss": 0.4}]));
    assert_eq!((rest["latency"].as_array().unwrap().len(), rest["swaps"].as_array().unwrap().len()), (0, 1));
    assert_eq!(server.get("/v1/history?since_ms=soon").await.status, 400);
}

#[tokio::test]
async fn games_and_models_are_lists() {
    let server = Running::stub().await;
    assert_eq!(server.get("/v1/games").await.json()["items"][0]["opponent"], "hunter");
    assert_eq!(server.get("/v1/models").await.json()["items"][0]["aliases"], json!(["champion"]));
}

#[tokio::test]
async fn a_program_without_the_page_serves_the_stub() {
    let server = Running::stub().await;
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().contains("npm run build"));
    assert!(!page.text().contains("<script>"), "inline scripts are against the page's own policy");
    assert!(server.get("/stub.js").await.header("content-type").unwrap().starts_with("text/javascript"));
    let missing = server.get("/nothing.js").await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/problem+json")));
}

#[tokio::test]
async fn the_built_page_is_packed_and_its_hashed_files_are_kept() {
    if flywheel_control::page_is_stub() {
        eprintln!("skipped: the page was not built; run `npm ci && npm run build` in dashboards/web");
        assert!(!std::env::var("FLYWHEEL_REQUIRE").unwrap_or_default().contains("page"), "the page is required");
        return;
    }
    let server = Running::start(ControlConfig::default()).await;
    let page = server.get("/").await;
    let script = page.text().split("src=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert!(script.starts_with("/assets/"), "{script}");
    let plain = server.get(&script).await;
    let packed = server.ask("GET", &script, &[("accept-encoding", "gzip, br")], "").await;
    assert_eq!((plain.header("content-encoding"), packed.header("content-encoding")), (None, Some("br")));
    assert!(packed.body.len() * 2 < plain.body.len());
    assert!(packed.header("cache-control").unwrap().contains("immutable"));
    assert_eq!(packed.header("vary"), Some("accept-encoding"));
    assert_eq!(server.get(&format!("{script}.br")).await.status, 404);
}

#[tokio::test]
async fn a_page_that_is_known_is_not_sent_again() {
    let server = Running::stub().await;
    let first = server.get("/").await;
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let again = server.ask("GET", "/", &[("if-none-match", first.header("etag").unwrap())], "").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
}

#[tokio::test]
async fn every_answer_forbids_foreign_hosts_and_guessing() {
    let server = Running::stub().await;
    for path in ["/", "/v1/status", "/v1/nothing", "/metrics", "/healthz"] {
        let answer = server.get(path).await;
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'self';"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(answer.header("cache-control").is_some(), "{path}");
    }
}

#[tokio::test]
async fn unknown_calls_and_methods_are_problems() {
    let server = Running::stub().await;
    let missing = server.get("/v1/nothing").await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/problem+json")));
    assert_eq!(missing.json()["type"], "urn:flywheel:problem:not-found");
    let wrong = server.ask("DELETE", "/v1/status", &[], "").await;
    assert_eq!((wrong.status, wrong.json()["status"].as_u64()), (405, Some(405)));
}

#[tokio::test]
async fn pages_of_other_origins_and_other_names_change_nothing() {
    let server = Running::stub().await;
    let path = "/v1/models/tank-ai-dqn/promote";
    let body = r#"{"version":4}"#;
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        assert_eq!(server.ask("POST", path, &[("origin", origin)], body).await.status, 403, "{origin}");
    }
    assert_eq!(server.ask("POST", path, &[("sec-fetch-site", "cross-site")], body).await.status, 403);
    let moved_name = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(server.ask("POST", path, &moved_name, body).await.status, 403);
    assert_eq!(server.ask("GET", "/v1/status", &[("host", "evil.example")], "").await.status, 403);
    assert!(server.view.moved.lock().is_empty());
}

#[tokio::test]
async fn a_server_that_does_not_know_its_peers_takes_no_changes() {
    let (view, stop) = (FakeLoop::new(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(view.clone(), install_metrics().unwrap(), ControlConfig::default(), stop.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let server = Running { address, view, stop };
    assert_eq!(server.ask("POST", "/v1/models/a/promote", &[], r#"{"version":4}"#).await.status, 403);
    assert_eq!(server.get("/v1/status").await.status, 200);
    // A socket that takes events changes something too; the one of the page only tells.
    let upgrade = [("upgrade", "websocket"), ("connection", "upgrade")];
    assert_eq!(server.ask("GET", "/v1/events/ws", &upgrade, "").await.status, 403);
    assert_ne!(server.ask("GET", "/ws", &upgrade, "").await.status, 403);
}

#[tokio::test]
async fn a_name_that_was_given_is_answered_and_opens_nothing_else() {
    let hosts = vec!["flywheel".to_owned()];
    let server = Running::start(ControlConfig { stub_page: true, hosts, ..ControlConfig::default() }).await;
    assert_eq!(server.ask("GET", "/metrics", &[("host", "flywheel:8080")], "").await.status, 200);
    assert_eq!(server.ask("GET", "/metrics", &[("host", "flywheel.evil.example")], "").await.status, 403);
    let foreign = [("host", "flywheel:8080"), ("origin", "http://evil.example")];
    let body = r#"{"version":4}"#;
    assert_eq!(server.ask("POST", "/v1/models/tank-ai-dqn/promote", &foreign, body).await.status, 403);
    assert!(server.view.moved.lock().is_empty());
}

#[tokio::test]
async fn the_state_is_pushed_again_and_again() {
    let server = Running::stub().await;
    let mut socket = server.socket("/ws", Some(&server.own_origin())).await.unwrap();
    for _ in 0..2 {
        let message = next_json(&mut socket).await;
        assert_eq!((&message["type"], &message["status"]["champion"]["version"]), (&json!("status"), &json!(3)));
    }
}

#[tokio::test]
async fn sockets_are_refused_to_other_origins_and_beyond_the_limit() {
    let config =
        ControlConfig { status_sockets_max: 1, game_sockets_max: 1, stub_page: true, ..ControlConfig::default() };
    let server = Running::start(config).await;
    assert_eq!(refusal(server.socket("/ws", Some("http://evil.example")).await), 403);
    assert_eq!(refusal(server.socket("/ws/games/game-1", Some("null")).await), 403);
    assert_eq!(refusal(server.socket("/ws/games/nothing", None).await), 404);
    for path in ["/ws", "/ws/games/game-1"] {
        let mut first = server.socket(path, None).await.unwrap();
        next_json(&mut first).await;
        assert_eq!(refusal(server.socket(path, None).await), 503);
        first.close(None).await.unwrap();
        close_reason(&mut first).await;
        // The place comes free when the server has seen the close.
        while let Err(SocketError::Http(_)) = server.socket(path, None).await {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_socket_that_talks_too_much_or_too_long_is_closed() {
    let server = Running::stub().await;
    let mut long = server.socket("/ws", None).await.unwrap();
    long.send(Message::text("x".repeat(5_000))).await.unwrap();
    close_reason(&mut long).await;

    let mut many = server.socket("/ws", None).await.unwrap();
    for _ in 0..400 {
        if many.send(Message::text("x")).await.is_err() {
            break;
        }
    }
    close_reason(&mut many).await;
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_game_sends_its_ground_then_frames_and_then_why_it_ended() {
    let server = Running::stub().await;
    let mut socket = server.socket("/ws/games/game-1", None).await.unwrap();
    let map = next_json(&mut socket).await;
    assert_eq!((&map["type"], &map["tiles"], &map["columns"]), (&json!("map"), &json!("0275"), &json!(2)));
    assert_eq!(map["game"]["map"], "<img src=x onerror=alert(1)>");
    assert_eq!(next_json(&mut socket).await["state"]["tick"], 1);

    server.view.play(json!({"tick": 2, "players": [], "gameOver": false}));
    assert_eq!(next_json(&mut socket).await["tick"], 2);

    let changed = json!([{"row": 0, "col": 1, "tileId": 0}]);
    server
        .view
        .play(json!({"tick": 3, "gameOver": true, "gameOverReason": "hq_destroyed", "mapTilesChanged": changed}));
    let map = next_json(&mut socket).await;
    assert_eq!((&map["type"], &map["tiles"]), (&json!("map"), &json!("0075")));
    assert_eq!(next_json(&mut socket).await["tick"], 3);
    assert_eq!(next_json(&mut socket).await, json!({"type": "end", "reason": "hq_destroyed"}));
    assert_eq!(close_reason(&mut socket).await, "the game is over");
}

#[tokio::test]
async fn a_slow_watcher_skips_frames_and_still_has_the_right_ground() {
    let server = Running::stub().await;
    let mut socket = server.socket("/ws/games/game-1", None).await.unwrap();
    next_json(&mut socket).await;
    assert_eq!(next_json(&mut socket).await["tick"], 1);
    for tick in 2..5_000_u64 {
        let changed = if tick == 2 { json!([{"row": 0, "col": 1, "tileId": 0}]) } else { json!([]) };
        server.view.play(json!({"tick": tick, "gameOver": false, "mapTilesChanged": changed}));
    }
    let (mut frames, mut tiles, mut tick) = (0, Value::Null, 0);
    while tick < 4_999 {
        let message = next_json(&mut socket).await;
        if message["type"] == "map" {
            tiles = message["tiles"].clone();
        } else {
            frames += 1;
            tick = message["tick"].as_u64().unwrap();
        }
    }
    assert_eq!(tiles, "0075");
    assert!(frames < 1_000, "{frames} frames for a watcher that was away");
}

#[tokio::test]
async fn a_game_that_goes_away_closes_its_sockets() {
    let server = Running::stub().await;
    let mut socket = server.socket("/ws/games/game-1", None).await.unwrap();
    next_json(&mut socket).await;
    next_json(&mut socket).await;
    server.view.frames.lock().take();
    assert_eq!(close_reason(&mut socket).await, "the game is gone");
}

#[tokio::test]
async fn stopping_tells_the_pages_and_frees_the_port() {
    let server = Running::stub().await;
    let mut socket = server.socket("/ws", None).await.unwrap();
    next_json(&mut socket).await;
    server.stop.cancel();
    assert_eq!(close_reason(&mut socket).await, "the loop is stopping");
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn metrics_have_every_stage_and_buckets_for_every_histogram() {
    let server = Running::stub().await;
    metrics::histogram!("flywheel_decision_seconds").record(0.000_2);
    metrics::histogram!("flywheel_sink_rows").record(900.0);
    server.get("/healthz").await;
    let answer = server.get("/metrics").await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    let text = answer.text();
    for stage in ["play", "stream", "land", "learn", "judge", "swap"] {
        assert!(text.contains(&format!(r#"flywheel_stage_state{{stage="{stage}",state="#)), "{stage}\n{text}");
    }
    assert!(text.contains(r#"flywheel_stage_state{stage="play",state="running"} 1"#));
    for (what, on) in [("store", 1), ("log", 0), ("catalog", 0), ("disk", 0), ("archive", 0)] {
        assert!(text.contains(&format!("flywheel_loop_degraded{{what=\"{what}\"}} {on}")), "{what}\n{text}");
    }
    assert!(text.contains(r#"flywheel_decision_seconds_bucket{le="0.00025"} 1"#), "{text}");
    assert!(text.contains(r#"flywheel_sink_rows_bucket{le="1024"} 1"#));
    assert!(!text.contains("quantile="), "a histogram without buckets");
    assert!(text.contains("flywheel_build_info{version="));
    assert!(text.contains(r#"flywheel_champion_score_ratio{opponent="hunter"} 0.625"#));
}

#[tokio::test]
async fn readiness_names_the_stage_that_failed_and_health_goes_on() {
    let server = Running::stub().await;
    assert_eq!(server.get("/readyz").await.status, 200);
    *server.view.failed.lock() = Some("no space left on the device".into());
    let answer = server.get("/readyz").await;
    assert_eq!((answer.status, answer.header("content-type")), (503, Some("application/problem+json")));
    assert_eq!(answer.json()["detail"], "land failed: no space left on the device");
    assert_eq!(server.get("/healthz").await.text(), "ok\n");
}
