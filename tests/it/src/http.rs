//! Enough of HTTP to ask a loop on loopback.

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The status and body of a GET of `url`, such as `http://127.0.0.1:8080/healthz`.
///
/// # Errors
/// If nobody answers, or not in HTTP.
pub fn get(url: &str) -> Result<(u16, String), Error> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(|| bad("not an http URL"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| bad("no end of headers"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| bad("no status"))?;
    Ok((status, body.to_owned()))
}

/// The status, head and body of what a POST of `body` to `url` is answered.
///
/// # Errors
/// As [`get`].
pub fn post(url: &str, content_type: &str, body: &str) -> Result<(u16, String, String), Error> {
    post_as(url, content_type, None, body)
}

/// The same, as who has `key`.
///
/// # Errors
/// As [`get`].
pub fn post_as(url: &str, content_type: &str, key: Option<&str>, body: &str) -> Result<(u16, String, String), Error> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(|| bad("not an http URL"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(180)))?;
    let length = body.len();
    let key = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {content_type}\r\n{key}\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| bad("no end of headers"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| bad("no status"))?;
    Ok((status, head.to_ascii_lowercase(), body.to_owned()))
}
