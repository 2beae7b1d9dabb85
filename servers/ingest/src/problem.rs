//! Errors as RFC 9457 problems.

use std::ops::{Deref, DerefMut};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Why an event, or a whole request, is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable word, also the label of the metric.
    pub reason: &'static str,
    /// The field of the event, if one is to blame.
    pub field: Option<String>,
    pub detail: String,
}

impl Refusal {
    pub fn new(reason: &'static str, field: impl Into<Option<&'static str>>, detail: impl Into<String>) -> Self {
        Self { reason, field: field.into().map(str::to_owned), detail: detail.into() }
    }
}

/// An answer that is an error; boxed, because it travels through every `Result` of a request that goes well.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Problem(Box<Body>);

/// The body of every answer that is an error.
#[derive(Debug, Clone, Serialize)]
pub struct Body {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: &'static str,
    pub status: u16,
    pub detail: String,
    /// Stable word for what is wrong; the label of `flywheel_ingest_refused_total`.
    pub reason: &'static str,
    /// Place of the first bad event in the request, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Its field, as the producer called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip)]
    pub retry_after_s: Option<u64>,
}

impl Deref for Problem {
    type Target = Body;
    fn deref(&self) -> &Body {
        &self.0
    }
}

impl DerefMut for Problem {
    fn deref_mut(&mut self) -> &mut Body {
        &mut self.0
    }
}

impl Problem {
    pub fn new(status: StatusCode, name: &str, title: &'static str, reason: &'static str, detail: String) -> Self {
        Self(Box::new(Body {
            kind: format!("urn:flywheel:problem:{name}"),
            title,
            status: status.as_u16(),
            detail,
            reason,
            index: None,
            field: None,
            hint: None,
            retry_after_s: None,
        }))
    }

    /// One event is not an event; nothing of its request was appended.
    pub fn bad_event(index: usize, refusal: Refusal) -> Self {
        let (status, name, title) = match refusal.reason {
            "too_large" => (StatusCode::PAYLOAD_TOO_LARGE, "bad-event", "An event is malformed"),
            "forged_source" => (StatusCode::FORBIDDEN, "forged-source", "A game belongs to another source"),
            _ => (StatusCode::BAD_REQUEST, "bad-event", "An event is malformed"),
        };
        let detail = format!("event {index}: {}; nothing of this request was appended", refusal.detail);
        let mut problem = Self::new(status, name, title, refusal.reason, detail);
        (problem.index, problem.field) = (Some(index), refusal.field);
        problem
    }

    pub fn bad_request(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request is malformed", reason, detail.into())
    }

    pub fn too_large(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", reason, detail.into())
    }

    pub fn unsupported(reason: &'static str, detail: impl Into<String>) -> Self {
        let title = "The encoding is not one of ours";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", title, reason, detail.into())
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", "not_found", detail.into())
    }

    /// Too much is under way in this process; nothing was appended.
    pub fn busy(retry_after_s: u64, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "overloaded",
            "Too much is under way",
            "overloaded",
            detail.into(),
        );
        problem.retry_after_s = Some(retry_after_s);
        problem
    }

    /// The log did not answer; what became of the events is unknown.
    pub fn unavailable(retry_after_s: u64, reason: &'static str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Events cannot be taken at the moment",
            reason,
            detail.into(),
        );
        problem.retry_after_s = Some(retry_after_s);
        problem.hint("nothing is acknowledged; send the same events again, repeats are recognised by (game_id, seq)")
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("a problem serialises");
        let status = StatusCode::from_u16(self.status).expect("problems are made of status codes");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
