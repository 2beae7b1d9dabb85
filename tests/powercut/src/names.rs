//! Names of files in folders.

use std::ffi::CString;

use libc::{AT_FDCWD, c_char, c_int, c_long, c_uint, mode_t};

use crate::{
    descriptors,
    format::Kind,
    journal::{Watch, watch},
    paths::{absolute, folder_of, status},
    writes::{contents, settled},
};

/// The watch, if the path lies below its root.
///
/// # Safety
/// `path` ends with a nul.
unsafe fn watched(at: c_int, path: *const c_char) -> Option<(&'static Watch, CString)> {
    let watch = watch()?;
    // SAFETY: the caller's promise.
    let path = unsafe { absolute(at, path) }?;
    watch.holds(path.to_bytes()).then_some((watch, path))
}

/// # Safety
/// As `openat` asks.
unsafe fn opened(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise.
    let call = || unsafe { libc::syscall(libc::SYS_openat, at, path, flags, mode) };
    let changes = flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
    // SAFETY: the caller's promise.
    let Some((watch, path)) = (if changes { unsafe { watched(at, path) } } else { None }) else {
        let fd = call() as c_int;
        descriptors::forget(fd);
        return fd;
    };
    let journal = watch.lock();
    let fd = match status(&path) {
        None => {
            journal.record(Kind::Create, folder_of(&path), (0, 0), path.to_bytes(), &[]);
            settled(&journal, call())
        }
        Some(stat) if flags & libc::O_TRUNC != 0 && stat.st_size > 0 => {
            let read = libc::O_RDONLY | libc::O_CLOEXEC;
            // SAFETY: the path ends with a nul; the descriptor is closed here.
            let old = unsafe {
                let reader = libc::syscall(libc::SYS_openat, AT_FDCWD, path.as_ptr(), read, 0) as c_int;
                let old = contents(reader, 0, stat.st_size as u64);
                libc::syscall(libc::SYS_close, reader);
                old
            };
            journal.record(Kind::Size, stat.st_ino, (0, stat.st_size as u64), &old, &[]);
            settled(&journal, call())
        }
        Some(_) => call(),
    } as c_int;
    descriptors::forget(fd);
    fd
}

/// # Safety
/// As `renameat2` asks.
unsafe fn renamed(from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    let call = || unsafe { libc::syscall(libc::SYS_renameat2, from_at, from, to_at, to, flags) };
    // SAFETY: the caller's promise.
    let (Some((watch, to)), Some(from)) = (unsafe { watched(to_at, to) }, unsafe { absolute(from_at, from) }) else {
        return call() as c_int;
    };
    let journal = watch.lock();
    let kept = watch.keep(&journal, &to);
    let both = [from.to_bytes(), to.to_bytes()].concat();
    journal.record(Kind::Rename, folder_of(&to), (from.to_bytes().len() as u64, 0), &both, &kept);
    settled(&journal, call()) as c_int
}

/// A name that is new, or gone.
///
/// # Safety
/// `path` ends with a nul.
unsafe fn noted(kind: Kind, at: c_int, path: *const c_char, call: impl FnOnce() -> c_long) -> c_int {
    // SAFETY: the caller's promise.
    let Some((watch, path)) = (unsafe { watched(at, path) }) else { return call() as c_int };
    let journal = watch.lock();
    let kept = if kind == Kind::Unlink { watch.keep(&journal, &path) } else { Vec::new() };
    journal.record(kind, folder_of(&path), (0, 0), path.to_bytes(), &kept);
    settled(&journal, call()) as c_int
}

// SAFETY of all below: they do what the C library's functions of the same name do, with the caller's arguments. The
// last argument of `open` is variadic in C; where it is absent, its register holds something that the kernel ignores.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { opened(AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { opened(AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { opened(at, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { opened(at, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    unsafe { opened(AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    unsafe { renamed(AT_FDCWD, from, AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat(from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char) -> c_int {
    unsafe { renamed(from_at, from, to_at, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat2(
    from_at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    unsafe { renamed(from_at, from, to_at, to, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn linkat(
    from_at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    unsafe { noted(Kind::Link, to_at, to, || libc::syscall(libc::SYS_linkat, from_at, from, to_at, to, flags)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    unsafe { linkat(AT_FDCWD, from, AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    let call = || unsafe { libc::syscall(libc::SYS_unlinkat, at, path, flags) };
    if flags & libc::AT_REMOVEDIR != 0 {
        // A folder that is gone had nothing in it; that it may come back is not played.
        return call() as c_int;
    }
    unsafe { noted(Kind::Unlink, at, path, call) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    unsafe { unlinkat(AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdirat(at: c_int, path: *const c_char, mode: mode_t) -> c_int {
    unsafe { noted(Kind::MakeDir, at, path, || libc::syscall(libc::SYS_mkdirat, at, path, mode)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    unsafe { mkdirat(AT_FDCWD, path, mode) }
}

/// What `open` becomes in programs that were built with checks of the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    unsafe { opened(AT_FDCWD, path, flags, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    unsafe { opened(AT_FDCWD, path, flags, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn remove(path: *const c_char) -> c_int {
    let is_folder = || unsafe { *libc::__errno_location() } == libc::EISDIR;
    match unsafe { unlinkat(AT_FDCWD, path, 0) } {
        0 => 0,
        _ if is_folder() => unsafe { unlinkat(AT_FDCWD, path, libc::AT_REMOVEDIR) },
        failed => failed,
    }
}
