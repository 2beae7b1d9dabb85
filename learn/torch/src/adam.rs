use serde::{Deserialize, Serialize};

/// Adam (Kingma & Ba 2015) with PyTorch's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
}

impl Adam {
    pub fn new(learning_rate: f64) -> Self {
        Self { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// What step `t` (from 1) multiplies `m` by and `sqrt(v)` by, with both biases corrected.
    pub fn corrections(&self, t: u64) -> (f64, f64) {
        let t = t as f64;
        (self.learning_rate / (1.0 - self.beta1.powf(t)), 1.0 / (1.0 - self.beta2.powf(t)).sqrt())
    }
}

/// Step `t` (from 1) over one flat vector in a single pass. The gradient is multiplied by `scale` first.
///
/// # Panics
/// If the lengths differ.
pub fn adam_step(adam: &Adam, t: u64, scale: f32, gradient: &[f32], state: (&mut [f32], &mut [f32], &mut [f32])) {
    let (parameters, m, v) = state;
    let n = gradient.len();
    assert!(parameters.len() == n && m.len() == n && v.len() == n, "one gradient for each parameter");
    let (rate, root) = adam.corrections(t);
    let factors = Factors {
        scale,
        rate: rate as f32,
        root: root as f32,
        keep1: (1.0 - adam.beta1) as f32,
        keep2: (1.0 - adam.beta2) as f32,
        epsilon: adam.epsilon as f32,
    };
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { step_avx2(&factors, gradient, parameters, m, v) };
        return;
    }
    step(&factors, gradient, parameters, m, v);
}

struct Factors {
    scale: f32,
    rate: f32,
    root: f32,
    keep1: f32,
    keep2: f32,
    epsilon: f32,
}

/// The same arithmetic in the same order, with wider registers: the bits are those of `step`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn step_avx2(f: &Factors, gradient: &[f32], parameters: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    step(f, gradient, parameters, m, v);
}

#[inline(always)]
fn step(f: &Factors, gradient: &[f32], parameters: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    for (((p, m), v), g) in parameters.iter_mut().zip(m).zip(v).zip(gradient) {
        let g = g * f.scale;
        *m += (g - *m) * f.keep1;
        *v += (g * g - *v) * f.keep2;
        *p -= f.rate * *m / (v.sqrt() * f.root + f.epsilon);
    }
}

/// Sum of squares, in eight running sums.
pub fn square_sum(numbers: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { square_sum_avx2(numbers) };
    }
    squares(numbers)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn square_sum_avx2(numbers: &[f32]) -> f64 {
    squares(numbers)
}

#[inline(always)]
fn squares(numbers: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let (chunks, rest) = numbers.as_chunks::<8>();
    for chunk in chunks {
        for (sum, &number) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(number) * f64::from(number);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&number| f64::from(number) * f64::from(number)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_each_parameter_by_the_learning_rate_against_its_gradient() {
        let (mut p, mut m, mut v) = (vec![1.0; 3], vec![0.0; 3], vec![0.0; 3]);
        adam_step(&Adam::new(0.1), 1, 1.0, &[4.0, -0.01, 0.0], (&mut p, &mut m, &mut v));
        for (p, expected) in p.iter().zip([0.9, 1.1, 1.0]) {
            assert!((p - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn it_follows_the_textbook_in_double_precision() {
        let adam = Adam::new(3e-3);
        let (mut p, mut m, mut v) = (vec![0.5_f32; 19], vec![0.0; 19], vec![0.0; 19]);
        let mut slow = vec![(0.5_f64, 0.0_f64, 0.0_f64); 19];
        for t in 1..=50 {
            let gradient: Vec<f32> = (0..19).map(|i| ((i * 7 + t * 3) % 11) as f32 / 5.0 - 1.0).collect();
            adam_step(&adam, t as u64, 0.5, &gradient, (&mut p, &mut m, &mut v));
            for ((p, m, v), &g) in slow.iter_mut().zip(&gradient) {
                let g = f64::from(g) * 0.5;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let (m_hat, v_hat) = (*m / (1.0 - 0.9_f64.powi(t)), *v / (1.0 - 0.999_f64.powi(t)));
                *p -= 3e-3 * m_hat / (v_hat.sqrt() + 1e-8);
            }
        }
        for (p, (slow, ..)) in p.iter().zip(&slow) {
            assert!((f64::from(*p) - slow).abs() < 1e-5);
        }
    }

    #[test]
    fn the_sum_of_squares_is_that_of_a_plain_loop() {
        let numbers: Vec<f32> = (0..1003).map(|i| i as f32 / 100.0 - 5.0).collect();
        let slow: f64 = numbers.iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((square_sum(&numbers) - slow).abs() < 1e-9 * slow);
    }
}
