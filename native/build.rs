//! Compiles what calls libtorch's C++ interface, and tells the linker where libtorch is, so that the tests find it at run
//! time without `LD_LIBRARY_PATH`.

use std::{env, path::PathBuf};

const CALLS: &str = "src/libtorch.cpp";

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    println!("cargo:rerun-if-changed={CALLS}");
    // Absent with tch's feature `doc-only`, which links nothing.
    let Ok(libraries) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libraries}");
    // Where torch-sys looks, too: Python's libtorch has its headers beside it.
    let stated = ["LIBTORCH_INCLUDE", "LIBTORCH"].into_iter().find_map(env::var_os);
    let stated = stated.filter(|_| env::var_os("LIBTORCH_USE_PYTORCH").is_none());
    let include = stated.map_or_else(|| PathBuf::from(&libraries).join(".."), PathBuf::from).join("include");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    // As torch-sys compiles its own.
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .include(include)
        .flag("-std=c++17")
        .flag(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"))
        .file(CALLS)
        .compile("fedward_libtorch");
}
