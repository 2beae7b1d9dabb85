//! Who has a key writes its games and no others, on either door; who has none writes nobody's.

use std::time::Duration;

use flywheel_ingest::{KeyRecord, KeyRing, KeyRule, KeyStore, RingConfig, SpoolConfig, Token};
use futures::{SinkExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use crate::*;

#[derive(Debug, Default)]
struct Keys(Mutex<Vec<KeyRecord>>);

impl KeyStore for Keys {
    fn keys(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, String>> {
        Box::pin(async { Ok(self.0.lock().clone()) })
    }

    fn used<'a>(&'a self, _: &'a str, _: i64) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

impl Keys {
    fn add(&self, prefix: &str) -> Token {
        let token = Token::generate().unwrap();
        let (id, prefix, secret_sha256) = (token.id().to_owned(), prefix.to_owned(), token.secret_sha256());
        self.0.lock().push(KeyRecord { id, prefix, secret_sha256, expires_at_ms: None, revoked: false });
        token
    }
}

struct Guarded {
    server: Server,
    keys: Arc<Keys>,
    ring: Arc<KeyRing>,
    _spool: tempfile::TempDir,
}

async fn guarded(rule: KeyRule) -> Guarded {
    let keys = Arc::new(Keys::default());
    let ring = KeyRing::new(keys.clone(), RingConfig { rule, ..RingConfig::default() });
    ring.refresh().await.unwrap();
    let (stop, log): (_, Arc<dyn EventLog>) = (CancellationToken::new(), MemoryLog::new());
    let dir = tempfile::tempdir().unwrap();
    let spool = SpoolConfig { dir: dir.path().to_owned(), bytes: 0, reserve: None };
    let door =
        Door::guarded(Arc::clone(&log), IngestConfig::default(), stop.clone(), &spool, Arc::clone(&ring)).unwrap();
    Guarded { server: Server::of(log, door, stop).await, keys, ring, _spool: dir }
}

fn bearer(token: &Token) -> String {
    format!("Bearer {}", token.reveal())
}

#[tokio::test]
async fn a_forged_game_keeps_its_whole_request_out_and_is_named_with_the_prefix() {
    let Guarded { server, keys, ring, .. } = guarded(KeyRule::Optional).await;
    let key = keys.add("arena-");
    ring.refresh().await.unwrap();
    let head = bearer(&key);
    let head = [JSON, ("authorization", head.as_str())];
    let forged = json!([value("arena-1", 0), value("arena-2", 0), value("rival-1", 0), value("arena-1", 1)]);
    let refused = server.post(&head, forged.to_string()).await;
    refused.refused(403, "forged_source");
    assert_eq!(refused.json["type"], "urn:flywheel:problem:forged-source");
    assert_eq!((&refused.json["index"], &refused.json["field"]), (&json!(2), &json!("game_id")));
    let detail = refused.json["detail"].as_str().unwrap();
    assert!(detail.contains("rival-1") && detail.contains("`arena-`"), "{detail}");
    assert_eq!(server.events().await, []);
    server.post(&head, json!([value("arena-1", 0), value("arena-2", 0)]).to_string()).await.took(2, 0);

    // Without a key: nobody's games, and none of this key's.
    server.post_json(&json!([value("g", 0)])).await.took(1, 0);
    let refused = server.post_json(&json!([value("g", 1), value("arena-1", 1)])).await;
    refused.refused(403, "forged_source");
    assert_eq!(refused.json["index"], 1);
    // As a CloudEvent the game is its subject.
    let cloud = json!({"specversion": "1.0", "type": "flywheel.tank.tick.v1", "source": "arena", "id": "1",
                       "subject": "arena-1", "sessionseq": 1, "time": "2026-11-21T00:00:00Z", "data": {}});
    let kind = ("content-type", "application/cloudevents+json");
    server.post(&[kind], cloud.to_string()).await.refused(403, "forged_source");
    server.post(&[kind, head[1]], cloud.to_string()).await.took(1, 0);
    assert_eq!((server.seqs("g").await, server.seqs("arena-1").await), (vec![0], vec![0, 1]));
}

#[tokio::test]
async fn a_key_that_is_not_good_is_refused_before_the_body_is_read() {
    let Guarded { server, keys, ring, .. } = guarded(KeyRule::Required).await;
    let (good, revoked) = (keys.add("arena-"), keys.add("old-"));
    keys.0.lock()[1].revoked = true;
    ring.refresh().await.unwrap();
    let [good, revoked, unknown] = [bearer(&good), bearer(&revoked), bearer(&Token::generate().unwrap())];
    let body = json!([value("arena-1", 0)]).to_string();
    for (head, reason) in [
        (Some(&revoked), "revoked_key"),
        (Some(&unknown), "unknown_key"),
        (Some(&"Bearer fw_x".to_owned()), "malformed_key"),
        (None, "key_missing"),
    ] {
        let mut headers = vec![JSON];
        headers.extend(head.map(|head| ("authorization", head.as_str())));
        let refused = server.post(&headers, body.clone()).await;
        refused.refused(401, reason);
        // A body that never ends is not waited for.
        let mut request = server.client.post(format!("http://{}/v1/events", server.addr));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let endless = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let answer = answer(request.body(reqwest::Body::wrap_stream(endless)).send().await.unwrap()).await;
        answer.refused(401, reason);
    }
    server.post(&[JSON, ("authorization", &good)], body).await.took(1, 0);
    // Schemas are nobody's secret.
    assert!(
        server.client.get(format!("http://{}/v1/schemas", server.addr)).send().await.unwrap().status().is_success()
    );
}

#[tokio::test]
async fn a_socket_opens_with_a_good_key_writes_its_games_and_ends_with_the_key() {
    let Guarded { server, keys, ring, .. } = guarded(KeyRule::Required).await;
    let key = keys.add("arena-");
    ring.refresh().await.unwrap();
    let request = |head: Option<&str>| {
        let mut request = format!("ws://{}/v1/events/ws", server.addr).into_client_request().unwrap();
        if let Some(head) = head {
            request.headers_mut().insert("authorization", head.parse().unwrap());
        }
        request
    };
    for head in [None, Some("Bearer fw_x")] {
        match connect_async(request(head)).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 401),
            other => panic!("{other:?}"),
        }
    }
    let head = bearer(&key);
    let said = async |text: String, then_closed: bool, socket: &mut tokio_tungstenite::WebSocketStream<_>| {
        socket.send(Message::text(text)).await.unwrap();
        let Some(Ok(Message::Text(said))) = socket.next().await else { panic!("the socket answers") };
        if then_closed {
            let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("the socket closes") };
            assert_eq!(u16::from(close.code), 1008);
        }
        serde_json::from_str::<Value>(&said).unwrap()
    };
    let (mut socket, _) = connect_async(request(Some(&head))).await.unwrap();
    assert_eq!(said(value("arena-1", 0).to_string(), false, &mut socket).await["accepted"], 1);
    let problem = said(value("rival-1", 0).to_string(), true, &mut socket).await;
    assert_eq!((&problem["problem"]["status"], &problem["problem"]["reason"]), (&json!(403), &json!("forged_source")));

    let (mut socket, _) = connect_async(request(Some(&head))).await.unwrap();
    assert_eq!(said(value("arena-1", 1).to_string(), false, &mut socket).await["accepted"], 1);
    keys.0.lock()[0].revoked = true;
    tokio::time::sleep(Duration::from_millis(1)).await;
    ring.refresh().await.unwrap();
    let problem = said(value("arena-1", 2).to_string(), true, &mut socket).await;
    assert_eq!((&problem["problem"]["status"], &problem["problem"]["reason"]), (&json!(401), &json!("revoked_key")));
    assert_eq!(server.events().await.len(), 2);
}
