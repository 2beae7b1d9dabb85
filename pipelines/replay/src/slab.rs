use std::{
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// A zeroed run of `f32` that begins on a cache line, for reads at random places.
///
/// On Linux it is mapped on its own and asks for huge pages: a gather from a gigabyte of 4 KiB pages misses the
/// TLB at every row. Pages are touched, and so paid for, when they are first written.
pub(crate) struct Slab {
    first: NonNull<f32>,
    len: usize,
    memory: Memory,
}

enum Memory {
    /// Address and length given to `munmap`.
    #[cfg(target_os = "linux")]
    Mapped(NonNull<libc::c_void>, usize),
    #[cfg(not(target_os = "linux"))]
    Allocated(std::alloc::Layout),
    /// Nothing to give back.
    None,
}

// SAFETY: a slab owns its memory alone, as a `Vec<f32>` does; shared access is read-only through `&self`.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    /// # Panics
    /// If the memory is not to be had.
    #[cfg(target_os = "linux")]
    pub(crate) fn zeroed(len: usize) -> Self {
        const HUGE: usize = 2 << 20;
        if len == 0 {
            return Self { first: NonNull::dangling(), len: 0, memory: Memory::None };
        }
        let bytes = len.checked_mul(4).expect("a slab fits the address space");
        // Two huge pages more, so that the slab can begin on a boundary and its last page be a huge one too.
        let mapped = bytes.checked_add(2 * HUGE).expect("a slab fits the address space");
        // SAFETY: a fresh private anonymous mapping; nothing else refers to it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(base != libc::MAP_FAILED, "cannot map {bytes} bytes for the replay buffer; use a smaller capacity");
        let base = NonNull::new(base).expect("a mapping is never at address zero");
        let start = (base.as_ptr() as usize).next_multiple_of(HUGE);
        if bytes >= HUGE {
            // SAFETY: the range lies within the mapping. A kernel without huge pages refuses, which is harmless.
            unsafe { libc::madvise(start as *mut libc::c_void, bytes.next_multiple_of(HUGE), libc::MADV_HUGEPAGE) };
        }
        let first = NonNull::new(start as *mut f32).expect("within a mapping");
        Self { first, len, memory: Memory::Mapped(base, mapped) }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self { first: NonNull::dangling(), len: 0, memory: Memory::None };
        }
        let layout = std::alloc::Layout::from_size_align(len * 4, 64).expect("a slab fits the address space");
        // SAFETY: the layout is not of size zero.
        let first = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }.cast::<f32>());
        Self { first: first.expect("memory for the replay buffer"), len, memory: Memory::Allocated(layout) }
    }

    /// Asks for the cache lines of `len` numbers from `start`. Never faults, whatever `start` is.
    #[inline]
    pub(crate) fn prefetch(&self, start: usize, len: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let first = self.first.as_ptr().wrapping_add(start).cast::<i8>();
            for line in (0..len * 4).step_by(64) {
                // SAFETY: a prefetch is a hint and reads nothing.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line)) };
            }
            // SAFETY: as above; the last number may lie on a line of its own.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add((len * 4).saturating_sub(1))) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, len);
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        match self.memory {
            #[cfg(target_os = "linux")]
            // SAFETY: the mapping made in `zeroed`, given back once.
            Memory::Mapped(base, len) => unsafe {
                libc::munmap(base.as_ptr(), len);
            },
            #[cfg(not(target_os = "linux"))]
            // SAFETY: allocated in `zeroed` with this layout.
            Memory::Allocated(layout) => unsafe { std::alloc::dealloc(self.first.as_ptr().cast(), layout) },
            Memory::None => {}
        }
    }
}

impl Deref for Slab {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` zeroed numbers that live as long as the slab.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Copies `from` past the caches to `to`, which will not be read soon: a plain store would first fetch the old line.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub(crate) fn copy_past_caches(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "both sides hold the same row");
    #[cfg(target_arch = "x86_64")]
    if (to.as_ptr() as usize).is_multiple_of(64) && from.len().is_multiple_of(16) {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
        let (source, target) = (from.as_ptr(), to.as_mut_ptr());
        for i in (0..from.len()).step_by(16) {
            // SAFETY: SSE is part of x86-64; `i + 15` lies within both slices, and the target is 16-byte aligned.
            unsafe {
                let lanes = [0, 4, 8, 12].map(|k| _mm_loadu_ps(source.add(i + k)));
                for (k, lane) in lanes.into_iter().enumerate() {
                    _mm_stream_ps(target.add(i + 4 * k), lane);
                }
            }
        }
        return;
    }
    to.copy_from_slice(from);
}

/// Makes [`copy_past_caches`] visible in order to other threads. Call once after a run of copies.
#[inline]
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
