//! `flywheel bench replay`: inserting into and drawing from a full buffer, beside cpprb.
//!
//! The workload of the peer: observations of 4 x 32 numbers, 1,000,000 rows, full before anything is measured; a
//! row counts when its observation, next observation, action, reward, discount and `done` lie in the contiguous
//! output batch. Both run on one core, one after the other.

use std::process::Command;

use anyhow::{Context, ensure};
use flywheel_replay::{RowBatch, RowBuffer, RowBufferConfig, Rows};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Figure, Options, per_cpu_second, pin::Pin};

const OBS: usize = 4 * 32;
const CAPACITY: usize = 1_000_000;
const CHUNK: usize = 256;
const POOLS: usize = 8;
const PEER: &str = "cpprb";

/// # Errors
/// If the bench cannot be set up; the message names what is missing.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let _pin = Pin::to_one_core();
    let mut figures = own(options)?;
    if options.peer {
        let values = peer(options)?;
        figures = figures
            .into_iter()
            .map(|figure| match values.iter().find(|(metric, _)| *metric == figure.metric) {
                Some(&(_, value)) => figure.against(PEER, value, true),
                None => figure,
            })
            .collect();
    }
    Ok(figures)
}

/// 256 rows of random numbers.
struct Pool {
    s: Vec<f32>,
    s2: Vec<f32>,
    action: Vec<i32>,
    reward: Vec<f32>,
    discount: Vec<f32>,
    done: Vec<u8>,
}

impl Pool {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        Self {
            s: (0..CHUNK * OBS).map(|_| rng.random()).collect(),
            s2: (0..CHUNK * OBS).map(|_| rng.random()).collect(),
            action: (0..CHUNK).map(|_| rng.random_range(0..8)).collect(),
            reward: (0..CHUNK).map(|_| rng.random()).collect(),
            discount: vec![0.97; CHUNK],
            done: (0..CHUNK).map(|_| u8::from(rng.random::<f32>() < 0.02)).collect(),
        }
    }

    fn rows(&self, n: usize) -> Rows<'_> {
        Rows {
            s: &self.s[..n * OBS],
            s2: &self.s2[..n * OBS],
            action: &self.action[..n],
            reward: &self.reward[..n],
            discount: &self.discount[..n],
            done: &self.done[..n],
        }
    }
}

fn own(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let pools: Vec<Pool> = (0..POOLS).map(|_| Pool::random(&mut rng)).collect();
    let mut figures = Vec::new();
    let mut batch = RowBatch::default();

    let mut buffer = full(&pools, false)?;
    let mut measure = |metric: String, buffer: &mut RowBuffer, work: &mut dyn FnMut(&mut RowBuffer) -> usize| {
        let windows = per_cpu_second(options.window, || (0..4).map(|_| work(buffer) as u64).sum());
        figures.push(Figure::new("replay", metric, "rows/CPU-s", &windows));
    };
    let mut turn = 0;
    measure("insert256".into(), &mut buffer, &mut |buffer| {
        turn = (turn + 1) % POOLS;
        buffer.insert(pools[turn].rows(CHUNK)).expect("rows of one shape");
        CHUNK
    });
    measure("insert1".into(), &mut buffer, &mut |buffer| {
        buffer.insert(pools[0].rows(1)).expect("rows of one shape");
        1
    });
    for n in [256, 512] {
        measure(format!("uniform{n}"), &mut buffer, &mut |buffer| {
            buffer.sample_uniform(n, &mut batch).expect("a full buffer");
            n
        });
    }
    drop(buffer);

    let mut buffer = full(&pools, true)?;
    check(&mut buffer, &pools)?;
    measure("prio_insert256".into(), &mut buffer, &mut |buffer| {
        turn = (turn + 1) % POOLS;
        buffer.insert(pools[turn].rows(CHUNK)).expect("rows of one shape");
        CHUNK
    });
    for n in [256, 512] {
        let errors: Vec<f32> = (0..n).map(|_| rng.random::<f32>() + 0.01).collect();
        measure(format!("prio{n}"), &mut buffer, &mut |buffer| {
            buffer.sample_prioritised(n, &mut batch).expect("a full buffer");
            buffer.update_priorities(&batch.training.index, &batch.training.generation, &errors);
            n
        });
    }
    Ok(figures)
}

fn full(pools: &[Pool], prioritised: bool) -> anyhow::Result<RowBuffer> {
    let config =
        RowBufferConfig { capacity: CAPACITY, obs_len: OBS, prioritised, seed: 7, ..RowBufferConfig::default() };
    let mut buffer = RowBuffer::new(config);
    let mut inserted = 0;
    while inserted < CAPACITY {
        let n = CHUNK.min(CAPACITY - inserted);
        buffer.insert(pools[inserted / CHUNK % POOLS].rows(n))?;
        inserted += n;
    }
    Ok(buffer)
}

/// What is counted must be right: every field of sampled rows equals that of the row inserted.
fn check(buffer: &mut RowBuffer, pools: &[Pool]) -> anyhow::Result<()> {
    let mut batch = RowBatch::default();
    buffer.sample_uniform(4_096, &mut batch)?;
    for (i, &slot) in batch.training.index.iter().enumerate() {
        let (pool, row) = (&pools[slot as usize / CHUNK % POOLS], slot as usize % CHUNK);
        let same = batch.training.s[i * OBS..(i + 1) * OBS] == pool.s[row * OBS..(row + 1) * OBS]
            && batch.training.s2[i * OBS..(i + 1) * OBS] == pool.s2[row * OBS..(row + 1) * OBS]
            && batch.training.a[i] == i64::from(pool.action[row])
            && batch.training.reward[i] == pool.reward[row]
            && batch.training.discount[i] == pool.discount[row]
            && batch.done[i] == pool.done[row];
        ensure!(same, "row {slot} came back other than it was inserted");
    }
    Ok(())
}

/// Rows per CPU-second of the peer, by metric.
fn peer(options: &Options) -> anyhow::Result<Vec<(String, f64)>> {
    let script = options.peers.join("replay_peer.py");
    let seconds = options.window.as_secs_f64().to_string();
    let output = Command::new(&options.python).arg(&script).args(["--secs", &seconds]).output().with_context(|| {
        format!("running `{} {}`; `make bench` installs it", options.python.display(), script.display())
    })?;
    ensure!(
        output.status.success(),
        "the peer `{}` failed ({}): {}",
        script.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default()
    );
    let text = String::from_utf8(output.stdout).context("reading the peer's figures")?;
    text.lines()
        .map(|line| {
            let line: serde_json::Value =
                serde_json::from_str(line).with_context(|| format!("peer's line `{line}`"))?;
            let metric = line["metric"].as_str().context("`metric` in the peer's line")?.to_owned();
            let value = line["rows_per_cpu_s"].as_f64().context("`rows_per_cpu_s` in the peer's line")?;
            Ok((metric, value))
        })
        .collect()
}
