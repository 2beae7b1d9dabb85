//! Files on their way to their names, and what is left of those that never got there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

/// Longer than any put takes. Should one take longer all the same, it fails and its caller tries again.
pub(crate) const MIN_AGE: Duration = Duration::from_secs(3600);

/// Opens a new file beside `path`, of a name that nobody else has or had and that the store does not list.
pub(crate) fn create(path: &Path) -> io::Result<(File, PathBuf)> {
    loop {
        // Random: a process may get the id of a killed one, and its counter begins anew with it.
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
        let staged = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => return Ok((opened?, staged)),
        }
    }
}

/// Whether a file of this name is one that is being put: `object_store` has the same rule and refuses objects of
/// such names, its own uploads in parts excepted.
fn is_staged(name: &str) -> bool {
    let after = name.split_once('#').map(|(_, after)| after);
    after.is_some_and(|after| !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes staged files below `folder` that were last written `age` ago or longer. What cannot be read or removed
/// is litter that stays: it is said, and harmless.
pub(crate) fn collect(folder: &Path, age: Duration) -> usize {
    let (mut removed, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        match collect_in(&folder, age, &mut folders) {
            Ok(here) => removed += here,
            // Not made yet, or gone meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => warn!(folder = %folder.display(), %error, "cannot look for what killed writers left"),
        }
    }
    if removed > 0 {
        info!(folder = %folder.display(), removed, "removed what killed writers left");
    }
    removed
}

fn collect_in(folder: &Path, age: Duration, folders: &mut Vec<PathBuf>) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // No links are followed: they may lead out of the folder.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            folders.push(entry.path());
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_staged) && is_old(&entry, age)? {
            match fs::remove_file(entry.path()) {
                Ok(()) => removed += 1,
                // Another process collects, too.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

fn is_old(entry: &fs::DirEntry, age: Duration) -> io::Result<bool> {
    match entry.metadata() {
        // A time to come (the clock was set back) is not old.
        Ok(metadata) => {
            Ok(SystemTime::now().duration_since(metadata.modified()?).is_ok_and(|since_written| since_written >= age))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, path::Path as ObjectPath};

    use super::*;
    use crate::DurableFileSystem;

    fn written(path: &Path, ago: Duration) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }

    fn object(path: &Path) -> ObjectPath {
        ObjectPath::from_absolute_path(path).unwrap()
    }

    #[test]
    fn staged_files_are_new_and_of_different_names() {
        let dir = tempfile::tempdir().unwrap();
        let names: HashSet<_> = (0..100).map(|_| create(&dir.path().join("a.parquet")).unwrap().1).collect();
        assert_eq!(names.len(), 100);
        assert!(names.iter().all(|name| is_staged(name.file_name().unwrap().to_str().unwrap())));
        assert!(["a.parquet", "a#b", "a#", "a#1b", "1"].iter().all(|name| !is_staged(name)));
    }

    #[tokio::test]
    async fn left_overs_beside_a_name_hinder_no_put_and_are_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        let commit = dir.path().join("_delta_log/00000000000000000000.json");
        // As a killed process of this id would have left them under the names of old.
        for n in 0..50 {
            written(&PathBuf::from(format!("{}#{}{n:06}", commit.display(), std::process::id())), Duration::ZERO);
        }
        let store = DurableFileSystem::open(dir.path());
        store.put_opts(&object(&commit), PutPayload::from("one"), PutMode::Create.into()).await.unwrap();
        let again = store.put_opts(&object(&commit), PutPayload::from("two"), PutMode::Create.into()).await;
        assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })));
        assert_eq!(store.get(&object(&commit)).await.unwrap().bytes().await.unwrap(), "one");
        store.put(&object(&commit), PutPayload::from("three")).await.unwrap();
        assert_eq!(store.get(&object(&commit)).await.unwrap().bytes().await.unwrap(), "three");
        let listed = store.list_with_delimiter(Some(&object(commit.parent().unwrap()))).await.unwrap().objects;
        assert_eq!(listed.len(), 1);
        assert_eq!(fs::read_dir(commit.parent().unwrap()).unwrap().count(), 51, "the puts left nothing themselves");
    }

    #[test]
    fn opening_removes_old_left_overs_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (hour, day) = (MIN_AGE, Duration::from_secs(86_400));
        let gone = ["events/system=tank/a.parquet#17", "events/_delta_log/1.json#9", "b#0"].map(at);
        let kept = ["events/system=tank/a.parquet", "events/a#1x", "#", "c.json#"].map(at);
        gone.iter().for_each(|path| written(path, hour + Duration::from_secs(1)));
        kept.iter().for_each(|path| written(path, day));
        let young = at("events/_delta_log/2.json#9");
        written(&young, hour / 2);
        let elsewhere = tempfile::tempdir().unwrap();
        let linked = elsewhere.path().join("d#1");
        written(&linked, day);
        std::os::unix::fs::symlink(elsewhere.path(), at("link")).unwrap();

        let lake = crate::Lake::local(dir.path()).unwrap();
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(kept.iter().chain([&young, &linked]).all(|path| path.exists()));
        assert_eq!(collect(&at("not/there"), hour), 0);
        drop(lake);
    }
}
