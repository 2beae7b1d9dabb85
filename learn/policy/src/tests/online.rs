//! One update against the formula worked by hand, and against differences of the loss.

use proptest::prelude::*;

use super::evaluation::{naive, rows};
use crate::{Network, NetworkSpec, OnlineQ, OnlineTransition, PolicyError, Tensor};

fn linear() -> OnlineQ {
    let spec = NetworkSpec::new(2, [], 2);
    let tensors = vec![
        Tensor::new("layers.0.weight", [2, 2], vec![1.0, 2.0, -1.0, 0.5]),
        Tensor::new("layers.0.bias", [2], vec![0.5, 0.0]),
    ];
    OnlineQ::from_network(&Network::from_tensors(&spec, tensors).unwrap()).unwrap()
}

const STEP: OnlineTransition<'static> = OnlineTransition { s: &[1.0, 2.0], a: 1, r: 1.0, s2: &[2.0, 0.0], done: false };

#[test]
fn a_linear_update_is_the_one_worked_by_hand() {
    // Q(s, ·) = [5.5, 0], Q(s2, ·) = [2.5, -2]: target = 1 + 0.5·2.5 = 2.25, error = 2.25.
    let mut q = linear();
    let update = q.update(STEP, 0.5, 0.125);
    assert_eq!((update.error, update.loss, update.q_mean, update.applied), (2.25, 2.53125, 2.75, true));
    let network = q.to_network();
    // kernel[1] += 0.125·2.25·[1, 2], bias[1] += 0.28125; row 0 stays.
    assert_eq!(network.tensors()[0].data, [1.0, 2.0, -1.0 + 0.28125, 0.5 + 0.5625]);
    assert_eq!(network.tensors()[1].data, [0.5, 0.28125]);
}

#[test]
fn the_end_of_a_game_counts_no_future() {
    let mut q = linear();
    assert_eq!(q.update(OnlineTransition { done: true, ..STEP }, 0.5, 0.1).error, 1.0);
}

#[test]
fn a_hidden_layer_is_moved_by_the_weights_from_before_the_step() {
    // hidden = relu([1·1 + 0·2, -1·1 + 0·2, 0.5·1 + 0.5·2]) = [1, 0, 1.5]; Q(s, 0) = 2·1 + 3·0 - 1·1.5 = 0.5.
    let spec = NetworkSpec::new(2, [3], 1);
    let tensors = vec![
        Tensor::new("layers.0.weight", [3, 2], vec![1.0, 0.0, -1.0, 0.0, 0.5, 0.5]),
        Tensor::new("layers.0.bias", [3], vec![0.0; 3]),
        Tensor::new("layers.1.weight", [1, 3], vec![2.0, 3.0, -1.0]),
        Tensor::new("layers.1.bias", [1], vec![0.0]),
    ];
    let mut q = OnlineQ::from_network(&Network::from_tensors(&spec, tensors).unwrap()).unwrap();
    let update = q.update(OnlineTransition { s: &[1.0, 2.0], a: 0, r: 1.5, s2: &[0.0, 0.0], done: true }, 0.9, 0.5);
    // error = 1, step = 0.5.
    assert_eq!(update.error, 1.0);
    let network = q.to_network();
    let data = |i: usize| network.tensors()[i].data.clone();
    assert_eq!(data(2), [2.5, 3.0, -0.25]);
    assert_eq!(data(3), [0.5]);
    // back = step·[2, -, -1]; the unit that was off does not move.
    assert_eq!(data(0), [1.0 + 1.0, 2.0, -1.0, 0.0, 0.5 - 0.5, 0.5 - 1.0]);
    assert_eq!(data(1), [1.0, 0.0, -0.5]);
}

/// `½·error²` with the target held fixed, in double precision.
fn loss(network: &Network, s: &[f32], a: usize, target: f64) -> f64 {
    let error = target - naive(network, s)[a];
    0.5 * error * error
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The move of each weight is the learning rate times the falling slope of the loss.
    #[test]
    fn an_update_follows_the_slope_of_the_loss(
        inputs in 1usize..6, hidden in prop::option::of(1usize..7), actions in 1usize..4, seed: u64, done: bool,
    ) {
        const RATE: f32 = 1e-3;
        let spec = NetworkSpec::new(inputs, hidden.into_iter().collect::<Vec<_>>(), actions);
        let before = Network::he(&spec, seed).unwrap();
        let states = rows(2, inputs, seed);
        let (s, s2) = states.split_at(inputs);
        let a = seed as usize % actions;
        let future = naive(&before, s2).into_iter().fold(f64::MIN, f64::max);
        let target = 0.7 + if done { 0.0 } else { 0.9 * future };

        let mut q = OnlineQ::from_network(&before).unwrap();
        let update = q.update(OnlineTransition { s, a, r: 0.7, s2, done }, 0.9, RATE);
        prop_assert!((f64::from(update.error) - (target - naive(&before, s)[a])).abs() < 1e-4);
        let after = q.to_network();

        for (t, tensor) in before.tensors().iter().enumerate() {
            for i in 0..tensor.data.len() {
                let nudged = |by: f32| {
                    let mut tensors = before.tensors().to_vec();
                    tensors[t].data[i] += by;
                    loss(&Network::from_tensors(&spec, tensors).unwrap(), s, a, target)
                };
                const NUDGE: f32 = 1.0 / 1024.0;
                let slopes = [nudged(NUDGE) - nudged(0.0), nudged(0.0) - nudged(-NUDGE)].map(|d| d / f64::from(NUDGE));
                let moved = -f64::from(after.tensors()[t].data[i] - tensor.data[i]) / f64::from(RATE);
                // At the kink of ReLU the two sides differ; then either, or anything between, is a slope.
                let (low, high) = (slopes[0].min(slopes[1]), slopes[0].max(slopes[1]));
                let slack = 0.02 * (1.0 + low.abs().max(high.abs()));
                prop_assert!((low - slack..=high + slack).contains(&moved), "{}[{i}]: {moved} outside {slopes:?}", tensor.name);
            }
        }
    }
}

#[test]
fn values_agree_with_the_network_that_it_came_from() {
    for spec in [NetworkSpec::new(108, [128], 10), NetworkSpec::new(108, [], 10), NetworkSpec::new(7, [9], 3).dueling()]
    {
        let network = Network::he(&spec, 5).unwrap();
        let mut q = OnlineQ::from_network(&network).unwrap();
        let state = rows(1, spec.inputs, 5);
        for (&a, b) in q.values(&state).iter().zip(naive(&network, &state)) {
            assert!((f64::from(a) - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} against {b} in {spec}");
        }
    }
    let plain = Network::he(&NetworkSpec::new(108, [128], 10), 5).unwrap();
    assert_eq!(OnlineQ::from_network(&plain).unwrap().to_network(), plain);
}

#[test]
fn two_hidden_layers_are_refused() {
    let network = Network::he(&NetworkSpec::new(4, [4, 4], 2), 1).unwrap();
    assert!(matches!(OnlineQ::from_network(&network), Err(PolicyError::NoStoreForm { .. })));
}

#[test]
fn an_update_that_would_leave_the_finite_numbers_changes_nothing() {
    let start = linear();
    for (s, r) in [([f32::NAN, 1.0], 0.0), ([f32::MAX, f32::MAX], f32::MAX), ([1.0, 1.0], f32::INFINITY)] {
        let mut q = start.clone();
        assert!(!q.update(OnlineTransition { s: &s, a: 0, r, s2: &[0.0, 0.0], done: true }, 0.9, 10.0).applied);
        assert_eq!(q.to_network(), start.to_network());
    }
}

/// Two states, two actions: in `[1, 0]` action 1 pays 1 and ends; in `[0, 1]` action 0 leads to `[1, 0]`.
#[test]
fn a_tiny_task_is_learned() {
    let (near, far) = ([1.0, 0.0], [0.0, 1.0]);
    let network = Network::random(&NetworkSpec::new(2, [16], 2), 3, 0.3).unwrap();
    let mut q = OnlineQ::from_network(&network).unwrap();
    let steps =
        [(far, 0, 0.0, near, false), (far, 1, 0.0, far, false), (near, 0, 0.0, far, false), (near, 1, 1.0, near, true)];
    for _ in 0..3_000 {
        for (s, a, r, s2, done) in &steps {
            q.update(OnlineTransition { s, a: *a, r: *r, s2, done: *done }, 0.9, 0.05);
        }
    }
    // Optimal values: near: [0.9·0.9, 1]; far: [0.9, 0.9·0.9].
    for (state, expected) in [(near, [0.81, 1.0]), (far, [0.9, 0.81])] {
        for (found, expected) in q.values(&state).iter().zip(expected) {
            assert!((found - expected).abs() < 0.02, "{found} instead of {expected}");
        }
    }
}
