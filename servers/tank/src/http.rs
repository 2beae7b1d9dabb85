//! The game backend over HTTP (tank spec, section 4) and the upgrade to WebSocket.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Query, Request, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection,
    },
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    GameBackend, OpenError,
    backend::NewSession,
    protocol::{self, MAX_FRAME_BYTES},
    session::{self, Session, SessionError},
    socket,
};

/// Largest request body.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Events in one `ai-input` request.
const MAX_EVENTS: usize = 1024;

/// A refusal: status and `{error}`.
pub(crate) struct Refusal(pub StatusCode, pub String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

pub(crate) fn router(backend: Arc<GameBackend>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/sessions", get(sessions))
        .route("/session", post(create))
        .route("/session/{id}/join", post(join))
        .route("/session/{id}/ai-input", post(ai_input))
        .route("/ws", get(upgrade))
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, "there is nothing at this path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            Refusal(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method".to_owned())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(cors))
        .with_state(backend)
}

/// Any page may call: this is a game on loopback, and nothing here is secret.
pub(crate) async fn cors(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        as_json(next.run(request).await).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    response
}

/// Longest text of a refusal kept.
const MAX_REFUSAL_BYTES: usize = 4 << 10;

/// Refusals of the framework itself, such as a path that is not UTF-8 or a body too large, are text; ours are all
/// `{error}`.
async fn as_json(response: Response) -> Response {
    let status = response.status();
    let is_json = |kind: &HeaderValue| kind.to_str().is_ok_and(|kind| kind.starts_with("application/json"));
    let failed = status.is_client_error() || status.is_server_error();
    if !failed || response.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MAX_REFUSAL_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let reason = status.canonical_reason().unwrap_or("refused");
    Refusal(status, if text.is_empty() { reason.to_owned() } else { text }).into_response()
}

async fn healthz(State(backend): State<Arc<GameBackend>>) -> Json<Value> {
    let address = backend.local_addr();
    Json(json!({
        "ok": true,
        "service": "flywheel-tank",
        "host": address.ip().to_string(),
        "port": address.port(),
    }))
}

async fn sessions(State(backend): State<Arc<GameBackend>>) -> Json<Value> {
    let list: Vec<Value> = backend
        .sessions()
        .into_iter()
        .map(|s| {
            json!({
                "sessionId": s.id,
                "tick": s.tick,
                "gameOver": s.game_over,
                "players": s.players,
                "mapName": s.map_name,
                "mapKey": s.map_key,
                "modelKey": s.model_key,
            })
        })
        .collect();
    Json(json!({"sessions": list}))
}

/// Body of `POST /session`. `opponent` is an addition to the spec: who plays, such as `hunter`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Create {
    map_name: Option<String>,
    max_enemies_alive: Option<u32>,
    opponent: Option<String>,
}

/// Body of `POST /session/{id}/join`; may be empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Join {
    opponent: Option<String>,
}

fn body<T: Default + serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("the body is not the JSON expected: {error}")))
}

async fn create(State(backend): State<Arc<GameBackend>>, bytes: Bytes) -> Result<Json<Value>, Refusal> {
    let create: Create = body(&bytes)?;
    let opponent = create.opponent.as_deref().map(socket::clean_name).filter(|name| !name.is_empty());
    let new = NewSession { map_name: create.map_name, max_enemies_alive: create.max_enemies_alive, opponent };
    let (session, joined, state) = backend.open(new).map_err(|error| {
        let status = match &error {
            OpenError::UnknownMap(_) => StatusCode::NOT_FOUND,
            OpenError::TooMany(_) | OpenError::Stopping | OpenError::EventsFull => StatusCode::SERVICE_UNAVAILABLE,
            OpenError::Rules(_) => StatusCode::BAD_REQUEST,
        };
        Refusal(status, error.to_string())
    })?;
    Ok(Json(session::admission(&session, joined, &state, true).into()))
}

fn find(backend: &GameBackend, id: &str) -> Result<Arc<Session>, Refusal> {
    backend.find(id).ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "unknown session".to_owned()))
}

async fn join(
    State(backend): State<Arc<GameBackend>>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, Refusal> {
    let session = find(&backend, &id)?;
    let join: Join = body(&bytes)?;
    let opponent = join.opponent.as_deref().map(socket::clean_name).filter(|name| !name.is_empty());
    let (joined, state) = session
        .add_player(opponent.as_deref())
        .map_err(|error: SessionError| Refusal(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Json(session::admission(&session, joined, &state, false).into()))
}

#[derive(Deserialize)]
struct AiInput<'a> {
    #[serde(borrow)]
    events: Vec<AiEvent<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AiEvent<'a> {
    tank_id: String,
    #[serde(rename = "move", default)]
    movement: Option<String>,
    #[serde(default)]
    fire: bool,
    #[serde(borrow, default)]
    debug: Option<&'a RawValue>,
}

async fn ai_input(
    State(backend): State<Arc<GameBackend>>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, Refusal> {
    let session = find(&backend, &id)?;
    let bad = |reason: String| Refusal(StatusCode::BAD_REQUEST, reason);
    let input: AiInput =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("the body is not the JSON expected: {error}")))?;
    if input.events.len() > MAX_EVENTS {
        return Err(bad(format!("{} events are too many; at most {MAX_EVENTS} are taken", input.events.len())));
    }
    let actions = input
        .events
        .iter()
        .map(|event| {
            protocol::action(event.movement.as_deref(), event.fire)
                .ok_or_else(|| bad(format!("`{}` is not a move", event.movement.as_deref().unwrap_or_default())))
        })
        .collect::<Result<Vec<_>, _>>()?;
    for (event, action) in input.events.iter().zip(actions) {
        if let Err(why) = session.ai_input(&event.tank_id, action, event.debug) {
            metrics::counter!(crate::metrics::FRAMES_DROPPED, "reason" => why.as_str()).increment(1);
            session.count_dropped(why);
        }
    }
    Ok(Json(json!({"ok": true})))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WsQuery {
    #[serde(default)]
    session_id: String,
}

async fn upgrade(
    State(backend): State<Arc<GameBackend>>,
    Query(query): Query<WsQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let session = find(&backend, &query.session_id)?;
    let upgrade = upgrade.map_err(|error| Refusal(error.status(), error.body_text()))?;
    session.connect().map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let (id, stop, tracker) = backend.new_socket();
    let queue_len = backend.config().socket_queue;
    let failed = session.clone();
    Ok(upgrade
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(4 << 20)
        .on_failed_upgrade(move |_| failed.leave(id))
        .on_upgrade(move |socket| async move {
            tracker.track_future(socket::serve(session, socket, id, queue_len, stop)).await;
        }))
}
