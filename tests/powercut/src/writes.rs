//! Bytes of files.

use libc::{c_int, c_long, c_void, iovec, off_t, size_t, ssize_t};

use crate::{
    descriptors::{inode_and_size, is_watched},
    format::Kind,
    journal::{Journal, watch},
    paths::keeping_errno,
};

/// Notes what `length` bytes at `at` will replace, then makes the change.
fn noted(fd: c_int, at: Option<u64>, length: u64, change: impl FnOnce() -> c_long) -> c_long {
    if length == 0 || !is_watched(fd) {
        return change();
    }
    let Some(watch) = watch() else { return change() };
    let journal = watch.lock();
    let (inode, size) = inode_and_size(fd);
    let at = at.unwrap_or_else(|| place(fd, size));
    let old = contents(fd, at, length.min(size.saturating_sub(at)));
    journal.record(Kind::Data, inode, (at, size), &old, &length.to_le_bytes());
    settled(&journal, change())
}

/// A change that failed is no change.
pub fn settled(journal: &Journal, result: c_long) -> c_long {
    if result < 0 {
        keeping_errno(|| journal.cancel());
    }
    result
}

/// Where the next bytes go that name no place.
fn place(fd: c_int, size: u64) -> u64 {
    // SAFETY: neither call touches memory.
    unsafe {
        if libc::fcntl(fd, libc::F_GETFL) & libc::O_APPEND != 0 {
            return size;
        }
        libc::lseek(fd, 0, libc::SEEK_CUR).max(0) as u64
    }
}

/// Bytes of a file as they are now, also where the descriptor only writes.
pub fn contents(fd: c_int, at: u64, length: u64) -> Vec<u8> {
    if length == 0 {
        return Vec::new();
    }
    let mut bytes = vec![0_u8; length as usize];
    // SAFETY: reads go into `bytes` and no further; the second descriptor is closed before the end.
    unsafe {
        let writes_only = libc::fcntl(fd, libc::F_GETFL) & libc::O_ACCMODE == libc::O_WRONLY;
        let link = format!("/proc/self/fd/{fd}\0");
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let reader = if writes_only {
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, link.as_ptr(), flags, 0) as c_int
        } else {
            fd
        };
        let mut done = 0;
        while done < bytes.len() {
            let (into, rest) = (bytes.as_mut_ptr().add(done), bytes.len() - done);
            let read = libc::syscall(libc::SYS_pread64, reader, into, rest, at as i64 + done as i64);
            if read <= 0 {
                break;
            }
            done += read as usize;
        }
        bytes.truncate(done);
        if writes_only {
            libc::syscall(libc::SYS_close, reader);
        }
    }
    bytes
}

/// # Safety
/// As `writev` asks.
unsafe fn total(parts: *const iovec, n: c_int) -> u64 {
    let n = usize::try_from(n).unwrap_or(0);
    // SAFETY: the caller's promise to `writev`.
    if n == 0 {
        0
    } else {
        unsafe { std::slice::from_raw_parts(parts, n) }.iter().map(|part| part.iov_len as u64).sum()
    }
}

// SAFETY of all below: they do what the C library's functions of the same name do, with the caller's arguments.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, n: size_t) -> ssize_t {
    noted(fd, None, n as u64, || unsafe { libc::syscall(libc::SYS_write, fd, bytes, n) }) as ssize_t
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, n: size_t, at: off_t) -> ssize_t {
    let place = u64::try_from(at).ok();
    noted(fd, place, n as u64, || unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, n, at) }) as ssize_t
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, n: size_t, at: off_t) -> ssize_t {
    unsafe { pwrite64(fd, bytes, n, at) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, n: c_int) -> ssize_t {
    let all = unsafe { total(parts, n) };
    noted(fd, None, all, || unsafe { libc::syscall(libc::SYS_writev, fd, parts, n) }) as ssize_t
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64(fd: c_int, parts: *const iovec, n: c_int, at: off_t) -> ssize_t {
    let (all, place) = (unsafe { total(parts, n) }, u64::try_from(at).ok());
    // The kernel takes the place in two halves; on 64 bits the second is unused.
    noted(fd, place, all, || unsafe { libc::syscall(libc::SYS_pwritev, fd, parts, n, at, 0) }) as ssize_t
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(fd: c_int, parts: *const iovec, n: c_int, at: off_t) -> ssize_t {
    unsafe { pwritev64(fd, parts, n, at) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64v2(fd: c_int, parts: *const iovec, n: c_int, at: off_t, flags: c_int) -> ssize_t {
    let (all, place) = (unsafe { total(parts, n) }, u64::try_from(at).ok());
    noted(fd, place, all, || unsafe { libc::syscall(libc::SYS_pwritev2, fd, parts, n, at, 0, flags) }) as ssize_t
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev2(fd: c_int, parts: *const iovec, n: c_int, at: off_t, flags: c_int) -> ssize_t {
    unsafe { pwritev64v2(fd, parts, n, at, flags) }
}
