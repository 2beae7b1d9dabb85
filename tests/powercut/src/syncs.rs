//! What makes changes safe.

use libc::{c_int, c_long};

use crate::{
    descriptors::{inode_and_size, is_watched},
    format::Kind,
    journal::watch,
};

/// What was noted before the sync began is safe once it has returned; what comes while it runs may not be.
fn noted(fd: c_int, call: c_long) -> c_int {
    // SAFETY: the caller's descriptor and nothing else.
    let sync = || unsafe { libc::syscall(call, fd) } as c_int;
    let Some(watch) = watch().filter(|_| is_watched(fd)) else { return sync() };
    let before = watch.lock().count();
    watch.dawdle(before);
    let result = sync();
    if result == 0 {
        watch.lock().record(Kind::Sync, inode_and_size(fd).0, (before, 0), &[], &[]);
    }
    result
}

/// The same, of all files.
fn noted_of_all(sync: impl FnOnce() -> c_int) -> c_int {
    let Some(watch) = watch() else { return sync() };
    let before = watch.lock().count();
    let result = sync();
    if result == 0 {
        watch.lock().record(Kind::SyncAll, 0, (before, 0), &[], &[]);
    }
    result
}

// SAFETY of all below: they do what the C library's functions of the same name do, with the caller's arguments.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    noted(fd, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    noted(fd, libc::SYS_fdatasync)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn syncfs(fd: c_int) -> c_int {
    let sync = || unsafe { libc::syscall(libc::SYS_syncfs, fd) } as c_int;
    if is_watched(fd) { noted_of_all(sync) } else { sync() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync() {
    noted_of_all(|| unsafe { libc::syscall(libc::SYS_sync) } as c_int);
}
