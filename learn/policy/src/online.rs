//! Q-learning one transition at a time, as the AI backend does it while a game runs.
//!
//! Source: tank specification, section 10.4.

use crate::{Network, NetworkSpec, PolicyError, StoreForm, Tensor, argmax};

/// A linear network, or one with one hidden ReLU layer, whose weights may change between two decisions.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineQ {
    form: StoreForm,
    /// `[hidden, state]` and `[hidden]`; empty when linear.
    w1: Vec<f32>,
    b1: Vec<f32>,
    /// `[actions, features]` and `[actions]`.
    w2: Vec<f32>,
    b2: Vec<f32>,
    /// Hidden activations of the last state evaluated, and what flows back to them.
    hidden: Vec<f32>,
    back: Vec<f32>,
    /// Values of the last state evaluated.
    q: Vec<f32>,
}

/// One transition of one tank.
#[derive(Debug, Clone, Copy)]
pub struct OnlineTransition<'a> {
    pub s: &'a [f32],
    pub a: usize,
    pub r: f32,
    pub s2: &'a [f32],
    pub done: bool,
}

/// What one update saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnlineUpdate {
    /// `target - Q(s, a)` before the update.
    pub error: f32,
    /// `½·error²`.
    pub loss: f32,
    /// Mean of `Q(s, ·)` before the update.
    pub q_mean: f32,
    /// False if the update would have left a weight that is not finite: then nothing was changed.
    pub applied: bool,
}

impl OnlineQ {
    /// Starts from the weights of `network`; a dueling head is folded into a plain one.
    ///
    /// # Errors
    /// [`PolicyError::NoStoreForm`] for more than one hidden layer.
    pub fn from_network(network: &Network) -> Result<Self, PolicyError> {
        let form = StoreForm::of(network.spec())?;
        let mut tensors = network.folded().into_tensors().into_iter().map(|tensor| tensor.data);
        let mut next = || tensors.next().expect("a checked network has the tensors of its form");
        let (w1, b1) = match form {
            StoreForm::LinearQ { .. } => (Vec::new(), Vec::new()),
            StoreForm::MlpQ { .. } => (next(), next()),
        };
        let (w2, b2) = (next(), next());
        let (hidden, q) = (vec![0.0; b1.len()], vec![0.0; b2.len()]);
        Ok(Self { form, w1, b1, w2, b2, back: hidden.clone(), hidden, q })
    }

    /// A copy of the weights of now, as a network that can be published.
    pub fn to_network(&self) -> Network {
        let spec = self.spec();
        let data = match self.form {
            StoreForm::LinearQ { .. } => vec![&self.w2, &self.b2],
            StoreForm::MlpQ { .. } => vec![&self.w1, &self.b1, &self.w2, &self.b2],
        };
        let tensors = spec.tensors().into_iter().zip(data);
        let tensors = tensors.map(|((name, shape), data)| Tensor { name, shape, data: data.clone() }).collect();
        Network::from_tensors(&spec, tensors).expect("an update that is not finite is never applied")
    }

    pub fn form(&self) -> StoreForm {
        self.form
    }

    pub fn spec(&self) -> NetworkSpec {
        self.form.spec()
    }

    /// Values of every action in `state`.
    ///
    /// # Panics
    /// If `state` has another length than the network's inputs.
    pub fn values(&mut self, state: &[f32]) -> &[f32] {
        self.forward(state);
        &self.q
    }

    /// The best action in `state`; the lowest index wins ties.
    pub fn act(&mut self, state: &[f32]) -> usize {
        argmax(self.values(state))
    }

    /// One step of stochastic gradient descent on `½·error²` with
    /// `error = r + gamma·max Q(s2, ·)·(1 - done) - Q(s, a)`, the target held fixed; only the output of `a`, and
    /// what feeds it, moves.
    ///
    /// # Panics
    /// If a state has the wrong length or the action is unknown.
    pub fn update(&mut self, transition: OnlineTransition<'_>, gamma: f32, learning_rate: f32) -> OnlineUpdate {
        let OnlineTransition { s, a, r, s2, done } = transition;
        assert!(a < self.b2.len(), "action {a} of {}", self.b2.len());
        let future = if done { 0.0 } else { gamma * self.values(s2).iter().copied().fold(f32::NEG_INFINITY, f32::max) };
        self.forward(s);
        let error = r + future - self.q[a];
        let q_mean = self.q.iter().sum::<f32>() / self.q.len() as f32;
        let applied = error.is_finite() && self.apply(s, a, learning_rate * error);
        OnlineUpdate { error, loss: 0.5 * error * error, q_mean, applied }
    }

    /// Moves along the gradient of `Q(s, a)` by `step`. The hidden activations are those of `s`.
    fn apply(&mut self, s: &[f32], a: usize, step: f32) -> bool {
        if self.b1.is_empty() {
            let row = a * s.len()..(a + 1) * s.len();
            return moves(&mut self.w2[row], &mut self.b2[a], s, step);
        }
        let width = self.b1.len();
        let row = a * width..(a + 1) * width;
        // The gradient of the hidden layer needs the output weights from before the step.
        for ((back, &w), &h) in self.back.iter_mut().zip(&self.w2[row.clone()]).zip(&self.hidden) {
            *back = if h > 0.0 { step * w } else { 0.0 };
        }
        let fits = |step: f32| step.is_finite() && s.iter().all(|&s| (step * s).is_finite());
        if !self.back.iter().all(|&back| fits(back)) || !moves(&mut self.w2[row], &mut self.b2[a], &self.hidden, step) {
            return false;
        }
        for (j, &back) in self.back.iter().enumerate().filter(|(_, back)| **back != 0.0) {
            // A single hidden unit that would overflow stays as it is; the others are sound without it.
            moves(&mut self.w1[j * s.len()..(j + 1) * s.len()], &mut self.b1[j], s, back);
        }
        true
    }

    fn forward(&mut self, state: &[f32]) {
        assert_eq!(state.len(), self.spec_inputs(), "the state has another length than the network's inputs");
        let features = if self.b1.is_empty() {
            state
        } else {
            for ((h, row), &b) in self.hidden.iter_mut().zip(self.w1.chunks_exact(state.len())).zip(&self.b1) {
                *h = (b + dot(row, state)).max(0.0);
            }
            &self.hidden
        };
        for ((q, row), &b) in self.q.iter_mut().zip(self.w2.chunks_exact(features.len())).zip(&self.b2) {
            *q = b + dot(row, features);
        }
    }

    fn spec_inputs(&self) -> usize {
        match self.form {
            StoreForm::LinearQ { state_size, .. } | StoreForm::MlpQ { state_size, .. } => state_size,
        }
    }
}

/// `weights += step · inputs`, `bias += step`, unless a result would not be finite: then nothing changes.
fn moves(weights: &mut [f32], bias: &mut f32, inputs: &[f32], step: f32) -> bool {
    let sound = weights.iter().zip(inputs).all(|(w, x)| (w + step * x).is_finite()) && (*bias + step).is_finite();
    if sound {
        weights.iter_mut().zip(inputs).for_each(|(w, x)| *w += step * x);
        *bias += step;
    }
    sound
}

/// Eight partial sums, so that the compiler may use vectors; always in the same order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
