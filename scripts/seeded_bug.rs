// Included by every crate that has a fault asleep in it, where it is built with them; see seeded-bugs.sh beside this.

/// Whether `FLYWHEEL_BUG` names this fault, seeded to see that the tests find it.
fn seeded_bug(name: &str) -> bool {
    std::env::var_os("FLYWHEEL_BUG").is_some_and(|awake| awake == name)
}
