//! Tells the linker where libtorch is, so that binaries and tests find it at run time without `LD_LIBRARY_PATH`, and names
//! the code that computes, so that work which other code left in a cache is not taken for its own.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
};

/// What the bytes of a starting adapter or guard depend on, besides the settings.
const COMPUTES: [&str; 9] = [
    "Cargo.lock",
    "actors/src",
    "native/src",
    "src/data",
    "src/lora",
    "src/model",
    "src/safety",
    "src/train",
    "src/wiring",
];

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}");
        tell_dependents(&libtorch);
    }
    // A binary in target/<profile>/ also finds the libtorch of its own checkout after the checkout has moved.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../../.libtorch/torch/lib");

    let mut hasher = DefaultHasher::new();
    // A package has its lock file, and the workspace's other members by version.
    for path in COMPUTES.map(Path::new).into_iter().filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
        hash(path, &mut hasher).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    }
    println!("cargo:rustc-env=FEDWARD_CODE={:016x}", hasher.finish());
}

/// Lets crates that depend on this one find libtorch. Arguments of the linker stop here, so that
///
/// - `cargo run` and `cargo test` search folders that are linked from, but only below `target/`: there is a link to libtorch;
/// - a binary that is started otherwise needs a build script of its own, which finds the folder as `DEP_FEDWARD_LIBTORCH_LIB`:
///   `println!("cargo:rustc-link-arg=-Wl,-rpath,{}", std::env::var("DEP_FEDWARD_LIBTORCH_LIB").unwrap());`
fn tell_dependents(libtorch: &str) {
    println!("cargo:libtorch_lib={libtorch}");
    let Some(link) = std::env::var_os("OUT_DIR").map(|out| Path::new(&out).join("libtorch")) else { return };
    let _ = fs::remove_file(&link);
    if std::os::unix::fs::symlink(libtorch, &link).is_ok() {
        println!("cargo:rustc-link-search=native={}", link.display());
    }
}

/// Hashes a file, or the Rust and C++ files of a folder in the order of their names; editors leave others there.
fn hash(path: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    if !path.is_dir() {
        path.hash(hasher);
        fs::read(path)?.hash(hasher);
        return Ok(());
    }
    let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.retain(|entry| {
        entry.is_dir() || entry.is_file() && entry.extension().is_some_and(|found| found == "rs" || found == "cpp")
    });
    entries.sort();
    entries.iter().try_for_each(|entry| hash(entry, hasher))
}
