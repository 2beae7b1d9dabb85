//! The library for power cuts, loaded into ordinary programs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use flywheel_torture::cut::{Disk, Journals, Undone};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::process::Command;

/// `cargo build -p flywheel-powercut` puts it beside the programs.
fn shim() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.parent()?.join("libflywheel_powercut.so");
    if path.is_file() {
        return Some(path);
    }
    let required = std::env::var("FLYWHEEL_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word == "programs"));
    assert!(!required, "{} is not there; build it with `cargo build -p flywheel-powercut`", path.display());
    eprintln!("SKIPPED: {} is not there; build it with `cargo build -p flywheel-powercut`", path.display());
    None
}

/// A folder whose programs are watched.
struct World {
    _dir: tempfile::TempDir,
    root: PathBuf,
    journals: Journals,
}

impl World {
    fn new(shim: &Path, disk: Disk) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let journals = Journals::new(shim, &root, &dir.path().join("beside"), disk).unwrap();
        Self { root: root.canonicalize().unwrap(), _dir: dir, journals }
    }

    async fn runs(&mut self, words: &[&str]) {
        let mut command = Command::new(words[0]);
        self.journals.watch(command.args(&words[1..]).current_dir(&self.root)).unwrap();
        assert!(command.status().await.unwrap().success(), "{words:?}");
    }

    fn cut(&mut self, seed: u64) -> Undone {
        self.journals.cut(&mut ChaCha8Rng::seed_from_u64(seed)).unwrap()
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.root.join(name)).ok()
    }
}

#[tokio::test]
async fn bytes_that_were_synced_stay_and_later_ones_are_lost_torn_or_kept() {
    let Some(shim) = shim() else { return };
    let (mut lost, mut torn, mut kept) = (0, 0, 0);
    for seed in 0..60 {
        let mut world = World::new(&shim, Disk::Careless);
        world.runs(&["sh", "-c", "printf 'first ' > a"]).await;
        world.runs(&["sync", "a"]).await;
        world.runs(&["sync", "."]).await;
        world.runs(&["sh", "-c", "printf 'second' >> a"]).await;
        let undone = world.cut(seed);
        let text = world.text("a").expect("its name was synced");
        // A sector that is not there leaves zeroes, or the end of the file where it was.
        let rest = text.strip_prefix("first ").unwrap_or_else(|| panic!("{seed}: {text:?}"));
        match rest {
            "" => lost += 1,
            "second" => kept += 1,
            _ => torn += 1,
        }
        assert_eq!(undone.bytes > 0, rest != "second", "{seed}: {undone:?} {text:?}");
        assert_eq!(undone.names, 0, "{seed}: {undone:?}");
    }
    assert!(lost > 0 && torn > 0 && kept > 0, "{lost} lost, {torn} torn, {kept} kept");
}

#[tokio::test]
async fn bytes_that_were_overwritten_and_not_synced_are_the_old_ones_again() {
    let Some(shim) = shim() else { return };
    let mut old = 0;
    for seed in 0..20 {
        let mut world = World::new(&shim, Disk::Careless);
        fs::write(world.root.join("a"), "0123456789").unwrap();
        world.runs(&["sh", "-c", "printf XYZ 1<> a"]).await;
        assert_eq!(world.text("a").unwrap(), "XYZ3456789");
        world.cut(seed);
        let text = world.text("a").unwrap();
        assert!(text.ends_with("3456789") && text.len() == 10, "{seed}: {text}");
        old += usize::from(text == "0123456789");
    }
    assert!(old > 0, "nothing was ever taken back");
}

#[tokio::test]
async fn a_name_is_safe_once_its_folder_was_synced_and_not_before() {
    let Some(shim) = shim() else { return };
    let (mut forgotten, mut kept) = (0, 0);
    for seed in 0..40 {
        let mut world = World::new(&shim, Disk::Careless);
        fs::write(world.root.join("a"), "new").unwrap();
        fs::write(world.root.join("b"), "old").unwrap();
        world.runs(&["mv", "a", "b"]).await;
        // The file itself, not its folder.
        world.runs(&["sync", "b"]).await;
        if seed % 2 == 0 {
            world.runs(&["sync", "."]).await;
        }
        world.cut(seed);
        match (world.text("a").as_deref(), world.text("b").as_deref()) {
            (None, Some("new")) => kept += 1,
            (Some("new"), Some("old")) if seed % 2 == 1 => forgotten += 1,
            other => panic!("{seed}: {other:?}"),
        }
    }
    assert!(forgotten > 0 && kept > 20, "{forgotten} renames forgotten, {kept} kept");
}

#[tokio::test]
async fn what_was_removed_may_be_back_and_what_was_made_may_be_gone() {
    let Some(shim) = shim() else { return };
    let (mut back, mut gone) = (0, 0);
    for seed in 0..30 {
        let mut world = World::new(&shim, Disk::Careless);
        fs::write(world.root.join("a"), "here").unwrap();
        world.runs(&["rm", "a"]).await;
        world.runs(&["mkdir", "folder"]).await;
        world.cut(seed);
        back += usize::from(world.text("a").as_deref() == Some("here"));
        gone += usize::from(!world.root.join("folder").exists());
    }
    assert!(back > 0 && back < 30 && gone > 0 && gone < 30, "{back} files back, {gone} folders gone");
}

#[tokio::test]
async fn on_an_ordered_disk_any_sync_makes_earlier_names_safe() {
    let Some(shim) = shim() else { return };
    for seed in 0..20 {
        let mut world = World::new(&shim, Disk::Ordered);
        world.runs(&["sh", "-c", "printf whole > a"]).await;
        world.runs(&["sync", "a"]).await;
        world.cut(seed);
        assert_eq!(world.text("a").as_deref(), Some("whole"), "{seed}");
    }
}
