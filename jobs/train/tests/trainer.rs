//! The program itself: killed, stopped, resumed, refused.
#![cfg(feature = "torch")]

mod support;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use flywheel_catalog::{RunFilter, RunState};
use flywheel_events::{BaseKey, GameId, System};
use flywheel_game_api::{Lane, TransitionRow};
use flywheel_log::{EventLog, Record, Topic, partition_of};
use flywheel_log_embedded::{EmbeddedConfig, EmbeddedLog, SOCKET};
use tokio_util::sync::CancellationToken;

const STEPS: u64 = 300;

/// `FLYWHEEL_KILLS=30 FLYWHEEL_RESUMES=20` is the long form.
fn times(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |times| times.parse().expect("a number of times"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A data folder with some games of the tank's shape in its table.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let lake = flywheel_backends::open_lake(dir.path()).unwrap();
    let games: Vec<Vec<TransitionRow>> = (0..12).map(|i| tank_game(&format!("g-{i}"), 60)).collect();
    runtime().block_on(support::store(&lake, &[games.concat()]));
    dir
}

fn tank_game(name: &str, steps: usize) -> Vec<TransitionRow> {
    let mut x = name.bytes().fold(7_u32, |x, byte| x.wrapping_mul(31).wrapping_add(byte.into()));
    let mut number = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1 << 24) as f32
    };
    let frames: Vec<Vec<f32>> = (0..steps + 4).map(|_| (0..27).map(|_| number()).collect()).collect();
    (0..steps)
        .map(|t| TransitionRow {
            lane: Lane { game_id: GameId::new(name).unwrap(), seat: "2".to_owned() },
            tick: t as u64,
            label: "basic".to_owned(),
            map_key: "stage01".to_owned(),
            model: None,
            s: frames[t..t + 4].concat(),
            a: (t % 10) as i16,
            r: frames[t][0] - 0.5,
            s2: frames[t + 1..t + 5].concat(),
            done: t + 1 == steps,
            epsilon: 0.1,
        })
        .collect()
}

fn trainer(data: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flywheel-trainer"));
    command
        .arg("--data")
        .arg(data)
        .args(["--device", "cpu", "--seed", "5", "--hidden", "32", "--batch-size", "64", "--min-size", "100"])
        .args(["--samples-per-insert", "1e9", "--sample-tolerance", "1e9", "--nice", "0", "--lease-seconds", "2"])
        .args(["--first-publish-steps", "1000000", "--publish-steps", "1000000", "--checkpoint-seconds", "0.02"])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Weights of every version, oldest first.
fn versions(data: &Path) -> Vec<String> {
    let registry = flywheel_backends::open_registry(data, None).unwrap();
    let mut cards = runtime().block_on(registry.list(&BaseKey::new("tank-ai-dqn").unwrap())).unwrap();
    cards.sort_by_key(|card| card.version);
    cards.into_iter().map(|card| card.sha256).collect()
}

fn trains() -> RunFilter {
    RunFilter { kind: Some(flywheel_train::KIND.to_owned()), ..RunFilter::default() }
}

fn states(data: &Path) -> Vec<(RunState, u64)> {
    runtime().block_on(async {
        let runs = flywheel_backends::open_catalog(data).await.unwrap().runs();
        let all = runs.list(trains()).await.unwrap();
        all.into_iter().map(|run| (run.state, run.progress["steps"].as_u64().unwrap_or_default())).collect()
    })
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not happen within five minutes");
}

fn checkpoints(data: &Path) -> usize {
    let runs = std::fs::read_dir(data.join("runs")).into_iter().flatten().flatten();
    let steps = runs.flat_map(|run| std::fs::read_dir(run.path()).into_iter().flatten().flatten());
    steps.filter(|entry| entry.file_name().to_string_lossy().starts_with("step-")).count()
}

/// The step of the newest checkpoint of any run.
fn newest_checkpoint(data: &Path) -> Option<u64> {
    let runs = std::fs::read_dir(data.join("runs")).into_iter().flatten().flatten();
    let steps = runs.flat_map(|run| std::fs::read_dir(run.path()).into_iter().flatten().flatten());
    steps.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).max()
}

/// The log of a data folder, held and served as `flywheel up` does.
struct HeldLog {
    runtime: tokio::runtime::Runtime,
    log: Arc<EmbeddedLog>,
    topic: Topic,
}

impl HeldLog {
    fn open(data: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = data.join("log");
        let topic = Topic::new(System::Tank.topic());
        let log = runtime.block_on(async {
            let log = EmbeddedLog::open(&folder, EmbeddedConfig::default()).unwrap();
            log.create_topic(&topic, support::PARTITIONS).await.unwrap();
            // It ends with the runtime.
            tokio::spawn(log.serve(&folder.join(SOCKET), CancellationToken::new()).unwrap());
            log
        });
        Self { runtime, log, topic }
    }
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: a child of ours that has not been waited for, so the id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
}

#[test]
fn a_trainer_killed_again_and_again_ends_with_the_very_weights_of_one_left_in_peace() {
    let wanted = times("FLYWHEEL_KILLS", 8);
    // More kills need more to do.
    let steps = (STEPS * wanted.div_ceil(8)).to_string();
    let fixed = ["--follow", "false", "--max-steps", &steps];
    let expected = left_in_peace(&fixed);

    let wild = data();
    let mut kills = 0;
    for pause_ms in (0..wanted * 5).map(|i| 60 + i * 37 % 190) {
        let mut child = trainer(wild.path(), &fixed).spawn().unwrap();
        // It may be anywhere: reading, learning, writing a checkpoint, publishing.
        std::thread::sleep(Duration::from_millis(150 + pause_ms));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        if kills == wanted {
            break;
        }
    }
    assert!(trainer(wild.path(), &fixed).status().unwrap().success());
    let versions = versions(wild.path());
    // A kill between publishing and the last checkpoint may publish the same weights once more.
    assert!(versions.iter().all(|version| *version == expected), "after {kills} kills");
    assert_eq!(states(wild.path())[0], (RunState::Completed, steps.parse().unwrap()));
    println!("{kills} kills");
}

/// The weights that a trainer ends with to which nothing happens.
fn left_in_peace(arguments: &[&str]) -> String {
    let calm = data();
    assert!(trainer(calm.path(), arguments).status().unwrap().success());
    let [version] = &versions(calm.path())[..] else { panic!("one version is published at the end") };
    version.clone()
}

#[test]
fn a_run_stopped_and_resumed_again_and_again_ends_with_the_very_weights_of_one_left_in_peace() {
    let wanted = times("FLYWHEEL_RESUMES", 3);
    // Enough that it does not end before it was told to as often: between a checkpoint and its stop it goes on learning.
    let steps = (STEPS * wanted * wanted.clamp(3, 12)).to_string();
    let fixed = ["--follow", "false", "--max-steps", &steps];
    let expected = left_in_peace(&fixed);

    let data = data();
    let (mut resumed, mut reached) = (0, None);
    while resumed < wanted {
        let mut child = Running(trainer(data.path(), &fixed).spawn().unwrap());
        // It is told to stop once it has learned something more.
        until("a checkpoint further on", || {
            newest_checkpoint(data.path()) > reached || child.0.try_wait().unwrap().is_some()
        });
        let id = runtime().block_on(async {
            let runs = flywheel_backends::open_catalog(data.path()).await.unwrap().runs();
            let id = runs.list(trains()).await.unwrap().remove(0).id;
            // Too late is no failure: it has ended.
            runs.request_stop(&id).await.ok().map(|_| id)
        });
        assert!(child.0.wait().unwrap().success());
        let (state, steps) = states(data.path())[0];
        reached = Some(steps);
        let Some(id) = id.filter(|_| state == RunState::Stopped) else { break };
        runtime().block_on(async {
            flywheel_backends::open_catalog(data.path()).await.unwrap().runs().resume(&id).await.unwrap();
        });
        resumed += 1;
    }
    assert!(resumed > 0, "it ended before it could be stopped");
    if states(data.path())[0].0 != RunState::Completed {
        assert!(trainer(data.path(), &fixed).status().unwrap().success());
    }
    assert!(versions(data.path()).iter().all(|version| *version == expected), "after {resumed} stops");
    assert_eq!(states(data.path()), [(RunState::Completed, steps.parse().unwrap())]);
    println!("{resumed} of {wanted} times stopped and resumed");
}

#[test]
fn a_trainer_told_to_end_leaves_a_checkpoint_and_the_next_one_goes_on_from_it() {
    let data = data();
    let mut child = trainer(data.path(), &["--follow", "false"]).spawn().unwrap();
    until("a checkpoint", || checkpoints(data.path()) > 0);
    signal(&child, libc::SIGTERM);
    assert!(child.wait().unwrap().success());
    let (state, steps) = states(data.path())[0];
    assert_eq!(state, RunState::Queued);
    assert!(steps > 0);
    let more = (steps + 50).to_string();
    assert!(trainer(data.path(), &["--follow", "false", "--max-steps", &more]).status().unwrap().success());
    assert_eq!(states(data.path()), [(RunState::Completed, steps + 50)]);
}

#[test]
fn a_run_that_was_asked_to_stop_stays_stopped_until_it_is_resumed() {
    let data = data();
    let mut child = trainer(data.path(), &["--follow", "false"]).spawn().unwrap();
    until("a checkpoint", || checkpoints(data.path()) > 0);
    let id = runtime().block_on(async {
        let runs = flywheel_backends::open_catalog(data.path()).await.unwrap().runs();
        let id = runs.list(RunFilter::default()).await.unwrap().remove(0).id;
        runs.request_stop(&id).await.unwrap();
        id
    });
    assert!(child.wait().unwrap().success());
    let (state, steps) = states(data.path())[0];
    assert_eq!(state, RunState::Stopped);

    let more = (steps + 50).to_string();
    let mut waiting = trainer(data.path(), &["--follow", "false", "--max-steps", &more]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(states(data.path()), [(RunState::Stopped, steps)], "it waits, and makes no new run");
    runtime().block_on(async {
        flywheel_backends::open_catalog(data.path()).await.unwrap().runs().resume(&id).await.unwrap();
    });
    assert!(waiting.wait().unwrap().success());
    assert_eq!(states(data.path()), [(RunState::Completed, steps + 50)]);
}

#[test]
fn a_trainer_that_slept_past_its_lease_keeps_and_publishes_nothing_more() {
    let data = data();
    let _log = HeldLog::open(data.path());
    let mut sleeper = Running(trainer(data.path(), &["--follow", "false"]).spawn().unwrap());
    until("a checkpoint", || checkpoints(data.path()) > 0);
    // A process frozen amid a write holds up all writers of the database; this test is about one that is not.
    loop {
        signal(&sleeper.0, libc::SIGSTOP);
        let writable = runtime().block_on(async {
            let runs = flywheel_backends::open_catalog(data.path()).await.unwrap().runs();
            tokio::time::timeout(Duration::from_secs(1), runs.create("probe", &serde_json::Value::Null)).await
        });
        if matches!(writable, Ok(Ok(_))) {
            break;
        }
        signal(&sleeper.0, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(30));
    }
    let frozen = states(data.path())[0].1;
    // The next one waits for the lease to run out, then goes on from the last checkpoint.
    let more = (frozen + 400).to_string();
    let mut next = Running(trainer(data.path(), &["--follow", "false", "--max-steps", &more]).spawn().unwrap());
    until("the other trainer's lease", || {
        runtime().block_on(async {
            let runs = flywheel_backends::open_catalog(data.path()).await.unwrap().runs();
            runs.list(trains()).await.unwrap()[0].fence == 2
        })
    });
    signal(&sleeper.0, libc::SIGCONT);
    assert_eq!(sleeper.0.wait().unwrap().code(), Some(6), "it says that the run is another's");
    assert!(next.0.wait().unwrap().success());
    assert_eq!(states(data.path()), [(RunState::Completed, frozen + 400)]);
    assert_eq!(versions(data.path()).len(), 1);
}

#[test]
fn it_reads_the_log_of_the_process_that_holds_it() {
    let data = tempfile::tempdir().unwrap();
    let log = HeldLog::open(data.path());
    log.runtime.block_on(async {
        for i in 0..12 {
            for event in support::events(&tank_game(&format!("live-{i}"), 40)) {
                let key = event.game_id.as_str().as_bytes().to_vec();
                let partition = log.topic.partition(partition_of(&key, support::PARTITIONS));
                log.log.append(&partition, vec![Record::new(key, event.encode())]).await.unwrap();
            }
        }
    });
    let learning = ["--min-size", "480", "--max-steps", "60"];
    let output = trainer(data.path(), &learning).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(states(data.path()), [(RunState::Completed, 60)]);
    assert_eq!(versions(data.path()).len(), 1);
}

#[test]
fn wrong_settings_are_said_in_one_line_and_nothing_is_begun() {
    let data = tempfile::tempdir().unwrap();
    let refused = |more: &[&str], words: &str| {
        let output = trainer(data.path(), more).stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(words), "{text}");
    };
    refused(&["--discount", "1.5"], "`discount` must lie within 0..=1");
    refused(&["--system", "doom"], "no learner plays `doom` yet");
    refused(&["--log", "nats://x"], "`nats://x` is not a log");
    refused(&["--head", "wide"], "neither plain nor dueling");
    assert!(!data.path().join("catalog.sqlite").exists());
}

#[test]
fn doctor_says_what_there_is_to_compute_with() {
    let output = Command::new(env!("CARGO_BIN_EXE_flywheel-trainer")).args(["doctor", "--json"]).output().unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(facts["threads"], 1);
    assert!(facts["auto"] == "cuda" || facts["cuda_refused"].is_string());
}
