use flywheel_policy::{Head, NetworkSpec, Scratch, argmax};
use flywheel_replay::{Insert, ReplayBuffer, ReplayConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::DeviceChoice;

fn config(network: NetworkSpec) -> DqnConfig {
    DqnConfig { device: DeviceChoice::Cpu, seed: 5, ..DqnConfig::new(network) }
}

fn random_batch(rng: &mut ChaCha8Rng, n: usize, spec: &NetworkSpec) -> TrainingBatch {
    let mut batch = TrainingBatch::default();
    batch.resize(n, spec.inputs);
    let numbers = batch.s.iter_mut().chain(&mut batch.s2).chain(&mut batch.reward).chain(&mut batch.weight);
    numbers.for_each(|number| *number = rng.random_range(0.0..1.0));
    batch.discount.iter_mut().for_each(|discount| *discount = if rng.random_bool(0.1) { 0.0 } else { 0.9 });
    batch.a.iter_mut().for_each(|action| *action = rng.random_range(0..spec.outputs as i64));
    batch
}

#[test]
fn exported_networks_answer_as_libtorch_does() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for round in 0..24 {
        let hidden: Vec<usize> = (0..rng.random_range(0..4)).map(|_| rng.random_range(1..140)).collect();
        let spec = NetworkSpec::new(rng.random_range(1..130), hidden, rng.random_range(1..12));
        let spec = if round % 2 == 0 { spec } else { spec.dueling() };
        let mut learner = TorchDqn::new(DqnConfig { seed: round, ..config(spec.clone()) }).unwrap();
        for _ in 0..3 {
            learner.step(&random_batch(&mut rng, 32, &spec)).unwrap();
        }
        let network = learner.export().unwrap();
        let batch = random_batch(&mut rng, 64, &spec);
        // The learner's own outputs, turned into values as the loss does.
        let mut work = Work::new(64, &learner.layout, learner.device).unwrap();
        work.load(&batch).unwrap();
        forward(&work.input, &learner.online, &mut work.online).unwrap();
        let raw = download(work.online.last().unwrap()).unwrap();
        let width = learner.layout.head_outputs();
        let mut values = vec![0.0; 64 * spec.outputs];
        network.evaluate(&batch.s, &mut values, &mut Scratch::default());
        for row in 0..64 {
            let raw = &raw[row * width..(row + 1) * width];
            for action in 0..spec.outputs {
                let expected = match spec.head {
                    Head::Plain => raw[action],
                    Head::Dueling => raw[0] + raw[1 + action] - raw[1..].iter().sum::<f32>() / spec.outputs as f32,
                };
                let found = values[row * spec.outputs + action];
                assert!((found - expected).abs() <= 1e-5, "{spec}: {found} and {expected}");
            }
        }
    }
}

/// Loss of the present weights by plain loops over the exported network, with targets held fixed.
fn slow_loss(network: &Network, target: &Network, batch: &TrainingBatch, delta: f32) -> f64 {
    let outputs = network.spec().outputs;
    let values = |network: &Network, inputs: &[f32]| {
        let mut out = vec![0.0; batch.n * outputs];
        network.evaluate(inputs, &mut out, &mut Scratch::default());
        out
    };
    let (now, next, future) = (values(network, &batch.s), values(network, &batch.s2), values(target, &batch.s2));
    let rows = |i: usize| i * outputs..(i + 1) * outputs;
    let mean = (0..batch.n).map(|i| {
        let y = batch.reward[i] + batch.discount[i] * future[rows(i)][argmax(&next[rows(i)])];
        let error = f64::from(now[rows(i)][batch.a[i] as usize] - y).abs();
        let delta = f64::from(delta);
        let huber = if error <= delta { error * error / 2.0 } else { delta * (error - delta / 2.0) };
        f64::from(batch.weight[i]) * huber
    });
    mean.sum::<f64>() / batch.n as f64
}

#[test]
fn loss_and_first_step_agree_with_plain_loops_over_the_network() {
    for spec in [NetworkSpec::new(9, [14, 11], 5), NetworkSpec::new(9, [14], 4).dueling()] {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let batch = random_batch(&mut rng, 40, &spec);
        let mut learner =
            TorchDqn::new(DqnConfig { learning_rate: 1e-3, max_grad_norm: 1e9, ..config(spec.clone()) }).unwrap();
        let before = learner.export().unwrap();
        let report = learner.step(&batch).unwrap();
        assert!((f64::from(report.loss) - slow_loss(&before, &before, &batch, 1.0)).abs() < 1e-6);

        // Adam's first step moves every weight by the learning rate against the sign of its slope.
        let after = learner.export().unwrap();
        let (tensors, moved) = (before.tensors(), after.tensors());
        let mut compared = 0;
        for (t, tensor) in tensors.iter().enumerate() {
            for k in (0..tensor.data.len()).step_by(3) {
                let at = |step: f32| {
                    let mut shifted = tensors.to_vec();
                    shifted[t].data[k] += step;
                    // Targets come from the unmoved network, as the gradient has it: move only what sees `s`.
                    let network = Network::from_tensors(&spec, shifted).unwrap();
                    loss_with_fixed_targets(&network, &before, &batch)
                };
                let slope = (at(2e-3) - at(-2e-3)) / 4e-3;
                if slope.abs() > 1e-4 {
                    let change = f64::from(moved[t].data[k] - tensor.data[k]);
                    assert!(
                        (change + 1e-3 * slope.signum()).abs() < 1e-5,
                        "{}[{k}]: {change} for {slope}",
                        tensor.name
                    );
                    compared += 1;
                }
            }
        }
        assert!(compared > 50, "{compared} slopes were large enough to compare");
    }
}

fn loss_with_fixed_targets(network: &Network, before: &Network, batch: &TrainingBatch) -> f64 {
    let outputs = network.spec().outputs;
    let mut fixed = batch.clone();
    let mut future = vec![0.0; batch.n * outputs];
    before.evaluate(&batch.s2, &mut future, &mut Scratch::default());
    for i in 0..batch.n {
        let row = &future[i * outputs..(i + 1) * outputs];
        fixed.reward[i] += batch.discount[i] * row[argmax(row)];
        fixed.discount[i] = 0.0;
    }
    slow_loss(network, network, &fixed, 1.0)
}

#[test]
fn a_saved_learner_goes_on_with_the_very_same_losses() {
    let spec = NetworkSpec::new(20, [33, 17], 6).dueling();
    let batches: Vec<TrainingBatch> = {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        (0..60).map(|_| random_batch(&mut rng, 24, &spec)).collect()
    };
    let config = DqnConfig { target_sync_steps: 7, ..config(spec) };
    let losses = |learner: &mut TorchDqn, range: std::ops::Range<usize>| -> Vec<u32> {
        range.map(|i| learner.step(&batches[i]).unwrap().loss.to_bits()).collect()
    };
    let mut undisturbed = TorchDqn::new(config.clone()).unwrap();
    let whole = losses(&mut undisturbed, 0..60);

    let dir = tempfile::tempdir().unwrap();
    let mut first = TorchDqn::new(config.clone()).unwrap();
    let mut parts = losses(&mut first, 0..25);
    first.set_learning_rate(first.learning_rate());
    first.save(dir.path()).unwrap();
    drop(first);
    let mut second = TorchDqn::new(DqnConfig { seed: 77, ..config }).unwrap();
    second.load(dir.path()).unwrap();
    assert_eq!(second.steps(), 25);
    parts.extend(losses(&mut second, 25..60));
    assert_eq!(whole, parts);
    assert_eq!(undisturbed.export().unwrap().to_safetensors(), second.export().unwrap().to_safetensors());
}

#[test]
fn a_checkpoint_cut_in_half_or_of_another_shape_is_refused_and_changes_nothing() {
    let spec = NetworkSpec::new(4, [8], 2);
    let mut learner = TorchDqn::new(config(spec.clone())).unwrap();
    learner.step(&random_batch(&mut ChaCha8Rng::seed_from_u64(2), 8, &spec)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    learner.save(dir.path()).unwrap();
    let mut other = TorchDqn::new(config(NetworkSpec::new(4, [9], 2))).unwrap();
    let error = other.load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("4-8-2") && error.contains("4-9-2"), "{error}");

    let file = dir.path().join(checkpoint::FILE);
    let whole = std::fs::read(&file).unwrap();
    for len in [0, 7, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..len]).unwrap();
        let before = learner.export().unwrap().to_safetensors();
        let error = learner.load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(checkpoint::FILE), "{error}");
        assert_eq!(learner.export().unwrap().to_safetensors(), before);
    }
}

#[test]
fn numbers_that_are_not_finite_stop_the_step_and_leave_the_weights() {
    let spec = NetworkSpec::new(4, [8], 2);
    let mut learner = TorchDqn::new(config(spec.clone())).unwrap();
    let mut batch = random_batch(&mut ChaCha8Rng::seed_from_u64(2), 8, &spec);
    batch.reward[3] = f32::INFINITY;
    let before = learner.export().unwrap().to_safetensors();
    assert_eq!(learner.step(&batch).unwrap_err().kind(), LearnErrorKind::NotFinite);
    assert_eq!(learner.export().unwrap().to_safetensors(), before);
    batch.reward[3] = 1.0;
    learner.step(&batch).unwrap();
}

#[test]
fn batches_that_do_not_fit_are_refused_by_name() {
    let spec = NetworkSpec::new(4, [8], 2);
    let mut learner = TorchDqn::new(config(spec.clone())).unwrap();
    let batch = random_batch(&mut ChaCha8Rng::seed_from_u64(2), 8, &spec);
    let refused = |learner: &mut TorchDqn, batch: TrainingBatch| learner.step(&batch).unwrap_err().to_string();
    assert!(refused(&mut learner, TrainingBatch { a: vec![2; 8], ..batch.clone() }).contains("has action 2"));
    assert!(refused(&mut learner, TrainingBatch { reward: vec![0.0; 3], ..batch.clone() }).contains("`reward`"));
    assert!(refused(&mut learner, TrainingBatch::default()).contains("empty"));
    let wide = random_batch(&mut ChaCha8Rng::seed_from_u64(2), 8, &NetworkSpec::new(5, [8], 2));
    assert!(refused(&mut learner, wide).contains("observations of 5 numbers; the network takes 4"));
}

#[test]
fn cuda_fails_hard_where_there_is_none() {
    match TorchDqn::new(DqnConfig { device: DeviceChoice::Cuda, ..config(NetworkSpec::new(4, [8], 2)) }) {
        Ok(learner) => assert_eq!(learner.device(), "cuda"),
        Err(error) => assert!(error.to_string().contains("no GPU for `--device cuda`"), "{error}"),
    }
}

/// Six states in a row. Right from the last ends the game with 1; left ends it at the first with 0.1. Every step
/// costs 0.01, so that the best return from the start is `1 - 5 * 0.01` by way of the far end.
struct Chain(usize);

impl Chain {
    const STATES: usize = 6;

    fn observe(&self) -> [f32; Self::STATES] {
        std::array::from_fn(|state| f32::from(u8::from(state == self.0)))
    }

    /// Reward, and whether the game has ended.
    fn step(&mut self, right: bool) -> (f32, bool) {
        match (self.0, right) {
            (0, false) => (0.1, true),
            (state, true) if state + 1 == Self::STATES => (1.0, true),
            (state, true) => {
                self.0 = state + 1;
                (-0.01, false)
            }
            (state, false) => {
                self.0 = state - 1;
                (-0.01, false)
            }
        }
    }
}

/// Plays greedily from the start and returns the sum of rewards.
fn greedy_return(network: &Network) -> f32 {
    let (mut chain, mut total) = (Chain(0), 0.0);
    for _ in 0..50 {
        let mut values = [0.0; 2];
        network.evaluate(&chain.observe(), &mut values, &mut Scratch::default());
        let (reward, ended) = chain.step(argmax(&values) == 1);
        total += reward;
        if ended {
            break;
        }
    }
    total
}

fn learns_the_chain(spec: NetworkSpec, device: DeviceChoice) {
    let config = DqnConfig { learning_rate: 2e-3, target_sync_steps: 100, device, ..config(spec) };
    let mut learner = TorchDqn::new(config).unwrap();
    let replay = ReplayConfig {
        capacity: 20_000,
        frame_len: Chain::STATES,
        stack: 1,
        n_step: 3,
        discount: 0.97,
        seed: 4,
        ..ReplayConfig::default()
    };
    let (mut buffer, mut batch) = (ReplayBuffer::new(replay), TrainingBatch::default());
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    for game in 0..400 {
        let mut chain = Chain(rng.random_range(0..Chain::STATES));
        loop {
            let s = chain.observe();
            let a = i64::from(rng.random_bool(0.5));
            let (r, done) = chain.step(a == 1);
            buffer.insert(Insert { done, ..Insert::new(game, &s, a, r, &chain.observe()) }).unwrap();
            if done {
                break;
            }
        }
    }
    for _ in 0..1_500 {
        buffer.sample_prioritised(64, &mut batch).unwrap();
        let report = learner.step(&batch).unwrap();
        buffer.update_priorities(&batch.index, &batch.generation, &report.td_abs);
    }
    let (found, best) = (greedy_return(&learner.export().unwrap()), 1.0 - 5.0 * 0.01);
    assert!((found - best).abs() < 1e-5, "the greedy policy earns {found}, the best one {best}");
}

#[test]
fn it_learns_the_best_policy_of_a_small_chain() {
    learns_the_chain(NetworkSpec::new(Chain::STATES, [32], 2), DeviceChoice::Auto);
}

#[test]
fn it_learns_the_best_policy_of_a_small_chain_with_a_dueling_head() {
    learns_the_chain(NetworkSpec::new(Chain::STATES, [32], 2).dueling(), DeviceChoice::Auto);
}
