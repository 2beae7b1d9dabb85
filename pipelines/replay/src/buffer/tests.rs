use proptest::prelude::*;

use super::*;

const FRAME: usize = 3;

/// What the slow model keeps of each insert.
#[derive(Clone)]
struct Kept {
    lane: u64,
    s: Vec<f32>,
    a: i64,
    r: f32,
    s2: Vec<f32>,
    done: bool,
    truncated: bool,
}

fn config(capacity: usize, stack: usize, n_step: usize) -> ReplayConfig {
    ReplayConfig { capacity, frame_len: FRAME, stack, n_step, discount: 0.9, seed: 11, ..ReplayConfig::default() }
}

fn insert(buffer: &mut ReplayBuffer, row: &Kept) {
    let Kept { lane, s, a, r, s2, done, truncated } = row;
    let row = Insert { done: *done, truncated: *truncated, ..Insert::new(*lane, s, *a, *r, s2) };
    buffer.insert(row).unwrap();
}

/// `R = sum of discount^k * r_k` by a plain loop over the rows of one lane; the discount of what follows; its `s2`.
fn slow_return(rows: &[Kept], at: usize, n_step: usize, discount: f32) -> (f32, f32, Vec<f32>) {
    let (mut sum, mut factor, mut now) = (0.0, 1.0_f32, at);
    for k in 0..n_step {
        sum += factor * rows[now].r;
        factor *= discount;
        if rows[now].done {
            return (sum, 0.0, rows[now].s2.clone());
        }
        let next = (now + 1..rows.len()).find(|&i| rows[i].lane == rows[now].lane);
        match next {
            Some(next) if k + 1 < n_step && !rows[now].truncated && bits(&rows[next].s) == bits(&rows[now].s2) => {
                now = next;
            }
            _ => break,
        }
    }
    (sum, factor, rows[now].s2.clone())
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Gathers every row in the buffer and compares it with the model, bit for bit.
fn compare(buffer: &mut ReplayBuffer, rows: &[Kept]) -> Result<(), TestCaseError> {
    let (capacity, n_step, discount) = (buffer.config.capacity, buffer.config.n_step, buffer.config.discount);
    let live: Vec<usize> = (rows.len() - buffer.len()..rows.len()).collect();
    let mut batch = TrainingBatch { index: live.iter().map(|i| (i % capacity) as u32).collect(), ..Default::default() };
    buffer.gather(live.len(), &mut batch);
    let obs = buffer.observation_len();
    for (i, &row) in live.iter().enumerate() {
        let (sum, factor, s2) = slow_return(rows, row, n_step, discount);
        prop_assert_eq!(bits(&batch.s[i * obs..(i + 1) * obs]), bits(&rows[row].s));
        prop_assert_eq!(bits(&batch.s2[i * obs..(i + 1) * obs]), bits(&s2));
        prop_assert_eq!(batch.a[i], rows[row].a);
        prop_assert_eq!(batch.reward[i].to_bits(), sum.to_bits());
        prop_assert_eq!(batch.discount[i].to_bits(), factor.to_bits());
    }
    Ok(())
}

/// Pushes a frame behind a stack.
fn push(stack: &[f32], frame: [f32; FRAME]) -> Vec<f32> {
    stack[FRAME..].iter().copied().chain(frame).collect()
}

proptest! {
    #[test]
    fn every_row_comes_back_bit_for_bit_with_the_return_of_a_plain_loop(
        capacity in 1_usize..40,
        stack in 1_usize..5,
        n_step in 1_usize..6,
        scarce in any::<bool>(),
        steps in prop::collection::vec((0_u64..3, 0_u8..20, -4_i8..5, 0_u8..12), 1..150),
    ) {
        let frames_per_row = if scarce { 0.2 } else { 1.25 };
        let mut buffer = ReplayBuffer::new(ReplayConfig { frames_per_row, ..config(capacity, stack, n_step) });
        let mut rows: Vec<Kept> = Vec::new();
        let mut now = vec![vec![0.0_f32; FRAME * stack]; 3];
        let mut clock = 0.0_f32;
        for (lane, kind, reward, ending) in steps {
            clock += 1.0;
            let frame = [lane as f32, clock, -0.0];
            let seen = &mut now[lane as usize];
            match kind {
                // The lane breaks: its next observation has nothing to do with the last.
                0 => *seen = (0..FRAME * stack).map(|i| clock + i as f32 / 10.0).collect(),
                // A decision was missed: one more frame has passed.
                1 => *seen = push(seen, [9.0, clock, 0.0]),
                // A new episode begins with padding.
                2 => *seen = push(&vec![0.0; FRAME * stack], [clock, 0.0, 0.0]),
                _ => {}
            }
            let s2 = if kind == 3 { push(&push(seen, [7.0; FRAME]), frame) } else { push(seen, frame) };
            let row = Kept {
                lane,
                s: seen.clone(),
                a: i64::from(kind),
                r: f32::from(reward) / 3.0,
                s2: s2.clone(),
                done: ending == 0,
                truncated: ending == 1,
            };
            insert(&mut buffer, &row);
            rows.push(row);
            *seen = s2;
            compare(&mut buffer, &rows)?;
        }
        // Nothing leaks: without rows no frame is held.
        while buffer.len > 0 {
            buffer.evict();
        }
        prop_assert_eq!(buffer.frames_kept(), 0);
        prop_assert!(buffer.lanes.is_empty());
        prop_assert_eq!(buffer.sampler.priority(0), 0.0);
    }
}

/// Lane `lane`, rows that follow each other, one new frame each.
fn episode(buffer: &mut ReplayBuffer, lane: u64, steps: usize, last_done: bool) -> Vec<Kept> {
    let stack = buffer.config.stack;
    let mut now = push(&vec![0.0; FRAME * stack], [lane as f32 + 1.0, 0.0, 1.0]);
    (0..steps)
        .map(|t| {
            let s2 = push(&now, [lane as f32 + 1.0, t as f32 + 1.0, 1.0]);
            let done = last_done && t + 1 == steps;
            let row = Kept { lane, s: now.clone(), a: t as i64, r: t as f32, s2: s2.clone(), done, truncated: false };
            insert(buffer, &row);
            now = s2;
            row
        })
        .collect()
}

#[test]
fn frames_of_a_lane_are_kept_once() {
    let mut buffer = ReplayBuffer::new(config(1_000, 4, 3));
    episode(&mut buffer, 1, 500, true);
    assert_eq!(buffer.frames_kept(), 501, "one frame for each state, none for padding");
}

#[test]
fn returns_stop_at_the_end_of_an_episode_and_do_not_look_into_the_next() {
    let mut buffer = ReplayBuffer::new(config(100, 2, 3));
    let mut rows = episode(&mut buffer, 5, 4, true);
    rows.extend(episode(&mut buffer, 5, 4, false));
    compare(&mut buffer, &rows).unwrap();
    let mut batch = TrainingBatch { index: vec![1, 2, 3, 7], ..Default::default() };
    buffer.gather(4, &mut batch);
    // Row 1 still ends in the terminal row three steps on; the newest row of the running lane bootstraps after one.
    assert_eq!(batch.discount, [0.0, 0.0, 0.0, 0.9]);
    let nearly = |a: f32, b: f32| (a - b).abs() < 1e-6;
    assert!(nearly(batch.reward[0], 1.0 + 0.9 * 2.0 + 0.81 * 3.0));
    assert!(nearly(batch.reward[1], 2.0 + 0.9 * 3.0));
    assert!(nearly(batch.reward[3], 3.0));
}

#[test]
fn an_open_lane_gets_longer_returns_as_it_goes_on() {
    let mut buffer = ReplayBuffer::new(config(100, 1, 2));
    buffer.insert(Insert::new(1, &[1.0; 3], 0, 1.0, &[2.0; 3])).unwrap();
    let mut batch = TrainingBatch::default();
    buffer.sample_uniform(1, &mut batch).unwrap();
    assert_eq!((batch.reward[0], batch.discount[0], batch.s2[0]), (1.0, 0.9, 2.0));
    buffer.insert(Insert::new(1, &[2.0; 3], 0, 10.0, &[3.0; 3])).unwrap();
    batch.index = vec![0];
    buffer.gather(1, &mut batch);
    assert_eq!((batch.reward[0], batch.discount[0], batch.s2[0]), (10.0, 0.9 * 0.9, 3.0));
}

#[test]
fn priorities_of_overwritten_rows_are_left_alone() {
    let mut buffer = ReplayBuffer::new(config(8, 1, 1));
    episode(&mut buffer, 1, 8, false);
    let mut batch = TrainingBatch::default();
    buffer.sample_prioritised(8, &mut batch).unwrap();
    assert_eq!(batch.index, [0, 1, 2, 3, 4, 5, 6, 7], "equal priorities and one draw from each part");
    episode(&mut buffer, 2, 3, false);
    let set = buffer.update_priorities(&batch.index, &batch.generation, &[5.0; 8]);
    assert_eq!(set, 5);
    let raised = buffer.priority(3);
    assert!(buffer.priority(0) < raised && buffer.priority(2) < raised && buffer.priority(7) == raised);
}

#[test]
fn new_rows_get_the_largest_priority_seen() {
    let mut buffer = ReplayBuffer::new(config(8, 1, 1));
    episode(&mut buffer, 1, 2, false);
    buffer.update_priorities(&[0, 1], &[1, 1], &[30.0, f32::NAN]);
    episode(&mut buffer, 2, 1, false);
    assert_eq!(buffer.priority(2), buffer.priority(0));
    assert_eq!(buffer.priority(1), 1.0, "an error that is not finite changes nothing");
}

/// Pearson's statistic over `expected` counts.
fn chi_square(counts: &[u64], expected: &[f64]) -> f64 {
    counts.iter().zip(expected).map(|(&count, &e)| (count as f64 - e).powi(2) / e).sum()
}

#[test]
fn a_million_draws_follow_the_priorities() {
    let mut buffer = ReplayBuffer::new(config(300, 1, 1));
    episode(&mut buffer, 1, 200, false);
    let index: Vec<u32> = (0..200).collect();
    let td: Vec<f32> = (0..200).map(|i| 0.05 + (i % 17) as f32).collect();
    buffer.update_priorities(&index, &[1; 200], &td);
    let (mut batch, mut counts) = (TrainingBatch::default(), vec![0_u64; 300]);
    for _ in 0..10_000 {
        buffer.sample_prioritised(100, &mut batch).unwrap();
        batch.index.iter().for_each(|&slot| counts[slot as usize] += 1);
    }
    assert!(counts[200..].iter().all(|&count| count == 0), "slots without a row are never drawn");
    let weights: Vec<f64> = td.iter().map(|&td| (f64::from(td) + 1e-4).powf(0.6)).collect();
    let total: f64 = weights.iter().sum();
    let expected: Vec<f64> = weights.iter().map(|w| w / total * 1e6).collect();
    // 199 degrees of freedom: beyond 268 once in a thousand. Draws from equal parts vary less than free ones.
    assert!(chi_square(&counts[..200], &expected) < 268.0);
}

#[test]
fn a_million_even_draws_are_even_also_after_the_ring_has_wrapped() {
    let mut buffer = ReplayBuffer::new(config(200, 1, 1));
    episode(&mut buffer, 1, 330, false);
    let (mut batch, mut counts) = (TrainingBatch::default(), vec![0_u64; 200]);
    for _ in 0..10_000 {
        buffer.sample_uniform(100, &mut batch).unwrap();
        batch.index.iter().for_each(|&slot| counts[slot as usize] += 1);
    }
    let statistic = chi_square(&counts, &[5_000.0; 200]);
    // Free draws: between 138 and 269 but for two in a thousand.
    assert!((138.0..269.0).contains(&statistic), "chi-square {statistic}");
}

#[test]
fn importance_weights_are_those_of_schaul() {
    let mut buffer = ReplayBuffer::new(config(4, 1, 1));
    episode(&mut buffer, 1, 4, false);
    buffer.update_priorities(&[0, 1, 2, 3], &[1; 4], &[1.0, 2.0, 4.0, 8.0]);
    buffer.set_beta(0.5);
    let mut batch = TrainingBatch::default();
    buffer.sample_prioritised(64, &mut batch).unwrap();
    let p: Vec<f64> = [1.0, 2.0, 4.0, 8.0_f64].iter().map(|td| (td + 1e-4).powf(0.6)).collect();
    let total: f64 = p.iter().sum();
    let raw = |slot: usize| (4.0 * p[slot] / total).powf(-0.5);
    let largest = batch.index.iter().map(|&slot| raw(slot as usize)).fold(0.0, f64::max);
    for (&slot, &weight) in batch.index.iter().zip(&batch.weight) {
        assert!((f64::from(weight) - raw(slot as usize) / largest).abs() < 1e-6);
    }
}

#[test]
fn the_same_seed_draws_the_same_and_a_saved_sampler_goes_on_where_it_was() {
    let build = || {
        let mut buffer = ReplayBuffer::new(config(64, 2, 3));
        episode(&mut buffer, 1, 50, true);
        buffer
    };
    let (mut one, mut two, mut batch) = (build(), build(), TrainingBatch::default());
    // Learns from each draw, so that priorities decide the next.
    let mut draws = |buffer: &mut ReplayBuffer, rounds: usize| -> Vec<u32> {
        (0..rounds)
            .flat_map(|round| {
                if round % 2 == 0 {
                    buffer.sample_prioritised(7, &mut batch).unwrap();
                    let td: Vec<f32> = batch.index.iter().map(|&slot| 0.3 + (slot % 5) as f32).collect();
                    buffer.update_priorities(&batch.index, &batch.generation, &td);
                } else {
                    buffer.sample_uniform(9, &mut batch).unwrap();
                }
                batch.index.clone()
            })
            .collect()
    };
    let whole = draws(&mut one, 20);
    let mut parts = draws(&mut two, 10);
    let state = two.sampler_state();
    let mut three = build();
    three.restore_sampler(&state).unwrap();
    three.restore_priorities(&two.priorities()).unwrap();
    parts.extend(draws(&mut three, 10));
    assert_eq!(whole, parts);
    assert!(three.restore_sampler(&SamplerState { seed: "no".into(), ..state }).is_err());
    assert!(three.restore_priorities(&[1.0]).is_err());
}

#[test]
fn rows_of_the_wrong_shape_or_with_numbers_that_are_not_finite_are_refused() {
    let mut buffer = ReplayBuffer::new(config(8, 2, 1));
    let good = [0.0; 6];
    assert_eq!(
        buffer.insert(Insert::new(1, &[0.0; 5], 0, 0.0, &good)).unwrap_err().to_string(),
        "`s` has 5 numbers; this buffer keeps 6"
    );
    let bad = [0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0];
    assert_eq!(buffer.insert(Insert::new(1, &good, 0, 0.0, &bad)), Err(ReplayError::NotFinite { field: "s2" }));
    assert_eq!(
        buffer.insert(Insert::new(1, &good, 0, f32::INFINITY, &good)),
        Err(ReplayError::NotFinite { field: "r" })
    );
    assert!(buffer.is_empty());
    assert_eq!(buffer.sample_uniform(1, &mut TrainingBatch::default()), Err(ReplayError::Empty));
}

#[test]
fn staleness_counts_versions_between_data_and_model() {
    let mut buffer = ReplayBuffer::new(config(4, 1, 1));
    for version in 1..=6 {
        let s = [version as f32; 3];
        buffer.insert(Insert { model_version: version, ..Insert::new(version, &s, 0, 0.0, &s) }).unwrap();
    }
    buffer.sample_uniform(64, &mut TrainingBatch::default()).unwrap();
    let staleness = buffer.staleness(10);
    assert_eq!((staleness.mean, staleness.oldest), (5.5, 7));
    assert!(staleness.sampled_mean >= 4.0 && staleness.sampled_mean <= 7.0);
}

#[test]
fn memory_is_bounded_by_what_was_said_at_the_start() {
    let buffer = ReplayBuffer::new(ReplayConfig::default());
    let bytes = buffer.memory_bytes();
    assert!(bytes < 100 << 20, "400,000 tank transitions take {bytes} bytes");
}
