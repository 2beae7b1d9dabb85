//! The trainer finds libtorch where it was linked from, and knows which commit it was built from.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-env-changed=FLYWHEEL_COMMIT");
    // Where the sources come without their history, such as into a container's build, somebody may say it.
    let told = std::env::var("FLYWHEEL_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let commit = told.or(commit).unwrap_or_default();
    println!("cargo:rustc-env=FLYWHEEL_COMMIT={commit}");
}
