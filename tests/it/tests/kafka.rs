//! The real programs on a real Apache Kafka, fed by Kafka's own console producer.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use flywheel_it::{Kafka, Loop, Producer, Scratch, flywheel, get, program, wait_for};
use serde_json::{Value, json};

use crate::landers::{Lander, held, kill_and_wait_for_heirs, owners, rows};

const PARTITIONS: u32 = 6;
const GAMES: u32 = 24;
const LEASE: Duration = Duration::from_secs(4);
const GROUP: &str = "land/fw.tank.events";

/// The envelope as JSON, keyed by the game: all that a stranger has to know.
fn record(game: u32, seq: u64) -> (String, String) {
    let event = json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": format!("g{game}"), "seq": seq,
        "ts_ms": 1_700_000_000_000_u64, "actor": "server", "payload": {"tick": seq}});
    (format!("g{game}"), event.to_string())
}

/// Sends events of all games until told to stop; how many of each there are.
fn produce(mut to: Producer, stop: &AtomicBool, total: &AtomicU64) -> u64 {
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        to.send(&(0..GAMES).map(|game| record(game, seq)).collect::<Vec<_>>());
        seq += 1;
        total.fetch_add(u64::from(GAMES), Ordering::Relaxed);
        thread::sleep(Duration::from_millis(40));
    }
    let ended = to.finish();
    assert!(ended.success(), "the producer ended with {ended}");
    seq
}

/// Tells the producer to stop, also where an assertion fails, so that the scope ends.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_a_stranger_produced_is_in_the_table_once_though_a_lander_and_then_the_broker_were_killed() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("kafka");
    let folder = scratch.path().join("broker");
    fs::create_dir_all(&folder).unwrap();
    let Some(mut kafka) = Kafka::start(&program, &folder) else { return };
    let settings = format!(
        "[stream]\nurl = \"{}?timeout=5s\"\npartitions = {PARTITIONS}\nlease = \"{}ms\"\n[train]\nenabled = false\n",
        kafka.url(),
        LEASE.as_millis()
    );
    fs::write(scratch.path().join("flywheel.toml"), settings).unwrap();

    let mut dead = Lander::start(&program, &scratch, "land-0", &[]);
    let heir = Lander::start(&program, &scratch, "land-1", &[]);
    let all: Vec<u32> = (0..PARTITIONS).collect();
    let shared = wait_for("half of the partitions for each", || {
        let owners = owners(&program, &scratch);
        let fair = owners.len() == 2 && owners.iter().all(|owner| owner["holds"].as_object().unwrap().len() == 3);
        (held(&owners, GROUP) == all && fair).then_some(owners)
    });
    let holds = dead.holds(&shared);

    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let producer = kafka.producer("fw.tank.events");
    let landed = || rows(&program, &scratch).values().map(Vec::len).sum::<usize>() as u64;
    let more = |what: &str| {
        let goal = total.load(Ordering::Relaxed) + u64::from(GAMES) * 10;
        wait_for(what, || (landed() >= goal).then_some(()));
    };
    let seqs = thread::scope(|scope| {
        let producing = scope.spawn(|| produce(producer, &stop, &total));
        let stopped = Stopped(&stop);
        wait_for("events of every game", || (rows(&program, &scratch).len() as u32 == GAMES).then_some(()));

        let (took, silent) = kill_and_wait_for_heirs(&mut dead, &[&heir], &holds);
        println!(
            "the heir has the partitions of the dead after {took:?} ({:.2} leases), {silent:?} after its last sign of life",
            took.as_secs_f64() / LEASE.as_secs_f64()
        );
        // Two leases are promised; the third is for a machine that builds beside the test.
        assert!(took <= LEASE * 3, "a lease is {LEASE:?}, and the partitions of the dead were claimed after {took:?}");
        more("events that came after the kill");

        kafka.kill();
        thread::sleep(Duration::from_secs(2));
        kafka.restart();
        more("events that came after the kill of the broker");
        drop(stopped);
        producing.join().unwrap()
    });

    let produced = seqs * u64::from(GAMES);
    wait_for("all events in the table", || (landed() >= produced).then_some(()));
    heir.terminate();
    for (game, found) in rows(&program, &scratch) {
        assert!(found.iter().copied().eq(0..seqs), "{game}: {seqs} were produced, {} rows are there", found.len());
    }
    // A loop that plays beside what the stranger left, and the books.
    let mut up = Loop::start(&program, &scratch, "up", &["--sessions", "1", "--farm", "0"]);
    let url = up.ready();
    wait_for("the loop to land", || {
        let status: Value = serde_json::from_str(&get(&format!("{url}/v1/status")).unwrap().1).unwrap();
        let land = status["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "land").cloned()?;
        (land["details"]["partitions"] == PARTITIONS).then_some(())
    });
    assert!(up.terminate().success());
    let audit = flywheel(&program, &scratch.data(), &["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    println!("{produced} events, 0 lost, 0 doubled");
}
