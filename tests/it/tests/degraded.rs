//! What a loop does without: it says so, since when and why, goes on with the rest, and is whole again by itself.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use flywheel_it::{Loop, Scratch, flywheel, get, post, program, python, requires, wait_for};
use serde_json::{Value, json};

/// A loop with a little play of its own and no trainer, and its address.
fn start(program: &Path, scratch: &Scratch, settings: &str) -> (Loop, String) {
    fs::write(scratch.path().join("flywheel.toml"), format!("[train]\nenabled = false\n{settings}")).unwrap();
    let mut running = Loop::start(program, scratch, "up", &["--sessions", "2", "--farm", "0"]);
    let url = running.ready();
    (running, url)
}

fn send(url: &str, seq: u64) -> (u16, String, Value) {
    let event = json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": "guest", "seq": seq,
                       "ts_ms": 1_700_000_000_000_u64, "payload": {"tick": seq}});
    let (status, head, body) = post(&format!("{url}/v1/events"), "application/json", &event.to_string()).unwrap();
    (status, head, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// Sends until it is acknowledged: a busy disk may let the log take longer than the door waits, and then the same event
/// is sent again. Any other answer is none that this test expects.
fn taken(url: &str, seq: u64) {
    wait_for("the event to be taken", || {
        let answer = send(url, seq);
        match (answer.0, answer.2["reason"].as_str()) {
            (200, _) => Some(()),
            (503, Some("log_slow")) => None,
            _ => panic!("the doors stay open: {answer:?}"),
        }
    });
}

fn status(url: &str) -> Value {
    serde_json::from_str(&get(&format!("{url}/v1/status")).unwrap().1).unwrap()
}

/// Waits until the loop says that it does without `what`, everywhere that it says so.
fn wait_until_it_says(program: &Path, scratch: &Scratch, url: &str, what: &str, why: &str) {
    let lack = wait_for("the loop to say what is away", || {
        let status = status(url);
        status["degraded"].as_array().unwrap().iter().find(|lack| lack["what"] == what).cloned()
    });
    let since = lack["since_ms"].as_i64().unwrap();
    assert!(since > 1_700_000_000_000 && lack["why"].as_str().unwrap().contains(why), "{lack}");
    let said = flywheel(program, &scratch.data(), &["status"]);
    assert!(said.stdout.contains(&format!("degraded: {what} since 20")), "{said:?}");
    let gauge = format!("flywheel_loop_degraded{{what=\"{what}\"}} 1");
    let (_, metrics) = get(&format!("{url}/metrics")).unwrap();
    assert!(metrics.lines().any(|line| line == gauge), "{gauge} is not in:\n{metrics}");
}

fn wait_until_whole(url: &str) {
    wait_for("the loop to be whole again", || (status(url)["degraded"] == json!([])).then_some(()));
    let (_, metrics) = get(&format!("{url}/metrics")).unwrap();
    assert!(
        !metrics.lines().any(|line| line.starts_with("flywheel_loop_degraded{") && line.ends_with(" 1")),
        "{metrics}"
    );
}

/// Stops the loop in order. Everything that was acknowledged, and the guest's events up to `last`, is in the table once.
fn nothing_is_lost(running: Loop, program: &Path, scratch: &Scratch, last: u64) {
    assert!(running.terminate().success());
    let audit = flywheel(program, &scratch.data(), &["audit", "--all", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    let audit = audit.json();
    let guest = audit["games"].as_array().unwrap().iter().find(|game| game["game_id"] == "guest").expect("the guest");
    assert_eq!(
        (&guest["events_table"], &guest["max_seq"], &guest["gaps"]),
        (&json!(last + 1), &json!(last), &json!(0))
    );
}

/// A small disk of its own, gone with the test.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount one.
    fn mount(at: &Path, megabytes: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "flywheel-test"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        assert!(!requires("mount"), "no disk can be mounted here; it takes root");
        eprintln!("SKIPPED: no disk can be mounted here; it takes root");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the loop's files may be open for another moment.
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn before_the_disk_is_full_events_are_refused_and_taken_again_once_there_is_room() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("disk");
    let Some(_disk) = Disk::mount(&scratch.data(), 256) else { return };
    let (running, url) = start(&program, &scratch, "[stream]\nreserve_share = 0.5\nreserve_bytes = 1048576\n");
    taken(&url, 0);

    // Somebody else fills the disk.
    let ballast = scratch.data().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    let megabyte = vec![7_u8; 1 << 20];
    let mut next = 1;
    let refused = wait_for("the doors to shut", || {
        let answer = send(&url, next);
        if answer.2["reason"] == "log_slow" {
            return None;
        }
        if answer.0 != 200 {
            return Some(answer);
        }
        next += 1;
        (0..8).for_each(|_| file.write_all(&megabyte).expect("the doors shut before the disk is full"));
        None
    });
    assert_eq!((refused.0, &refused.2["reason"]), (503, &json!("disk_full")), "{refused:?}");
    assert!(refused.1.contains("retry-after: 10") && refused.1.contains("application/problem+json"), "{refused:?}");
    wait_until_it_says(&program, &scratch, &url, "disk", "nearly full");
    wait_for("play to notice", || {
        let status = status(&url);
        let stream = status["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "stream").unwrap();
        stream["why_waiting"].as_str().is_some_and(|why| why.contains("room on the disk")).then_some(())
    });

    drop(file);
    fs::remove_file(&ballast).unwrap();
    wait_for("the doors to open", || (send(&url, next).0 == 200).then_some(()));
    wait_until_whole(&url);
    nothing_is_lost(running, &program, &scratch, next);
}

#[test]
fn while_the_tables_cannot_be_reached_events_are_taken_and_land_once_they_can() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("store");
    let (running, url) = start(&program, &scratch, "");
    taken(&url, 0);
    let (lake, away) = (scratch.data().join("lake"), scratch.data().join("lake.away"));
    wait_for("the first commit", || lake.join("events/_delta_log").is_dir().then_some(()));

    // A file stands where the folder was, so that nobody makes a new one.
    fs::rename(&lake, &away).unwrap();
    fs::write(&lake, "").unwrap();
    wait_until_it_says(&program, &scratch, &url, "store", "lake");
    for seq in 1..50 {
        taken(&url, seq);
    }
    let played = || status(&url)["decisions"]["answered"].as_u64().unwrap();
    let before = played();
    wait_for("play to go on", || (played() > before).then_some(()));

    fs::remove_file(&lake).unwrap();
    fs::rename(&away, &lake).unwrap();
    wait_until_whole(&url);
    nothing_is_lost(running, &program, &scratch, 49);
}

#[test]
fn while_the_catalog_is_locked_games_events_and_tables_go_on() {
    const LOCK: &str = "import sqlite3, sys\n\
        c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        c.execute('BEGIN IMMEDIATE')\n\
        print('locked', flush=True)\n\
        sys.stdin.read()\n";
    let (Some(program), Some(python)) = (program(), python()) else { return };
    let scratch = Scratch::new("catalog");
    let (running, url) = start(&program, &scratch, "");
    let mut holder = Command::new(python)
        .args(["-c", LOCK])
        .arg(scratch.data().join("catalog.sqlite"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    holder.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"locked");
    wait_until_it_says(&program, &scratch, &url, "catalog", "");

    taken(&url, 0);
    wait_for("the event in the table", || {
        let scan = ["table", "scan", "events", "--columns", "game_id", "--json", "-n", "10000000"];
        flywheel(&program, &scratch.data(), &scan).stdout.contains("\"guest\"").then_some(())
    });
    let played = || status(&url)["decisions"]["answered"].as_u64().unwrap();
    let before = played();
    wait_for("play to go on", || (played() > before).then_some(()));
    assert!(status(&url)["degraded"].as_array().unwrap().iter().all(|lack| lack["what"] == "catalog"));

    // The end of its input ends it, and with it the lock.
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    wait_until_whole(&url);
    nothing_is_lost(running, &program, &scratch, 0);
}

/// A Redis of our own that syncs before it answers.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(folder: &Path, port: u16) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--dir"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            assert!(!requires("redis"), "redis-server is not there; install it with: apt-get install redis-server");
            eprintln!("SKIPPED: redis-server is not there; install it with: apt-get install redis-server");
            return None;
        };
        wait_for("Redis", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Some(Self { child, port })
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn while_the_log_is_away_games_go_on_the_doors_say_so_and_nothing_that_was_promised_is_lost() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("away");
    let folder = scratch.path().join("redis");
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let Some(mut redis) = Redis::start(&folder, port) else { return };
    let url = format!("redis://127.0.0.1:{port}/0?timeout=2s");
    let (running, url) = start(&program, &scratch, &format!("[stream]\nurl = \"{url}\"\n"));
    taken(&url, 0);

    redis.kill();
    let refused = send(&url, 1);
    assert_eq!((refused.0, &refused.2["reason"]), (503, &json!("log_away")), "{refused:?}");
    wait_until_it_says(&program, &scratch, &url, "log", "redis");
    let played = || status(&url)["decisions"]["answered"].as_u64().unwrap();
    let before = played();
    wait_for("play to go on", || (played() > before).then_some(()));

    let _redis = Redis::start(&folder, redis.port).unwrap();
    wait_for("the doors to open", || (send(&url, 1).0 == 200).then_some(()));
    wait_until_whole(&url);
    nothing_is_lost(running, &program, &scratch, 1);
}
