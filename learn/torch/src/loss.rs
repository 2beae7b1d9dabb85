use flywheel_policy::{Head, TrainingBatch, argmax};

/// Double-DQN targets, Huber loss with importance weights, and its gradient by the network's raw outputs.
///
/// `y = reward + discount * q_target(s2, argmax_a q(s2, a))`, `loss = mean(weight * huber(q(s, a) - y))`.
///
/// Source: van Hasselt et al., *Deep Reinforcement Learning with Double Q-learning*, 2016.
#[derive(Debug, Clone)]
pub struct DoubleDqnLoss {
    head: Head,
    actions: usize,
    delta: f32,
    q: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossReport {
    pub loss: f32,
    /// Mean of `q(s, a)` over the batch.
    pub q_mean: f32,
}

impl DoubleDqnLoss {
    pub fn new(head: Head, actions: usize, delta: f32) -> Self {
        Self { head, actions, delta, q: vec![0.0; actions] }
    }

    /// Raw outputs of one row: one for each action, and the state's value before them when dueling.
    pub fn width(&self) -> usize {
        self.actions + usize::from(self.head == Head::Dueling)
    }

    /// `online` has shape `[2n, width]` (the rows of `s`, then those of `s2`), `target` `[n, width]` for `s2`.
    /// Fills `gradient` `[n, width]` for the rows of `s`, and `td_abs` `[n]` with `|q(s, a) - y|`.
    ///
    /// # Panics
    /// If a length does not fit, or an action is not one of the network's.
    pub fn evaluate(
        &mut self,
        batch: &TrainingBatch,
        online: &[f32],
        target: &[f32],
        gradient: &mut [f32],
        td_abs: &mut Vec<f32>,
    ) -> LossReport {
        let (n, width) = (batch.n, self.width());
        assert!(online.len() == 2 * n * width && target.len() == n * width, "outputs of a batch of {n}");
        assert_eq!(gradient.len(), n * width, "one gradient for each output of `s`");
        td_abs.clear();
        gradient.fill(0.0);
        let (mut loss, mut q_sum) = (0.0, 0.0);
        for i in 0..n {
            let action = usize::try_from(batch.a[i]).ok().filter(|&a| a < self.actions).expect("a known action");
            let rows = |from: usize| from * width..(from + 1) * width;
            let best = argmax(self.values(&online[rows(n + i)]));
            let future = self.values(&target[rows(i)])[best];
            let q = self.values(&online[rows(i)])[action];
            let error = q - (batch.reward[i] + batch.discount[i] * future);
            let size = error.abs();
            let huber = if size <= self.delta { 0.5 * error * error } else { self.delta * (size - 0.5 * self.delta) };
            loss += batch.weight[i] * huber;
            q_sum += q;
            td_abs.push(size);
            let by_q = batch.weight[i] * error.clamp(-self.delta, self.delta) / n as f32;
            let row = &mut gradient[rows(i)];
            match self.head {
                Head::Plain => row[action] = by_q,
                Head::Dueling => {
                    let share = by_q / self.actions as f32;
                    row[0] = by_q;
                    row[1..].fill(-share);
                    row[1 + action] += by_q;
                }
            }
        }
        LossReport { loss: loss / n as f32, q_mean: q_sum / n as f32 }
    }

    fn values(&mut self, raw: &[f32]) -> &[f32] {
        match self.head {
            Head::Plain => self.q.copy_from_slice(raw),
            Head::Dueling => {
                let mean = raw[1..].iter().sum::<f32>() / self.actions as f32;
                for (q, advantage) in self.q.iter_mut().zip(&raw[1..]) {
                    *q = raw[0] + advantage - mean;
                }
            }
        }
        &self.q
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(a: Vec<i64>, reward: Vec<f32>, discount: Vec<f32>, weight: Vec<f32>) -> TrainingBatch {
        TrainingBatch { n: a.len(), a, reward, discount, weight, ..TrainingBatch::default() }
    }

    #[test]
    fn a_hand_worked_batch_gives_the_loss_worked_by_hand() {
        let mut loss = DoubleDqnLoss::new(Head::Plain, 2, 1.0);
        let batch = batch(vec![1, 0], vec![1.0, -1.0], vec![0.5, 0.0], vec![1.0, 0.5]);
        let online = [0.0, 2.5, 3.0, 9.0, /* s2 */ 4.0, 1.0, 0.0, 0.0];
        let target = [1.0, 100.0, 7.0, 7.0];
        let (mut gradient, mut td) = (vec![9.0; 4], Vec::new());
        let report = loss.evaluate(&batch, &online, &target, &mut gradient, &mut td);
        // y0 = 1 + 0.5 * target(argmax online = 0) = 1.5, error 1; y1 = -1, error 4.
        assert_eq!(td, [1.0, 4.0]);
        assert_eq!(report, LossReport { loss: (0.5 + 0.5 * 3.5) / 2.0, q_mean: (2.5 + 3.0) / 2.0 });
        assert_eq!(gradient, [0.0, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        for head in [Head::Plain, Head::Dueling] {
            let mut loss = DoubleDqnLoss::new(head, 3, 0.7);
            let width = loss.width();
            let batch = batch(vec![2, 0], vec![0.3, -0.2], vec![0.9, 0.9], vec![0.8, 0.4]);
            let online: Vec<f32> = (0..4 * width).map(|i| ((i * 37 % 11) as f32 - 5.0) / 7.0).collect();
            let target: Vec<f32> = (0..2 * width).map(|i| ((i * 53 % 13) as f32 - 6.0) / 9.0).collect();
            let (mut gradient, mut other, mut td) = (vec![0.0; 2 * width], vec![0.0; 2 * width], Vec::new());
            loss.evaluate(&batch, &online, &target, &mut gradient, &mut td);
            for k in 0..2 * width {
                let mut at = |step: f32| {
                    let mut moved = online.clone();
                    moved[k] += step;
                    f64::from(loss.evaluate(&batch, &moved, &target, &mut other, &mut td).loss)
                };
                let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!((slope - f64::from(gradient[k])).abs() < 1e-3, "{head:?} {k}: {slope} {}", gradient[k]);
            }
        }
    }
}
