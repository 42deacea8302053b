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
