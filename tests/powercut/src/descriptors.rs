//! Which descriptors are of watched files.

use std::sync::atomic::{AtomicU8, Ordering};

use libc::{c_int, c_uint};

use crate::{journal::watch, paths};

const KNOWN: usize = 4096;
const UNKNOWN: u8 = 0;
const WATCHED: u8 = 1;
const OTHER: u8 = 2;

static STATES: [AtomicU8; KNOWN] = [const { AtomicU8::new(UNKNOWN) }; KNOWN];

fn state(fd: c_int) -> Option<&'static AtomicU8> {
    usize::try_from(fd).ok().and_then(|fd| STATES.get(fd))
}

/// The number will be, or is, another file's.
pub fn forget(fd: c_int) {
    if let Some(state) = state(fd) {
        state.store(UNKNOWN, Ordering::Release);
    }
}

/// Whether it is a file or folder below the root.
pub fn is_watched(fd: c_int) -> bool {
    let Some(watch) = watch() else { return false };
    match state(fd).map(|state| state.load(Ordering::Acquire)) {
        Some(WATCHED) => return true,
        Some(OTHER) => return false,
        _ => {}
    }
    let watched = paths::of_descriptor(fd).is_some_and(|path| watch.holds(&path));
    if let Some(state) = state(fd) {
        state.store(if watched { WATCHED } else { OTHER }, Ordering::Release);
    }
    watched
}

/// Inode and size.
pub fn inode_and_size(fd: c_int) -> (u64, u64) {
    // SAFETY: all zeroes is a valid `stat`, and it lives through the call.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        libc::fstat(fd, &mut stat);
        (stat.st_ino, stat.st_size.max(0) as u64)
    }
}

// SAFETY of all below: they do what the C library's functions of the same name do, with the caller's arguments.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    forget(fd);
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    if old == new {
        let open = unsafe { libc::fcntl(old, libc::F_GETFD) } >= 0;
        return if open { new } else { -1 };
    }
    forget(new);
    unsafe { libc::syscall(libc::SYS_dup3, old, new, 0) as c_int }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    forget(new);
    unsafe { libc::syscall(libc::SYS_dup3, old, new, flags) as c_int }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    (first..=last.min(KNOWN as c_uint)).for_each(|fd| forget(fd as c_int));
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) as c_int }
}

/// The C library closes streams by ways of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fclose(stream: *mut libc::FILE) -> c_int {
    type Close = unsafe extern "C" fn(*mut libc::FILE) -> c_int;
    unsafe {
        forget(libc::fileno(stream));
        let real = libc::dlsym(libc::RTLD_NEXT, c"fclose".as_ptr());
        if real.is_null() {
            crate::journal::give_up("cannot find the C library's `fclose`");
        }
        std::mem::transmute::<*mut libc::c_void, Close>(real)(stream)
    }
}
