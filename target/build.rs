//! Stops a build whose output lies inside this crate.
//!
//! The crate's folder is named `target`, cargo's default build folder. A build
//! started without the workspace's `.cargo/config.toml` would fill it with
//! build products, and the next `cargo clean` would delete the sources.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var_os("OUT_DIR");
    let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR");
    let (Some(out), Some(crate_dir)) = (out, crate_dir) else {
        println!("cargo::error=cargo did not set OUT_DIR and CARGO_MANIFEST_DIR");
        return;
    };
    if Path::new(&out).starts_with(&crate_dir) {
        println!(
            "cargo::error=the build folder lies inside the crate `target/`, where `cargo clean` \
             would delete the sources; run cargo from the workspace root (its .cargo/config.toml \
             sets build.target-dir) or set CARGO_TARGET_DIR to another folder"
        );
    }
}
