use std::time::Duration;

use flywheel_ingest::{Format, Source, parse};
use flywheel_log::{Faults, Faulty, Throttle, Throttled};
use futures::poll;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::*;

/// Bad events of each kind, in the middle of a request of good ones.
#[tokio::test]
async fn one_bad_event_keeps_its_whole_request_out_and_is_named_by_index_and_field() {
    let server = Server::new().await;
    let good = |seq| String::from_utf8(event("g", seq).encode()).unwrap();
    let deep = format!(r#""payload":{{"a":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let cases: Vec<(Vec<u8>, u16, &str, Option<&str>)> = vec![
        (b"not json".to_vec(), 400, "malformed", None),
        (good(1).replace(r#""seq":1"#, r#""seq":"1""#).into(), 400, "malformed", Some("seq")),
        (good(1).replace(r#""seq":1"#, r#""seq":18446744073709551615"#).into(), 400, "bad_seq", Some("seq")),
        (good(1).replace(r#"{"tick":1}"#, r#"{"tick":NaN}"#).into(), 400, "malformed", Some("payload")),
        (good(1).replace(r#"{"tick":1}"#, "7").into(), 400, "payload_not_object", Some("payload")),
        (good(1).replace(r#""v":1"#, r#""v":2"#).into(), 400, "unknown_version", Some("v")),
        (good(1).replace(r#""tank""#, r#""chess""#).into(), 400, "unknown_system", Some("system")),
        (good(1).replace("tank.tick", "battle.tick").into(), 400, "bad_kind", Some("kind")),
        (good(1).replace("tank.tick", "tank.input").into(), 400, "bad_payload", Some("payload")),
        (good(1).replace(r#""payload":{"tick":1}"#, &deep).into(), 400, "too_deep", None),
        ([&good(1).into_bytes()[..20], &[0xff, 0xfe]].concat(), 400, "not_utf8", None),
        (
            good(1).replace(r#"{"tick":1}"#, &format!(r#"{{"x":"{}"}}"#, "x".repeat(2 << 20))).into(),
            413,
            "too_large",
            None,
        ),
    ];
    for (bad, status, reason, field) in cases {
        let body = [good(0).as_bytes(), b"\n", &bad[..], b"\n", good(2).as_bytes()].concat();
        let answer = server.post(&[NDJSON], body).await;
        answer.refused(status, reason);
        assert_eq!((answer.json["index"].as_u64(), answer.json["field"].as_str()), (Some(1), field), "{answer:?}");
        let array = [b"[", good(0).as_bytes(), b",", &bad[..], b",", good(2).as_bytes(), b"]"].concat();
        let answer = server.post(&[JSON], array).await;
        assert_eq!((answer.status, answer.json["index"].as_u64()), (status, Some(1)), "{answer:?}");
        assert_eq!(answer.json["reason"], reason, "{answer:?}");
    }
    assert!(server.events().await.is_empty(), "nothing of a refused request is in the log");
    server.post(&[JSON], good(0)).await.took(1, 0);
}

#[tokio::test]
async fn requests_without_an_event_and_brackets_without_end_are_refused() {
    let server = Server::new().await;
    for (body, status, reason) in [
        ("".to_owned(), 400, "malformed"),
        ("[]".to_owned(), 400, "empty"),
        ("[".repeat(4 << 20), 400, "too_deep"),
        (format!("[{}", event("g", 0).payload.get()), 400, "malformed"),
        (format!("{}x", json!([value("g", 0)])), 400, "malformed"),
    ] {
        server.post(&[JSON], body).await.refused(status, reason);
    }
    server.post(&[NDJSON], " \n\n").await.refused(400, "empty");
    assert!(server.events().await.is_empty());
}

#[tokio::test]
async fn too_long_a_body_a_bomb_and_too_many_events_are_413() {
    let config =
        IngestConfig { body_bytes: 100_000, inflated_bytes: 1 << 20, events_max: 1000, ..IngestConfig::default() };
    let server = Server::with(MemoryLog::new(), config).await;
    server.post(&[NDJSON], vec![b' '; 100_001]).await.refused(413, "body_too_large");
    // The length is not announced.
    let chunks = futures::stream::iter((0..200).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1000])));
    let request = server.client.post(format!("http://{}/v1/events", server.addr)).header(NDJSON.0, NDJSON.1);
    answer(request.body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap()).await.refused(413, "body_too_large");
    for (name, bomb) in [("zstd", zstd_bomb(64 << 20)), ("gzip", gzip_bomb(64 << 20))] {
        assert!(bomb.len() < 100_000, "{} bytes", bomb.len());
        server.post(&[NDJSON, ("content-encoding", name)], bomb).await.refused(413, "inflated_too_large");
    }
    let many = zstd::encode_all(&lines("g", 0..1001)[..], 1).unwrap();
    server.post(&[NDJSON, ("content-encoding", "zstd")], many).await.refused(413, "too_many_events");
    assert!(server.events().await.is_empty());
}

fn zstd_bomb(bytes: usize) -> Vec<u8> {
    zstd::encode_all(&vec![b' '; bytes][..], 1).unwrap()
}

fn gzip_bomb(bytes: usize) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![b' '; bytes]).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn a_log_that_is_away_acknowledges_nothing_and_says_when_to_come_back() {
    let log = Faulty::new(MemoryLog::new(), Faults { seed: 1, refused: 0.0, replies_lost: 0.0, reads_failed: 0.0 });
    let server = Server::with(Arc::clone(&log) as _, IngestConfig::default()).await;
    log.set_away(true);
    let answer = server.post_json(&value("g", 0)).await;
    answer.refused(503, "log_away");
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    log.set_away(false);
    server.post_json(&value("g", 0)).await.took(1, 0);
}

#[tokio::test]
async fn a_reply_of_the_log_that_was_lost_doubles_and_never_loses() {
    let log = Faulty::new(MemoryLog::new(), Faults { seed: 7, refused: 0.2, replies_lost: 0.2, reads_failed: 0.0 });
    let server = Server::with(log, IngestConfig::default()).await;
    let mut refusals = 0;
    for seq in 0..100 {
        while server.post_json(&value("g", seq)).await.status == 503 {
            refusals += 1;
        }
    }
    assert!(refusals > 10, "{refusals} refusals show nothing");
    let mut seqs = server.seqs("g").await;
    assert!(seqs.is_sorted(), "repeats stand beside the first");
    seqs.dedup();
    assert_eq!(seqs, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_the_stop_nothing_is_taken_and_what_was_under_way_is_waited_for() {
    let throttle = Throttle { append_delay: Duration::from_millis(100), ..Throttle::default() };
    let (stop, config) = (CancellationToken::new(), IngestConfig::default());
    let door = Door::new(Throttled::new(MemoryLog::new(), throttle), config.clone(), stop.clone());
    let events =
        |seqs| parse(Format::Lines, &Default::default(), &lines("g", seqs).into(), &Source::Local, &config).unwrap();
    let mut under_way = std::pin::pin!(door.accept(events(0..3), "http"));
    let mut closed = std::pin::pin!(door.closed());
    assert!(poll!(&mut under_way).is_pending() && poll!(&mut closed).is_pending());
    stop.cancel();
    assert!(poll!(&mut closed).is_pending(), "an append is under way");
    let refused = door.accept(events(3..4), "http");
    assert_eq!(under_way.await.unwrap().accepted, 3);
    closed.await;
    assert_eq!(refused.await.unwrap_err().reason, "stopping");
    assert_eq!(door.accepted(), 3);
}

#[tokio::test]
async fn bytes_in_flight_are_bounded_over_all_requests() {
    let config = IngestConfig { in_flight_bytes: 10_000, ..IngestConfig::default() };
    let server = Server::with(MemoryLog::new(), config).await;
    // A request that holds most of it and does not end.
    let mut slow = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head =
        "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 9900\r\n\r\n";
    slow.write_all(format!("{head}{}", " ".repeat(9_899)).as_bytes()).await.unwrap();
    let answer = loop {
        let answer = server.post_json(&value("g", 0)).await;
        if answer.status != 200 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    answer.refused(429, "overloaded");
    assert!(answer.retry_after.is_some());
    drop(slow);
    while server.post_json(&value("g", 1)).await.status == 429 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let config = IngestConfig { body_ms: 100, ..IngestConfig::default() };
    let server = Server::with(MemoryLog::new(), config).await;
    let mut slow = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    let mut answer = vec![0; 4096];
    let n = slow.read(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer[..n]);
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}

#[tokio::test]
async fn systems_that_nobody_lands_are_refused_by_name() {
    let config = IngestConfig { systems: vec![System::Battle], ..IngestConfig::default() };
    let server = Server::with(MemoryLog::new(), config).await;
    let answer = server.post_json(&value("g", 0)).await;
    answer.refused(400, "system_not_served");
    assert_eq!(answer.json["field"], "system");
}

#[tokio::test]
async fn what_is_taken_and_what_is_refused_is_counted() {
    let server = Server::new().await;
    server.post(&[NDJSON], lines("counted", [0, 1, 1, 5])).await.took(3, 1);
    server.post_json(&json!({"v": 77})).await.refused(400, "unknown_version");
    assert!(counted(r#"flywheel_ingest_events_total{door="http",result="accepted"}"#) >= 3.0);
    assert!(counted(r#"flywheel_ingest_events_total{door="http",result="repeated"}"#) >= 1.0);
    assert!(counted(r#"flywheel_ingest_refused_total{reason="unknown_version"}"#) >= 1.0);
    assert!(counted("flywheel_ingest_gaps_total") >= 1.0);
}
