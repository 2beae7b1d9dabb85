//! T18: SIGTERM under load, again and again: the loop ends well, its producers are told "not now" or nothing, and what was
//! acknowledged is in the table once.
//!
//! `FLYWHEEL_TERMS=50 FLYWHEEL_BIN=$PWD/target/release/flywheel cargo test -p flywheel-it told_to_end -- --nocapture` is the long
//! form; it also holds the loop to 20 seconds. `FLYWHEEL_SEED` repeats the moments of a run.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use flywheel_it::{Loop, Scratch, flywheel, post, program, signal};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const TERMS: u64 = 3;
const PRODUCERS: usize = 4;
const BATCH: u64 = 20;
/// Longest orderly end, where the machine is not busy with other tests.
const END: Duration = Duration::from_secs(20);

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

/// One game, sent batch by batch; a batch that was not acknowledged is sent again.
#[derive(Debug, Default)]
struct Producer {
    game: String,
    next: u64,
    acknowledged: u64,
    put_off: u64,
    cut_off: u64,
}

impl Producer {
    /// Sends until `over`.
    ///
    /// # Panics
    /// At an answer that is neither an acknowledgement nor "not now".
    fn produce(&mut self, url: &str, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let seqs = self.next..self.next + BATCH;
            let body: String = seqs.map(|seq| format!("{}\n", event(&self.game, seq))).collect();
            match post(&format!("{url}/v1/events"), "application/x-ndjson", &body) {
                Ok((200, _, said)) => {
                    let said: Value = serde_json::from_str(&said).expect("an acknowledgement is JSON");
                    assert_eq!(said["durability"], "fsynced", "{said}");
                    self.next += BATCH;
                    assert_eq!(said["games"][&self.game]["last_seq"], self.next - 1, "{said}");
                    self.acknowledged += BATCH;
                }
                Ok((503, head, said)) => {
                    assert!(head.contains("retry-after"), "{head}");
                    assert!(said.contains("urn:flywheel:problem:"), "{said}");
                    self.put_off += 1;
                    thread::sleep(Duration::from_millis(5));
                }
                Ok((status, _, said)) => panic!("answered {status}: {said}"),
                // The connection was not taken, or went with the process: nothing was promised.
                Err(_) => {
                    self.cut_off += 1;
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

fn event(game: &str, seq: u64) -> Value {
    json!({"v": 1, "system": "tank", "kind": "tank.tick", "game_id": game, "seq": seq, "ts_ms": 1_700_000_000_000_u64,
           "actor": "server", "payload": {"tick": seq}})
}

/// Ends the producers, however the test ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_loop_that_is_told_to_end_under_load_ends_well_and_keeps_what_it_acknowledged() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("terms");
    fs::write(scratch.path().join("flywheel.toml"), "[train]\nenabled = false\n").unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = number("FLYWHEEL_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let (long, mut random) = (number("FLYWHEEL_TERMS"), ChaCha8Rng::seed_from_u64(seed));
    println!("{} ends, FLYWHEEL_SEED={seed}", long.unwrap_or(TERMS));
    let mut producers: Vec<_> =
        (0..PRODUCERS).map(|n| Producer { game: format!("game-{n}"), ..Producer::default() }).collect();
    let mut longest = Duration::ZERO;
    for n in 0..long.unwrap_or(TERMS) {
        let mut running = Loop::start(&program, &scratch, &format!("up-{n}"), &["--sessions", "0", "--farm", "0"]);
        let url = running.ready();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = Over(&over);
            let producers: Vec<_> =
                producers.iter_mut().map(|producer| scope.spawn(|| producer.produce(&url, &over))).collect();
            thread::sleep(Duration::from_millis(random.random_range(100..2500)));
            let told = Instant::now();
            signal(running.pid(), libc::SIGTERM);
            let status = running.wait();
            longest = longest.max(told.elapsed());
            assert!(status.success(), "end {n}: {status}\n{}", running.said());
            assert!(producers.iter().all(|producer| !producer.is_finished()), "a producer was answered wrongly");
        });
    }
    assert!(long.is_none() || longest <= END, "the longest end took {longest:?}");
    let sum = |of: fn(&Producer) -> u64| producers.iter().map(of).sum::<u64>();
    assert!(sum(|p| p.acknowledged) > 500 && sum(|p| p.put_off + p.cut_off) > 0, "{producers:?}");

    // One more, that is not hurried: what the others left in the log is landed.
    let last = Loop::start(&program, &scratch, "last", &["--sessions", "0", "--farm", "0", "--for", "5s"]).wait();
    assert!(last.success(), "{last}");
    let audit = flywheel(&program, &scratch.data(), &["audit", "--json"]);
    assert_eq!(audit.code, Some(0), "{audit:?}");
    let rows = rows(&program, &scratch);
    for producer in &producers {
        let seqs = rows.get(&producer.game).cloned().unwrap_or_default();
        // Of the last batch some may be there, though nothing was promised of it.
        assert!(seqs.len() as u64 >= producer.next, "{producer:?}: {} rows", seqs.len());
        assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "each once: {producer:?}");
    }
    println!(
        "{} acknowledged, 0 lost, 0 doubled; {} put off, {} without an answer; the longest end took {longest:?}",
        sum(|p| p.acknowledged),
        sum(|p| p.put_off),
        sum(|p| p.cut_off)
    );
}

/// The numbers of every game in the table of events, ascending.
fn rows(program: &Path, scratch: &Scratch) -> BTreeMap<String, Vec<u64>> {
    let scan = ["table", "scan", "events", "--columns", "game_id,seq", "-n", "1000000000"];
    let finished = flywheel(program, &scratch.data(), &scan);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut rows: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in finished.stdout.lines() {
        let row: Value = serde_json::from_str(line).expect("a row as JSON");
        let (game, seq) = (row["game_id"].as_str().expect("a game"), row["seq"].as_u64().expect("a seq"));
        rows.entry(game.to_owned()).or_default().push(seq);
    }
    rows.values_mut().for_each(|seqs| seqs.sort_unstable());
    rows
}
