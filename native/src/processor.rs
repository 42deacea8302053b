//! What of the processor decides which of several kernels compute, and with that the last bits of results on the CPU.

use std::{
    ffi::{CStr, c_char, c_int},
    fs,
};

use crate::kernels;

/// Variables that have libraries use other instructions than the processor would have them.
const CHOSEN_BY: [&str; 3] = ["MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"];

/// What the processor can that libraries choose their kernels by, as Linux calls it.
const ABILITIES: [&str; 16] = [
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
];

/// What decides on kernels, each by a name and a value in words.
///
/// - `kernels`: whether this crate's compute, or leave everything to libtorch;
/// - `libtorch`: the instructions of libtorch's own kernels;
/// - `mkl`: those of matrix products; `unknown` where libtorch has no MKL;
/// - `processor`: maker and model, by which MKL chooses among kernels of the same instructions;
/// - `abilities`: what oneDNN chooses by;
/// - `chosen`: what variables of the environment say otherwise.
pub fn instructions() -> [(&'static str, String); 6] {
    let described = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let lines = described.lines().take_while(|line| !line.is_empty());
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map_or("unknown", |(_, value)| value.trim())
    };
    let flags = field("flags");
    let abilities: Vec<_> = ABILITIES.into_iter().filter(|it| flags.split(' ').any(|flag| flag == *it)).collect();
    let chosen: Vec<_> =
        CHOSEN_BY.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))).collect();
    [
        ("kernels", if kernels::available() { "avx512f, avx512bf16" } else { "none" }.to_owned()),
        ("libtorch", libtorch_capability()),
        ("mkl", mkl_instructions().unwrap_or_else(|| "unknown".to_owned())),
        ("processor", format!("{} family {} model {}", field("vendor_id"), field("cpu family"), field("model"))),
        ("abilities", abilities.join(" ")),
        ("chosen", chosen.join(" ")),
    ]
}

unsafe extern "C" {
    fn fedward_cpu_capability(name: *mut c_char, length: usize);
}

/// The instructions that libtorch's kernels are chosen for.
fn libtorch_capability() -> String {
    let mut name = [0; 64];
    // SAFETY: at most as many bytes as there are are written, the last of them a zero.
    unsafe { fedward_cpu_capability(name.as_mut_ptr().cast(), name.len()) };
    CStr::from_bytes_until_nul(&name).map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// MKL's `MKLVersion`.
#[repr(C)]
struct MklVersion {
    numbers: [c_int; 3],
    status: *const c_char,
    build: *const c_char,
    processor: *const c_char,
    platform: *const c_char,
}

/// What MKL says that it computes with, if libtorch has it: `MKL_ENABLE_INSTRUCTIONS` and `MKL_CBWR` taken into account.
fn mkl_instructions() -> Option<String> {
    use libloading::os::unix::{Library, Symbol};
    let program = Library::this();
    let mut version = MklVersion {
        numbers: [0; 3],
        status: std::ptr::null(),
        build: std::ptr::null(),
        processor: std::ptr::null(),
        platform: std::ptr::null(),
    };
    // MKL's documented name, and the one that it has where it is a part of libtorch.
    let mut names = [c"MKL_Get_Version", c"mkl_serv_get_version"].into_iter();
    names.find_map(|name| {
        // SAFETY: where MKL has a function of one of these names, it is this one.
        let get_version: Symbol<unsafe extern "C" fn(*mut MklVersion)> =
            unsafe { program.get(name.to_bytes_with_nul()) }.ok()?;
        // SAFETY: the function fills in MKL's structure, which ours is laid out as.
        unsafe { get_version(&raw mut version) };
        let is_known = !version.processor.is_null();
        // SAFETY: what it has filled in is a constant string of MKL's.
        is_known.then(|| unsafe { CStr::from_ptr(version.processor) }.to_string_lossy().into_owned())
    })
}

/// Lets a write beyond the largest size that files may have (`ulimit -f`) fail with an error, as one to a full disk does. Unless
/// it is told to, the system ends the process without a word.
pub fn fail_writes_beyond_limit() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_on_kernels_is_known() {
        let found = instructions();
        let of = |name: &str| &found.iter().find(|(key, _)| *key == name).unwrap().1;
        assert_eq!(of("kernels") != "none", kernels::available());
        let capabilities = ["DEFAULT", "NO AVX", "AVX", "AVX2", "AVX512"];
        assert!(capabilities.contains(&of("libtorch").as_str()), "{found:?}");
        assert!(of("mkl") == "unknown" || of("mkl").contains("Intel"), "{found:?}");
        assert_eq!(found, instructions());
    }
}
