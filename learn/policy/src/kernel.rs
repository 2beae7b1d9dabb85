//! One linear layer over a block of rows, the only code here that is counted in nanoseconds.
//!
//! Weights are packed once, when a network is made: panels of 16 outputs, and within a panel input after input,
//! so that both a single row and a block of rows read them front to back. Every output is a chain of fused
//! multiply-adds over the inputs in ascending order, starting from the bias. How many rows or panels are in
//! flight at once changes neither the chain nor its rounding, which is why a row's answer does not depend on the
//! batch that it is in. A layer of at most 16 outputs has too few chains to hide the latency of an addition, so
//! it splits each into [`CHAINS`] (input `k` goes to chain `k % CHAINS`) and adds those up at the end, again for
//! every batch size alike.

/// Outputs in a panel: two AVX registers, one cache line.
pub(crate) const PANEL: usize = 16;
const CHAINS: usize = 4;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; PANEL]);

/// A linear layer with packed weights, and whether ReLU follows.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    inputs: usize,
    outputs: usize,
    relu: bool,
    /// `[panel][input]`, zeros beyond the last output.
    weights: Vec<Line>,
    /// `[panel]`.
    bias: Vec<Line>,
}

/// Rows of numbers: row `r` begins at `r * stride`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub n: usize,
}

impl Layer {
    /// `weight` has shape `[outputs, inputs]`, row-major.
    pub fn pack(weight: &[f32], bias: &[f32], relu: bool) -> Self {
        let outputs = bias.len();
        let inputs = weight.len() / outputs;
        debug_assert_eq!(weight.len(), inputs * outputs);
        let panels = outputs.div_ceil(PANEL);
        let mut packed = Self {
            inputs,
            outputs,
            relu,
            weights: vec![Line([0.0; PANEL]); panels * inputs],
            bias: vec![Line([0.0; PANEL]); panels],
        };
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            let (panel, lane) = (output / PANEL, output % PANEL);
            packed.bias[panel].0[lane] = bias[output];
            for (line, &value) in packed.weights[panel * inputs..].iter_mut().zip(row) {
                line.0[lane] = value;
            }
        }
        packed
    }

    /// Numbers in one row of the result: the outputs rounded up to whole panels.
    pub fn out_stride(&self) -> usize {
        self.bias.len() * PANEL
    }

    fn is_narrow(&self) -> bool {
        self.outputs <= PANEL
    }

    /// Evaluates `x.n` rows into `out`, whose rows are [`Layer::out_stride`] apart.
    ///
    /// # Panics
    /// If `x` is shorter than its rows, or `out` than the result.
    pub fn forward(&self, x: Rows<'_>, out: &mut [f32], with: Instructions) {
        assert!(x.n == 0 || (x.stride >= self.inputs && x.data.len() >= (x.n - 1) * x.stride + self.inputs));
        assert!(out.len() >= x.n * self.out_stride());
        match with {
            // SAFETY: `Instructions::detect` saw AVX2 and FMA on this machine, and the asserts above are the
            // bounds that `avx2::forward` asks for.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { avx2::forward(self, x, out) },
            Instructions::Portable => portable::forward(self, x, out),
        }
    }
}

/// Which code runs a layer. Both give the same answers to within rounding; each gives always the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Instructions {
    /// The best that this machine has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        Self::Portable
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_load_ps, _mm256_max_ps, _mm256_setzero_ps,
        _mm256_storeu_ps,
    };

    use super::{CHAINS, Layer, PANEL, Rows};

    /// A tile's operands: rows of `x`, a panel of weights with its bias, and where the answers go.
    #[derive(Clone, Copy)]
    struct Tile {
        x: *const f32,
        x_stride: usize,
        inputs: usize,
        weights: *const f32,
        bias: *const f32,
        out: *mut f32,
        out_stride: usize,
        relu: bool,
    }

    /// # Safety
    /// AVX2 and FMA are there; `x` holds its rows of `layer.inputs` numbers; `out` holds `x.n` rows.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn forward(layer: &Layer, x: Rows<'_>, out: &mut [f32]) {
        let tile = Tile {
            x: x.data.as_ptr(),
            x_stride: x.stride,
            inputs: layer.inputs,
            weights: layer.weights.as_ptr().cast(),
            bias: layer.bias.as_ptr().cast(),
            out: out.as_mut_ptr(),
            out_stride: layer.out_stride(),
            relu: layer.relu,
        };
        let panels = layer.bias.len();
        // SAFETY: rows stay below `x.n` and panels below `panels`, for which the caller vouches.
        unsafe {
            if layer.is_narrow() {
                return if layer.outputs <= PANEL / 2 {
                    rows_of(
                        x.n,
                        |n, first| match n {
                            1 => narrow::<1, 1>(tile.at(first, 0)),
                            2 => narrow::<2, 1>(tile.at(first, 0)),
                            _ => narrow::<3, 1>(tile.at(first, 0)),
                        },
                        3,
                    )
                } else {
                    rows_of(x.n, |_, first| narrow::<1, 2>(tile.at(first, 0)), 1)
                };
            }
            let whole = x.n / 6 * 6;
            for panel in 0..if whole > 0 { panels } else { 0 } {
                for first in (0..whole).step_by(6) {
                    wide::<6, 1>(tile.at(first, panel));
                }
            }
            // The rest: as many panels at once as keep eight to twelve chains in flight.
            match x.n - whole {
                1 => panels_of::<4>(panels, |n, panel| match n {
                    4 => wide::<1, 4>(tile.at(whole, panel)),
                    2 => wide::<1, 2>(tile.at(whole, panel)),
                    _ => wide::<1, 1>(tile.at(whole, panel)),
                }),
                2 => panels_of::<2>(panels, |n, panel| match n {
                    2 => wide::<2, 2>(tile.at(whole, panel)),
                    _ => wide::<2, 1>(tile.at(whole, panel)),
                }),
                3 => panels_of::<2>(panels, |n, panel| match n {
                    2 => wide::<3, 2>(tile.at(whole, panel)),
                    _ => wide::<3, 1>(tile.at(whole, panel)),
                }),
                4 => panels_of::<1>(panels, |_, panel| wide::<4, 1>(tile.at(whole, panel))),
                5 => panels_of::<1>(panels, |_, panel| wide::<5, 1>(tile.at(whole, panel))),
                _ => {}
            }
        }
    }

    #[inline(always)]
    fn rows_of(n: usize, mut run: impl FnMut(usize, usize), at_once: usize) {
        let mut first = 0;
        while first < n {
            let now = at_once.min(n - first);
            run(now, first);
            first += now;
        }
    }

    /// Calls `run(how_many, first)` with `AT_ONCE` panels while there are so many, then 2, then 1.
    #[inline(always)]
    fn panels_of<const AT_ONCE: usize>(panels: usize, mut run: impl FnMut(usize, usize)) {
        let mut panel = 0;
        while panel < panels {
            let left = panels - panel;
            let now = if left >= AT_ONCE {
                AT_ONCE
            } else if left >= 2 {
                2
            } else {
                1
            };
            run(now, panel);
            panel += now;
        }
    }

    impl Tile {
        /// # Safety
        /// `row` and `panel` exist.
        #[inline(always)]
        unsafe fn at(self, row: usize, panel: usize) -> Self {
            // SAFETY: the caller vouches for row and panel.
            unsafe {
                Self {
                    x: self.x.add(row * self.x_stride),
                    weights: self.weights.add(panel * self.inputs * PANEL),
                    bias: self.bias.add(panel * PANEL),
                    out: self.out.add(row * self.out_stride + panel * PANEL),
                    ..self
                }
            }
        }
    }

    /// `R` rows by `P` panels, one chain an output.
    ///
    /// # Safety
    /// AVX2 and FMA are there; the tile has `R` rows and `P` panels.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn wide<const R: usize, const P: usize>(t: Tile) {
        let panel_stride = t.inputs * PANEL;
        // SAFETY: all offsets lie within the rows and panels that the caller vouches for; packed weights and
        // biases begin at multiples of 64 bytes.
        unsafe {
            let mut sum = [[[_mm256_setzero_ps(); 2]; P]; R];
            for row in &mut sum {
                for (p, pair) in row.iter_mut().enumerate() {
                    *pair = [_mm256_load_ps(t.bias.add(p * PANEL)), _mm256_load_ps(t.bias.add(p * PANEL + 8))];
                }
            }
            // With the sums in up to twelve of sixteen registers, what is held beside them must be the smaller side:
            // six rows held at once spilled, and ran at less than half the speed.
            for k in 0..t.inputs {
                if R > 2 * P {
                    let mut w = [[_mm256_setzero_ps(); 2]; P];
                    for (p, pair) in w.iter_mut().enumerate() {
                        let line = t.weights.add(p * panel_stride + k * PANEL);
                        *pair = [_mm256_load_ps(line), _mm256_load_ps(line.add(8))];
                    }
                    for (r, row) in sum.iter_mut().enumerate() {
                        let x = _mm256_broadcast_ss(&*t.x.add(r * t.x_stride + k));
                        for (pair, w) in row.iter_mut().zip(&w) {
                            *pair = [_mm256_fmadd_ps(x, w[0], pair[0]), _mm256_fmadd_ps(x, w[1], pair[1])];
                        }
                    }
                } else {
                    let mut x = [_mm256_setzero_ps(); R];
                    for (r, x) in x.iter_mut().enumerate() {
                        *x = _mm256_broadcast_ss(&*t.x.add(r * t.x_stride + k));
                    }
                    // Weights outside, rows inside: indices say it, iterators over the rows would turn it round.
                    #[allow(clippy::needless_range_loop)]
                    for p in 0..P {
                        for half in 0..2 {
                            let w = _mm256_load_ps(t.weights.add(p * panel_stride + k * PANEL + half * 8));
                            for r in 0..R {
                                sum[r][p][half] = _mm256_fmadd_ps(x[r], w, sum[r][p][half]);
                            }
                        }
                    }
                }
            }
            for (r, row) in sum.iter().enumerate() {
                for (p, pair) in row.iter().enumerate() {
                    for (half, &value) in pair.iter().enumerate() {
                        _mm256_storeu_ps(t.out.add(r * t.out_stride + p * PANEL + half * 8), finish(value, t.relu));
                    }
                }
            }
        }
    }

    /// `R` rows by one panel of which `V` registers are in use, [`CHAINS`] chains an output.
    ///
    /// # Safety
    /// AVX2 and FMA are there; the tile has `R` rows.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn narrow<const R: usize, const V: usize>(t: Tile) {
        // SAFETY: as in `wide`.
        unsafe {
            let mut sum = [[[_mm256_setzero_ps(); V]; CHAINS]; R];
            for row in &mut sum {
                for (v, first) in row[0].iter_mut().enumerate() {
                    *first = _mm256_load_ps(t.bias.add(v * 8));
                }
            }
            let whole = t.inputs / CHAINS * CHAINS;
            for k in (0..whole).step_by(CHAINS) {
                for c in 0..CHAINS {
                    step::<R, V>(&t, k + c, &mut sum, c);
                }
            }
            for k in whole..t.inputs {
                step::<R, V>(&t, k, &mut sum, k - whole);
            }
            for (r, [a, b, c, d]) in sum.iter().enumerate() {
                for v in 0..V {
                    let total = _mm256_add_ps(_mm256_add_ps(a[v], b[v]), _mm256_add_ps(c[v], d[v]));
                    _mm256_storeu_ps(t.out.add(r * t.out_stride + v * 8), finish(total, t.relu));
                }
            }
        }
    }

    /// # Safety
    /// As for [`narrow`], and `k` is below the tile's inputs.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn step<const R: usize, const V: usize>(t: &Tile, k: usize, sum: &mut [[[__m256; V]; CHAINS]; R], c: usize) {
        // SAFETY: the caller vouches for `k` and the tile.
        unsafe {
            for (r, row) in sum.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*t.x.add(r * t.x_stride + k));
                for (v, chain) in row[c].iter_mut().enumerate() {
                    *chain = _mm256_fmadd_ps(x, _mm256_load_ps(t.weights.add(k * PANEL + v * 8)), *chain);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn finish(value: __m256, relu: bool) -> __m256 {
        // In this order `max` hands on a NaN of `value`, so that numbers that are not finite stay visible.
        if relu { _mm256_max_ps(_mm256_setzero_ps(), value) } else { value }
    }
}

mod portable {
    use super::{CHAINS, Layer, PANEL, Rows};

    pub fn forward(layer: &Layer, x: Rows<'_>, out: &mut [f32]) {
        let stride = layer.out_stride();
        for (r, out) in out.chunks_exact_mut(stride).take(x.n).enumerate() {
            let x = &x.data[r * x.stride..][..layer.inputs];
            for (panel, out) in out.chunks_exact_mut(PANEL).enumerate() {
                let weights = &layer.weights[panel * layer.inputs..][..layer.inputs];
                let mut sum = [[0.0; PANEL]; CHAINS];
                sum[0] = layer.bias[panel].0;
                let chains = if layer.is_narrow() { CHAINS } else { 1 };
                for (k, (&x, w)) in x.iter().zip(weights).enumerate() {
                    for (sum, &w) in sum[k % chains].iter_mut().zip(&w.0) {
                        *sum += x * w;
                    }
                }
                for (lane, out) in out.iter_mut().enumerate() {
                    let total = (sum[0][lane] + sum[1][lane]) + (sum[2][lane] + sum[3][lane]);
                    *out = if layer.relu && total < 0.0 { 0.0 } else { total };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_path_agrees_with_the_vector_path() {
        let layers = [(7, 3), (33, 16), (108, 128), (128, 10), (5, 17), (256, 8), (1, 1), (40, 100)];
        for (inputs, outputs) in layers {
            let weight: Vec<f32> = (0..inputs * outputs).map(|i| ((i * 37 % 101) as f32 - 50.0) / 60.0).collect();
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32 / 10.0 - 0.4).collect();
            for relu in [false, true] {
                let layer = Layer::pack(&weight, &bias, relu);
                let data: Vec<f32> = (0..13 * inputs).map(|i| ((i * 53 % 97) as f32 - 48.0) / 50.0).collect();
                let rows = Rows { data: &data, stride: inputs, n: 13 };
                let mut fast = vec![0.0; 13 * layer.out_stride()];
                let mut slow = fast.clone();
                layer.forward(rows, &mut fast, Instructions::detect());
                layer.forward(rows, &mut slow, Instructions::Portable);
                for (a, b) in fast.iter().zip(&slow) {
                    assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} against {b}");
                }
            }
        }
    }

    #[test]
    fn relu_hands_on_numbers_that_are_not_finite() {
        let layer = Layer::pack(&[1.0; 40], &[0.0; 40], true);
        for with in [Instructions::detect(), Instructions::Portable] {
            let mut out = vec![0.0; layer.out_stride()];
            layer.forward(Rows { data: &[f32::NAN], stride: 1, n: 1 }, &mut out, with);
            assert!(out[..40].iter().all(|v| v.is_nan()));
        }
    }
}
