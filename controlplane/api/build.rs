//! Tells programs with which profile they are built: cargo itself says no more than whether it is like `dev` or like `release`.

use std::path::Path;

fn main() {
    // TARGET/<folder of the profile>/build/...
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let build = Path::new(&out)
        .ancestors()
        .find(|path| path.ends_with("build"));
    let folder = build.and_then(Path::parent).and_then(Path::file_name);
    let profile = match folder.and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => "unknown",
    };
    println!("cargo::rustc-env=MILLRACE_PROFILE={profile}");
    println!("cargo::rerun-if-changed=build.rs");
}
