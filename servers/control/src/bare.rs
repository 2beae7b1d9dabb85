//! What a process without a page shows: its metrics, and whether it lives.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use crate::api::healthz;
use crate::{Problem, guard, metrics};

struct Bare {
    metrics: PrometheusHandle,
    stop: CancellationToken,
    began: Instant,
}

/// `/metrics`, `/v1/status`, `/healthz` and `/readyz`, for a process that has nothing else to show. Must be called on a Tokio runtime.
pub fn metrics_router(metrics: PrometheusHandle, stop: CancellationToken) -> Router {
    tokio::spawn(metrics::upkeep(metrics.clone(), stop.clone()));
    Router::new()
        .route("/metrics", get(render))
        .route("/v1/status", get(status))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(Bare { metrics, stop, began: Instant::now() }))
        .layer(from_fn_with_state(guard::Guard::new(Vec::new(), false), guard::check))
        .layer(from_fn(guard::headers))
}

async fn render(State(bare): State<Arc<Bare>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], bare.metrics.render()).into_response()
}

/// Enough of a loop's status that `flywheel status --url` can ask this process too; while it drains, 503.
async fn status(State(bare): State<Arc<Bare>>) -> Result<Json<serde_json::Value>, Problem> {
    let seconds = bare.began.elapsed().as_secs_f64();
    readyz(State(bare)).await.map(|_| Json(serde_json::json!({ "seconds": seconds, "stages": [] })))
}

async fn readyz(State(bare): State<Arc<Bare>>) -> Result<&'static str, Problem> {
    if bare.stop.is_cancelled() { Err(Problem::unavailable("the process is draining")) } else { Ok("ready\n") }
}
