//! What a loop does without: it says so, since when and why, goes on with the rest, and is whole again by itself.

use std::{
    ffi::CString,
    fs,
    io::{Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use flywheel_it::{Kafka, Loop, Redis, Scratch, flywheel, get, post, program, python, requires, wait_for};
use serde_json::{Value, json};

/// A loop with a little play of its own and no trainer, and its address.
fn start(program: &Path, scratch: &Scratch, settings: &str) -> (Loop, String) {
    fs::write(scratch.path().join("flywheel.toml"), format!("[train]\nenabled = false\n{settings}")).unwrap();
    let mut running = Loop::start(program, scratch, "up", &["--sessions", "2", "--farm", "0"]);
    let url = running.ready();
    (running, url)
}

fn event(game: &str, seq: u64) -> Value {
    json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": game, "seq": seq,
           "ts_ms": 1_700_000_000_000_u64, "payload": {"tick": seq}})
}

fn send(url: &str, seq: u64) -> (u16, String, Value) {
    let event = event("guest", seq).to_string();
    let (status, head, body) = post(&format!("{url}/v1/events"), "application/json", &event).unwrap();
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
    in_the_table_once(program, scratch, &[("guest", last)]);
}

/// The books balance, and of each game all events up to the last are there.
fn in_the_table_once(program: &Path, scratch: &Scratch, games: &[(&str, u64)]) {
    let audit = flywheel(program, &scratch.data(), &["audit", "--all", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    let audit = audit.json();
    for (name, last) in games {
        let game = audit["games"].as_array().unwrap().iter().find(|game| game["game_id"] == *name);
        let game = game.unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(
            (&game["events_table"], &game["max_seq"], &game["gaps"]),
            (&json!(last + 1), &json!(last), &json!(0)),
            "{name}"
        );
    }
}

/// Both names at once, so that nobody finds either missing.
fn exchange(one: &Path, other: &Path) {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (one, other) = (name(one), name(other));
    // SAFETY: two NUL-terminated paths that live through the call.
    let done =
        unsafe { libc::renameat2(libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
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
        // The loop looks at the disk a few times a second: slowly enough that it sees it coming.
        file.write_all(&megabyte).expect("the doors shut before the disk is full");
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
    fs::write(&away, "").unwrap();
    exchange(&lake, &away);
    wait_until_it_says(&program, &scratch, &url, "store", "lake");
    for seq in 1..50 {
        taken(&url, seq);
    }
    let played = || status(&url)["decisions"]["answered"].as_u64().unwrap();
    let before = played();
    wait_for("play to go on", || (played() > before).then_some(()));

    exchange(&lake, &away);
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
    // A busy disk may be away for a moment besides.
    wait_for("nothing else to be away", || {
        let degraded = status(&url)["degraded"].clone();
        degraded.as_array().unwrap().iter().all(|lack| lack["what"] == "catalog").then_some(())
    });

    // The end of its input ends it, and with it the lock.
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    wait_until_whole(&url);
    nothing_is_lost(running, &program, &scratch, 0);
}

#[test]
fn while_the_log_is_away_games_go_on_the_doors_say_so_and_nothing_that_was_promised_is_lost() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("away");
    let folder = scratch.path().join("redis");
    fs::create_dir_all(&folder).unwrap();
    let Some(mut redis) = Redis::syncing(&folder, "always") else { return };
    let url = format!("{}?timeout=2s", redis.url());
    let settings = format!("[stream]\nurl = \"{url}\"\n[ingest]\nspool_bytes = 0\n");
    let (running, url) = start(&program, &scratch, &settings);
    taken(&url, 0);

    redis.kill();
    let refused = send(&url, 1);
    assert_eq!((refused.0, &refused.2["reason"]), (503, &json!("log_away")), "{refused:?}");
    wait_until_it_says(&program, &scratch, &url, "log", "redis");
    let played = || status(&url)["decisions"]["answered"].as_u64().unwrap();
    let before = played();
    wait_for("play to go on", || (played() > before).then_some(()));

    redis.restart();
    wait_for("the doors to open", || (send(&url, 1).0 == 200).then_some(()));
    wait_until_whole(&url);
    nothing_is_lost(running, &program, &scratch, 1);
}

/// Sends a game's events, a few at a time, and again what was not acknowledged.
#[derive(Debug, Default)]
struct Producer {
    next: AtomicU64,
    /// Answers that said `spooled`, and those that did not.
    spooled: AtomicU64,
    direct: AtomicU64,
}

impl Producer {
    fn run(&self, game: &str, url: &Mutex<String>, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            let from = self.next.load(Ordering::SeqCst);
            let events: Vec<_> = (from..from + 5).map(|seq| event(game, seq)).collect();
            let url = format!("{}/v1/events", url.lock().unwrap());
            match post(&url, "application/json", &Value::from(events).to_string()) {
                Ok((200, _, body)) => {
                    let answer: Value = serde_json::from_str(&body).unwrap();
                    assert_eq!(answer["games"][game]["last_seq"], from + 4, "{answer}");
                    let counter = if answer["spooled"] == true { &self.spooled } else { &self.direct };
                    counter.fetch_add(1, Ordering::SeqCst);
                    self.next.store(from + 5, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok((503 | 429, ..)) | Err(_) => std::thread::sleep(Duration::from_millis(50)),
                Ok(other) => panic!("{other:?}"),
            }
        }
    }
}

/// A log's server of the scenario's own, to be killed and started again.
enum Server {
    Redis(Redis),
    Kafka(Kafka),
}

impl Server {
    fn kill(&mut self) {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Kafka(kafka) => kafka.kill(),
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Redis(redis) => redis.restart(),
            Self::Kafka(kafka) => kafka.restart(),
        }
    }
}

/// A scenario's folder, and one for its server.
fn scratch_with_server(name: &str) -> (Scratch, PathBuf) {
    let scratch = Scratch::new(name);
    let folder = scratch.path().join("server");
    fs::create_dir_all(&folder).unwrap();
    (scratch, folder)
}

#[test]
fn what_the_doors_took_while_redis_was_killed_is_in_the_table_once_also_after_a_kill_of_the_loop() {
    let Some(program) = program() else { return };
    let (scratch, folder) = scratch_with_server("spool");
    let Some(redis) = Redis::syncing(&folder, "always") else { return };
    let url = format!("{}?timeout=30s", redis.url());
    what_the_doors_took_while_the_log_was_killed(&program, &scratch, Server::Redis(redis), &url);
}

#[test]
fn what_the_doors_took_while_kafka_was_killed_is_in_the_table_once_also_after_a_kill_of_the_loop() {
    let Some(program) = program() else { return };
    let (scratch, folder) = scratch_with_server("spool-kafka");
    let Some(kafka) = Kafka::start(&program, &folder) else { return };
    let url = format!("{}?timeout=5s", kafka.url());
    what_the_doors_took_while_the_log_was_killed(&program, &scratch, Server::Kafka(kafka), &url);
}

fn what_the_doors_took_while_the_log_was_killed(program: &Path, scratch: &Scratch, mut server: Server, url: &str) {
    let name = url.split_once(':').unwrap().0;
    let settings = format!("[stream]\nurl = \"{url}\"\n");
    let (running, first) = start(program, scratch, &settings);
    let names = ["guest-1", "guest-2", "guest-3"];
    let producers: [Producer; 3] = Default::default();
    let (url, stop) = (Mutex::new(first.clone()), AtomicBool::new(false));
    let each = |what: &str, counter: fn(&Producer) -> &AtomicU64, more: u64| {
        let before: Vec<_> = producers.iter().map(|one| counter(one).load(Ordering::SeqCst)).collect();
        wait_for(what, || {
            let now = producers.iter().map(|one| counter(one).load(Ordering::SeqCst));
            now.zip(&before).all(|(now, before)| now >= before + more).then_some(())
        });
    };
    std::thread::scope(|scope| {
        for (producer, name) in producers.iter().zip(names) {
            let (url, stop) = (&url, &stop);
            scope.spawn(move || producer.run(name, url, stop));
        }
        // Also where an assertion fails, so that the scope ends.
        let _stopped = Stopped(&stop);
        each("events in the log", |one| &one.direct, 10);

        server.kill();
        each("events in the spool", |one| &one.spooled, 50);
        wait_until_it_says(program, scratch, &first, "log", name);
        let stream = status(&first)["stages"].as_array().unwrap().iter().find(|one| one["name"] == "stream").cloned();
        let stream = stream.unwrap();
        assert!(stream["why_waiting"].as_str().unwrap().contains("spool of the doors holds"), "{stream}");
        let metric = |name: &str| {
            let (_, metrics) = get(&format!("{first}/metrics")).unwrap();
            let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
            line.unwrap_or_else(|| panic!("{name} is not in /metrics")).parse::<f64>().unwrap()
        };
        assert!(metric("flywheel_ingest_spool_bytes") > 0.0 && metric("flywheel_ingest_spooled_total") >= 750.0);

        server.restart();
        each("events in the log itself again", |one| &one.direct, 10);
        wait_until_whole(&first);
        assert_eq!(metric("flywheel_ingest_spool_bytes"), 0.0);
        assert_eq!(metric("flywheel_ingest_spooled_total"), metric("flywheel_ingest_drained_total"));

        server.kill();
        each("events in the spool again", |one| &one.spooled, 50);
        running.kill();
        let left = fs::read_dir(scratch.data().join("spool")).unwrap().count();
        assert!(left > 0, "the spool outlives the loop");
        server.restart();
        let mut again = Loop::start(program, scratch, "again", &["--sessions", "2", "--farm", "0"]);
        let second = again.ready();
        url.lock().unwrap().clone_from(&second);
        each("events in the log of the second loop", |one| &one.direct, 10);
        stop.store(true, Ordering::SeqCst);
        wait_until_whole(&second);
        // Those of the loop that was killed are its heir's once their lease has run out.
        wait_for("the second loop to land", || {
            let status = status(&second);
            let land = status["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "land").unwrap();
            (land["details"]["partitions"] == 2).then_some(())
        });
        assert!(again.terminate().success());
    });
    let games = names.iter().zip(&producers).map(|(name, one)| (*name, one.next.load(Ordering::SeqCst) - 1));
    in_the_table_once(program, scratch, &games.collect::<Vec<_>>());
    let left = fs::read_dir(scratch.data().join("spool")).unwrap().count();
    assert_eq!(left, 0, "everything went into the log");
}

/// Stops the producers when it is dropped.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
