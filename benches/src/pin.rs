//! One core for a bench and for the peer that it starts, one after the other.

/// Keeps this thread, and children it starts, on one core while it lives.
pub(crate) struct Pin(Option<libc::cpu_set_t>);

impl Pin {
    /// The last core allowed: the first is the one that interrupts prefer.
    pub fn to_one_core() -> Self {
        cores().last().map_or(Self(None), |&core| Self::to(core))
    }

    /// One of [`cores`].
    pub fn to(core: usize) -> Self {
        let Some(before) = allowed() else { return Self(None) };
        // SAFETY: `cpu_set_t` is plain bits, for which zero is the empty set; the calls read or write one such set.
        unsafe {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one);
        }
        Self(Some(before))
    }
}

/// The cores that this thread may use.
pub(crate) fn cores() -> Vec<usize> {
    let Some(allowed) = allowed() else { return Vec::new() };
    // SAFETY: reads a bit of a set, for numbers that the set has.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &allowed) }).collect()
}

fn allowed() -> Option<libc::cpu_set_t> {
    // SAFETY: as in `Pin::to`.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) == 0).then_some(set)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            // SAFETY: the set that this thread had before.
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &before) };
        }
    }
}
