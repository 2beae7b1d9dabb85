//! Times single decisions and batches on this machine: `cargo run --release -p flywheel-policy --example decide`.

use std::{hint::black_box, time::Instant};

use flywheel_policy::{Network, NetworkSpec, Scratch};

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    for spec in [NetworkSpec::new(128, [256, 256], 8), NetworkSpec::new(108, [128], 10)] {
        let network = Network::he(&spec, 7).expect("the shape is in range");
        for n in [1, 2, 4, 6, 16, 64, 256] {
            let inputs: Vec<f32> = (0..n * spec.inputs).map(|i| (i as f32).sin()).collect();
            let (mut out, mut scratch) = (vec![0.0; n * spec.outputs], Scratch::new());
            let (mut times, begin) = (Vec::new(), Instant::now());
            while begin.elapsed().as_secs_f64() < seconds {
                let call = Instant::now();
                network.evaluate(black_box(&inputs), &mut out, &mut scratch);
                black_box(&out);
                times.push(call.elapsed().as_nanos() as f64 / 1e3);
            }
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            let gflops = 2.0 * spec.parameters() as f64 * n as f64 / at(0.5) / 1e3;
            println!(
                "{spec} x {n:>3}: p10 {:.2} p50 {:.2} p99 {:.2} us, {:.0} rows/s, {gflops:.1} GFLOP/s",
                at(0.1),
                at(0.5),
                at(0.99),
                n as f64 / at(0.5) * 1e6
            );
        }
    }
}
