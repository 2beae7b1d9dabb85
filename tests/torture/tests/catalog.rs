//! Cuts of power under the catalog of runs, in SQLite and on a real PostgreSQL: every change that was acknowledged is there
//! afterwards. `FLYWHEEL_POWER_CUTS` (3) says how many of each, `FLYWHEEL_SEED` repeats the moments.

mod postgres;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use flywheel_catalog::{Catalog, CatalogError, RunFilter, RunState, Runs};
use flywheel_torture::cut::{Disk, Journals, Undone};
use parking_lot::Mutex;
use postgres::Postgres;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokio::{io::AsyncBufReadExt as _, process::Command};

const WRITERS: usize = 4;
const TTL: Duration = Duration::from_secs(3600);
/// Where the child of the test on SQLite writes.
const CHILD: &str = "FLYWHEEL_CATALOG_AT";

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// The library that journals, beside the programs.
fn shim() -> Option<PathBuf> {
    let programs = env::current_exe().ok()?.parent()?.parent()?.to_owned();
    let shim = programs.join("libflywheel_powercut.so");
    if shim.is_file() {
        return Some(shim);
    }
    let required = env::var("FLYWHEEL_REQUIRE").unwrap_or_default();
    let how = format!("{} is not there; `cargo build -p flywheel-powercut` makes it", shim.display());
    assert!(!required.split(',').any(|word| word.trim() == "programs"), "{how}");
    eprintln!("SKIPPED: {how}");
    None
}

/// How far a run is: made, leased, with a checkpoint, completed.
type Stage = u32;

/// Carries run after run through its life and tells each change once it is acknowledged, until one is refused.
async fn write(runs: Runs, tell: impl Fn(&str, Stage)) -> CatalogError {
    let life = async || -> Result<(), CatalogError> {
        let id = runs.create("train", &json!({"seed": 7})).await?;
        tell(id.as_str(), 0);
        let lease = runs.lease(&id, "writer", TTL).await?;
        tell(id.as_str(), 1);
        runs.checkpoint(&lease, "checkpoints/1").await?;
        tell(id.as_str(), 2);
        runs.finish(&lease, RunState::Completed, None).await?;
        tell(id.as_str(), 3);
        Ok(())
    };
    loop {
        if let Err(error) = life().await {
            return error;
        }
    }
}

/// What is known to be there, and what a cut has shown.
#[derive(Debug, Default)]
struct Book {
    acknowledged: BTreeMap<String, Stage>,
    changes: u64,
    /// Changes that were acknowledged and are not there.
    lost: Vec<String>,
    undone: Undone,
}

impl Book {
    fn acknowledge(&mut self, written: BTreeMap<String, Stage>) {
        self.changes += written.values().map(|stage| u64::from(stage + 1)).sum::<u64>();
        self.acknowledged.extend(written);
    }

    /// Compares with what the catalog has after a cut, and goes on from that.
    async fn check(&mut self, catalog: &Catalog) {
        let runs = catalog.runs();
        let mut there = runs.list(RunFilter::default()).await.expect("the catalog is read after a cut");
        // The list is of the newest.
        let listed: BTreeSet<_> = there.iter().map(|run| run.id.to_string()).collect();
        for id in self.acknowledged.keys().filter(|id| !listed.contains(*id)) {
            match runs.get(&id.parse().expect("an id that was told")).await {
                Ok(run) => there.push(run),
                Err(error) => assert!(error.is_not_found(), "{error}"),
            }
        }
        let mut found = BTreeMap::new();
        for run in there {
            let stage = match (run.state, run.checkpoint) {
                (RunState::Queued, None) => 0,
                (RunState::Running, None) => 1,
                (RunState::Running, Some(_)) => 2,
                (RunState::Completed, Some(_)) => 3,
                other => panic!("{} is in a state that nobody wrote: {other:?}", run.id),
            };
            found.insert(run.id.to_string(), stage);
        }
        let mut unknown = 0;
        for (id, stage) in &found {
            match self.acknowledged.get(id) {
                // A change in flight may have been made.
                Some(known) => assert!(stage <= &(known + 1), "{id} is at {stage}, {known} was acknowledged"),
                None => unknown += 1,
            }
        }
        assert!(unknown <= WRITERS, "{unknown} runs that nobody can have made");
        for (id, known) in &self.acknowledged {
            match found.get(id) {
                Some(stage) if stage >= known => {}
                other => self.lost.push(format!("{id}: {known} was acknowledged, {other:?} is there")),
            }
        }
        self.acknowledged = found;
    }

    fn told(&self, what: &str, cuts: u64) {
        println!(
            "{what}: {cuts} cuts of power took back {} bytes of {} files and {} names; {} changes acknowledged, {} lost",
            self.undone.bytes,
            self.undone.files,
            self.undone.names,
            self.changes,
            self.lost.len()
        );
    }
}

/// The process that the power of the next test is cut of; without its variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_for_the_cuts_under_sqlite() {
    let Some(file) = env::var_os(CHILD) else { return };
    let catalog = Catalog::open(Path::new(&file)).await.unwrap();
    let writers = (0..WRITERS).map(|_| {
        let runs = catalog.runs();
        tokio::spawn(write(runs, |id, stage| {
            // One call of `write`, whatever the test harness does with `println`.
            std::io::stdout().write_all(format!("\nacknowledged {id} {stage}\n").as_bytes()).unwrap();
        }))
    });
    let (ended, ..) = futures::future::select_all(writers).await;
    panic!("{}", ended.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_under_sqlite_lose_no_acknowledged_change_of_a_run() {
    let Some(shim) = shim() else { return };
    let (cuts, seed) = (number("FLYWHEEL_POWER_CUTS", 3), number("FLYWHEEL_SEED", 11));
    let folder = tempfile::tempdir().unwrap();
    let world = folder.path().join("world");
    let mut journals = Journals::new(&shim, &world, &folder.path().join("power"), Disk::Careless).unwrap();
    let file = world.canonicalize().unwrap().join("catalog.sqlite");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut book = Book::default();
    for _ in 0..cuts {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "writer_for_the_cuts_under_sqlite", "--nocapture"]).env(CHILD, &file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        journals.watch(&mut command).unwrap();
        let mut child = command.spawn().unwrap();
        let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = BTreeMap::new();
        let mut note = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            if let ["acknowledged", id, stage] = words[..] {
                acknowledged.insert(id.to_owned(), stage.parse().unwrap());
            }
        };
        // Some work first, then a moment that nobody chose.
        for _ in 0..random.random_range(20..400) {
            note(&lines.next_line().await.unwrap().expect("the writer goes on"));
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..30_000))).await;
        child.kill().await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            note(&line);
        }
        book.undone.add(journals.cut(&mut random).unwrap());
        let catalog = Catalog::open(&file).await.expect("the catalog opens after a cut");
        book.acknowledge(acknowledged);
        book.check(&catalog).await;
    }
    book.told("SQLite", cuts);
    assert!(book.lost.is_empty(), "FLYWHEEL_SEED={seed}: {:#?}", book.lost);
    assert!(book.changes > cuts * 10, "next to nothing was written");
}

/// Cuts the power of a PostgreSQL with some `settings` beneath writers. `None` where it cannot be had.
///
/// # Errors
/// If server or catalog do not start after a cut.
async fn cut_postgres(settings: &[&str], cuts: u64, seed: u64) -> Option<Result<Book, String>> {
    let mut postgres = Postgres::new(&shim()?).await?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut book = Book::default();
    let mut run = async || {
        let url = postgres.url();
        for round in 0..=cuts {
            postgres.start(settings).await?;
            let catalog = Catalog::connect(&url).await.map_err(|error| error.to_string())?;
            if round > 0 {
                book.check(&catalog).await;
            }
            if round < cuts {
                let written = Arc::new(Mutex::new(BTreeMap::new()));
                let tell = |written: &Arc<Mutex<BTreeMap<String, Stage>>>| {
                    let written = Arc::clone(written);
                    move |id: &str, stage| {
                        written.lock().insert(id.to_owned(), stage);
                    }
                };
                let writers: Vec<_> =
                    (0..WRITERS).map(|_| tokio::spawn(write(catalog.runs(), tell(&written)))).collect();
                while written.lock().len() < WRITERS && !writers.iter().any(|writer| writer.is_finished()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                tokio::time::sleep(Duration::from_millis(random.random_range(50..800))).await;
                book.undone.add(postgres.cut(&mut random).await);
                // The server is gone; they may wait long for another connection.
                writers.iter().for_each(tokio::task::JoinHandle::abort);
                book.acknowledge(std::mem::take(&mut *written.lock()));
            }
        }
        postgres.cut(&mut random).await;
        Ok(())
    };
    let ended = run().await;
    Some(ended.map(|()| book))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_under_postgresql_lose_no_acknowledged_change_of_a_run() {
    let (cuts, seed) = (number("FLYWHEEL_POWER_CUTS", 3), number("FLYWHEEL_SEED", 12));
    let Some(book) = cut_postgres(&[], cuts, seed).await else { return };
    let book = book.expect("server and catalog start after every cut");
    book.told("PostgreSQL", cuts);
    assert!(book.lost.is_empty(), "FLYWHEEL_SEED={seed}: {:#?}", book.lost);
    assert!(book.changes > cuts * 10, "next to nothing was written");
}

/// The counter-test: a server that syncs nothing must be seen to lose something, or everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_syncs_nothing_is_seen_to_lose_acknowledged_changes() {
    for seed in 0..5 {
        match cut_postgres(&["fsync=off"], 2, seed).await {
            None => return,
            Some(Err(said)) => return println!("it does not even start: {said}"),
            Some(Ok(book)) => {
                book.told("PostgreSQL with fsync=off", 2);
                if !book.lost.is_empty() {
                    return;
                }
            }
        }
    }
    panic!("no loss was seen, so the cuts cut nothing");
}
