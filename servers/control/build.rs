//! Makes sure that the folder to embed exists, so that the crate builds without Node, and asks cargo to build
//! again when the page was built anew.

use std::path::Path;

fn main() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dashboards/web/dist");
    // An absent path would make cargo rebuild this crate each time; an empty folder means "use the stub".
    if let Err(error) = std::fs::create_dir_all(&dist) {
        println!("cargo:warning=cannot create {} ({error}); create it to build without the page", dist.display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", dist.display());
    println!("cargo:rerun-if-changed=stub");
}
