//! The page: the built one, or a stub when the program was built without Node.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::Problem;

#[derive(RustEmbed)]
#[folder = "../../dashboards/web/dist"]
struct Built;

#[derive(RustEmbed)]
#[folder = "stub"]
struct Stub;

/// Whether this program carries only the stub page.
pub fn page_is_stub() -> bool {
    Built::get("index.html").is_none()
}

/// Where files of the page come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    Built,
    Stub,
}

impl Pages {
    pub(crate) fn choose(force_stub: bool) -> Self {
        if force_stub || page_is_stub() { Self::Stub } else { Self::Built }
    }

    fn get(self, path: &str) -> Option<EmbeddedFile> {
        match self {
            Self::Built => Built::get(path),
            Self::Stub => Stub::get(path),
        }
    }

    /// Answers `GET /{path}`; compressed where the build left a `.br` or `.gz` beside the file.
    pub(crate) fn respond(self, path: &str, request: &HeaderMap) -> axum::response::Response {
        let path = if path.is_empty() { "index.html" } else { path };
        // Compressed twins are reached through their plain name only.
        let plain = (!path.ends_with(".br") && !path.ends_with(".gz")).then(|| self.get(path)).flatten();
        let Some(plain) = plain else {
            return Problem::not_found(format!("no page `/{path}`")).into_response();
        };
        let tag = etag(&plain);
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, content_type(path))
            .header(header::CACHE_CONTROL, cache_control(path))
            .header(header::VARY, "accept-encoding")
            .header(header::ETAG, &tag);
        if knows(request, &tag) {
            response = response.status(StatusCode::NOT_MODIFIED);
            return response.body(Body::empty()).expect("headers are static").into_response();
        }
        let mut data = plain.data;
        for (coding, suffix) in [("br", ".br"), ("gzip", ".gz")] {
            if accepts(request, coding)
                && let Some(packed) = self.get(&format!("{path}{suffix}"))
            {
                response = response.header(header::CONTENT_ENCODING, coding);
                data = packed.data;
                break;
            }
        }
        let body = match data {
            Cow::Borrowed(bytes) => Body::from(bytes),
            Cow::Owned(bytes) => Body::from(bytes),
        };
        response.body(body).expect("headers are static").into_response()
    }
}

/// Whether who asks has this version already.
pub(crate) fn knows(request: &HeaderMap, tag: &str) -> bool {
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag))
}

fn etag(file: &EmbeddedFile) -> String {
    let hash: String = file.metadata.sha256_hash()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hash}\"")
}

fn content_type(path: &str) -> HeaderValue {
    let kind = match path.rsplit('.').next().unwrap_or("") {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    HeaderValue::from_static(kind)
}

/// Files under `assets/` carry a hash of their content in the name, so they never change.
fn cache_control(path: &str) -> HeaderValue {
    HeaderValue::from_static(if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    })
}

fn accepts(request: &HeaderMap, coding: &str) -> bool {
    let listed = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
        named && !parts.any(|weight| matches!(weight.replace(' ', "").as_str(), "q=0" | "q=0.0" | "q=0.00"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_counts_only_when_it_is_wanted() {
        let with =
            |value: &'static str| HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        assert!(accepts(&with("gzip, br"), "br"));
        assert!(accepts(&with("br;q=0.5"), "br"));
        assert!(!accepts(&with("br;q=0"), "br"));
        assert!(!accepts(&with("gzip"), "br"));
        assert!(!accepts(&HeaderMap::new(), "br"));
    }

    #[test]
    fn only_names_with_a_hash_are_kept_for_ever() {
        assert_eq!(cache_control("index.html"), "no-cache");
        assert!(cache_control("assets/index-ab12.js").to_str().unwrap().contains("immutable"));
    }
}
