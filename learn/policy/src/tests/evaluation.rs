//! Answers against a naive model in double precision, and against each other.

use std::sync::Arc;

use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use proptest::prelude::*;

use crate::{Head, LivePolicy, Network, NetworkSpec, Policy, Scratch, Tensor, VersionedNetwork, argmax};

/// The obvious evaluation in double precision.
pub(super) fn naive(network: &Network, x: &[f32]) -> Vec<f64> {
    let linear = |name: &str, x: &[f64]| -> Vec<f64> {
        let values = |part: &str| &network.tensor(&format!("{name}.{part}")).unwrap().data;
        let rows = values("weight").chunks_exact(x.len()).zip(values("bias"));
        rows.map(|(row, &b)| f64::from(b) + x.iter().zip(row).map(|(x, &w)| x * f64::from(w)).sum::<f64>()).collect()
    };
    let spec = network.spec();
    let mut x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    for i in 0..spec.hidden.len() {
        x = linear(&format!("layers.{i}"), &x).into_iter().map(|v| v.max(0.0)).collect();
    }
    match spec.head {
        Head::Plain => linear(&format!("layers.{}", spec.hidden.len()), &x),
        Head::Dueling => {
            let (v, a) = (linear("value", &x)[0], linear("advantage", &x));
            let mean = a.iter().sum::<f64>() / a.len() as f64;
            a.into_iter().map(|a| v + a - mean).collect()
        }
    }
}

pub(super) fn spec() -> impl Strategy<Value = NetworkSpec> {
    (1usize..70, prop::collection::vec(1usize..150, 0..4), 1usize..40, any::<bool>()).prop_map(
        |(inputs, hidden, outputs, dueling)| {
            let spec = NetworkSpec::new(inputs, hidden, outputs);
            if dueling { spec.dueling() } else { spec }
        },
    )
}

/// `n` rows that no two seeds share.
pub(super) fn rows(n: usize, width: usize, seed: u64) -> Vec<f32> {
    (0..n * width).map(|i| ((i as f32).mul_add(0.37, (seed % 1000) as f32)).sin() * 2.0).collect()
}

/// A network whose biases are not zero either.
fn network(spec: &NetworkSpec, seed: u64) -> Network {
    let mut tensors = Network::he(spec, seed).unwrap().into_tensors();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.shape.len() == 1) {
        tensor.data.iter_mut().enumerate().for_each(|(i, bias)| *bias = (i as f32 + seed as u8 as f32).cos());
    }
    Network::from_tensors(spec, tensors).unwrap()
}

fn evaluate(network: &Network, inputs: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; inputs.len() / network.spec().inputs * network.spec().outputs];
    network.evaluate(inputs, &mut out, &mut Scratch::new());
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn answers_agree_with_double_precision(spec in spec(), seed: u64, n in 1usize..9, portable: bool) {
        let network = if portable { network(&spec, seed).portable() } else { network(&spec, seed) };
        let inputs = rows(n, spec.inputs, seed);
        let answers = evaluate(&network, &inputs);
        for (row, x) in answers.chunks(spec.outputs).zip(inputs.chunks(spec.inputs)) {
            for (&a, b) in row.iter().zip(naive(&network, x)) {
                prop_assert!((f64::from(a) - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} against {} in {}", a, b, spec);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_any_batch(spec in spec(), seed: u64, n in 1usize..64, portable: bool) {
        let network = if portable { network(&spec, seed).portable() } else { network(&spec, seed) };
        let inputs = rows(n, spec.inputs, seed);
        let together = evaluate(&network, &inputs);
        for (row, x) in together.chunks(spec.outputs).zip(inputs.chunks(spec.inputs)) {
            let alone = evaluate(&network, x);
            prop_assert!(row.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{} in {} rows", spec, n);
        }
    }

    #[test]
    fn a_folded_dueling_head_answers_the_same(spec in spec(), seed: u64) {
        let spec = spec.dueling();
        let network = network(&spec, seed);
        let folded = network.folded();
        prop_assert_eq!(folded.spec().head, Head::Plain);
        let inputs = rows(2, spec.inputs, seed);
        for (a, b) in evaluate(&network, &inputs).iter().zip(evaluate(&folded, &inputs)) {
            prop_assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} against {} in {}", a, b, spec);
        }
    }
}

#[test]
fn the_shapes_that_we_play_with_keep_their_bits_in_every_batch_size() {
    for spec in [
        NetworkSpec::new(128, [256, 256], 8),
        NetworkSpec::new(108, [128], 10),
        NetworkSpec::new(108, [128], 10).dueling(),
        NetworkSpec::new(108, [], 10),
        NetworkSpec::new(3, [400], 17),
    ] {
        let network = network(&spec, 7);
        let inputs = rows(300, spec.inputs, 7);
        let alone: Vec<f32> = inputs.chunks(spec.inputs).flat_map(|x| evaluate(&network, x)).collect();
        for n in (1..=50).chain([255, 256, 257, 300]) {
            let together = evaluate(&network, &inputs[..n * spec.inputs]);
            assert!(together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{spec} in {n} rows");
        }
    }
}

#[test]
fn a_hand_worked_network_answers_by_hand() {
    // hidden = relu([1·1 - 2·2 + 0.5, 3·1 + 1·2 - 1]) = [0, 4]; q = [2·0 - 1·4 + 1, 5·0 + 0.5·4 + 0] = [-3, 2]
    let tensors = |names: [&str; 4], outputs: usize, w2: Vec<f32>, b2: Vec<f32>| {
        vec![
            Tensor::new(names[0], [2, 2], vec![1.0, -2.0, 3.0, 1.0]),
            Tensor::new(names[1], [2], vec![0.5, -1.0]),
            Tensor::new(names[2], [outputs, 2], w2),
            Tensor::new(names[3], [outputs], b2),
        ]
    };
    let names = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"];
    let plain = tensors(names, 2, vec![2.0, -1.0, 5.0, 0.5], vec![1.0, 0.0]);
    let plain = Network::from_tensors(&NetworkSpec::new(2, [2], 2), plain).unwrap();
    assert_eq!(evaluate(&plain, &[1.0, 2.0]), [-3.0, 2.0]);
    // The same as advantages, beside a value of 10 + 0.25·4 = 11: mean advantage -0.5, so q = 11 + [-2.5, 2.5].
    let names = ["layers.0.weight", "layers.0.bias", "advantage.weight", "advantage.bias"];
    let mut dueling = tensors(names, 2, vec![2.0, -1.0, 5.0, 0.5], vec![1.0, 0.0]);
    dueling.push(Tensor::new("value.weight", [1, 2], vec![7.0, 0.25]));
    dueling.push(Tensor::new("value.bias", [1], vec![10.0]));
    let dueling = Network::from_tensors(&NetworkSpec::new(2, [2], 2).dueling(), dueling).unwrap();
    assert_eq!(evaluate(&dueling, &[1.0, 2.0]), [8.5, 13.5]);
}

#[test]
fn an_input_that_is_not_finite_shows_in_its_own_row_alone() {
    let network = network(&NetworkSpec::new(4, [30], 3), 1);
    let mut inputs = rows(3, 4, 1);
    inputs[5] = f32::NAN;
    let answers = evaluate(&network, &inputs);
    let finite = |row: usize| answers[row * 3..(row + 1) * 3].iter().all(|v| v.is_finite());
    assert_eq!([finite(0), finite(1), finite(2)], [true, false, true]);
}

#[test]
fn the_same_seed_makes_the_same_network() {
    let spec = NetworkSpec::new(108, [128], 10).dueling();
    let bytes = |seed| Network::random(&spec, seed, 0.01).unwrap().to_safetensors();
    assert_eq!(bytes(7), bytes(7));
    assert_ne!(bytes(7), bytes(8));
    assert!(Network::random(&spec, 7, f32::NAN).is_err());
    assert!(Network::random(&spec, 7, -1.0).is_err());
}

#[test]
fn the_lowest_index_wins_ties_and_nan_never_wins() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    assert_eq!(argmax(&[0.0; 10]), 0);
    assert_eq!(argmax(&[f32::NAN, -5.0, f32::NAN]), 1);
    assert_eq!(argmax(&[f32::NAN; 3]), 0);
    assert_eq!(argmax(&[f32::NEG_INFINITY, f32::INFINITY, f32::INFINITY]), 1);
}

fn versioned(version: u64) -> Arc<VersionedNetwork> {
    // Every answer of version v is v: an answer of another version, or of two at once, shows.
    let spec = NetworkSpec::new(3, [8], 2);
    let mut tensors = Network::random(&spec, 0, 0.0).unwrap().into_tensors();
    tensors.last_mut().unwrap().data.fill(version as f32);
    let model = ModelRef::new(BaseKey::new("live").unwrap(), ModelVersion(version));
    Arc::new(VersionedNetwork::new(model, Network::from_tensors(&spec, tensors).unwrap()))
}

#[test]
fn every_decision_during_a_thousand_swaps_is_by_the_version_that_it_names() {
    let live = LivePolicy::new(versioned(1));
    let done = std::sync::atomic::AtomicBool::new(false);
    let decisions: usize = std::thread::scope(|scope| {
        let decide = || {
            let (mut scratch, mut out, mut n, mut newest) = (Scratch::new(), [0.0; 2], 0, 0);
            while !done.load(std::sync::atomic::Ordering::Acquire) || n == 0 {
                let policy = live.guard();
                policy.evaluate(&[0.1, 0.2, 0.3], &mut out, &mut scratch);
                let version = policy.model().unwrap().version.0;
                assert_eq!(out, [version as f32; 2]);
                assert!(version >= newest, "version {version} after {newest}");
                (n, newest) = (n + 1, version);
            }
            n
        };
        let deciders = [scope.spawn(decide), scope.spawn(decide)];
        for version in 2..=1_001 {
            let old = live.swap(versioned(version));
            assert_eq!(old.model().unwrap().version.0, version - 1);
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        deciders.map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert!(decisions >= 2);
    assert_eq!((live.swaps(), live.model().unwrap().version.0), (1_000, 1_001));
    assert!(live.retired() <= 4, "{} replaced versions are still held", live.retired());
}
