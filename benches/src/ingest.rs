//! `flywheel bench ingest`: JSON events to an exactly-once commit in table `events`, beside DuckDB; and how long an
//! event takes from its acceptance by the log to the table.
//!
//! Two shapes after `performance.md` b, as payloads of our envelope: `small` has 14 scalars, `obs` also 32 + 8
//! float32 in base64. Ours decodes, validates, drops repeats, encodes Parquet (zstd 1) and commits rows with their
//! position every 50,000 rows, synced to disk; the CPU time of the whole process is counted. DuckDB reads the same
//! file to the same columns and writes one Parquet file.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use flywheel_events::{Event, GameId, System, floats};
use flywheel_flows::{Added, CancellationToken, Land, LandConfig, Seen};
use flywheel_lake::{Advance, Lake, TableName};
use flywheel_log::{Record, Topic, partition_of};
use flywheel_tables::{EventView, EventsBuilder};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::{Figure, Options, folder::Folder, process_cpu_seconds};

const BENCH: &str = "ingest";
const BATCH: usize = 50_000;
const WINDOWS: usize = 3;
/// Events a second while freshness is measured.
const RATE: u64 = 20_000;

/// # Errors
/// If the bench cannot be set up; the message names what is missing.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let folder = Folder::new("ingest")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let mut figures = Vec::new();
    for (metric, observations, rows) in [("ingest_small", false, 200_000), ("ingest_obs", true, 100_000)] {
        let file = folder.path().join(format!("{metric}.jsonl"));
        write_events(&file, observations, rows)?;
        let own = runtime.block_on(ingest(folder.path(), metric, &file, rows))?;
        let mut rate = Figure::new(BENCH, metric, "rows/cpu-s", &own.rates);
        let mut size = Figure::new(BENCH, format!("{metric}_bytes_per_row"), "bytes", &[own.bytes_per_row]);
        if options.peer {
            let peer = duckdb(options, folder.path(), &file)?;
            ensure!(peer.rows == rows && peer.sum_seq == own.sum_seq, "{} read other rows than we did", peer.peer);
            let median = Figure::new(BENCH, metric, "rows/cpu-s", &peer.rows_per_cpu_s).value;
            rate = rate.against(&peer.peer, median, true);
            size = size.against(&peer.peer, peer.bytes_per_row, false);
        }
        figures.extend([rate, size]);
        fs::remove_file(&file).context("removing the events")?;
    }
    figures.extend(runtime.block_on(freshness(folder.path(), options.window))?);
    figures.extend(runtime.block_on(crate::streams::redis(1_500_000))?);
    Ok(figures)
}

/// One event of 64 interleaved sessions.
fn event(rng: &mut ChaCha8Rng, seqs: &mut [u64; 64], observations: bool) -> Event {
    let session = rng.random_range(0..seqs.len());
    let seq = seqs[session];
    seqs[session] += 1;
    let hundredths = |value: f64| (value * 100.0).round() / 100.0;
    let kinds = ["tick", "fire", "hit", "wall", "scan"];
    let kind = kinds[rng.random_range(0..kinds.len())];
    let mut payload = serde_json::json!({
        "tick": seq * 3, "bot": rng.random_range(0..4), "type": kind,
        "x": hundredths(rng.random::<f64>() * 800.0), "y": hundredths(rng.random::<f64>() * 600.0),
        "energy": hundredths(rng.random::<f64>() * 100.0), "heading": hundredths(rng.random::<f64>() * 360.0),
        "gun": hundredths(rng.random::<f64>() * 360.0), "speed": hundredths(rng.random::<f64>() * 16.0 - 8.0),
        "action": rng.random_range(0..8), "reward": hundredths(rng.random::<f64>() * 2.0 - 1.0), "done": seq % 1000 == 999,
    });
    if observations {
        let numbers = |rng: &mut ChaCha8Rng, n| floats::encode(&(0..n).map(|_| rng.random()).collect::<Vec<f32>>());
        payload["obs"] = numbers(rng, 32).into();
        payload["q"] = numbers(rng, 8).into();
    }
    let game = GameId::new(format!("t{session:03}-00001")).expect("a plain name");
    Event::new(System::Tank, "tank.tick", game, seq, 1_730_000_000_000 + seq as i64).actor("server").payload(&payload)
}

fn write_events(path: &Path, observations: bool, rows: usize) -> anyhow::Result<()> {
    let (mut rng, mut seqs) = (ChaCha8Rng::seed_from_u64(7), [0; 64]);
    let mut file =
        std::io::BufWriter::new(fs::File::create(path).with_context(|| format!("creating {}", path.display()))?);
    for _ in 0..rows {
        file.write_all(&event(&mut rng, &mut seqs, observations).encode())?;
        file.write_all(b"\n")?;
    }
    file.flush().context("writing the events")
}

struct Own {
    rates: Vec<f64>,
    bytes_per_row: f64,
    sum_seq: u64,
}

async fn ingest(folder: &Path, metric: &str, file: &Path, rows: usize) -> anyhow::Result<Own> {
    let (mut rates, mut bytes_per_row, mut sum_seq) = (Vec::new(), f64::NAN, 0);
    for window in 0..=WINDOWS {
        let lake = Lake::local(folder.join(format!("{metric}-{window}")))?;
        let table = lake.table(TableName::Events);
        let cpu = process_cpu_seconds();
        let text = fs::read(file).context("reading the events")?;
        let mut seen = Seen::new(3_600_000, 200_000);
        let mut batch = EventsBuilder::with_capacity(BATCH, BATCH * 256);
        let (mut committed, mut offset) = (None, 0);
        sum_seq = 0;
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let view = EventView::decode(line)?;
            let now_ms = 1_730_000_000_000 + offset / 1000;
            if seen.see(&view.game_id, view.seq, now_ms).added == Added::New {
                sum_seq += view.seq;
                batch.push_view(&view, 0, offset, now_ms);
            }
            offset += 1;
            if batch.len() == BATCH || offset == rows as i64 {
                let advance = Advance::new("land/fw.tank.events/0", committed, offset - 1);
                table.append_from(vec![batch.finish()], &[advance]).await?;
                committed = Some(offset - 1);
            }
        }
        let spent = process_cpu_seconds() - cpu;
        ensure!(table.rows().await? == rows as u64, "the table has not the rows of the file");
        bytes_per_row = table.files().await?.iter().map(|file| file.bytes).sum::<u64>() as f64 / rows as f64;
        // The first one warms up.
        if window > 0 {
            rates.push(rows as f64 / spent);
        }
    }
    Ok(Own { rates, bytes_per_row, sum_seq })
}

#[derive(Deserialize)]
struct Peer {
    peer: String,
    rows: usize,
    rows_per_cpu_s: Vec<f64>,
    bytes_per_row: f64,
    sum_seq: u64,
}

fn duckdb(options: &Options, folder: &Path, file: &Path) -> anyhow::Result<Peer> {
    let script = options.peers.join("ingest_peers.py");
    let output = Command::new(&options.python)
        .arg(&script)
        .args(["--file".as_ref(), file.as_os_str(), "--out".as_ref(), folder.join("peer.parquet").as_os_str()])
        .output()
        .with_context(|| format!("running {} with {}", script.display(), options.python.display()))?;
    ensure!(output.status.success(), "{} failed: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| format!("reading what {} printed", script.display()))
}

/// Events at a constant rate through the embedded log (synced) and `land`: milliseconds from acceptance to the commit.
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
    let (mut rng, mut seqs) = (ChaCha8Rng::seed_from_u64(7), [0; 64]);
    let (started, mut sent) = (Instant::now(), 0);
    let run = window.max(Duration::from_secs(3));
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    while started.elapsed() < run {
        beat.tick().await;
        let due = (started.elapsed().as_secs_f64() * RATE as f64) as u64;
        let mut records = vec![Vec::new(); PARTITIONS as usize];
        for _ in sent..due {
            let event = event(&mut rng, &mut seqs, false);
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
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_bench_counts_every_row_of_its_file() {
        let folder = Folder::new("ingest").unwrap();
        let file = folder.path().join("events.jsonl");
        write_events(&file, true, 700).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let own = runtime.block_on(ingest(folder.path(), "test", &file, 700)).unwrap();
        assert_eq!(own.rates.len(), WINDOWS);
        assert!(own.bytes_per_row > 0.0 && own.sum_seq > 0);
    }

    /// `cargo test --release -p flywheel-benches ingest -- --ignored --nocapture`, with FLYWHEEL_PYTHON for the peer.
    #[test]
    #[ignore = "a measurement of a minute"]
    fn figures() {
        let python = std::env::var_os("FLYWHEEL_PYTHON").map(PathBuf::from);
        let options = Options {
            peer: python.is_some(),
            window: Duration::from_secs(20),
            python: python.unwrap_or_default(),
            peers: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/peers")),
        };
        for figure in run(&options).unwrap() {
            println!("{}", serde_json::to_string(&figure).unwrap());
        }
    }
}
