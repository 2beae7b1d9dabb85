//! Sizes of files.

use libc::{AT_FDCWD, c_char, c_int, off_t};

use crate::{
    descriptors::{close, forget, inode_and_size, is_watched},
    format::Kind,
    journal::watch,
    paths::keeping_errno,
    writes::{contents, settled},
};

// SAFETY of all below: they do what the C library's functions of the same name do, with the caller's arguments.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    let change = || unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) };
    let Some(watch) = watch().filter(|_| is_watched(fd)) else { return change() as c_int };
    let journal = watch.lock();
    let (inode, size) = inode_and_size(fd);
    let to = length.max(0) as u64;
    let cut = contents(fd, to, size.saturating_sub(to));
    journal.record(Kind::Size, inode, (to, size), &cut, &[]);
    settled(&journal, change()) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    unsafe { ftruncate64(fd, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate64(path: *const c_char, length: off_t) -> c_int {
    unsafe {
        let fd = libc::syscall(libc::SYS_openat, AT_FDCWD, path, libc::O_RDWR | libc::O_CLOEXEC, 0) as c_int;
        if fd < 0 {
            return fd;
        }
        forget(fd);
        let done = ftruncate64(fd, length);
        keeping_errno(|| close(fd));
        done
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate(path: *const c_char, length: off_t) -> c_int {
    unsafe { truncate64(path, length) }
}
