//! Absolute paths, and what lies there.

use std::ffi::{CStr, CString};

use libc::{AT_FDCWD, c_char, c_int};

/// Of an open file, as the kernel knows it.
pub fn of_descriptor(fd: c_int) -> Option<Vec<u8>> {
    let link = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    let mut path = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as is said.
    let length = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    path.truncate(usize::try_from(length).ok()?);
    Some(path)
}

/// `path` seen from the folder `at`, without following links.
///
/// # Safety
/// `path` ends with a nul.
pub unsafe fn absolute(at: c_int, path: *const c_char) -> Option<CString> {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.starts_with(b"/") {
        return CString::new(path).ok();
    }
    let base = if at == AT_FDCWD {
        let mut base = vec![0_u8; libc::PATH_MAX as usize];
        // SAFETY: the buffer is as long as is said.
        let found = unsafe { libc::getcwd(base.as_mut_ptr().cast(), base.len()) };
        if found.is_null() {
            return None;
        }
        base.truncate(base.iter().position(|byte| *byte == 0)?);
        base
    } else {
        of_descriptor(at)?
    };
    let path = path.strip_prefix(b"./").unwrap_or(path);
    CString::new([&base[..], b"/", path].concat()).ok()
}

/// What is at a path; `None` if nothing is.
pub fn status(path: &CStr) -> Option<libc::stat> {
    // SAFETY: all zeroes is a valid `stat`, the path ends with a nul.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::lstat(path.as_ptr(), &mut stat) == 0).then_some(stat)
    }
}

/// Inode of the folder that a path lies in; 0 if there is none.
pub fn folder_of(path: &CStr) -> u64 {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0).max(1);
    CString::new(&bytes[..end]).ok().and_then(|folder| status(&folder)).map_or(0, |stat| stat.st_ino)
}

/// Runs `work` and leaves `errno` as it was before.
pub fn keeping_errno<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the address is this thread's for ever.
    let errno = unsafe { *libc::__errno_location() };
    let result = work();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    result
}
