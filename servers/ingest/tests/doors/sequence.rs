use serde_json::json;

use crate::*;

#[tokio::test]
async fn a_repeat_is_acknowledged_and_not_appended_again() {
    let server = Server::new().await;
    server.post(&[NDJSON], lines("g", 0..10)).await.took(10, 0);
    let again = server.post(&[NDJSON], lines("g", 5..15)).await;
    again.took(5, 5);
    assert_eq!(again.json["games"]["g"], json!({"last_seq": 14}));
    let known = server.post_json(&value("g", 3)).await;
    known.took(0, 1);
    assert_eq!(known.json["games"]["g"]["last_seq"], 14);
    server.post(&[NDJSON], lines("h", [0, 0, 1, 0])).await.took(2, 2);
    assert_eq!(server.seqs("g").await, (0..15).collect::<Vec<_>>());
    assert_eq!(server.seqs("h").await, [0, 1]);
}

#[tokio::test]
async fn a_gap_is_accepted_reported_and_can_be_closed() {
    let server = Server::new().await;
    let answer = server.post(&[NDJSON], lines("g", [0, 1, 5, 8])).await;
    answer.took(4, 0);
    let gaps = json!([{"from": 2, "to": 4}, {"from": 6, "to": 7}]);
    assert_eq!(answer.json["games"]["g"], json!({"last_seq": 8, "gaps": gaps}));
    // Not in the run that is known: it may be new, so it is never left out.
    let late = server.post(&[NDJSON], lines("g", [2, 3, 4, 6, 7])).await;
    late.took(5, 0);
    assert_eq!(late.json["games"]["g"], json!({"last_seq": 8}));
    assert_eq!(server.seqs("g").await, [0, 1, 5, 8, 2, 3, 4, 6, 7]);
}

#[tokio::test]
async fn what_a_restarted_door_does_not_know_is_appended_rather_than_dropped() {
    let log = MemoryLog::new();
    let first = Server::with(log.clone(), IngestConfig::default()).await;
    first.post(&[NDJSON], lines("g", 0..3)).await.took(3, 0);
    let second = Server::with(log, IngestConfig::default()).await;
    let answer = second.post(&[NDJSON], lines("g", 2..5)).await;
    answer.took(3, 0);
    assert_eq!(answer.json["games"]["g"], json!({"last_seq": 4}), "no gap is made up");
    assert_eq!(second.seqs("g").await, [0, 1, 2, 2, 3, 4]);
}

#[tokio::test]
async fn a_topic_that_is_there_keeps_its_own_number_of_partitions() {
    let log = MemoryLog::new();
    log.create_topic(&Topic::new(System::Tank.topic()), 7).await.unwrap();
    let server = Server::with(log.clone(), IngestConfig::default()).await;
    for n in 0..20 {
        server.post_json(&value(&format!("g-{n}"), 0)).await.took(1, 0);
    }
    assert_eq!(log.topics().await.unwrap(), [(Topic::new(System::Tank.topic()), 7)]);
    for partition in 0..7 {
        let lane = Topic::new(System::Tank.topic()).partition(partition);
        for record in log.read(&lane, Position::Start, ReadLimit::default()).await.unwrap() {
            assert_eq!(flywheel_log::partition_of(&record.key, 7), partition);
        }
    }
}

#[tokio::test]
async fn many_producers_at_once_lose_nothing_and_keep_each_games_order() {
    let server = Arc::new(Server::new().await);
    let producers: Vec<_> = (0..8)
        .map(|n| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                for start in (0..100).step_by(10) {
                    let body = lines(&format!("g-{n}"), start..start + 10);
                    server.post(&[NDJSON], body.clone()).await.took(10, 0);
                    server.post(&[NDJSON], body).await.took(0, 10);
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    for n in 0..8 {
        assert_eq!(server.seqs(&format!("g-{n}")).await, (0..100).collect::<Vec<_>>());
    }
}
