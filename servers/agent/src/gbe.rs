//! The game backend as seen by its client: the list of sessions, and addresses.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;

use crate::AgentError;

/// Longest answers read.
const MAX_LIST_BYTES: usize = 8 << 20;
/// Sessions taken from one list.
const MAX_LISTED: usize = 10_000;

/// One session as `GET /sessions` lists it; only the id is certain to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub session_id: String,
    pub map_name: String,
    pub map_key: String,
    /// The base key of its models.
    pub model_key: String,
    pub game_over: bool,
}

/// `GET /sessions`.
///
/// # Errors
/// On any answer that is not a list of sessions, in time. A failed poll is not an empty poll.
pub async fn sessions(
    client: &reqwest::Client,
    gbe_url: &str,
    timeout: Duration,
    general_key: &str,
) -> Result<Vec<Listed>, AgentError> {
    let value = get(client, &format!("{}/sessions", gbe_url.trim_end_matches('/')), "polling", timeout).await?;
    parse(&value, general_key).ok_or_else(|| AgentError::Request {
        operation: "polling",
        target: gbe_url.to_owned(),
        reason: "the answer has no list `sessions`".to_owned(),
    })
}

/// A JSON answer with status 200.
///
/// # Errors
/// If there is none in time.
pub async fn get(
    client: &reqwest::Client,
    url: &str,
    operation: &'static str,
    timeout: Duration,
) -> Result<Value, AgentError> {
    let fail = |reason: String| AgentError::Request { operation, target: url.to_owned(), reason };
    let exchange = async {
        let mut answer = client.get(url).send().await.map_err(|error| fail(error.to_string()))?;
        if !answer.status().is_success() {
            return Err(fail(format!("status {}", answer.status())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| fail(error.to_string()))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_LIST_BYTES {
                return Err(fail(format!("the answer is longer than {MAX_LIST_BYTES} bytes")));
            }
        }
        serde_json::from_slice(&body).map_err(|error| fail(format!("the answer is not JSON: {error}")))
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| fail(format!("no answer in {timeout:?}")))?
}

fn parse(value: &Value, general_key: &str) -> Option<Vec<Listed>> {
    let list = value["sessions"].as_array()?;
    let mut sessions: Vec<Listed> = Vec::with_capacity(list.len().min(MAX_LISTED));
    for entry in list.iter().take(MAX_LISTED) {
        // An old game backend may list bare ids.
        let Some(session_id) = entry["sessionId"].as_str().or_else(|| entry.as_str()) else { continue };
        if session_id.is_empty() || session_id.len() > 256 || sessions.iter().any(|s| s.session_id == session_id) {
            continue;
        }
        let text = |field: &str| entry[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let map_name = text("mapName").unwrap_or_else(|| "Stage03.json".to_owned());
        let map_key = text("mapKey").unwrap_or_else(|| flywheel_tank::map_key(&map_name));
        sessions.push(Listed {
            session_id: session_id.to_owned(),
            model_key: text("modelKey").unwrap_or_else(|| format!("{general_key}-{map_key}")),
            map_name,
            map_key,
            game_over: entry["gameOver"].as_bool().unwrap_or(false),
        });
    }
    Some(sessions)
}

/// The WebSocket address of a session.
pub fn socket_url(gbe_url: &str, session_id: &str) -> String {
    let host = gbe_url.strip_prefix("http://").unwrap_or(gbe_url).trim_end_matches('/');
    format!("ws://{host}/ws?sessionId={}", encode(session_id))
}

/// Percent-encoding for one path segment or query value.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_bare_ids_is_enough() {
        let listed = parse(&json!({"sessions": [{"sessionId": "a"}, {"tick": 3}, {"sessionId": "a"}]}), "tank-ai-dqn");
        let expected = Listed {
            session_id: "a".into(),
            map_name: "Stage03.json".into(),
            map_key: "stage03".into(),
            model_key: "tank-ai-dqn-stage03".into(),
            game_over: false,
        };
        assert_eq!(listed, Some(vec![expected]));
        assert_eq!(parse(&json!({"error": "no"}), "k"), None);
        assert_eq!(parse(&json!({"sessions": []}), "k"), Some(vec![]));
    }

    #[test]
    fn odd_ids_do_not_escape_the_address() {
        assert_eq!(socket_url("http://127.0.0.1:1/", "a b&c=/"), "ws://127.0.0.1:1/ws?sessionId=a%20b%26c%3D%2F");
    }
}
