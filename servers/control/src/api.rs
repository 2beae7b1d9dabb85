//! The JSON calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use crate::page::knows;
use crate::router::Control;
use crate::{AliasMove, GameInfo, History, LoopView, ModelInfo, Problem, Promote, Rollback, Weights};

/// The state as JSON text, taken anew at most five times a second however many ask.
#[derive(Debug, Default)]
pub(crate) struct StatusCache(Mutex<Option<(Instant, Arc<str>)>>);

impl StatusCache {
    pub(crate) fn get(&self, view: &dyn LoopView) -> Arc<str> {
        let mut kept = self.0.lock();
        if let Some((taken, text)) = kept.as_ref()
            && taken.elapsed() < Duration::from_millis(200)
        {
            return Arc::clone(text);
        }
        let text: Arc<str> = serde_json::to_string(&view.status()).expect("a status has string keys only").into();
        *kept = Some((Instant::now(), Arc::clone(&text)));
        text
    }
}

pub(crate) async fn status(State(control): State<Arc<Control>>) -> Response {
    let text = control.status.get(control.view.as_ref());
    ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

#[derive(Deserialize)]
pub(crate) struct Since {
    since_ms: Option<i64>,
}

pub(crate) async fn history(State(control): State<Arc<Control>>, Query(query): Query<Since>) -> Json<History> {
    let mut history = control.view.history();
    if let Some(t_ms) = query.since_ms {
        history.retain_after(t_ms);
    }
    Json(history)
}

#[derive(serde::Serialize)]
pub(crate) struct Listed<T> {
    items: Vec<T>,
}

pub(crate) async fn models(State(control): State<Arc<Control>>) -> Result<Json<Listed<ModelInfo>>, Problem> {
    Ok(Json(Listed { items: control.view.models().await? }))
}

pub(crate) async fn alias(
    State(control): State<Arc<Control>>,
    Path((base, alias)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let named = control.view.alias(checked(&base)?, checked(&alias)?).await?;
    let tag = named.etag();
    let known = knows(&headers, &tag);
    // May be kept, but is asked for again each time.
    let head = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
    Ok(if known { (StatusCode::NOT_MODIFIED, head).into_response() } else { (head, Json(named)).into_response() })
}

pub(crate) async fn weights(
    State(control): State<Arc<Control>>,
    Path((base, version)): Path<(String, u64)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let places = Arc::clone(&control.weight_places);
    let place = places.try_acquire_owned().map_err(|_| {
        let busy = Problem::unavailable("as many weight files as are allowed are on their way");
        busy.hint("ask again in a second")
    })?;
    let Weights { sha256, bytes } = control.view.weights(checked(&base)?, version).await?;
    // A version never changes.
    let tag = format!("\"{sha256}\"");
    let kept = "public, max-age=31536000, immutable".to_owned();
    let known = knows(&headers, &tag);
    let head = [(header::ETAG, tag), (header::CACHE_CONTROL, kept)];
    if known {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    // The place is given back when the last byte has left, not when the file was read.
    let body = Bytes::from_owner(OnItsWay { bytes, _place: place });
    Ok((head, [(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

struct OnItsWay {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for OnItsWay {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(crate) async fn games(State(control): State<Arc<Control>>) -> Json<Listed<GameInfo>> {
    Json(Listed { items: control.view.games() })
}

pub(crate) async fn promote(
    State(control): State<Arc<Control>>,
    Path(base): Path<String>,
    body: Bytes,
) -> Result<Json<AliasMove>, Problem> {
    let request: Promote = parse(&body)?;
    Ok(Json(control.view.promote(checked(&base)?, request).await?))
}

pub(crate) async fn rollback(
    State(control): State<Arc<Control>>,
    Path(base): Path<String>,
    body: Bytes,
) -> Result<Json<AliasMove>, Problem> {
    let request = if body.is_empty() { Rollback::default() } else { parse(&body)? };
    Ok(Json(control.view.rollback(checked(&base)?, request).await?))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::invalid(format!("body of the request: {error}")))
}

fn checked(base: &str) -> Result<&str, Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let sound = (1..=128).contains(&base.len()) && base.bytes().all(plain);
    sound.then_some(base).ok_or_else(|| Problem::invalid("the name of a model has letters, digits, `-`, `_` and `.`"))
}

pub(crate) async fn metrics(State(control): State<Arc<Control>>) -> Response {
    crate::record_status(&control.view.status());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], control.metrics.render()).into_response()
}

pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn readyz(State(control): State<Arc<Control>>) -> Result<&'static str, Problem> {
    if control.stop.is_cancelled() {
        return Err(Problem::unavailable("the loop is draining"));
    }
    match control.view.not_ready() {
        None => Ok("ready\n"),
        Some(why) => Err(Problem::unavailable(why)),
    }
}

pub(crate) async fn page(State(control): State<Arc<Control>>, uri: Uri, headers: HeaderMap) -> Response {
    control.pages.respond(uri.path().trim_start_matches('/'), &headers)
}

pub(crate) async fn no_such_call(uri: Uri) -> Problem {
    Problem::not_found(format!("no call `{}`", uri.path()))
}

pub(crate) async fn wrong_method(uri: Uri) -> Problem {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Problem::new(status, "method-not-allowed", "Method not allowed", format!("not a method of `{}`", uri.path()))
}
