//! The newest version on this machine's disk, to start with while the server is away.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use flywheel_events::ModelRef;

/// Writes weights and, in front, the line with their name; whole or not at all.
pub(crate) fn write(path: &Path, model: &ModelRef, weights: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    fs::write(&part, [format!("{model}\n").as_bytes(), weights].concat())?;
    fs::rename(part, path)
}

/// What was kept; `None` if there is nothing that could be it.
pub(crate) fn read(path: &Path) -> io::Result<Option<(ModelRef, Vec<u8>)>> {
    let mut bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let Some(end) = bytes.iter().take(512).position(|&byte| byte == b'\n') else { return Ok(None) };
    let Some(model) = std::str::from_utf8(&bytes[..end]).ok().and_then(|name| name.parse().ok()) else {
        return Ok(None);
    };
    Ok(Some((model, bytes.split_off(end + 1))))
}
