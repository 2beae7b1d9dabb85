use flywheel_log::{Faults, Faulty};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

fn at(game: &str, seq: u64, ts_ms: i64) -> Value {
    let mut value = value(game, seq);
    value["ts_ms"] = json!(ts_ms);
    value
}

#[tokio::test]
async fn a_time_that_cannot_be_is_refused_by_name_at_every_door_and_counted_and_nothing_of_its_request_is_taken() {
    let server = Server::new().await;
    let refused = r#"flywheel_ingest_refused_total{reason="bad_time"}"#;
    let before = counted(refused);
    let ahead = now_ms() + 2 * DAY;
    for bad in [-1, i64::MIN, ahead, i64::MAX, now_ms() * 1000] {
        let lines = format!("{}\n{}\n", value("g", 0), at("g", 1, bad));
        let answer = server.post(&[NDJSON], lines).await;
        answer.refused(400, "bad_time");
        assert_eq!((&answer.json["index"], &answer.json["field"]), (&json!(1), &json!("ts_ms")), "{answer:?}");
    }
    for (years, status) in [("1969-12-31T23:59:59Z", 400), ("2999-01-01T00:00:00Z", 400)] {
        let cloud = json!({"specversion": "1.0", "id": "1", "source": "/x", "type": "flywheel.tank.tick.v1",
                           "subject": "g", "sessionseq": 0, "time": years, "data": {"tick": 0}});
        let structured = [("content-type", "application/cloudevents+json")];
        let answer = server.post(&structured, cloud.to_string()).await;
        answer.refused(status, "bad_time");
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/x"),
            ("ce-type", "flywheel.tank.tick.v1"),
            ("ce-subject", "g"),
            ("ce-sessionseq", "0"),
            ("ce-time", years),
        ];
        server.post(&binary, r#"{"tick":0}"#).await.refused(status, "bad_time");
    }
    let mut socket = connect_async(format!("ws://{}/v1/events/ws", server.addr)).await.unwrap().0;
    socket.send(Message::text(at("g", 0, ahead).to_string())).await.unwrap();
    let Some(Ok(Message::Text(said))) = socket.next().await else { panic!("no answer") };
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["problem"]["reason"], "bad_time", "{said}");
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("no close") };
    assert!(u16::from(close.code) == 1007 && close.reason.starts_with("bad_time"), "{close:?}");
    assert!(server.events().await.is_empty());
    assert!(counted(refused) >= before + 10.0);
}

#[tokio::test]
async fn old_events_that_are_sent_later_are_taken_however_old_they_are() {
    let server = Server::new().await;
    for (seq, ts_ms) in
        [0, 1_700_000_000_000, now_ms() - 7 * DAY, now_ms(), now_ms() + 23 * HOUR].into_iter().enumerate()
    {
        server.post_json(&at(&format!("g-{seq}"), 0, ts_ms)).await.took(1, 0);
    }
    let config = IngestConfig { max_ahead_ms: 1000, ..IngestConfig::default() };
    let strict = Server::with(MemoryLog::new(), config).await;
    strict.post_json(&at("g", 0, now_ms() + HOUR)).await.refused(400, "bad_time");
    strict.post_json(&at("g", 0, now_ms())).await.took(1, 0);
}

/// One test, because all doors of this process count in one place.
#[tokio::test]
async fn a_clock_that_jumps_within_a_game_is_accepted_and_counted_once_also_while_the_log_is_away() {
    const JUMPS: &str = "flywheel_ingest_clock_jumps_total";
    let faults = Faults { seed: 1, refused: 0.0, replies_lost: 0.0, reads_failed: 0.0 };
    let log = Faulty::new(MemoryLog::new(), faults);
    let folder = tempfile::tempdir().unwrap();
    let spool = SpoolConfig { dir: folder.path().to_owned(), bytes: 1 << 20, reserve: None };
    let server = Server::spooling(log.clone() as _, &spool).await;
    let start = 1_700_000_000_000;
    let mut jumps = counted(JUMPS);
    let mut more = || {
        let now = counted(JUMPS);
        let more = now - jumps;
        jumps = now;
        more
    };
    let post = |events: Vec<Value>| {
        let server = &server;
        async move { server.post_json(&json!(events)).await }
    };
    post(vec![at("j", 0, start), at("j", 1, start + HOUR), at("k", 0, 0)]).await.took(3, 0);
    assert_eq!(more(), 0.0, "another game has another clock");
    // Forth and back within a request, then from one request to the next.
    post(vec![at("j", 2, start + 3 * HOUR), at("j", 3, start)]).await.took(2, 0);
    assert_eq!(more(), 2.0);
    post(vec![at("j", 4, start + DAY)]).await.took(1, 0);
    assert_eq!(more(), 1.0);
    post(vec![at("j", 4, 0), at("j", 3, 0)]).await.took(0, 2);
    assert_eq!(more(), 0.0, "repeats say nothing");
    log.set_away(true);
    assert_eq!(post(vec![at("j", 5, 1)]).await.json["spooled"], true);
    assert_eq!(more(), 1.0);
    log.set_away(false);
    post(vec![at("j", 6, 2)]).await.took(1, 0);
    assert_eq!(more(), 0.0);
}
