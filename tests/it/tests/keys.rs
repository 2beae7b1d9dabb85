//! Programs with keys: each writes its games and no others, and no secret is left anywhere.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    path::Path,
};

use flywheel_it::{Loop, Scratch, command, flywheel, get, post_as, program, wait_for};
use serde_json::{Value, json};

fn event(game: &str, seq: u64) -> String {
    json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": game, "seq": seq,
           "ts_ms": 1_700_000_000_000_u64, "payload": {"tick": seq}})
    .to_string()
}

/// Status and JSON of an answer of the doors.
fn send(url: &str, key: Option<&str>, body: &str) -> (u16, Value) {
    let (status, _, body) = post_as(&format!("{url}/v1/events"), "application/x-ndjson", key, body).unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

fn refused(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["reason"].as_str().unwrap_or_else(|| panic!("{answer:?}")))
}

/// Files below `folder` that hold `text`.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if entry.file_type().unwrap().is_file()
            && fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_key_opens_its_games_alone_until_it_is_revoked_and_its_secret_is_nowhere() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("keys");
    fs::write(scratch.path().join("flywheel.toml"), "[train]\nenabled = false\n").unwrap();
    let data = scratch.data();
    let create = ["key", "create", "--source", "arena-", "--name", "the arena", "--expires", "90d", "--json"];
    let made = flywheel(&program, &data, &create).json();
    let (id, key) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
    let secret = key.split('_').nth(3).unwrap();
    assert!(key.starts_with("fw_") && secret.len() == 43 && made["prefix"] == "arena-", "{made}");
    // Two clocks: the command's, and the catalog's a moment later.
    let lasts = made["expires_at_ms"].as_i64().unwrap() - made["created_at_ms"].as_i64().unwrap();
    assert_eq!((lasts + 43_200_000) / 86_400_000, 90);

    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "1", "--farm", "0"]);
    let url = running.ready();
    // Without a key nobody's games are taken, and those of the key are not.
    assert_eq!(send(&url, None, &event("guest", 0)).0, 200);
    let forged = send(&url, None, &format!("{}\n{}", event("guest", 1), event("arena-1", 0)));
    assert_eq!((refused(&forged), &forged.1["index"]), ((403, "forged_source"), &json!(1)));
    // With it, the other way round. A key that was made while the loop runs is known at once.
    let second = flywheel(&program, &data, &["key", "create", "--source", "rival-", "--json"]).json();
    let rival = second["key"].as_str().unwrap().to_owned();
    for (key, game, status) in
        [(&key, "arena-1", 200), (&rival, "rival-1", 200), (&key, "rival-2", 403), (&rival, "arena-2", 403)]
    {
        let answer = send(&url, Some(key), &event(game, 0));
        assert_eq!(answer.0, status, "{game}: {answer:?}");
    }
    let forged = send(&url, Some(&key), &format!("{}\n{}", event("arena-1", 1), event("rival-1", 1)));
    assert_eq!((refused(&forged), &forged.1["index"]), ((403, "forged_source"), &json!(1)));
    assert!(forged.1["detail"].as_str().unwrap().contains("`arena-`"), "{forged:?}");
    let wrong = format!("{}0", &key[..key.len() - 1]);
    if wrong != key {
        assert_eq!(refused(&send(&url, Some(&wrong), &event("arena-1", 1))), (401, "malformed_key"));
    }
    // `emit` takes it from its surroundings.
    let input = scratch.path().join("events.ndjson");
    fs::write(&input, format!("{}\n{}\n{}\n", event("arena-1", 1), event("arena-1", 2), event("rival-1", 1))).unwrap();
    let emit = |key: &str| {
        let mut emit = command(&program, &data, &["emit", "--json", "--batch", "2"]);
        emit.env("FLYWHEEL_KEY", key).stdin(fs::File::open(&input).unwrap());
        flywheel_it::Finished::from(emit.output().unwrap())
    };
    let emitted = emit(&key);
    assert_eq!(emitted.code, Some(7), "{emitted:?}");
    assert!(emitted.stdout.contains("\"accepted\":2"), "{emitted:?}");
    assert!(emitted.stderr.contains("line 3") && emitted.stderr.contains("arena-"), "{emitted:?}");
    let unfit = emit("hunter2");
    assert!(unfit.code == Some(2) && !unfit.stderr.contains("hunter2"), "{unfit:?}");
    let (_, metrics) = get(&format!("{url}/metrics")).unwrap();
    let counted = metrics.lines().find(|line| line.contains("flywheel_ingest_refused_total{reason=\"forged_source\"}"));
    assert_eq!(counted.and_then(|line| line.rsplit(' ').next()), Some("5"), "{metrics}");

    wait_for("the use of the key to be noted", || {
        let listed = flywheel(&program, &data, &["key", "ls", "--json"]).json();
        let keys = listed.as_array().unwrap().clone();
        keys.iter().find(|key| key["id"] == id).unwrap()["last_used_ms"].as_i64()
    });
    let revoked = flywheel(&program, &data, &["key", "revoke", &id, "--json"]).json();
    assert!(revoked["revoked_at_ms"].is_i64(), "{revoked}");
    let began = std::time::Instant::now();
    let ended = wait_for("the doors to hear of it", || {
        let answer = send(&url, Some(&key), &event("arena-1", 2));
        (answer.0 != 200).then_some(answer)
    });
    assert_eq!(refused(&ended), (401, "revoked_key"));
    println!("revoked within {:?}", began.elapsed());
    assert_eq!(flywheel(&program, &data, &["key", "revoke", "nobody"]).code, Some(5));
    let listed = flywheel(&program, &data, &["key", "ls"]);
    assert!(listed.stdout.contains("revoked") && listed.stdout.contains("good"), "{listed:?}");

    assert!(running.terminate().success());
    let audit = flywheel(&program, &data, &["audit", "--all", "--json"]).json();
    let rows = |game: &str| {
        let games = audit["games"].as_array().unwrap();
        games.iter().find(|one| one["game_id"] == game).map_or(0, |one| one["events_table"].as_u64().unwrap())
    };
    assert_eq!(["guest", "arena-1", "rival-1", "arena-2", "rival-2"].map(rows), [1, 3, 1, 0, 0]);
    assert_eq!(holding(scratch.path(), secret), Vec::<String>::new());
    assert_eq!(holding(scratch.path(), rival.split('_').nth(3).unwrap()), Vec::<String>::new());
}

#[test]
fn where_keys_are_required_nothing_is_taken_without_one_and_with_one_also_from_other_machines() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("keys");
    let listen = if elsewhere().is_some() { "0.0.0.0" } else { "127.0.0.1" };
    let settings = format!("[train]\nenabled = false\n[up]\nlisten = \"{listen}\"\n[ingest]\nkeys = \"required\"\n");
    fs::write(scratch.path().join("flywheel.toml"), settings).unwrap();
    let made = flywheel(&program, &scratch.data(), &["key", "create", "--source", "arena-"]);
    let key = made.stdout.trim().to_owned();
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "1", "--farm", "0"]);
    let url = running.ready();
    let answer = send(&url, None, &event("guest", 0));
    assert_eq!(refused(&answer), (401, "key_missing"));
    assert!(answer.1["hint"].as_str().unwrap().contains("flywheel key create"), "{answer:?}");
    assert_eq!(send(&url, Some(&key), &event("arena-1", 0)).0, 200);
    match elsewhere() {
        // What this machine sends to an address of its own that is not loopback comes from that address.
        Some(ip) => {
            let url = format!("http://{ip}:{}", url.rsplit(':').next().unwrap());
            assert_eq!(refused(&send(&url, None, &event("arena-1", 1))), (401, "key_missing"));
            assert_eq!(refused(&send(&url, Some(&key), &event("guest", 0))), (403, "forged_source"));
            assert_eq!(send(&url, Some(&key), &event("arena-1", 1)).1["games"]["arena-1"]["last_seq"], 1);
            let promote = format!("{url}/v1/models/tank-ai-dqn/promote");
            let moved = post_as(&promote, "application/json", Some(&key), r#"{"version":1}"#).unwrap();
            assert!(moved.0 == 403 && moved.2.contains("this machine only"), "{moved:?}");
        }
        None => eprintln!("SKIPPED: this machine has no address but loopback"),
    }
    assert!(running.terminate().success());
}

/// An address of this machine by which others would reach it; nothing is sent to find it.
fn elsewhere() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}
