//! Who may ask, and what every answer carries.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::Problem;

const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// Headers of every answer: no foreign hosts, no guessing of types, no framing.
pub(crate) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set("content-security-policy", CONTENT_SECURITY_POLICY);
    set("x-content-type-options", "nosniff");
    set("x-frame-options", "DENY");
    set("referrer-policy", "no-referrer");
    set("cross-origin-resource-policy", "same-origin");
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Refuses names that are not ours, pages from elsewhere, and changes from other machines.
///
/// A page on the web can make a browser send requests to `127.0.0.1`. Two things give it away: the `Origin` header
/// (checked on sockets and on changes), and, when it moved its own name to our address, the `Host` header.
///
/// A socket under `/v1/` takes events, so it is a change; the sockets of the page only tell.
///
/// Doors that let nobody in without a key are open to other machines, by whatever name they call this one: no page knows
/// a key, so there is nothing that a name or an address would add to it.
pub(crate) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let keyed = guard.keyed_doors && is_door(&request);
    if let Some(host) = host
        && !keyed
        && !guard.names.has(host)
    {
        let problem = Problem::forbidden(format!("`{host}` is not a name of this machine"));
        return problem
            .hint("open the page by its address, for example http://127.0.0.1:8080; `up.hosts` takes further names")
            .into_response();
    }
    let upgrade = headers.contains_key(header::UPGRADE);
    let changes = (request.method() != Method::GET && request.method() != Method::HEAD)
        || (upgrade && request.uri().path().starts_with("/v1/"));
    if (changes || upgrade) && !same_origin(headers, host) {
        return Problem::forbidden("the request comes from a page of another origin").into_response();
    }
    if changes && !keyed {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        // An unknown peer is refused too: a server that forgot to pass it on must not open the door.
        if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
            let mut problem = Problem::forbidden("changes are taken from this machine only");
            if is_door(&request) {
                problem = problem.hint("with `ingest.keys = \"required\"` events are taken from other machines too");
            }
            return problem.into_response();
        }
    }
    next.run(request).await
}

/// What the guard goes by.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    names: Names,
    /// The doors for events ask everybody for a key.
    keyed_doors: bool,
}

impl Guard {
    /// `names` besides addresses and `localhost`.
    pub(crate) fn new(names: Vec<String>, keyed_doors: bool) -> Self {
        Self { names: Names(names.into()), keyed_doors }
    }
}

/// Whether events are handed in: exactly what the doors themselves ask for a key.
fn is_door(request: &Request) -> bool {
    match request.uri().path() {
        "/v1/events" => request.method() == Method::POST,
        "/v1/events/ws" => request.method() == Method::GET && request.headers().contains_key(header::UPGRADE),
        _ => false,
    }
}

/// The names of this server: addresses, `localhost`, and those that somebody gave it. Any other may have been pointed
/// here by its owner.
#[derive(Clone, Debug)]
struct Names(Arc<[String]>);

impl Names {
    fn has(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(""),
            None => host.split(':').next().unwrap_or(""),
        };
        name.parse::<std::net::IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|given| name.eq_ignore_ascii_case(given))
    }
}

/// True without `Origin` (not a browser), or when it names the host that was asked.
fn same_origin(headers: &HeaderMap, host: Option<&str>) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
        return site.is_none_or(|site| site == "same-origin" || site == "none");
    };
    let origin = origin.to_str().unwrap_or("null");
    let asked = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    asked.is_some() && asked == host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_names_of_this_machine() {
        let names = Names(Arc::default());
        for host in ["127.0.0.1:8080", "localhost", "localhost:1", "[::1]:8080", "192.168.1.9:80"] {
            assert!(names.has(host), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "", "127.0.0.1.evil.example"] {
            assert!(!names.has(host), "{host}");
        }
    }

    #[test]
    fn a_given_name_is_ours_as_a_whole_and_makes_no_other_ours() {
        let names = Names(["flywheel".to_owned(), "loop.lan".to_owned()].into());
        for host in ["flywheel:8080", "flywheel", "FlyWheel:1", "loop.lan", "127.0.0.1:8080", "localhost"] {
            assert!(names.has(host), "{host}");
        }
        for host in ["flywheel.evil.example", "evil.flywheel", "lan", "evil.example", "", ":8080"] {
            assert!(!names.has(host), "{host}");
        }
    }

    #[test]
    fn an_origin_counts_only_with_the_very_same_host_and_port() {
        let from = |origin: &'static str| HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
        assert!(same_origin(&from("http://127.0.0.1:8080"), Some("127.0.0.1:8080")));
        assert!(!same_origin(&from("http://127.0.0.1:9"), Some("127.0.0.1:8080")));
        assert!(!same_origin(&from("null"), Some("127.0.0.1:8080")));
        assert!(!same_origin(&from("http://evil.example"), None));
        assert!(same_origin(&HeaderMap::new(), Some("127.0.0.1:8080")));
    }
}
