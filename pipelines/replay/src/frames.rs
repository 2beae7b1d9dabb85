use crate::slab::Slab;

/// The frame of nothing but zeros: padding at the start of an episode. It takes no room.
pub(crate) const ZEROS: u32 = u32::MAX;

/// Frames kept once and counted by the rows that show them.
#[derive(Debug)]
pub(crate) struct Frames {
    numbers: Slab,
    frame_len: usize,
    /// `frame_len` rounded up to 16 bytes.
    stride: usize,
    counts: Vec<u16>,
    free: Vec<u32>,
}

impl Frames {
    pub(crate) fn new(frames: usize, frame_len: usize) -> Self {
        assert!(frames < ZEROS as usize, "frame numbers fit 32 bits");
        let stride = frame_len.next_multiple_of(4);
        Self {
            numbers: Slab::zeroed(frames * stride),
            frame_len,
            stride,
            counts: vec![0; frames],
            free: (0..frames as u32).rev().collect(),
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.numbers.len() * 4 + self.counts.len() * 2 + self.free.capacity() * 4
    }

    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn kept(&self) -> usize {
        self.counts.len() - self.free.len()
    }

    /// Keeps a frame for its first row.
    ///
    /// # Panics
    /// If no frame is free; the buffer evicts rows until enough are.
    pub(crate) fn keep(&mut self, numbers: &[f32]) -> u32 {
        if numbers.iter().all(|number| number.to_bits() == 0) {
            return ZEROS;
        }
        let frame = self.free.pop().expect("rows were evicted until enough frames are free");
        self.counts[frame as usize] = 1;
        let at = frame as usize * self.stride;
        self.numbers[at..at + self.frame_len].copy_from_slice(numbers);
        frame
    }

    pub(crate) fn share(&mut self, frame: u32) -> u32 {
        if frame != ZEROS {
            self.counts[frame as usize] += 1;
        }
        frame
    }

    pub(crate) fn release(&mut self, frame: u32) {
        if frame == ZEROS {
            return;
        }
        let count = &mut self.counts[frame as usize];
        *count -= 1;
        if *count == 0 {
            self.free.push(frame);
        }
    }

    #[inline]
    pub(crate) fn prefetch(&self, frame: u32) {
        if frame != ZEROS {
            self.numbers.prefetch(frame as usize * self.stride, self.frame_len);
        }
    }

    #[inline]
    pub(crate) fn copy(&self, frame: u32, to: &mut [f32]) {
        if frame == ZEROS {
            to.fill(0.0);
        } else {
            let at = frame as usize * self.stride;
            to.copy_from_slice(&self.numbers[at..at + self.frame_len]);
        }
    }

    /// Are these the very bits of `frame`?
    pub(crate) fn same(&self, frame: u32, numbers: &[f32]) -> bool {
        if frame == ZEROS {
            return numbers.iter().all(|number| number.to_bits() == 0);
        }
        let at = frame as usize * self.stride;
        self.numbers[at..at + self.frame_len].iter().zip(numbers).all(|(a, b)| a.to_bits() == b.to_bits())
    }
}
