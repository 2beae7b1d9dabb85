use super::*;

fn rows(buffer: &mut RowBuffer, from: usize, n: usize, obs: usize) {
    let numbers = |offset: f32| -> Vec<f32> {
        (0..n * obs).map(|i| (from + i / obs) as f32 + offset + (i % obs) as f32 / 1024.0).collect()
    };
    let (s, s2) = (numbers(0.0), numbers(0.5));
    let action: Vec<i32> = (0..n).map(|i| (from + i) as i32 - 3).collect();
    let reward: Vec<f32> = (0..n).map(|i| (from + i) as f32 * 0.25).collect();
    let done: Vec<u8> = (0..n).map(|i| u8::from((from + i).is_multiple_of(5))).collect();
    let discount: Vec<f32> = done.iter().map(|&done| if done == 1 { 0.0 } else { 0.97 }).collect();
    let rows = Rows { s: &s, s2: &s2, action: &action, reward: &reward, discount: &discount, done: &done };
    buffer.insert(rows).unwrap();
}

fn check(batch: &RowBatch, total: usize, capacity: usize, obs: usize) {
    for i in 0..batch.training.n {
        let slot = batch.training.index[i] as usize;
        let row = (total - 1 - slot) / capacity * capacity + slot;
        for k in 0..obs {
            assert_eq!(batch.training.s[i * obs + k], row as f32 + k as f32 / 1024.0);
            assert_eq!(batch.training.s2[i * obs + k], row as f32 + 0.5 + k as f32 / 1024.0);
        }
        assert_eq!(batch.training.a[i], row as i64 - 3);
        assert_eq!(batch.training.reward[i], row as f32 * 0.25);
        assert_eq!(batch.done[i], u8::from(row.is_multiple_of(5)));
        assert_eq!(batch.training.discount[i], if row.is_multiple_of(5) { 0.0 } else { 0.97 });
        assert_eq!(batch.training.generation[i] as usize, row / capacity + 1);
    }
}

#[test]
fn every_field_of_every_row_comes_back_bit_for_bit() {
    for obs in [1, 7, 16, 32, 128] {
        for capacity in [10, 37] {
            let config = RowBufferConfig { capacity, obs_len: obs, seed: 3, ..RowBufferConfig::default() };
            let (mut buffer, mut batch, mut total) = (RowBuffer::new(config), RowBatch::default(), 0);
            for n in [1, 4, 9, 10, 3, 10] {
                rows(&mut buffer, total, n, obs);
                total += n;
                assert_eq!(buffer.len(), total.min(capacity));
                buffer.sample_uniform(64, &mut batch).unwrap();
                check(&batch, total, capacity, obs);
                buffer.sample_prioritised(33, &mut batch).unwrap();
                check(&batch, total, capacity, obs);
            }
        }
    }
}

#[test]
fn late_priorities_of_overwritten_rows_change_nothing() {
    let mut buffer = RowBuffer::new(RowBufferConfig { capacity: 6, obs_len: 2, ..RowBufferConfig::default() });
    rows(&mut buffer, 0, 6, 2);
    let mut batch = RowBatch::default();
    buffer.sample_prioritised(6, &mut batch).unwrap();
    rows(&mut buffer, 6, 4, 2);
    let TrainingBatch { index, generation, .. } = &batch.training;
    assert_eq!(buffer.update_priorities(index, generation, &[0.5; 6]), 2);
    assert_eq!((buffer.priority(0), buffer.priority(3)), (1.0, 1.0));
    assert!(buffer.priority(4) < 1.0);
}

#[test]
fn an_insert_whose_fields_disagree_is_refused_whole() {
    let mut buffer = RowBuffer::new(RowBufferConfig { capacity: 6, obs_len: 2, ..RowBufferConfig::default() });
    let short =
        Rows { s: &[0.0; 4], s2: &[0.0; 4], action: &[0; 2], reward: &[0.0], discount: &[0.0; 2], done: &[0; 2] };
    let error = buffer.insert(short).unwrap_err();
    assert_eq!(error.to_string(), "`reward` has 1 numbers; this buffer keeps 2");
    assert!(buffer.is_empty());
}

#[test]
fn without_priorities_only_even_draws_are_offered() {
    let config = RowBufferConfig { capacity: 6, obs_len: 2, prioritised: false, ..RowBufferConfig::default() };
    let (mut buffer, mut batch) = (RowBuffer::new(config), RowBatch::default());
    rows(&mut buffer, 0, 6, 2);
    assert_eq!(buffer.sample_prioritised(4, &mut batch), Err(ReplayError::NotPrioritised));
    buffer.sample_uniform(4, &mut batch).unwrap();
}
