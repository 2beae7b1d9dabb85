//! T21 for tables: a disk that is full or broken at any write. The error names it, readers see whole commits, and the same
//! writer goes on once there is space.
//!
//! The last test limits how large files of this process may grow; no other here writes one.

mod common;

use std::sync::Arc;

use common::*;
use flywheel_lake::{CompactOptions, Lake, LakeError, LakeErrorKind, Table};

const ERRORS: [(i32, &str); 2] = [(libc::ENOSPC, "No space left on device"), (libc::EIO, "Input/output error")];
const MERGE: CompactOptions = CompactOptions { target_bytes: 1 << 20, min_files: 4 };

/// Nine commits, so that the next one brings a checkpoint.
async fn begun(store: &Arc<dyn object_store::ObjectStore>) -> Table {
    let table = events(&lake_on(store));
    for n in 0..9u64 {
        table.append(vec![rows("g", n, n + 1, NOON)], &[("land".into(), n as i64)]).await.unwrap();
    }
    table
}

async fn turn(table: &Table) -> Result<(), LakeError> {
    table.append(vec![rows("g", 9, 12, NOON)], &[("land".into(), 11)]).await?;
    table.compact_with(&MERGE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_space_or_an_error_of_the_disk_at_any_put_is_named_shows_nothing_half_and_passes() {
    let counted = memory();
    let (store, faults) = faulty(&counted);
    let table = begun(&store).await;
    faults.puts_fail(u64::MAX..u64::MAX, libc::ENOSPC);
    turn(&table).await.unwrap();
    let n_puts = faults.puts();
    assert!(n_puts >= 5, "a file, its commit, a checkpoint, a merged file, its commit: {n_puts}");
    let (mut refused, mut unharmed) = (0, 0);
    for (os_error, words) in ERRORS {
        for at in 1..=n_puts {
            let inner = memory();
            let (store, faults) = faulty(&inner);
            let table = begun(&store).await;
            // A full disk stays full, and a broken sector is one.
            let until = if os_error == libc::ENOSPC { u64::MAX } else { at + 1 };
            faults.puts_fail(at..until, os_error);
            let ended = turn(&table).await;
            // Whoever reads meanwhile: all of a commit or nothing.
            let found = contents(&events(&lake_on(&inner))).await;
            match &ended {
                Err(error) => {
                    assert_eq!(error.kind(), LakeErrorKind::Unavailable, "put {at}: {error}");
                    assert!(error.to_string().contains(words) && error.to_string().contains("events"), "{error}");
                    assert!([9, 12].contains(&found.len()), "put {at}: {} rows", found.len());
                    refused += 1;
                }
                // A commit is tried again, and a checkpoint that cannot be written costs the next reader some time.
                Ok(()) => {
                    assert_eq!(found.len(), 12, "put {at}");
                    unharmed += 1;
                }
            }
            assert_eq!(found, expected("g", 0, found.len() as u64), "put {at}");
            faults.heal();
            turn(&table).await.unwrap_or_else(|error| panic!("put {at}, space again: {error}"));
            for table in [table, events(&lake_on(&inner))] {
                assert_eq!(contents(&table).await, expected("g", 0, 12), "put {at}");
                assert_eq!(table.position("land").await.unwrap(), Some(11));
                for file in table.files().await.unwrap() {
                    assert!(table.verify_file(&file).await.unwrap());
                }
            }
        }
    }
    assert!(refused >= n_puts + 2 && unharmed >= 3, "{refused} refused, {unharmed} unharmed");
}

/// From now on no file of this process grows beyond so many bytes; the write that would is cut there and fails.
fn files_end_at(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: both take plain values; without its signal the limit is an error of the write and nothing else.
    let done = unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Ends the limit, however the test ends.
struct Unlimited;

impl Drop for Unlimited {
    fn drop(&mut self) {
        files_end_at(libc::RLIM_INFINITY);
    }
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(names(&path)) } else { found.push(path.display().to_string()) }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_the_system_cuts_short_leaves_no_file_behind_and_no_row_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let table = events(&Lake::local(dir.path()).unwrap());
    table.append(vec![rows("g", 0, 50, NOON)], &[]).await.unwrap();
    let (before, largest) = (names(dir.path()), table.files().await.unwrap()[0].bytes);
    let (mut next, mut refused) = (50, 0);
    for share in 0..12 {
        let _unlimited = Unlimited;
        files_end_at(largest * share / 8);
        match table.append(vec![rows("g", next, next + 50, NOON)], &[]).await {
            Ok(_) => next += 50,
            Err(error) => {
                files_end_at(libc::RLIM_INFINITY);
                assert_eq!(error.kind(), LakeErrorKind::Unavailable, "{error}");
                assert!(error.to_string().contains("File too large"), "{error}");
                // A file without a commit is for the vacuum; one that was cut is not there at all.
                let more: Vec<_> = names(dir.path()).into_iter().filter(|name| !before.contains(name)).collect();
                assert!(more.iter().all(|name| !name.contains('#')), "{more:?}");
                refused += 1;
            }
        }
        files_end_at(libc::RLIM_INFINITY);
        assert_eq!(contents(&events(&Lake::local(dir.path()).unwrap())).await, expected("g", 0, next));
    }
    assert!(refused > 2 && next > 50, "{refused} refused, {next} rows");
}
