//! `kill -9` of the running loop, and of its trainer, at random moments: nothing acknowledged is lost, no row is
//! doubled, no version is half published.
//!
//! `FLYWHEEL_KILLS=200 FLYWHEEL_BIN=target/release/flywheel cargo test -p flywheel-it kill -- --nocapture` is the long
//! form. `FLYWHEEL_SEED` repeats the moments of a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use flywheel_it::{Loop, Promises, Scratch, flywheel, program, promises, signal, wait_for};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ARGUMENTS: [&str; 4] = ["--sessions", "3", "--ack-journal", "acks.jsonl"];

/// Publishes early and often, so that kills fall into publications.
const EAGER_TRAINER: &str = "[train.options]
min-size = \"500\"
first-publish-steps = \"50\"
publish-steps = \"50\"
publish-seconds = \"1\"
";

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_loop_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("kills");
    let journal = scratch.path().join("acks.jsonl");
    fs::write(scratch.path().join("flywheel.toml"), EAGER_TRAINER).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let (kills, seed) = (number("FLYWHEEL_KILLS", 6), number("FLYWHEEL_SEED", u64::from(now.subsec_nanos())));
    println!("{kills} kills, FLYWHEEL_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);

    let mut trainers = 0;
    for n in 0..kills {
        let mut running = Loop::start(&program, &scratch, &format!("up-{n}"), &ARGUMENTS);
        if n == 0 {
            // Once something must have been promised; after that a kill may well fall into a start.
            running.ready();
            wait_for("acknowledged events", || (promises(&journal).events() > 200).then_some(()));
        }
        if n % 6 == 5 {
            // Into the middle of a publication, if one comes.
            await_a_publication(&scratch);
            std::thread::sleep(Duration::from_millis(random.random_range(0..60)));
        } else {
            std::thread::sleep(Duration::from_millis(random.random_range(20..4000)));
        }
        if random.random_bool(0.3) {
            for child in running.children() {
                trainers += 1;
                signal(child, libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(random.random_range(20..2000)));
        }
        running.kill();
    }

    let promised = promises(&journal);
    let mut last = Loop::start(
        &program,
        &scratch,
        "last",
        &[&ARGUMENTS[..], &["--for", "8s", "--report", "report.json"]].concat(),
    );
    let status = last.wait();
    assert!(status.success(), "the last loop ended with {status}:\n{}", last.said());
    let audit = flywheel(&program, &scratch.data(), &["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "the books do not balance: {audit:?}");

    let rows = rows(&program, &scratch);
    missing_or_doubled(&promised, &rows);
    let versions = versions(&program, &scratch);
    let landed: usize = rows.values().map(BTreeSet::len).sum();
    println!(
        "{kills} kills of the loop, {trainers} of its trainer: {} events promised in {} games, {landed} landed, 0 lost, \
         0 doubled; {versions} versions, all whole; {} torn journal lines",
        promised.events(),
        promised.last_seq.len(),
        promised.torn
    );
}

/// Waits until something is written to the registry, at most half a minute: where there is no trainer, nothing is.
fn await_a_publication(scratch: &Scratch) {
    let registry = scratch.data().join("registry");
    let before = blobs(&registry).len();
    let deadline = Instant::now() + Duration::from_secs(30);
    while blobs(&registry).len() <= before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every `(game_id, seq)` of the table `events`.
///
/// # Panics
/// If one is there twice.
fn rows(program: &Path, scratch: &Scratch) -> BTreeMap<String, BTreeSet<u64>> {
    let scan = ["table", "scan", "events", "--columns", "game_id,seq", "-n", "1000000000"];
    let finished = flywheel(program, &scratch.data(), &scan);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut rows: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for line in finished.stdout.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a row as JSON");
        let (game, seq) = (row["game_id"].as_str().expect("a game"), row["seq"].as_u64().expect("a seq"));
        assert!(rows.entry(game.to_owned()).or_default().insert(seq), "{game}/{seq} is there twice");
    }
    rows
}

fn missing_or_doubled(promised: &Promises, rows: &BTreeMap<String, BTreeSet<u64>>) {
    let none = BTreeSet::new();
    for (game, last) in &promised.last_seq {
        let there = rows.get(game).unwrap_or(&none);
        let lost: Vec<u64> = (0..=*last).filter(|seq| !there.contains(seq)).take(10).collect();
        assert!(lost.is_empty(), "{game}: {last} was acknowledged, and these are not in the table: {lost:?}");
    }
    assert!(promised.events() > 200, "the scenario promised next to nothing: {promised:?}");
}

/// The number of versions; each can be shown, and its weights are there in full.
fn versions(program: &Path, scratch: &Scratch) -> usize {
    let list = flywheel(program, &scratch.data(), &["model", "ls", "--json"]);
    assert_eq!(list.code, Some(0), "{list:?}");
    let list = list.json();
    let models = list.as_array().expect("a list of versions");
    let blobs = blobs(&scratch.data().join("registry"));
    for model in models {
        let name = model["model"].as_str().expect("a model's name");
        let card = flywheel(program, &scratch.data(), &["model", "show", name, "--json"]);
        assert_eq!(card.code, Some(0), "{card:?}");
        let card = card.json();
        let sha = card["sha256"].as_str().expect("a hash");
        let size = blobs.iter().find(|(path, _)| path.contains(sha)).map(|(_, size)| *size);
        assert_eq!(size, card["size_bytes"].as_u64(), "the weights of {name} are not there in full");
    }
    models.len()
}

/// Every file of the registry with its size.
fn blobs(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => found.push((entry.path().to_string_lossy().into_owned(), metadata.len())),
                Err(_) => {}
            }
        }
    }
    found
}
