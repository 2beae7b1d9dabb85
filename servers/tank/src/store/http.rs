//! The model store's calls.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::BytesRejection},
    http::StatusCode,
    middleware,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use super::{ModelStore, StoreError};
use crate::{
    PayloadError,
    http::{Refusal, cors},
    metrics::STORE_REQUESTS,
};

/// Largest request body.
const MAX_BODY_BYTES: usize = 8 << 20;
/// Longest map key taken.
const MAX_MAP_KEY: usize = 128;

type Answer = Result<Json<Value>, Refusal>;
type Store = State<Arc<ModelStore>>;

pub(super) fn router(store: Arc<ModelStore>) -> Router {
    Router::new()
        .route("/health", get(|| async { Json(json!({"ok": true})) }))
        .route("/api/rl-model-keys", get(keys))
        .route("/api/rl-model/{key}", get(load).post(save))
        .route("/api/rl-allocate/{map_key}", get(allocate))
        .route("/api/rl-release/{map_key}", post(release))
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, "there is nothing at this path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            Refusal(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method".to_owned())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(cors))
        .with_state(store)
}

fn refuse(call: &'static str, error: &StoreError) -> Refusal {
    let status = match &error {
        StoreError::NotFound => StatusCode::NOT_FOUND,
        StoreError::BadKey { .. } | StoreError::Payload(PayloadError::Missing) => StatusCode::BAD_REQUEST,
        StoreError::Payload(_) => StatusCode::UNPROCESSABLE_ENTITY,
        StoreError::Registry(error) if error.is_corrupt() => StatusCode::UNPROCESSABLE_ENTITY,
        StoreError::Registry(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    if let StoreError::Registry(error) = error {
        warn!(call, %error, "the registry refused");
    }
    counted(call, status);
    Refusal(status, error.to_string())
}

fn counted(call: &'static str, status: StatusCode) {
    metrics::counter!(STORE_REQUESTS, "call" => call, "status" => status.as_str().to_owned()).increment(1);
}

fn answered(call: &'static str, value: Value) -> Json<Value> {
    counted(call, StatusCode::OK);
    Json(value)
}

fn json_body(body: Result<Bytes, BytesRejection>) -> Result<Value, Refusal> {
    let bytes = body.map_err(|error| Refusal(error.status(), error.body_text()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeysQuery {
    map_key: Option<String>,
}

async fn keys(State(store): Store, Query(query): Query<KeysQuery>) -> Answer {
    let wanted = query.map_key.filter(|key| !key.is_empty());
    Ok(answered("keys", json!({"models": store.keys(wanted.as_deref())})))
}

async fn load(State(store): Store, Path(key): Path<String>) -> Answer {
    let payload = store.get(&key).await.map_err(|error| refuse("load", &error))?;
    Ok(answered("load", serde_json::to_value(payload).expect("a payload serialises")))
}

async fn save(State(store): Store, Path(key): Path<String>, body: Result<Bytes, BytesRejection>) -> Answer {
    let payload = json_body(body)?;
    let card = store.put(&key, payload).await.map_err(|error| refuse("save", &error))?;
    Ok(answered(
        "save",
        json!({
            "ok": true,
            "updatedAt": card.published_at_ms,
            // Additions to the spec: which version it became.
            "baseKey": card.base_key,
            "version": card.version,
        }),
    ))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AllocateQuery {
    base_key: Option<String>,
}

fn map_key(key: &str) -> Result<&str, Refusal> {
    let sound = !key.is_empty() && key.len() <= MAX_MAP_KEY;
    if sound && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Ok(key);
    }
    Err(Refusal(StatusCode::BAD_REQUEST, "a map key is letters, digits, `-` and `_`, 128 at most".to_owned()))
}

async fn allocate(State(store): Store, Path(map): Path<String>, Query(query): Query<AllocateQuery>) -> Answer {
    let map = map_key(&map)?;
    let base = query.base_key.filter(|key| !key.is_empty()).unwrap_or_else(|| "tank-ai-dqn".to_owned());
    let answer = store.allocate(map, &base).await.map_err(|error| refuse("allocate", &error))?;
    Ok(answered("allocate", answer))
}

async fn release(State(store): Store, Path(map): Path<String>, body: Result<Bytes, BytesRejection>) -> Answer {
    let map = map_key(&map)?;
    let body = json_body(body)?;
    let Some(key) = body["modelKey"].as_str().filter(|key| !key.is_empty() && key.len() <= 256) else {
        counted("release", StatusCode::BAD_REQUEST);
        return Err(Refusal(StatusCode::BAD_REQUEST, "Missing modelKey".to_owned()));
    };
    store.release(map, key);
    Ok(answered("release", json!({"ok": true})))
}
