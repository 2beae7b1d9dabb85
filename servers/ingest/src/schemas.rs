//! JSON Schemas of the envelope and of every event kind: the files of `schemas/json`, served as they are.

use axum::{
    Json,
    extract::Path,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::Problem;

macro_rules! schemas {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../schemas/json/", $name, ".json")))),*]
    };
}

/// Name (`envelope`, or an event kind) and JSON Schema (draft 2020-12), by name.
pub const SCHEMAS: &[(&str, &str)] = schemas![
    "envelope",
    "model.swap_refused",
    "tank.checkpoint",
    "tank.episode.ended",
    "tank.input",
    "tank.model.allocated",
    "tank.model.released",
    "tank.model.saved",
    "tank.model.swapped",
    "tank.player.joined",
    "tank.session.closed",
    "tank.session.opened",
    "tank.tick",
    "tank.transition",
];

pub(crate) async fn list() -> Response {
    let names: Vec<_> =
        SCHEMAS.iter().map(|(name, _)| json!({"kind": name, "href": format!("/v1/schemas/{name}")})).collect();
    Json(json!({"envelope": "/v1/schemas/envelope", "schemas": names})).into_response()
}

pub(crate) async fn one(Path(kind): Path<String>) -> Response {
    let kind = kind.strip_suffix(".json").unwrap_or(&kind);
    match SCHEMAS.iter().find(|(name, _)| *name == kind) {
        Some((_, text)) => ([(header::CONTENT_TYPE, "application/schema+json")], *text).into_response(),
        None => {
            Problem::not_found(format!("there is no schema of kind `{}`", kind.chars().take(128).collect::<String>()))
                .hint("GET /v1/schemas lists them; events of kinds without a schema are taken too")
                .into_response()
        }
    }
}
