//! While the log is away events wait in files of this machine, and go into the log in their order once it is back.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use flywheel_ingest::SpoolConfig;
use flywheel_log::{Faults, Faulty, Reserve, ReserveLimits, Space};
use flywheel_log_embedded::{EmbeddedConfig, EmbeddedLog};
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::*;

fn spool(dir: &Path, bytes: u64) -> SpoolConfig {
    SpoolConfig { dir: dir.to_owned(), bytes, reserve: None }
}

/// A log that can be sent away, and doors with a spool before it.
async fn server(dir: &Path, spool: &SpoolConfig, faults: Faults) -> (Server, Arc<Faulty>) {
    let log = Faulty::new(EmbeddedLog::open(&dir.join("log"), EmbeddedConfig::default()).unwrap(), faults);
    (Server::spooling(log.clone(), spool).await, log)
}

async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let patience = std::time::Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(std::time::Instant::now() < patience, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// First occurrences: what `land` keeps.
fn once(seqs: &[u64]) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    seqs.iter().copied().filter(|seq| seen.insert(*seq)).collect()
}

#[tokio::test]
async fn what_comes_while_the_log_is_away_is_acknowledged_as_spooled_and_appended_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (server, log) = server(dir.path(), &spool(&dir.path().join("spool"), 1 << 30), Faults::default()).await;
    let direct = server.post_json(&json!([value("g", 0), value("g", 1)])).await;
    direct.took(2, 0);
    assert_eq!((&direct.json["durability"], &direct.json["spooled"]), (&json!("fsynced"), &Value::Null));

    log.set_away(true);
    let spooled = server.post_json(&json!([value("g", 2), value("g", 3)])).await;
    spooled.took(2, 0);
    assert_eq!((&spooled.json["durability"], &spooled.json["spooled"]), (&json!("fsynced"), &json!(true)));
    assert_eq!(spooled.json["games"]["g"]["last_seq"], 3);
    let state = server.door.spool();
    assert!(
        state.bytes > 0 && state.spooled == 2 && state.away.as_ref().unwrap().1.contains("away on purpose"),
        "{state:?}"
    );
    // Repeats are seen, and gaps.
    server.post_json(&json!([value("g", 1), value("g", 2), value("g", 3)])).await.took(0, 3);
    let gap = server.post_json(&json!([value("g", 3), value("g", 4), value("g", 7)])).await;
    gap.took(2, 1);
    assert_eq!(gap.json["games"]["g"], json!({"last_seq": 7, "gaps": [{"from": 5, "to": 6}]}));
    // A malformed event is none in the spool either.
    server.post_json(&json!([value("g", 8), {"v": 1}])).await.refused(400, "malformed");
    let (mut socket, _) = connect_async(format!("ws://{}/v1/events/ws", server.addr)).await.unwrap();
    socket.send(Message::text(value("h", 0).to_string())).await.unwrap();
    let Some(Ok(Message::Text(said))) = socket.next().await else { panic!("the socket answers") };
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["accepted"], &said["spooled"], &said["frames"]), (&json!(1), &json!(true), &json!(1)));

    log.set_away(false);
    until("the log to have all", async || (server.seqs("g").await == [0, 1, 2, 3, 4, 7]).then_some(())).await;
    until("the spool to be empty", async || (server.door.spool().bytes == 0).then_some(())).await;
    let state = server.door.spool();
    assert_eq!((state.spooled, state.drained, state.away), (5, 5, None));
    let direct = server.post_json(&json!([value("g", 8)])).await;
    assert_eq!(direct.json["spooled"], Value::Null);
    assert_eq!((server.seqs("h").await, server.door.accepted()), (vec![0], 8));
    server.post_json(&json!([value("g", 4)])).await.took(1, 0);
}

/// A copy of the folder is what a `kill -9` leaves of it.
#[tokio::test]
async fn what_a_killed_process_had_spooled_goes_first_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (before, log) = server(dir.path(), &spool(&dir.path().join("spool"), 1 << 30), Faults::default()).await;
    before.post_json(&json!([value("g", 0)])).await.took(1, 0);
    log.set_away(true);
    for seq in 1..20 {
        before.post(&[NDJSON], lines("g", seq..seq + 1)).await.took(1, 0);
    }
    let left = dir.path().join("left");
    fs::create_dir(&left).unwrap();
    for file in fs::read_dir(dir.path().join("spool")).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(file.path(), left.join(file.file_name())).unwrap();
    }
    // Torn behind what was acknowledged.
    let last = fs::read_dir(&left).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut torn = fs::read(&last).unwrap();
    let half = torn[..30].to_vec();
    torn.extend(half);
    fs::write(&last, torn).unwrap();

    let after = Server::spooling(log.clone(), &spool(&left, 1 << 30)).await;
    let behind = after.post(&[NDJSON], lines("g", 20..22)).await;
    behind.took(2, 0);
    assert_eq!(behind.json["spooled"], true);
    log.set_away(false);
    until("the log to have all", async || (after.seqs("g").await.len() >= 22).then_some(())).await;
    until("the spool to be empty", async || (after.door.spool().bytes == 0).then_some(())).await;
    assert_eq!(once(&after.seqs("g").await), (0..22).collect::<Vec<_>>());
    // What the earlier process acknowledged is known here as far as it lies just before what this one did.
    let known = after.post(&[NDJSON], lines("g", 19..23)).await;
    known.took(1, 3);
    assert_eq!(known.json["games"]["g"], json!({"last_seq": 22}));
}

#[tokio::test]
async fn beyond_its_bound_the_spool_refuses_and_takes_again_once_it_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let (server, log) = server(dir.path(), &spool(&dir.path().join("spool"), 4096), Faults::default()).await;
    log.set_away(true);
    let mut next = 0;
    let refused = loop {
        let answer = server.post(&[NDJSON], lines("g", next..next + 1)).await;
        if answer.status != 200 {
            break answer;
        }
        next += 1;
    };
    refused.refused(503, "spool_full");
    assert_eq!(refused.retry_after.as_deref(), Some("10"));
    let detail = refused.json["detail"].as_str().unwrap();
    assert!(detail.contains("of 4096 bytes") && detail.contains("away on purpose"), "{detail}");
    assert!(next > 5 && server.door.spool().bytes <= 4096);
    log.set_away(false);
    until("the doors to open", async || {
        (server.post(&[NDJSON], lines("g", next..next + 1)).await.status == 200).then_some(())
    })
    .await;
    until("the spool to be empty", async || (server.door.spool().bytes == 0).then_some(())).await;
    assert_eq!(server.seqs("g").await, (0..=next).collect::<Vec<_>>());
}

#[tokio::test]
async fn before_its_disk_is_full_the_spool_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(100 << 20));
    let seen = Arc::clone(&free);
    let reserve = Reserve::new(ReserveLimits { share: 0.05, bytes: 0 })
        .looking_every(Duration::ZERO)
        .watching("./data", move || Ok(Space { free: seen.load(Ordering::SeqCst), total: 1000 << 20 }));
    let spool = SpoolConfig { reserve: Some(Arc::new(reserve)), ..spool(&dir.path().join("spool"), 1 << 30) };
    let (server, log) = server(dir.path(), &spool, Faults::default()).await;
    log.set_away(true);
    server.post_json(&json!([value("g", 0)])).await.took(1, 0);
    free.store(49 << 20, Ordering::SeqCst);
    let refused = server.post_json(&json!([value("g", 1)])).await;
    refused.refused(503, "disk_full");
    assert_eq!(refused.retry_after.as_deref(), Some("10"));
    // What is there needs no room, and drains.
    server.post_json(&json!([value("g", 0)])).await.took(0, 1);
    log.set_away(false);
    until("the spool to be empty", async || (server.door.spool().bytes == 0).then_some(())).await;
    // A log that is elsewhere does not ask for room here.
    server.post_json(&json!([value("g", 1)])).await.took(1, 0);
    assert_eq!(server.seqs("g").await, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_beside_a_log_that_comes_and_goes_lose_double_and_disorder_nothing() {
    const GAMES: u64 = 6;
    const REQUESTS: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults { seed: 7, refused: 0.1, replies_lost: 0.1, ..Faults::default() };
    let (server, log) = server(dir.path(), &spool(&dir.path().join("spool"), 1 << 30), faults).await;
    let server = Arc::new(server);
    let mut producers = tokio::task::JoinSet::new();
    for game in 0..GAMES {
        let server = Arc::clone(&server);
        producers.spawn(async move {
            let (name, mut spooled) = (format!("g-{game}"), 0);
            for request in 0..REQUESTS {
                let from = request * 10;
                loop {
                    let answer = server.post(&[NDJSON], lines(&name, from..from + 10)).await;
                    if answer.status == 200 {
                        spooled += u64::from(answer.json["spooled"] == true);
                        break;
                    }
                }
            }
            spooled
        });
    }
    let mut spooled = 0;
    let mut away = false;
    loop {
        tokio::select! {
            done = producers.join_next() => match done {
                Some(more) => spooled += more.unwrap(),
                None => break,
            },
            () = tokio::time::sleep(Duration::from_millis(40)) => {
                away = !away;
                log.set_away(away);
            }
        }
    }
    log.set_away(false);
    assert!(spooled > 0 && log.counts().replies_lost + log.counts().refused > 0);
    until("the spool to be empty", async || (server.door.spool().bytes == 0).then_some(())).await;
    let mut games: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in server.events().await {
        games.entry(event.game_id.to_string()).or_default().push(event.seq);
    }
    assert_eq!(games.len() as u64, GAMES);
    for (game, seqs) in games {
        assert_eq!(once(&seqs), (0..REQUESTS * 10).collect::<Vec<_>>(), "{game}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_ends_though_events_keep_coming() {
    let dir = tempfile::tempdir().unwrap();
    let (server, log) = server(dir.path(), &spool(&dir.path().join("spool"), 1 << 30), Faults::default()).await;
    let server = Arc::new(server);
    log.set_away(true);
    server.post(&[NDJSON], lines("first", 0..1000)).await.took(1000, 0);
    log.set_away(false);
    let mut producers = tokio::task::JoinSet::new();
    for game in 0..8 {
        let server = Arc::clone(&server);
        // Each ends with the first answer that the log gave, and never pauses before.
        producers.spawn(async move {
            let name = format!("g-{game}");
            for seq in 0.. {
                let answer = server.post(&[NDJSON], lines(&name, seq..seq + 1)).await;
                answer.took(1, 0);
                if answer.json["spooled"] == Value::Null {
                    return;
                }
            }
        });
    }
    tokio::time::timeout(Duration::from_secs(120), producers.join_all())
        .await
        .expect("the log takes events itself again");
}
