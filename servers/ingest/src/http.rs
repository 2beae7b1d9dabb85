//! The routes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use metrics::counter;

use crate::{Ack, Door, Format, Incoming, Problem, Source, body, metrics::REFUSED, parse, schemas, socket};

/// Parsing more than this goes to a thread of its own.
const PARSE_INLINE_BYTES: usize = 64 << 10;

/// `POST /v1/events`, `GET /v1/events/ws`, `GET /v1/schemas`, `GET /v1/schemas/{kind}`.
pub fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/events", post(events))
        .route("/v1/events/ws", get(socket::open))
        .route("/v1/schemas", get(schemas::list))
        .route("/v1/schemas/{kind}", get(schemas::one))
        .with_state(door)
}

async fn events(State(door): State<Arc<Door>>, request: Request) -> Response {
    match take(&door, request).await {
        Ok(ack) => Json(ack).into_response(),
        Err(problem) => {
            counter!(REFUSED, "reason" => problem.reason).increment(1);
            problem.into_response()
        }
    }
}

async fn take(door: &Arc<Door>, request: Request) -> Result<Ack, Problem> {
    let (head, body) = request.into_parts();
    let source = door.source(&door.authenticate(&head.headers).await?)?;
    let format = Format::of(&head.headers)?;
    // Given back when the answer is there, or the client is gone.
    let (body, _ticket) = body::read(&head.headers, body, &door.config, door.budget.ticket()).await?;
    let events = checked(door, format, head.headers, body, source).await?;
    door.accept(events, "http").await
}

pub(crate) async fn checked(
    door: &Arc<Door>,
    format: Format,
    headers: HeaderMap,
    body: Bytes,
    source: Source,
) -> Result<Vec<Incoming>, Problem> {
    if body.len() <= PARSE_INLINE_BYTES {
        return parse(format, &headers, &body, &source, &door.config);
    }
    let door = Arc::clone(door);
    tokio::task::spawn_blocking(move || parse(format, &headers, &body, &source, &door.config))
        .await
        .expect("parsing does not panic")
}
