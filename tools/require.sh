#!/bin/sh
# require.sh TOOL…: succeeds if all tools are there, else says in one line what is missing and how to install it.
set -eu

missing=
packages=
hints=

# miss NAME [PACKAGE]
miss() {
    missing="${missing:+$missing, }$1"
    [ -z "${2:-}" ] || packages="$packages$2
"
}

rust_hint="install Rust with rustup (https://rustup.rs; on Debian 13 and Ubuntu 24.04 or newer: apt install rustup && rustup default stable)"

for tool in "$@"; do
    case $tool in
    cargo)
        wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml" | head -n 1)
        if ! found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || [ -z "$found" ]; then
            miss cargo
            hints="; $rust_hint"
        elif [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
            miss "cargo $wanted or newer (found $found)"
            hints="; rustup update stable, or $rust_hint"
        fi
        ;;
    cc) command -v cc >/dev/null || miss "a C compiler" gcc ;;
    c++) command -v c++ >/dev/null || miss g++ g++ ;;
    python3) command -v python3 >/dev/null || miss python3 python3 ;;
    pip) { command -v python3 && python3 -m pip --version; } >/dev/null 2>&1 || miss "pip for python3" python3-pip ;;
    venv) { command -v python3 && python3 -c 'import ensurepip, venv'; } >/dev/null 2>&1 || miss "venv for python3" python3-venv ;;
    prometheus | promtool) command -v "$tool" >/dev/null || miss "$tool" prometheus ;;
    *) command -v "$tool" >/dev/null || miss "$tool" "$tool" ;;
    esac
done

[ -n "$missing" ] || exit 0
# One package may bring several tools.
packages=$(printf '%s' "$packages" | sort -u | tr '\n' ' ')
apt=${packages:+"; apt install ${packages% }"}
echo "fedward: missing $missing$apt$hints" >&2
exit 1
