//! `flywheel-trainer bench`: the training step beside PyTorch's, on one core.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use flywheel_policy::{Learner, Network, NetworkSpec, Tensor, TrainingBatch};
use flywheel_torch::{DeviceChoice, DqnConfig, TorchDqn};
use serde_json::{Value, json};

const BATCH: usize = 256;
const METRIC: &str = "dqn_step_b256";
/// The fastest of PyTorch's eager variants: the one to beat.
const PEER: &str = "torch-fused";
/// Losses of the two implementations may differ by this over the curve, or by twice what PyTorch's own plain and
/// fused optimisers differ: Adam makes much of the last bit of small gradients, so all of them drift apart.
const CURVE_TOLERANCE: f64 = 1e-4;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Run PyTorch in the same run, with this Python.
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// Folder of the peers' programs.
    #[arg(long, value_name = "DIR", default_value = "benches/peers")]
    peers: PathBuf,
    /// Length of one of the three measuring windows, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    window_s: f64,
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
    /// Steps of the loss curve that is compared with the peer's first; 0 compares none.
    #[arg(long, default_value_t = 1_000)]
    curve: usize,
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let windows = own(args)?;
    let mut sorted = windows.clone();
    sorted.sort_by(f64::total_cmp);
    let value = sorted[sorted.len() / 2];
    let mut figure = json!({
        "bench": "train",
        "metric": METRIC,
        "value": value,
        "unit": if args.device == DeviceChoice::Cpu { "steps/CPU-s" } else { "steps/s" },
        "peer": null,
        "peer_value": null,
        "ratio": null,
        "spread": [sorted[0], sorted[sorted.len() - 1]],
        "load": load_average(),
    });
    if let Some(python) = &args.peer {
        let script = args.peers.join("train_peer.py");
        if args.curve > 0 {
            let (difference, peers_own) = compare_curves(python, &script, args)?;
            figure["curve_difference"] = json!(difference);
            figure["curve_difference_peer"] = json!(peers_own);
        }
        let peer_value = peer(python, &script, args.window_s)?;
        figure["peer"] = json!(PEER);
        figure["peer_value"] = json!(peer_value);
        figure["ratio"] = json!(value / peer_value);
    }
    if args.json {
        println!("{figure}");
    } else {
        println!(
            "{METRIC}: {value:.1} {} (from {:.1} to {:.1})",
            figure["unit"].as_str().unwrap_or(""),
            sorted[0],
            sorted[2]
        );
        if let (Some(peer_value), Some(ratio)) = (figure["peer_value"].as_f64(), figure["ratio"].as_f64()) {
            println!("{PEER}: {peer_value:.1}, so {ratio:.2} times as fast");
        }
        if let (Some(ours), Some(own)) = (figure["curve_difference"].as_f64(), figure["curve_difference_peer"].as_f64())
        {
            let steps = args.curve;
            println!("losses of {steps} steps differ from PyTorch's by at most {ours:.1e}; its own two by {own:.1e}");
        }
    }
    Ok(())
}

fn config(device: DeviceChoice) -> DqnConfig {
    DqnConfig {
        learning_rate: 1e-4,
        target_sync_steps: 1_000,
        max_grad_norm: f64::INFINITY,
        device,
        seed: 7,
        ..DqnConfig::new(NetworkSpec::new(128, [256, 256], 8))
    }
}

/// Steps per CPU-second in each window; per second of wall time where a GPU does the work.
fn own(args: &BenchArgs) -> anyhow::Result<Vec<f64>> {
    let mut learner = TorchDqn::new(config(args.device))?;
    let batch = ruled_batch();
    for _ in 0..50 {
        learner.step(&batch)?;
    }
    let window = Duration::from_secs_f64(args.window_s);
    (0..3)
        .map(|_| {
            let (wall, cpu, mut steps) = (Instant::now(), cpu_seconds(), 0);
            while wall.elapsed() < window {
                learner.step(&batch)?;
                steps += 1;
            }
            let spent = if learner.device() == "cpu" { cpu_seconds() - cpu } else { wall.elapsed().as_secs_f64() };
            Ok(f64::from(steps) / spent)
        })
        .collect()
}

/// Numbers in -1..1 that the peer makes by the same rule.
fn ruled(count: usize, salt: u32) -> Vec<f32> {
    let mut x = salt;
    (0..count)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(x >> 8) / f64::from(1 << 23) - 1.0) as f32
        })
        .collect()
}

fn ruled_batch() -> TrainingBatch {
    let mut batch = TrainingBatch::default();
    batch.resize(BATCH, 128);
    batch.s = ruled(BATCH * 128, 1);
    batch.s2 = ruled(BATCH * 128, 2);
    batch.a = ruled(BATCH, 3).iter().map(|x| (((x + 1.0) * 4.0) as i64).clamp(0, 7)).collect();
    batch.reward = ruled(BATCH, 4);
    batch.discount = vec![0.97; BATCH];
    batch.weight = ruled(BATCH, 5).iter().map(|x| (x + 1.0) / 2.0).collect();
    batch
}

/// Largest difference between our losses and the peer's from the same weights on the same batch, and between the
/// peer's own two optimisers.
fn compare_curves(python: &Path, script: &Path, args: &BenchArgs) -> anyhow::Result<(f64, f64)> {
    let mut learner = TorchDqn::new(config(args.device))?;
    let spec = learner.config().network.clone();
    // The peer's `parameters()` come in this order, and a bias's last dimension is its length.
    let tensors = spec.tensors().into_iter().enumerate().map(|(i, (name, shape))| {
        let last = *shape.last().expect("tensors have dimensions") as f32;
        let numbers = ruled(shape.iter().product(), 100 + i as u32);
        Tensor::new(name, shape, numbers.into_iter().map(|x| x / last.sqrt()).collect())
    });
    learner.start_from(&Network::from_tensors(&spec, tensors.collect())?)?;
    let batch = ruled_batch();
    let ours =
        (0..args.curve).map(|_| learner.step(&batch).map(|report| report.loss)).collect::<Result<Vec<_>, _>>()?;
    let curve = args.curve.to_string();
    let lines = output(Command::new(python).arg(script).args(["--curve", &curve]))?;
    let theirs: Value = serde_json::from_str(lines.trim()).context("reading the peer's loss curve")?;
    let losses =
        |name: &str| serde_json::from_value::<Vec<f64>>(theirs[name].clone()).with_context(|| format!("`{name}`"));
    let (plain, fused) = (losses("losses")?, losses("fused")?);
    ensure!(plain.len() == ours.len() && fused.len() == ours.len(), "the peer's curves have another length");
    let widest = |a: &mut dyn Iterator<Item = f64>| a.fold(0.0, f64::max);
    let difference = widest(&mut ours.iter().zip(&plain).map(|(a, b)| (f64::from(*a) - b).abs()));
    let own = widest(&mut plain.iter().zip(&fused).map(|(a, b)| (a - b).abs()));
    let allowed = CURVE_TOLERANCE.max(2.0 * own);
    ensure!(
        difference <= allowed,
        "losses differ from PyTorch's by {difference:.2e} over {} steps; at most {allowed:.1e} is allowed",
        ours.len()
    );
    Ok((difference, own))
}

fn peer(python: &Path, script: &Path, secs: f64) -> anyhow::Result<f64> {
    let secs = secs.to_string();
    let lines = output(Command::new(python).arg(script).args(["--secs", &secs]))?;
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("the peer's line `{line}`"))?;
        if line["peer"] == PEER {
            return line["steps_per_cpu_s"].as_f64().context("`steps_per_cpu_s` of the peer");
        }
    }
    anyhow::bail!("the peer printed no line for `{PEER}`")
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}; `make bench` installs the peers"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", error.lines().last().unwrap_or_default());
    String::from_utf8(output.stdout).context("reading the peer's figures")
}

/// CPU time of the whole process.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills in.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
