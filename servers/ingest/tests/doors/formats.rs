use flywheel_events::Event;
use flywheel_log_embedded::{EmbeddedConfig, EmbeddedLog};
use serde_json::{Value, json};

use crate::*;

#[tokio::test]
async fn one_envelope_an_array_and_lines_are_taken_and_kept_word_for_word() {
    let server = Server::new().await;
    let mut first = value("g-1", 0);
    first["payload"]["later"] = json!({"field": [1, 2]});
    server.post_json(&first).await.took(1, 0);
    let answer = server.post_json(&json!([value("g-1", 1), value("g-2", 0), value("g-1", 2)])).await;
    answer.took(3, 0);
    assert_eq!(answer.json["games"], json!({"g-1": {"last_seq": 2}, "g-2": {"last_seq": 0}}));
    assert_eq!(answer.json["durability"], "memory");
    let text = [b"\r\n".to_vec(), lines("g-1", 3..6), b"  \n".to_vec()].concat();
    server.post(&[NDJSON], text).await.took(3, 0);
    assert_eq!(server.seqs("g-1").await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(server.seqs("g-2").await, [0]);
    let kept = server.events().await.into_iter().find(|event| event.seq == 0 && event.game_id.as_str() == "g-1");
    assert_eq!(serde_json::to_value(kept.unwrap()).unwrap(), first);
}

#[tokio::test]
async fn an_acknowledged_event_is_in_the_embedded_log_after_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || EmbeddedLog::open(dir.path(), EmbeddedConfig::default());
    let server = Server::with(open().unwrap(), IngestConfig::default()).await;
    let answer = server.post(&[NDJSON], lines("g-17", 0..813)).await;
    answer.took(813, 0);
    assert_eq!(answer.json["durability"], "fsynced");
    assert_eq!(answer.json["games"]["g-17"]["last_seq"], 812);
    assert_eq!(server.seqs("g-17").await, (0..813).collect::<Vec<_>>());
}

fn cloud(game: &str, seq: u64) -> Value {
    json!({"specversion": "1.0", "id": format!("{game}/{seq}"), "source": "/arena/1", "type": "flywheel.tank.tick.v1",
           "subject": game, "sessionseq": seq, "time": "2023-11-14T22:13:20Z", "actor": "server", "unknown": "kept out",
           "datacontenttype": "application/json", "data": {"tick": seq}})
}

#[tokio::test]
async fn cloudevents_in_all_three_modes_are_the_same_event_as_the_envelope() {
    let server = Server::new().await;
    server
        .post(&[("content-type", "application/cloudevents+json; charset=utf-8")], cloud("g", 0).to_string())
        .await
        .took(1, 0);
    let mut text = cloud("g", 2);
    text["sessionseq"] = json!("2");
    let batch = json!([cloud("g", 1), text]).to_string();
    server.post(&[("content-type", "application/cloudevents-batch+json")], batch).await.took(2, 0);
    let headers = [
        JSON,
        ("ce-specversion", "1.0"),
        ("ce-id", "x"),
        ("ce-source", "/arena/1"),
        ("ce-type", "flywheel.tank.tick.v1"),
        ("ce-subject", "%67"),
        ("ce-sessionseq", "3"),
        ("ce-time", "2023-11-14T23:13:20+01:00"),
        ("ce-actor", "server"),
    ];
    server.post(&headers, r#"{"tick":3}"#).await.took(1, 0);
    assert_eq!(server.events().await, (0..4).map(|seq| event("g", seq)).collect::<Vec<Event>>());
}

#[tokio::test]
async fn each_wrong_attribute_of_a_cloudevent_is_named() {
    let server = Server::new().await;
    for (name, wrong, field, reason) in [
        ("specversion", json!("0.3"), "specversion", "unknown_version"),
        ("id", Value::Null, "id", "malformed"),
        ("source", Value::Null, "source", "malformed"),
        ("type", json!("com.example.tick"), "type", "malformed"),
        ("type", json!("flywheel.tank.tick.v2"), "type", "unknown_version"),
        ("type", json!("flywheel.chess.move.v1"), "type", "unknown_system"),
        ("subject", json!("../x"), "subject", "malformed"),
        ("sessionseq", json!(-1), "sessionseq", "malformed"),
        ("sessionseq", json!({"n": 1}), "sessionseq", "malformed"),
        ("time", json!("yesterday"), "time", "malformed"),
        ("model", json!("x"), "model", "malformed"),
        ("data", json!([1]), "payload", "payload_not_object"),
        ("data_base64", json!("e30="), "data_base64", "unsupported_data"),
    ] {
        let mut wrong_one = cloud("g", 1);
        wrong_one[name] = wrong;
        let batch = json!([cloud("g", 0), wrong_one]).to_string();
        let answer = server.post(&[("content-type", "application/cloudevents-batch+json")], batch).await;
        answer.refused(400, reason);
        assert_eq!((&answer.json["field"], &answer.json["index"]), (&json!(field), &json!(1)), "{answer:?}");
    }
    assert!(server.events().await.is_empty());
}

#[tokio::test]
async fn gzip_and_zstd_are_undone() {
    use std::io::Write;
    let server = Server::new().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&lines("g", 0..100)).unwrap();
    server.post(&[NDJSON, ("content-encoding", "gzip")], gzip.finish().unwrap()).await.took(100, 0);
    let zstd = zstd::encode_all(&lines("g", 100..5000)[..], 1).unwrap();
    server.post(&[NDJSON, ("content-encoding", "zstd")], zstd).await.took(4900, 0);
    assert_eq!(server.seqs("g").await, (0..5000).collect::<Vec<_>>());
    server.post(&[NDJSON, ("content-encoding", "br")], "x").await.refused(415, "content_encoding");
    server.post(&[NDJSON, ("content-encoding", "gzip")], "no gzip").await.refused(400, "bad_compression");
    let torn = zstd::encode_all(&lines("g", 0..1000)[..], 1).unwrap();
    server
        .post(&[NDJSON, ("content-encoding", "zstd")], torn[..torn.len() / 2].to_vec())
        .await
        .refused(400, "bad_compression");
}

#[tokio::test]
async fn what_is_not_said_to_be_events_is_refused_with_what_is_known() {
    let server = Server::new().await;
    let answer = server.post(&[("content-type", "application/x-www-form-urlencoded")], event("g", 0).encode()).await;
    answer.refused(415, "content_type");
    assert!(answer.json["hint"].as_str().unwrap().contains("application/x-ndjson"));
    server.post(&[], event("g", 0).encode()).await.took(1, 0);
}
