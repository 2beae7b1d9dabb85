//! T21 for checkpoints on the trainer's own disk: a write that the system cuts short, wherever that is. It is named, the
//! checkpoint before counts, and the next one is taken when there is space.
//!
//! Alone in its program: the limit on how large a file may grow is one of the whole process.

mod support;

use flywheel_train::{Checkpoints, Trainer};
use support::{Linear, SHAPE, config, experience, game};

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

#[test]
fn a_checkpoint_that_finds_no_space_is_named_and_the_one_before_counts() {
    let dir = tempfile::tempdir().unwrap();
    let config = config();
    let mut trainer = Trainer::new(config.clone(), SHAPE, Linear::new(&config.dqn(SHAPE)), experience);
    for row in (0..20).flat_map(|n| game(&format!("g-{n}"), 25)) {
        trainer.load(&row).unwrap();
    }
    let step = |trainer: &mut Trainer<Linear>| while trainer.step().unwrap().is_none() {};
    let mut checkpoints = Checkpoints::open(dir.path()).unwrap();
    step(&mut trainer);
    let mut last = checkpoints.save(&trainer, None).unwrap().state.steps;
    let files = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let sizes = std::fs::read_dir(files).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let largest = sizes.max().unwrap();
    let mut refused = 0;
    for limit in (0..12).map(|share| largest * share / 9) {
        let _unlimited = Unlimited;
        step(&mut trainer);
        files_end_at(limit);
        let saved = checkpoints.save(&trainer, None);
        files_end_at(libc::RLIM_INFINITY);
        match saved {
            Ok(saved) => last = saved.state.steps,
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("File too large") && error.contains("the one before is kept"), "{error}");
                refused += 1;
            }
        }
        // As the next trainer finds it.
        let (newest, passed) = Checkpoints::open(dir.path()).unwrap().newest().unwrap();
        assert_eq!((newest.unwrap().state.steps, passed.len()), (last, 0), "files end at {limit}");
    }
    assert!(refused > 3 && last > 3, "{refused} refused, the last one at step {last}");
}
