//! Appends records; one journal, one lock: a change and its record are never torn apart by another thread, nor by another
//! process that was forked or started by the watched one.

use std::{
    ffi::{CStr, CString},
    ops::Deref,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use libc::{AT_FDCWD, c_int, iovec};

use crate::format::{self, Header, Kind};

/// What this process watches.
pub struct Watch {
    root: Vec<u8>,
    stash: Vec<u8>,
    slow_us: u32,
    journal: Journal,
}

pub struct Journal {
    fd: c_int,
    shared: &'static Shared,
}

/// What all processes that write one journal have in common; it lies in a file beside the journal, all zeroes at first.
#[repr(C)]
struct Shared {
    locked: AtomicU32,
    /// Records so far.
    count: AtomicU64,
    stashed: AtomicU64,
}

impl Shared {
    fn beside(journal: &[u8]) -> Option<&'static Self> {
        let path = CString::new([journal, format::SHARED.as_bytes()].concat()).ok()?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC;
        // SAFETY: the path ends with a nul, the mapping is as long as the file, stays for ever, and atomics may be shared.
        // The calls go past our own.
        unsafe {
            let fd = libc::syscall(libc::SYS_openat, AT_FDCWD, path.as_ptr(), flags, 0o600) as c_int;
            if fd < 0 || libc::syscall(libc::SYS_ftruncate, fd, size_of::<Self>()) != 0 {
                return None;
            }
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), size_of::<Self>(), protection, libc::MAP_SHARED, fd, 0);
            libc::syscall(libc::SYS_close, fd);
            (at != libc::MAP_FAILED).then(|| &*at.cast::<Self>())
        }
    }
}

/// The journal, for one thread of one process at a time. Who dies with it stops the others for good: all of them lose
/// their power at once.
pub struct Held<'a>(&'a Journal);

impl Deref for Held<'_> {
    type Target = Journal;
    fn deref(&self) -> &Journal {
        self.0
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.shared.locked.store(0, Ordering::Release);
    }
}

/// `None` where the environment names nothing to watch.
pub fn watch() -> Option<&'static Watch> {
    static WATCH: OnceLock<Option<Watch>> = OnceLock::new();
    WATCH.get_or_init(Watch::from_environment).as_ref()
}

fn variable(name: &str) -> Option<Vec<u8>> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` ends with a nul; nobody changes the environment this early.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a value that is there ends with a nul.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes().to_vec())
}

impl Watch {
    fn from_environment() -> Option<Self> {
        let (root, stash) = (variable(format::ROOT)?, variable(format::STASH)?);
        let journal = variable(format::JOURNAL)?;
        let path = CString::new(&journal[..]).ok()?;
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
        // SAFETY: the path ends with a nul. The call goes past our own `open`.
        let fd = unsafe { libc::syscall(libc::SYS_openat, AT_FDCWD, path.as_ptr(), flags, 0o600) } as c_int;
        let shared = Shared::beside(&journal);
        let (Some(shared), true) = (shared, fd >= 0) else { give_up("cannot open the journal of the power cuts") };
        let slow = variable(format::SLOW).and_then(|text| String::from_utf8(text).ok());
        let slow_us = slow.and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Self { root, stash, slow_us, journal: Journal { fd, shared } })
    }

    /// Whether an absolute path lies in the watched folder.
    pub fn holds(&self, path: &[u8]) -> bool {
        path.strip_prefix(&self.root[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// What a slow disk takes for its `n`th sync; each takes another time.
    pub fn dawdle(&self, n: u64) {
        if self.slow_us > 0 {
            let part = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            // SAFETY: sleeps, nothing more.
            unsafe { libc::usleep(((part * u64::from(self.slow_us)) >> 32) as u32) };
        }
    }

    pub fn lock(&self) -> Held<'_> {
        while self.journal.shared.locked.swap(1, Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
        Held(&self.journal)
    }

    /// Keeps the file at `path` reachable; its name in the stash, empty if there is no such file.
    pub fn keep(&self, journal: &Journal, path: &CStr) -> Vec<u8> {
        let number = journal.shared.stashed.fetch_add(1, Ordering::Relaxed);
        // SAFETY: asks for the own number, nothing more.
        let name = format!("{}-{}", unsafe { libc::getpid() }, number).into_bytes();
        let Ok(kept) = CString::new([&self.stash[..], b"/", &name].concat()) else { return Vec::new() };
        // SAFETY: both paths end with a nul.
        let linked = unsafe { libc::syscall(libc::SYS_linkat, AT_FDCWD, path.as_ptr(), AT_FDCWD, kept.as_ptr(), 0) };
        if linked == 0 { name } else { Vec::new() }
    }
}

impl Journal {
    /// Records so far.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    pub fn record(&self, kind: Kind, subject: u64, (a, b): (u64, u64), first: &[u8], second: &[u8]) {
        let header =
            Header { kind: kind as u32, subject, a, b, first: first.len() as u32, second: second.len() as u32 }
                .encode();
        let part = |bytes: &[u8]| iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let parts = [part(&header), part(first), part(second)];
        let all = header.len() + first.len() + second.len();
        // SAFETY: the three parts live until the call returns.
        let written = unsafe { libc::syscall(libc::SYS_writev, self.fd, parts.as_ptr(), parts.len() as c_int) };
        if written != all as i64 {
            give_up("cannot write the journal of the power cuts");
        }
        self.shared.count.fetch_add(1, Ordering::Relaxed);
    }

    /// The change of the last record failed.
    pub fn cancel(&self) {
        self.record(Kind::Cancel, 0, (0, 0), &[], &[]);
    }
}

/// Without its journal a run would prove nothing, so it ends.
pub fn give_up(why: &str) -> ! {
    // SAFETY: writes to standard error, then ends the process.
    unsafe {
        libc::syscall(libc::SYS_write, 2, why.as_ptr(), why.len());
        libc::abort()
    }
}
