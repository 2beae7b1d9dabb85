//! Requests to the loop, with failures by what can be done about them.

use std::{fmt, time::Duration};

use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderValue},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{ClientError, ClientErrorKind, Compression};

/// Smaller bodies are not worth packing.
const PACK_FROM_BYTES: usize = 1024;
/// Longest answer that is read, weights apart.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// An answer that is an error (RFC 9457).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// `urn:flywheel:problem:…`; empty if the answer is not the loop's.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: u16,
    pub detail: String,
    /// Stable word for what is wrong, such as `bad_kind`.
    pub reason: Option<String>,
    /// Place of the first bad event in its request.
    pub index: Option<usize>,
    /// Its field.
    pub field: Option<String>,
    pub hint: Option<String>,
}

impl Problem {
    /// Whether the doors say this of the events themselves. A page of a proxy says it of nobody; a body that broke on
    /// its way is no event's fault.
    fn blames(&self, lines: &[u8]) -> bool {
        let ours = self.kind.starts_with("urn:flywheel:problem:");
        match (ours, self.reason.as_deref()) {
            (true, Some("empty")) => lines.trim_ascii().is_empty(),
            (true, Some(_)) => self.index.is_some() || self.status == StatusCode::PAYLOAD_TOO_LARGE,
            _ => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

#[derive(Debug)]
pub(crate) enum Failure {
    /// The same may be asked again, after `retry_after` if the server said so.
    Away { why: String, retry_after: Option<Duration> },
    /// It will never be taken.
    Refused(Problem),
}

impl Failure {
    pub fn away(why: impl fmt::Display) -> Self {
        Self::Away { why: why.to_string(), retry_after: None }
    }
}

/// A server, and how long it may take.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    base: Url,
    client: reqwest::Client,
    timeout: Duration,
    /// Marked as a secret, so that nothing prints it.
    key: Option<HeaderValue>,
}

impl Http {
    pub fn new(url: &str, timeout: Duration) -> Result<Self, ClientError> {
        let wrong = |why: &dyn fmt::Display| ClientError::new(ClientErrorKind::Setting, "reading the url", url, why);
        let mut base = Url::parse(url).map_err(|error| wrong(&error).caused_by(error))?;
        let tls = cfg!(feature = "tls") && base.scheme() == "https";
        if !(tls || base.scheme() == "http") || base.host().is_none() {
            return Err(wrong(&"expected `http://HOST:PORT` (`https://` needs the feature `tls`)"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout)
            .build()
            .map_err(|error| wrong(&"an HTTP client cannot be made").caused_by(error))?;
        Ok(Self { base, client, timeout, key: None })
    }

    /// Events are sent with this key.
    pub fn with_key(mut self, key: Option<&str>) -> Result<Self, ClientError> {
        let Some(key) = key else { return Ok(self) };
        let wrong = "it is no key: expected `fw_<env>_<id>_<secret>_<crc>`";
        let value = Some(key.trim()).filter(|key| key.starts_with("fw_"));
        let mut value = value
            .and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok())
            .ok_or_else(|| ClientError::new(ClientErrorKind::Setting, "reading the setting", "key", wrong))?;
        value.set_sensitive(true);
        self.key = Some(value);
        Ok(self)
    }

    /// `parts` under the server's address, each escaped.
    pub fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("http has paths").pop_if_empty().extend(parts);
        url
    }

    /// Posts envelopes, one a line. Only what the doors say of the events themselves refuses them: an address that is
    /// not the loop's, that wants a password, or a proxy with an opinion, is a server that is away.
    pub async fn post_lines<T: DeserializeOwned>(&self, lines: &[u8], packed: Compression) -> Result<T, Failure> {
        let url = self.url(&["v1", "events"]);
        let request = self.client.post(url.clone()).header(header::CONTENT_TYPE, "application/x-ndjson");
        let request = match &self.key {
            Some(key) => request.header(header::AUTHORIZATION, key.clone()),
            None => request,
        };
        let request = match pack(lines, packed) {
            Some((coding, body)) => request.header(header::CONTENT_ENCODING, coding).body(body),
            None => request.body(lines.to_vec()),
        };
        let answer = request.timeout(self.timeout).send().await.map_err(|error| Failure::away(chain(&error)))?;
        match answer.status() {
            StatusCode::OK => {
                let body = limited(answer, ANSWER_BYTES_MAX).await?;
                serde_json::from_slice(&body)
                    .map_err(|error| Failure::away(format!("`{url}` did not answer with an acknowledgement: {error}")))
            }
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                let retry_after = retry_after(&answer);
                let problem = problem(answer).await;
                if problem.blames(lines) {
                    return Err(Failure::Refused(problem));
                }
                Err(Failure::Away { why: format!("`{url}` answered {problem}"), retry_after })
            }
            _ => Err(away(answer).await),
        }
    }

    /// The answer and its tag; `None` if its tag is `known`.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        url: Url,
        known: Option<&str>,
    ) -> Result<Option<(T, Option<String>)>, Failure> {
        let mut request = self.client.get(url.clone());
        if let Some(known) = known {
            request = request.header(header::IF_NONE_MATCH, known);
        }
        let answer = request.timeout(self.timeout).send().await.map_err(|error| Failure::away(chain(&error)))?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let answer = good(answer).await?;
        let tag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let body = limited(answer, ANSWER_BYTES_MAX).await?;
        let value =
            serde_json::from_slice(&body).map_err(|error| Failure::away(format!("the answer of `{url}`: {error}")))?;
        Ok(Some((value, tag)))
    }

    /// At most `limit` bytes.
    pub async fn get_bytes(&self, url: Url, limit: usize) -> Result<Vec<u8>, Failure> {
        let request = self.client.get(url).timeout(self.timeout.saturating_mul(6));
        let answer = request.send().await.map_err(|error| Failure::away(chain(&error)))?;
        limited(good(answer).await?, limit).await
    }
}

async fn good(answer: Response) -> Result<Response, Failure> {
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer);
    }
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    if status.is_client_error() && !again.contains(&status) {
        return Err(Failure::Refused(problem(answer).await));
    }
    Err(away(answer).await)
}

async fn away(answer: Response) -> Failure {
    let (at, retry_after) = (answer.url().clone(), retry_after(&answer));
    Failure::Away { why: format!("`{at}` answered {}", problem(answer).await), retry_after }
}

fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn problem(answer: Response) -> Problem {
    let status = answer.status();
    let body = limited(answer, 1 << 20).await.unwrap_or_default();
    let mut problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
    problem.status = status.as_u16();
    if problem.detail.is_empty() {
        problem.detail = status.canonical_reason().unwrap_or("no reason is given").to_owned();
    }
    problem
}

async fn limited(mut answer: Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| Failure::away(chain(&error)))? {
        if body.len() + chunk.len() > limit {
            return Err(Failure::away(format!("`{}` answered with more than {limit} bytes", answer.url())));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The body as it is sent, and its coding; `None` to send it as it is.
fn pack(body: &[u8], packed: Compression) -> Option<(&'static str, Vec<u8>)> {
    if body.len() < PACK_FROM_BYTES {
        return None;
    }
    match packed {
        Compression::None => None,
        #[cfg(feature = "gzip")]
        Compression::Gzip => {
            use std::io::Write;
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(body).expect("memory takes every write");
            Some(("gzip", gzip.finish().expect("memory takes every write")))
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd => Some(("zstd", zstd::bulk::compress(body, 1).expect("level 1 packs every body"))),
    }
}

/// The error with what caused it: `reqwest` says "error sending request" and keeps the reason to itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
