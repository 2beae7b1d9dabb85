//! One core for a bench and for the peer that it starts, one after the other.

/// Keeps this thread, and children it starts, on one core while it lives.
pub(crate) struct Pin(Option<libc::cpu_set_t>);

impl Pin {
    /// The last core allowed: the first is the one that interrupts prefer.
    pub fn to_one_core() -> Self {
        // SAFETY: `cpu_set_t` is plain bits, for which zero is the empty set; the calls read or write one such set.
        unsafe {
            let mut before: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut before) != 0 {
                return Self(None);
            }
            let Some(core) = (0..libc::CPU_SETSIZE as usize).rev().find(|&core| libc::CPU_ISSET(core, &before)) else {
                return Self(None);
            };
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one);
            Self(Some(before))
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            // SAFETY: the set read in `to_one_core`.
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &before) };
        }
    }
}
