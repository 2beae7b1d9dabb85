//! `flywheel bench infer`: one decision, and batches, beside ONNX Runtime.
//!
//! The network of the peer: 128-256-256-8 with ReLU, the same weights and inputs on both sides, and the answers are
//! compared before anything is timed. Inputs lie in memory. Everything runs on one core, one after the other.

use std::{
    fs,
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use flywheel_policy::{LivePolicy, Network, NetworkSpec, Policy, Scratch, VersionedNetwork, argmax};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Figure, Options, folder::Folder, per_cpu_second, pin::Pin};

const ROWS: usize = 256;

/// # Errors
/// If the bench cannot be set up; the message names what is missing.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let _pin = Pin::to_one_core();
    let mlp = Case::new(NetworkSpec::new(128, [256, 256], 8))?;
    let tank = Case::new(NetworkSpec::new(108, [128], 10))?;
    // The peer first: a core that both warm up is then warm for both.
    let peer = if options.peer { peer(options, &mlp)? } else { Vec::new() };

    let mut figures = Vec::new();
    let [p50, p99] = mlp.latency(options.window, 1);
    figures.push(Figure::new("infer", "mlp_batch1_p50", "us", &p50));
    figures.push(Figure::new("infer", "mlp_batch1_p99", "us", &p99));
    for n in [64, 256] {
        figures.push(Figure::new("infer", format!("mlp_batch{n}"), "rows/cpu_s", &mlp.throughput(options.window, n)));
    }
    let [p50, p99] = tank.latency(options.window, 4);
    figures.push(Figure::new("infer", "tank_batch4_p50", "us", &p50));
    figures.push(Figure::new("infer", "tank_batch4_p99", "us", &p99));

    let against = |figure: Figure| match peer.iter().find(|(metric, ..)| *metric == figure.metric) {
        Some((_, name, value)) => {
            let higher_is_better = figure.unit != "us";
            figure.against(name, *value, higher_is_better)
        }
        None => figure,
    };
    Ok(figures.into_iter().map(against).collect())
}

/// A network that decides, as the servers hold it, and inputs for it.
struct Case {
    live: LivePolicy,
    inputs: Vec<f32>,
}

impl Case {
    fn new(spec: NetworkSpec) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let inputs = (0..ROWS * spec.inputs).map(|_| rng.random_range(-1.0..1.0)).collect();
        Ok(Self { live: LivePolicy::new(VersionedNetwork::unpublished(Network::he(&spec, 7)?).into()), inputs })
    }

    /// One decision for `n` seats: take the live version, evaluate, choose.
    fn decide(&self, n: usize, values: &mut [f32], scratch: &mut Scratch) -> usize {
        let policy = self.live.guard();
        let spec = policy.spec();
        let values = &mut values[..n * spec.outputs];
        policy.evaluate(black_box(&self.inputs[..n * spec.inputs]), values, scratch);
        values.chunks_exact(spec.outputs).map(argmax).sum()
    }

    fn buffers(&self) -> (Vec<f32>, Scratch) {
        (vec![0.0; ROWS * self.live.guard().spec().outputs], Scratch::new())
    }

    /// p50 and p99 of calls in us, for three windows each.
    fn latency(&self, window: Duration, n: usize) -> [Vec<f64>; 2] {
        let (mut values, mut scratch) = self.buffers();
        let mut of_window = |window: Duration| {
            let (begin, mut times) = (Instant::now(), Vec::with_capacity(1 << 20));
            while begin.elapsed() < window {
                let call = Instant::now();
                black_box(self.decide(n, &mut values, &mut scratch));
                times.push(call.elapsed().as_nanos() as u32);
            }
            times.sort_unstable();
            [0.5, 0.99].map(|share| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 1e3)
        };
        of_window(window / 6);
        let windows = [of_window(window), of_window(window), of_window(window)];
        [0, 1].map(|which| windows.iter().map(|window| window[which]).collect())
    }

    fn throughput(&self, window: Duration, n: usize) -> Vec<f64> {
        let (mut values, mut scratch) = self.buffers();
        per_cpu_second(window, || {
            black_box(self.decide(n, &mut values, &mut scratch));
            n as u64
        })
    }
}

/// Metric, name and value of the peer's figures, on the very weights and inputs of `case`.
fn peer(options: &Options, case: &Case) -> anyhow::Result<Vec<(String, String, f64)>> {
    let data = Folder::new("infer")?;
    let network = &case.live.load().network;
    let (mut outputs, mut scratch) = case.buffers();
    network.evaluate(&case.inputs, &mut outputs, &mut scratch);
    let weights: Vec<f32> = network.tensors().iter().flat_map(|tensor| tensor.data.iter().copied()).collect();
    for (name, values) in [("weights.f32", &weights), ("inputs.f32", &case.inputs), ("outputs.f32", &outputs)] {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(data.path().join(name), bytes).with_context(|| format!("writing the peer's `{name}`"))?;
    }

    let script = options.peers.join("nn_infer_peer.py");
    let seconds = options.window.as_secs_f64().to_string();
    let mut command = Command::new(&options.python);
    command.arg(&script).arg("--data").arg(data.path()).args(["--secs", &seconds]);
    let output = command.output().with_context(|| {
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
    let (mut figures, mut compared) = (Vec::new(), false);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).with_context(|| format!("peer's line `{line}`"))?;
        let number = |key: &str| line[key].as_f64().with_context(|| format!("`{key}` in the peer's line `{line}`"));
        let metric = line["metric"].as_str().context("`metric` in the peer's line")?.to_owned();
        let name = line["peer"].as_str().context("`peer` in the peer's line")?.to_owned();
        match metric.as_str() {
            "difference" => {
                let difference = number("value")?;
                compared = true;
                ensure!(difference < 1e-4, "our answers differ from the peer's by {difference}");
            }
            "mlp_batch1" => {
                figures.push(("mlp_batch1_p50".to_owned(), name.clone(), number("p50_us")?));
                figures.push(("mlp_batch1_p99".to_owned(), name, number("p99_us")?));
            }
            _ => figures.push((metric, name, number("rows_per_cpu_s")?)),
        }
    }
    ensure!(compared, "the peer did not say how far its answers are from ours");
    Ok(figures)
}
