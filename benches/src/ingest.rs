//! `flywheel bench ingest`: JSON events to exactly-once commits in table `events`, beside DuckDB; how two cores compare
//! with one; and how long an event takes from its acceptance by the log to the table.
//!
//! Two shapes in our envelope: `small` has 16 scalars, `obs` also 32 + 8 numbers of four decimals. It is [`Land`] itself,
//! with the settings of production, that lands the lines of a file: it decodes and checks every event whole, drops repeats,
//! encodes Parquet (zstd 1) and commits rows with their position every 50,000 rows, synced to disk. The CPU time of the
//! whole process counts, reading the file included, all on one core. DuckDB reads the same file on the same core and writes
//! one Parquet file, synced: once with the payload as text, as we keep it, and once with a column for each of its members.
//! The faster of the two is the peer, with zstd 3, its default, and with zstd 1; see `peers/ingest_peers.py`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use arrow::{array::AsArray, datatypes::Int64Type};
use flywheel_events::{Event, GameId, System};
use flywheel_flows::{CancellationToken, FlowError, Land, LandConfig, LandStats};
use flywheel_lake::{Lake, ScanOptions, TableName};
use flywheel_log::{Record, Topic, partition_of};
use flywheel_tables::EventView;
use futures::TryStreamExt as _;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::{
    Figure, Options,
    folder::Folder,
    lander::{memory, restart},
    lines::{FIRST_MS, Lines},
    pin::{Pin, cores},
    process_cpu_seconds,
    race::{Racer, Start, race},
};

const BENCH: &str = "ingest";
const WINDOWS: usize = 5;
const SHAPES: [(&str, bool, usize); 2] = [("ingest_small", false, 1_000_000), ("ingest_obs", true, 400_000)];
/// Events a second while freshness is measured.
const RATE: u64 = 20_000;
/// Events that lie behind a lander that starts again.
const BEHIND: i64 = 10_000_000;
/// However slow the machine, a window ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// # Errors
/// If the bench cannot be set up; the message names what is missing.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let folder = Folder::new("ingest")?;
    // First, while the process has no memory to use again. (After other benches it has.)
    let mut figures: Vec<_> = runtime()?.block_on(memory(folder.path(), options.window))?.into_iter().collect();
    for (metric, observations, rows) in SHAPES {
        let file = folder.path().join(format!("{metric}.jsonl"));
        write_events(std::slice::from_ref(&file), observations, rows)?;
        // What a thread starts, threads and processes, stays on its core.
        let _pin = Pin::to_one_core();
        let own = runtime()?.block_on(ingest(folder.path(), metric, &file, rows))?;
        let rate = |suffix: &str| Figure::new(BENCH, format!("{metric}{suffix}"), "rows/cpu-s", &own.rates);
        let bytes =
            |suffix: &str| Figure::new(BENCH, format!("{metric}_bytes_per_row{suffix}"), "bytes", &[own.bytes_per_row]);
        if options.peer {
            let peer = duckdb(options, folder.path(), &file)?;
            let same = peer.rows == rows && (peer.sum_seq, peer.payload_chars) == (own.sum_seq, own.payload_chars);
            ensure!(same, "{} read other rows than we did", peer.peer);
            let Peer { peer, zstd1, zstd3, .. } = peer;
            for (suffix, level, layouts) in [("", "zstd 3", &zstd3), ("_zstd1", "zstd 1", &zstd1)] {
                let (faster, layout) = layouts.faster();
                figures.push(rate(suffix).against(format!("{peer}, {level}, {layout}"), faster, true));
            }
            let smaller = |of: fn(&Layouts) -> &Layout| of(&zstd1).bytes_per_row.min(of(&zstd3).bytes_per_row);
            let (text, typed) = (smaller(|layouts| &layouts.text), smaller(|layouts| &layouts.typed));
            figures.push(bytes("").against(format!("{peer}, payload as text"), text, false));
            figures.push(bytes("_typed").against(format!("{peer}, payload in float32"), typed, false));
        } else {
            figures.extend([rate(""), bytes("")]);
        }
        fs::remove_file(&file).context("removing the events")?;
    }
    // Long enough that it does not matter which of two has a little more to do.
    figures.extend(two_cores(folder.path(), 2 * SHAPES[0].2, Racer::process)?);
    {
        let _pin = Pin::to_one_core();
        figures.extend(runtime()?.block_on(freshness(folder.path(), options.window))?);
    }
    let runtime = runtime()?;
    figures.push(runtime.block_on(restart(folder.path(), BEHIND))?);
    figures.extend(runtime.block_on(crate::streams::redis(3_000_000))?);
    Ok(figures)
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting the runtime")
}

/// 64 interleaved sessions, each one game after another.
struct Sessions {
    rng: ChaCha8Rng,
    games: [(u32, u64); 64],
    events: i64,
}

impl Sessions {
    fn new() -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(7), games: [(0, 0); 64], events: 0 }
    }

    /// The next event and its session. What `gen_events.py` calls type, game, session, tick and ts are the envelope's kind,
    /// system, game id, seq and time.
    fn event(&mut self, observations: bool) -> (usize, Event) {
        let rng = &mut self.rng;
        let session = rng.random_range(0..self.games.len());
        let done = rng.random::<f64>() < 0.001;
        let (game, seq) = &mut self.games[session];
        if done {
            (*game, *seq) = (*game + 1, 0);
        }
        let kinds = ["tank.fire", "tank.hit", "tank.wall", "tank.scan"];
        let kind = kinds.get(rng.random_range(0..10)).unwrap_or(&"tank.tick");
        let mut number =
            |range: f64, below: f64, digits: f64| ((rng.random::<f64>() * range - below) * digits).round() / digits;
        let mut payload = serde_json::json!({
            "bot": 0, "x": number(800.0, 0.0, 1e3), "y": number(600.0, 0.0, 1e3), "energy": number(100.0, 0.0, 1e2),
            "heading": number(360.0, 0.0, 1e2), "gun": number(360.0, 0.0, 1e2), "speed": number(16.0, 8.0, 1e3),
            "action": 0, "reward": number(2.0, 1.0, 1e4), "done": done,
        });
        payload["bot"] = rng.random_range(0..4).into();
        payload["action"] = rng.random_range(0..8).into();
        if observations {
            payload["obs"] = normals(rng, 32);
            payload["q"] = normals(rng, 8);
        }
        let id = GameId::new(format!("t{session:03}-{game:05}")).expect("a plain name");
        let event = Event::new(System::Tank, *kind, id, *seq, FIRST_MS + self.events / 4);
        *seq += 1;
        self.events += 1;
        (session, event.actor("server").payload(&payload))
    }
}

/// Normally distributed numbers of four decimals, by Box and Muller.
fn normals(rng: &mut ChaCha8Rng, n: usize) -> serde_json::Value {
    let mut normal = || {
        let (radius, angle) = (rng.random::<f64>(), rng.random::<f64>());
        let value = (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
        (value * 1e4).round() / 1e4
    };
    (0..n).map(|_| normal()).collect()
}

/// Writes `rows` events, the sessions dealt out to the files in turn; returns how many each file has.
fn write_events(paths: &[PathBuf], observations: bool, rows: usize) -> anyhow::Result<Vec<usize>> {
    let mut sessions = Sessions::new();
    let create = |path: &PathBuf| -> anyhow::Result<_> {
        let file = fs::File::create(path).with_context(|| format!("creating {}", path.display()))?;
        // As a program writes a large file: in large pieces, which lie in the page cache as such.
        Ok((std::io::BufWriter::with_capacity(1 << 20, file), 0))
    };
    let mut files = paths.iter().map(create).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..rows {
        let (session, event) = sessions.event(observations);
        let (file, lines) = &mut files[session % paths.len()];
        file.write_all(&event.encode())?;
        file.write_all(b"\n")?;
        *lines += 1;
    }
    let close = |(mut file, lines): (std::io::BufWriter<fs::File>, usize)| file.flush().map(|()| lines);
    files.into_iter().map(close).collect::<Result<_, _>>().context("writing the events")
}

struct Own {
    rates: Vec<f64>,
    bytes_per_row: f64,
    sum_seq: u64,
    payload_chars: u64,
}

async fn ingest(folder: &Path, metric: &str, file: &Path, rows: usize) -> anyhow::Result<Own> {
    let topic = Topic::new(System::Tank.topic());
    let mut own = Own { rates: Vec::new(), bytes_per_row: f64::NAN, sum_seq: 0, payload_chars: 0 };
    for window in 0..=WINDOWS {
        let place = folder.join(format!("{metric}-{window}"));
        let lake = Lake::local(&place)?;
        let cpu = process_cpu_seconds();
        let log = Lines::new(topic.clone(), &[(file.to_owned(), rows)]);
        log.open();
        let land = Land::new(log, lake.clone(), LandConfig::new(topic.clone(), 1));
        let (stats, cancel) = (land.stats(), CancellationToken::new());
        let landing = tokio::spawn({
            let cancel = cancel.clone();
            async move { land.run(cancel).await }
        });
        landed(&stats, landing, &cancel, rows).await?;
        let spent = process_cpu_seconds() - cpu;
        // The first one warms up.
        if window > 0 {
            own.rates.push(rows as f64 / spent);
        }
        let table = lake.table(TableName::Events);
        own.bytes_per_row = table.files().await?.iter().map(|file| file.bytes).sum::<u64>() as f64 / rows as f64;
        if window == WINDOWS {
            let mut batches = table.scan_stream(ScanOptions::columns(["seq", "payload"])).await?;
            let mut found = 0;
            while let Some(batch) = batches.try_next().await? {
                found += batch.num_rows();
                own.sum_seq += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>() as u64;
                own.payload_chars += batch.column(1).as_string::<i32>().values().len() as u64;
            }
            ensure!(found == rows, "the table has {found} rows, not the {rows} of the file");
        }
        fs::remove_dir_all(&place).context("removing the table")?;
    }
    Ok(own)
}

/// Waits until a lander has taken `rows` events, tells it to stop, and waits until all of them are in the table.
///
/// The last ones would linger otherwise, half a second and more, for others that never come.
pub(crate) async fn landed(
    stats: &LandStats,
    landing: JoinHandle<Result<(), FlowError>>,
    cancel: &CancellationToken,
    rows: usize,
) -> anyhow::Result<()> {
    let started = Instant::now();
    // In this order, for they leave the second before they come to the first.
    while stats.events.load(Acquire) + stats.pending.load(Relaxed) < rows as u64 {
        let refused = stats.dead.load(Relaxed) + stats.duplicates.load(Relaxed);
        ensure!(refused == 0, "{refused} events were refused");
        ensure!(!landing.is_finished(), "the lander has ended");
        ensure!(started.elapsed() < PATIENCE, "the events have not landed within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    cancel.cancel();
    landing.await.context("the task of land")??;
    let landed = stats.events.load(Relaxed);
    ensure!(landed == rows as u64, "{landed} events have landed of {rows}");
    Ok(())
}

/// The same events in two partitions: one lander's process on one core, and two on two cores that share them.
/// Rows a second of wall time; the peer is the one core. Beside it what the machine's second core brings at all: decoding
/// one event again and again, which shares nothing and fits every cache.
fn two_cores(folder: &Path, rows: usize, start: Start) -> anyhow::Result<Vec<Figure>> {
    let cores = cores();
    let [.., first, second] = cores[..] else { return Ok(Vec::new()) };
    let paths = [folder.join("part-0.jsonl"), folder.join("part-1.jsonl")];
    let lines = write_events(&paths, false, rows)?;
    let files: Vec<_> = paths.iter().cloned().zip(lines).collect();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let (mut decode_one, mut decode_two) = (Vec::new(), Vec::new());
    for window in 0..=WINDOWS {
        let place = folder.join(format!("cores-{window}"));
        let alone = rows as f64 / race(start, &place.join("one"), &files, &[(second, [0, 1].into())])?;
        let both = [(first, [0].into()), (second, [1].into())];
        let together = rows as f64 / race(start, &place.join("two"), &files, &both)?;
        fs::remove_dir_all(&place).context("removing the tables")?;
        // The first one warms up.
        if window > 0 {
            one.push(alone);
            two.push(together);
            decode_one.push(decoded(&[second]));
            decode_two.push(decoded(&[first, second]));
        }
    }
    paths.iter().try_for_each(fs::remove_file).context("removing the events")?;
    let beside_one = |metric: &str, unit, two: &[f64], one: &[f64]| {
        let alone = Figure::new(BENCH, metric, unit, one).value;
        Figure::new(BENCH, metric, unit, two).against("one core", alone, true)
    };
    Ok(vec![
        beside_one("ingest_small_2cores", "rows/s", &two, &one),
        beside_one("decode_2cores", "events/s", &decode_two, &decode_one),
    ])
}

/// How often a second one event is decoded on all of `cores` together.
fn decoded(cores: &[usize]) -> f64 {
    const TIME: Duration = Duration::from_millis(300);
    let count = |core: usize| {
        let _pin = Pin::to(core);
        let event = Sessions::new().event(false).1.encode();
        let (started, mut n) = (Instant::now(), 0_u64);
        while started.elapsed() < TIME {
            for _ in 0..1000 {
                let seq = EventView::decode(std::hint::black_box(&event)).map(|event| event.seq);
                n += u64::from(std::hint::black_box(seq).is_ok());
            }
        }
        n as f64 / started.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let counting: Vec<_> = cores.iter().map(|&core| scope.spawn(move || count(core))).collect();
        counting.into_iter().map(|thread| thread.join().expect("decoding does not panic")).sum()
    })
}

#[derive(Deserialize)]
struct Peer {
    peer: String,
    rows: usize,
    sum_seq: u64,
    payload_chars: u64,
    zstd1: Layouts,
    zstd3: Layouts,
}

#[derive(Deserialize)]
struct Layouts {
    text: Layout,
    typed: Layout,
}

#[derive(Deserialize)]
struct Layout {
    rows_per_cpu_s: Vec<f64>,
    bytes_per_row: f64,
}

impl Layouts {
    /// Rows per CPU-second of the faster one, and its name.
    fn faster(&self) -> (f64, &'static str) {
        let median = |layout: &Layout| Figure::new(BENCH, "", "rows/cpu-s", &layout.rows_per_cpu_s).value;
        let (text, typed) = (median(&self.text), median(&self.typed));
        if text > typed { (text, "payload as text") } else { (typed, "payload in columns") }
    }
}

fn duckdb(options: &Options, folder: &Path, file: &Path) -> anyhow::Result<Peer> {
    let script = options.peers.join("ingest_peers.py");
    let output = Command::new(&options.python)
        .arg(&script)
        .args(["--file".as_ref(), file.as_os_str(), "--out".as_ref(), folder.join("peer.parquet").as_os_str()])
        .args(["--reps", &WINDOWS.to_string()])
        .output()
        .with_context(|| format!("running {} with {}", script.display(), options.python.display()))?;
    ensure!(output.status.success(), "{} failed: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| format!("reading what {} printed", script.display()))
}

/// Events at a constant rate through the embedded log (synced) and `land`: milliseconds from acceptance to the commit.
/// The producer, the log and the lander all have the one core of the caller.
async fn freshness(folder: &Path, window: Duration) -> anyhow::Result<Vec<Figure>> {
    const PARTITIONS: u32 = 4;
    let topic = Topic::new(System::Tank.topic());
    let (log, _id) = flywheel_log_embedded::open_or_connect(&folder.join("log")).await?;
    log.create_topic(&topic, PARTITIONS).await?;
    let lake = Lake::local(folder.join("freshness"))?;
    let land = Land::new(Arc::clone(&log), lake, LandConfig::new(topic.clone(), PARTITIONS));
    let (stats, cancel) = (land.stats(), CancellationToken::new());
    let landing = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    let mut sessions = Sessions::new();
    let (started, mut sent) = (Instant::now(), 0);
    let run = window.max(Duration::from_secs(3));
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    while started.elapsed() < run {
        beat.tick().await;
        let due = (started.elapsed().as_secs_f64() * RATE as f64) as u64;
        let mut records = vec![Vec::new(); PARTITIONS as usize];
        for _ in sent..due {
            let (_, event) = sessions.event(false);
            let key = event.game_id.as_str().to_owned();
            let partition = partition_of(key.as_bytes(), PARTITIONS);
            records[partition as usize].push(Record::new(key, event.encode()));
        }
        sent = due;
        for (partition, records) in records.into_iter().enumerate().filter(|(_, records)| !records.is_empty()) {
            log.append(&topic.partition(partition as u32), records).await?;
        }
    }
    cancel.cancel();
    landing.await.context("the task of land")??;
    // What waited at the end was landed after it, so that time counts too.
    let took = started.elapsed();
    ensure!(stats.freshness.count() > 0, "nothing was committed");
    let figure = |metric: &str, value: u64| Figure::new(BENCH, metric, "ms", &[value as f64]);
    Ok(vec![
        figure("event_to_table_ms_p50", stats.freshness_p50_ms()),
        figure("event_to_table_ms_p99", stats.freshness_p99_ms()),
        Figure::new(BENCH, "event_to_table_rate", "events/s", &[stats.freshness.count() as f64 / took.as_secs_f64()]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bench_counts_every_row_of_its_file() {
        let folder = Folder::new("ingest").unwrap();
        let file = folder.path().join("events.jsonl");
        assert_eq!(write_events(std::slice::from_ref(&file), true, 700).unwrap(), [700]);
        let own = runtime().unwrap().block_on(ingest(folder.path(), "test", &file, 700)).unwrap();
        assert_eq!(own.rates.len(), WINDOWS);
        assert!(own.bytes_per_row > 0.0 && own.sum_seq > 0);
        let text = fs::read_to_string(&file).unwrap();
        let payloads = text.lines().map(|line| Event::decode(line.as_bytes()).unwrap().payload.get().len() as u64);
        assert_eq!(own.payload_chars, payloads.sum::<u64>());
    }

    #[test]
    fn landers_on_two_cores_land_what_one_lands() {
        let folder = Folder::new("cores").unwrap();
        let figures = two_cores(folder.path(), 500, Racer::thread).unwrap();
        assert_eq!(figures.is_empty(), cores().len() < 2);
        assert!(figures.iter().all(|figure| figure.value > 0.0));
    }
}
