//! What lies between two matrix products, in one pass each: on a CPU these passes cost memory, not arithmetic.

/// `row += bias` for each row of `[n, bias.len()]`, then ReLU if wanted.
pub(crate) fn add_bias(rows: &mut [f32], bias: &[f32], relu: bool) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { add_bias_avx2(rows, bias, relu) };
        return;
    }
    add_bias_plain(rows, bias, relu);
}

/// Zeroes the gradient where ReLU gave zero and sums each column into `by_bias`. With no `outputs` there was no
/// ReLU.
pub(crate) fn mask_and_sum(gradient: &mut [f32], outputs: Option<&[f32]>, by_bias: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { mask_and_sum_avx2(gradient, outputs, by_bias) };
        return;
    }
    mask_and_sum_plain(gradient, outputs, by_bias);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn add_bias_avx2(rows: &mut [f32], bias: &[f32], relu: bool) {
    add_bias_plain(rows, bias, relu);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn mask_and_sum_avx2(gradient: &mut [f32], outputs: Option<&[f32]>, by_bias: &mut [f32]) {
    mask_and_sum_plain(gradient, outputs, by_bias);
}

#[inline(always)]
fn add_bias_plain(rows: &mut [f32], bias: &[f32], relu: bool) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            let sum = *x + b;
            // Not `max`: a number that is not one must stay so, to be found out by the loss.
            *x = if relu && sum < 0.0 { 0.0 } else { sum };
        }
    }
}

#[inline(always)]
fn mask_and_sum_plain(gradient: &mut [f32], outputs: Option<&[f32]>, by_bias: &mut [f32]) {
    by_bias.fill(0.0);
    let width = by_bias.len();
    match outputs {
        Some(outputs) => {
            for (row, outputs) in gradient.chunks_exact_mut(width).zip(outputs.chunks_exact(width)) {
                for ((g, y), sum) in row.iter_mut().zip(outputs).zip(by_bias.iter_mut()) {
                    *g = if *y > 0.0 { *g } else { 0.0 };
                    *sum += *g;
                }
            }
        }
        None => {
            for row in gradient.chunks_exact(width) {
                for (g, sum) in row.iter().zip(by_bias.iter_mut()) {
                    *sum += g;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bias_and_relu_are_those_of_a_plain_loop_and_keep_what_is_not_a_number() {
        let mut rows = vec![1.0, -2.0, 0.5, f32::NAN, 3.0, -0.5];
        add_bias(&mut rows, &[0.0, 1.0, -1.0], true);
        assert_eq!(rows[..3], [1.0, 0.0, 0.0]);
        assert!(rows[3].is_nan());
        assert_eq!(rows[4..], [4.0, 0.0]);
        let mut rows = vec![-1.0, 2.0];
        add_bias(&mut rows, &[-1.0], false);
        assert_eq!(rows, [-2.0, 1.0]);
    }

    #[test]
    fn gradients_pass_where_the_output_was_above_zero_and_are_summed_by_column() {
        let (mut gradient, mut sums) = (vec![1.0, 2.0, 3.0, 4.0], vec![9.0; 2]);
        mask_and_sum(&mut gradient, Some(&[0.5, 0.0, 0.1, 2.0]), &mut sums);
        assert_eq!((gradient.as_slice(), sums.as_slice()), (&[1.0, 0.0, 3.0, 4.0][..], &[4.0, 4.0][..]));
        mask_and_sum(&mut gradient, None, &mut sums);
        assert_eq!(sums, [4.0, 4.0]);
    }
}
