//! Every door stays shut while the disk is nearly full, and opens by itself.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use flywheel_log::{Reserve, ReserveLimits, Reserved, Space};
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::*;

#[tokio::test]
async fn before_the_last_part_of_the_disk_new_events_are_refused_and_taken_again_when_there_is_room() {
    let free = Arc::new(AtomicU64::new(100 << 20));
    let seen = Arc::clone(&free);
    let reserve = Reserve::new(ReserveLimits { share: 0.05, bytes: 0 })
        .looking_every(Duration::ZERO)
        .watching("./data", move || Ok(Space { free: seen.load(Ordering::SeqCst), total: 1000 << 20 }));
    let memory = MemoryLog::new();
    let server = Server::with(Reserved::new(memory.clone(), Arc::new(reserve)), IngestConfig::default()).await;
    server.post_json(&json!([value("g", 0), value("g", 1)])).await.took(2, 0);
    let (mut socket, _) = connect_async(format!("ws://{}/v1/events/ws", server.addr)).await.unwrap();

    free.store(49 << 20, Ordering::SeqCst);
    let refused = server.post_json(&json!([value("g", 2)])).await;
    refused.refused(503, "disk_full");
    assert_eq!(refused.retry_after.as_deref(), Some("10"));
    let detail = refused.json["detail"].as_str().unwrap();
    assert!(detail.contains("`./data` is nearly full (49 MB free") && detail.contains("free some space"), "{detail}");
    socket.send(Message::text(value("g", 2).to_string())).await.unwrap();
    let Some(Ok(Message::Text(said))) = socket.next().await else { panic!("a problem is said before the close") };
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["problem"]["status"], &said["problem"]["reason"]), (&json!(503), &json!("disk_full")));
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("the socket closes") };
    assert_eq!(u16::from(close.code), 1013);
    // What is surely there already needs no room.
    server.post_json(&json!([value("g", 0), value("g", 1)])).await.took(0, 2);
    assert_eq!(server.seqs("g").await, [0, 1], "nothing of what was refused is in the log");

    free.store(60 << 20, Ordering::SeqCst);
    server.post_json(&json!([value("g", 2), value("g", 3)])).await.took(2, 0);
    assert_eq!(server.seqs("g").await, [0, 1, 2, 3]);
}
