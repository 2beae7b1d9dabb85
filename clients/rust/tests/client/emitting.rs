use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use flywheel_client::{ClientErrorKind, Compression, Durability, EmitConfig, Emitter, Game, GameId, Stats, System};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{PATIENCE, Server};

fn spool(folder: &TempDir) -> PathBuf {
    folder.path().join("spool")
}

/// Retries without long pauses.
fn quick(server: &Server, folder: &TempDir) -> EmitConfig {
    let mut config = EmitConfig::new(server.url()).spool(spool(folder));
    (config.backoff, config.backoff_max) = (Duration::from_millis(5), Duration::from_millis(50));
    config
}

fn game(emitter: &Emitter) -> Game {
    emitter.game(System::Tank, GameId::new("g").unwrap())
}

fn play(game: &Game, ticks: std::ops::Range<u64>) {
    for tick in ticks {
        let seq = game.event("tank.tick").actor("server").payload(&json!({"tick": tick})).emit().unwrap();
        assert_eq!(seq, tick);
    }
}

fn wait_for(emitter: &Emitter, what: &str, condition: impl Fn(&Stats) -> bool) -> Stats {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let stats = emitter.stats();
        if condition(&stats) {
            return stats;
        }
        assert!(std::time::Instant::now() < until, "waited for {what}: {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn events_arrive_in_order_and_are_acknowledged_with_durability_and_last_seq() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let emitter = Emitter::start(EmitConfig { batch_events: 700, ..quick(&server, &folder) }).unwrap();
    let game = game(&emitter);
    play(&game, 0..5000);
    assert!(emitter.flush(PATIENCE));
    let stats = emitter.stats();
    assert_eq!((stats.emitted, stats.acknowledged, stats.repeated, stats.waiting), (5000, 5000, 0, 0), "{stats:?}");
    assert_eq!((stats.durability, game.acknowledged()), (Some(Durability::Memory), Some(4999)));
    assert_eq!(stats.last_seq, [("g".to_owned(), 4999)].into());
    assert!(server.world.requests("/v1/events") >= 8, "700 events at most are sent at once");
    drop(game);
    assert!(emitter.stats().last_seq.is_empty(), "a game that is over is forgotten");
    assert_eq!(server.seqs("g"), (0..5000).collect::<Vec<_>>());
}

#[test]
fn what_is_emitted_while_the_server_is_away_arrives_in_order_when_it_is_back() {
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let emitter = Emitter::start(quick(&server, &folder)).unwrap();
    let game = game(&emitter);
    play(&game, 0..100);
    assert!(emitter.flush(PATIENCE));
    server.kill();
    play(&game, 100..200);
    wait_for(&emitter, "the spool", |stats| stats.spooled > 0);
    play(&game, 200..400);
    assert!(emitter.stats().away.is_some_and(|why| why.contains("127.0.0.1")), "{:?}", emitter.stats());
    server.restart();
    play(&game, 400..500);
    assert!(emitter.flush(PATIENCE));
    let stats = emitter.stats();
    assert_eq!((stats.lost, stats.away, game.acknowledged()), (0, None, Some(499)));
    assert_eq!(server.seqs("g"), (0..500).collect::<Vec<_>>(), "the doors see no repeat: each was sent once");
}

#[test]
fn what_could_not_be_sent_goes_first_at_the_next_start() {
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.kill();
    let emitter = Emitter::start(quick(&server, &folder)).unwrap();
    play(&game(&emitter), 0..300);
    let stats = emitter.close(Duration::from_millis(50));
    assert_eq!((stats.acknowledged, stats.spooled, stats.lost), (0, 300, 0), "{stats:?}");
    server.restart();
    let emitter = Emitter::start(quick(&server, &folder)).unwrap();
    let game = emitter.resume(System::Tank, GameId::new("g").unwrap(), 300);
    play(&game, 300..310);
    assert!(emitter.flush(PATIENCE));
    assert_eq!(server.seqs("g"), (0..310).collect::<Vec<_>>());
    assert_eq!(emitter.stats().acknowledged, 310, "those of the earlier process count");
}

#[test]
fn order_is_kept_when_memory_overflows_into_the_spool_and_both_are_left_behind() {
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.kill();
    // The first events fill memory, and the sending thread is still waiting for more when the rest is spooled.
    let config = EmitConfig { memory_bytes: 1000, linger: PATIENCE, ..quick(&server, &folder) };
    let emitter = Emitter::start(config).unwrap();
    play(&game(&emitter), 0..100);
    let before = emitter.stats();
    assert!(before.spooled > 0 && before.lost == 0, "{before:?}");
    let stats = emitter.close(Duration::ZERO);
    assert_eq!((stats.spooled, stats.lost), (100, 0), "{stats:?}");
    server.restart();
    let emitter = Emitter::start(quick(&server, &folder)).unwrap();
    assert!(emitter.flush(PATIENCE));
    assert_eq!(server.seqs("g"), (0..100).collect::<Vec<_>>());
}

#[test]
fn what_neither_memory_nor_spool_can_take_is_counted_and_never_silent() {
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.kill();
    let mut config = EmitConfig { memory_bytes: 1000, spool_bytes: 1000, ..quick(&server, &folder) };
    config.linger = PATIENCE;
    let emitter = Emitter::start(config).unwrap();
    play(&game(&emitter), 0..100);
    let stats = emitter.close(Duration::ZERO);
    assert_eq!((stats.emitted, stats.acknowledged), (100, 0));
    assert!(stats.lost > 0 && stats.spooled > 0, "{stats:?}");
    assert_eq!(stats.lost + stats.spooled, 100, "{stats:?}");
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again_and_no_event_is_doubled() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    *server.world.lost_answers.lock() = 3;
    let emitter = Emitter::start(quick(&server, &folder)).unwrap();
    let game = game(&emitter);
    play(&game, 0..50);
    assert!(emitter.flush(PATIENCE));
    let stats = emitter.stats();
    assert_eq!((stats.retries, stats.acknowledged, stats.lost), (3, 50, 0), "{stats:?}");
    assert!(stats.repeated > 0, "the log had them already: {stats:?}");
    assert_eq!(server.seqs("g"), (0..50).collect::<Vec<_>>());
}

#[test]
fn a_refused_event_is_named_and_holds_up_nobody() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    // From a spool that another program has written: what this crate emits is checked before.
    let lines: String = (0..10)
        .map(|seq| {
            let kind = if seq % 4 == 0 { "baloot.tick" } else { "tank.tick" };
            let event = json!({"v": 1, "system": "tank", "kind": kind, "game_id": "g", "seq": seq, "ts_ms": 1,
                               "payload": {"tick": seq}});
            format!("{event}\n")
        })
        .collect();
    fs::write(spool(&folder), lines).unwrap();
    let refused = Arc::new(Mutex::new(Vec::new()));
    let told = refused.clone();
    let config = quick(&server, &folder).on_refused(move |line, problem| {
        let event: Value = serde_json::from_slice(line).unwrap();
        told.lock().push((event["seq"].as_u64().unwrap(), problem.reason.clone().unwrap()));
    });
    let emitter = Emitter::start(config).unwrap();
    assert!(emitter.flush(PATIENCE));
    let stats = emitter.stats();
    assert_eq!((stats.refused, stats.acknowledged, stats.lost), (3, 7, 0), "{stats:?}");
    assert_eq!(*refused.lock(), [0, 4, 8].map(|seq| (seq, "bad_kind".to_owned())));
    assert_eq!(server.seqs("g"), [1, 2, 3, 5, 6, 7, 9]);
}

#[test]
fn a_program_whose_on_refused_panics_still_sends() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let emitter = Emitter::start(quick(&server, &folder).on_refused(|_, _| panic!("told so"))).unwrap();
    let game = game(&emitter);
    for _ in 0..2 {
        // Its fields only the doors know.
        game.event("tank.input").payload(&json!({"tick": 1})).emit().unwrap();
        game.event("tank.tick").emit().unwrap();
    }
    assert!(emitter.flush(PATIENCE));
    let stats = emitter.stats();
    assert_eq!((stats.refused, stats.acknowledged, server.seqs("g")), (2, 2, vec![1, 3]), "{stats:?}");
}

#[test]
fn a_server_that_is_not_the_loop_costs_no_event() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let config = EmitConfig { url: format!("{}/elsewhere", server.url()), ..quick(&server, &folder) };
    let emitter = Emitter::start(config).unwrap();
    play(&game(&emitter), 0..10);
    let stats = wait_for(&emitter, "an answer", |stats| stats.retries > 2);
    assert!(stats.away.is_some_and(|why| why.contains("/elsewhere/v1/events` answered 404")), "{:?}", emitter.stats());
    let stats = emitter.close(Duration::ZERO);
    assert_eq!((stats.refused, stats.lost, stats.spooled), (0, 0, 10), "{stats:?}");
}

#[test]
fn what_a_proxy_says_refuses_no_event() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let problem = |body: Value| body.to_string();
    let ours = "urn:flywheel:problem:bad-request";
    server.world.proxy_answers.lock().extend([
        (400, "<html><h1>400 Bad Request</h1></html>".to_owned()),
        (413, "<html>too large</html>".to_owned()),
        (422, String::new()),
        (403, problem(json!({"type": "urn:flywheel:problem:forbidden", "status": 403, "detail": "another origin"}))),
        // Somebody else's problem, and ones of ours that are about the way of the body and not about an event.
        (400, problem(json!({"type": "about:blank", "status": 400, "reason": "bad_kind", "index": 0}))),
        (400, problem(json!({"type": ours, "status": 400, "reason": "bad_compression", "detail": "broken"}))),
        (400, problem(json!({"type": ours, "status": 400, "reason": "empty", "detail": "no event"}))),
    ]);
    let told = Arc::new(Mutex::new(0));
    let count = told.clone();
    let emitter = Emitter::start(quick(&server, &folder).on_refused(move |_, _| *count.lock() += 1)).unwrap();
    play(&game(&emitter), 0..10);
    let stats = wait_for(&emitter, "seven answers", |stats| stats.retries == 7 && stats.acknowledged == 10);
    assert_eq!((stats.refused, stats.lost, *told.lock()), (0, 0, 0), "{stats:?}");
    assert_eq!(server.seqs("g"), (0..10).collect::<Vec<_>>());
}

#[test]
fn an_empty_line_that_another_program_wrote_into_the_spool_holds_up_nobody() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let event = |seq| json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": "g", "seq": seq, "ts_ms": 1, "payload": {}});
    fs::write(spool(&folder), format!("\n{}\n\n \n{}\n\n", event(0), event(1))).unwrap();
    let emitter = Emitter::start(EmitConfig { batch_events: 2, ..quick(&server, &folder) }).unwrap();
    assert!(emitter.flush(PATIENCE));
    assert_eq!(server.seqs("g"), [0, 1]);
}

#[test]
fn a_spool_that_somebody_cuts_while_the_server_is_away_holds_up_nobody() {
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.kill();
    let emitter = Emitter::start(quick(&server, &folder)).unwrap();
    let game = game(&emitter);
    play(&game, 0..200);
    wait_for(&emitter, "the spool", |stats| stats.spool_bytes > 0 && stats.waiting == 0);
    fs::OpenOptions::new().write(true).open(spool(&folder)).unwrap().set_len(0).unwrap();
    server.restart();
    play(&game, 200..210);
    assert!(emitter.flush(PATIENCE), "{:?}", emitter.stats());
    assert_eq!(server.seqs("g"), (200..210).collect::<Vec<_>>());
}

#[test]
fn more_events_than_the_spool_is_long_go_through_it_and_none_is_lost() {
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.kill();
    let config = EmitConfig { memory_bytes: 1, spool_bytes: 20_000, batch_events: 10, ..quick(&server, &folder) };
    let emitter = Emitter::start(config).unwrap();
    let game = game(&emitter);
    play(&game, 0..100);
    server.restart();
    // A part is always waiting, so that the file is never simply emptied.
    for tick in 100..2000 {
        wait_for(&emitter, "room", |stats| stats.spool_bytes < 15_000);
        play(&game, tick..tick + 1);
    }
    assert!(emitter.flush(PATIENCE));
    assert_eq!(emitter.stats().lost, 0, "{:?}", emitter.stats());
    assert_eq!(server.seqs("g"), (0..2000).collect::<Vec<_>>());
}

#[test]
fn for_ever_is_a_wait_like_every_other() {
    const EVER: Duration = Duration::MAX;
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let patient = |server: &Server| {
        let mut config = quick(server, &folder);
        (config.linger, config.timeout, config.close_patience) = (EVER, EVER, EVER);
        (config.backoff, config.backoff_max) = (EVER, EVER);
        config.batch_events = 10;
        config
    };
    let emitter = Emitter::start(patient(&server)).unwrap();
    let game = game(&emitter);
    play(&game, 0..10);
    assert!(emitter.flush(EVER));
    server.kill();
    play(&game, 10..20);
    wait_for(&emitter, "the spool", |stats| stats.spooled == 10);
    let stats = emitter.close(Duration::ZERO);
    assert_eq!((stats.acknowledged, stats.spooled, stats.lost), (10, 10, 0), "{stats:?}");
    server.restart();
    let emitter = Emitter::start(patient(&server)).unwrap();
    assert_eq!(emitter.close(EVER).acknowledged, 10);
    assert_eq!(server.seqs("g"), (0..20).collect::<Vec<_>>());
}

#[test]
fn what_nobody_would_take_is_refused_at_once_and_takes_no_seq() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let emitter = Emitter::start(quick(&server, &folder)).unwrap();
    let game = game(&emitter);
    let deep = (0..300).fold(json!(1), |inner, _| json!({"a": inner}));
    for (draft, why) in [
        (game.event("baloot.tick"), "begins with `tank.` or `model.`"),
        (game.event("tick"), "begins with `tank.` or `model.`"),
        (game.event(format!("tank.{}", "x".repeat(128))), "at most 128 bytes"),
        (game.event("tank.tick").payload(&[1, 2]), "its payload is `[1,2]`; expected an object"),
        (game.event("tank.tick").payload(&std::collections::HashMap::from([((1, 2), 3)])), "its payload has no JSON"),
        (game.event("tank.tick").payload(&json!({"x": "y".repeat(2 << 20)})), "are allowed"),
        (game.event("tank.tick").payload(&deep), "are allowed"),
    ] {
        let error = draft.emit().unwrap_err();
        assert!(error.kind() == ClientErrorKind::BadEvent && error.to_string().contains(why), "{error}");
    }
    play(&game, 0..3);
    assert!(emitter.flush(PATIENCE));
    assert_eq!(server.seqs("g"), [0, 1, 2]);
    emitter.close(PATIENCE);
    let error = game.event("tank.tick").emit().unwrap_err();
    assert_eq!((error.kind(), game.next_seq()), (ClientErrorKind::Closed, 3), "{error}");
}

#[test]
fn every_coding_that_is_built_in_is_read_by_the_doors() {
    let codings = [
        Compression::None,
        #[cfg(feature = "gzip")]
        Compression::Gzip,
        #[cfg(feature = "zstd")]
        Compression::Zstd,
    ];
    for compression in codings {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        let emitter = Emitter::start(EmitConfig { compression, ..quick(&server, &folder) }).unwrap();
        play(&game(&emitter), 0..1000);
        assert!(emitter.flush(PATIENCE), "{compression:?}: {:?}", emitter.stats());
        assert_eq!(server.seqs("g"), (0..1000).collect::<Vec<_>>(), "{compression:?}");
    }
}

#[test]
fn a_key_goes_with_every_batch_and_is_shown_nowhere() {
    const KEY: &str = "fw_live_k3Yq0aBcD1eF_0123456789012345678901234567890123456789012_000000";
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    // A key that is not good costs no event.
    let problem = r#"{"type":"urn:flywheel:problem:forged-source","status":403,"reason":"forged_source","index":0}"#;
    server.world.proxy_answers.lock().extend([(401, String::new()), (403, problem.to_owned())]);
    let config = quick(&server, &folder).key(KEY);
    assert!(!format!("{config:?}").contains("fw_"), "{config:?}");
    let emitter = Emitter::start(config).unwrap();
    play(&game(&emitter), 0..10);
    let stats = wait_for(&emitter, "its events", |stats| stats.acknowledged == 10);
    assert_eq!((stats.refused, stats.retries), (0, 2), "{stats:?}");
    assert_eq!(*server.world.who.lock(), [Some(format!("Bearer {KEY}"))].into());

    let wrong = Emitter::start(EmitConfig::new(server.url()).key("hunter2\n")).unwrap_err();
    assert_eq!(wrong.kind(), ClientErrorKind::Setting);
    assert!(wrong.to_string().contains("`key`") && !wrong.to_string().contains("hunter2"), "{wrong}");
}

#[test]
fn a_setting_that_makes_no_sense_is_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    for (config, name) in [
        (EmitConfig::new("127.0.0.1:8080"), "127.0.0.1:8080"),
        (EmitConfig::new("ftp://127.0.0.1"), "ftp://127.0.0.1"),
        (EmitConfig { batch_events: 0, ..EmitConfig::new("http://127.0.0.1:1") }, "batch_events"),
        (EmitConfig { backoff: Duration::ZERO, ..EmitConfig::new("http://127.0.0.1:1") }, "`backoff`"),
        (EmitConfig { backoff_max: Duration::ZERO, ..EmitConfig::new("http://127.0.0.1:1") }, "`backoff_max`"),
    ] {
        let error = Emitter::start(config).unwrap_err();
        assert!(error.kind() == ClientErrorKind::Setting && error.to_string().contains(name), "{error}");
    }
    let error = Emitter::start(EmitConfig::new("http://127.0.0.1:1").spool(folder.path())).unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::Spool, "{error}");
}
