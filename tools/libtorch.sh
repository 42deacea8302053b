#!/bin/sh
# Installs libtorch 2.11.0 (CPU) into .libtorch/ of this checkout: what cargo links against and binaries load.
# A LIBTORCH of your own wins: then nothing is installed. Safe to interrupt and to run again at any time.
set -eu

cd "$(dirname "$0")/.."
version=2.11.0
requirements=tools/libtorch-requirements.txt

fail() {
    echo "fedward: $*" >&2
    exit 1
}

is_libtorch() {
    [ -f "$1/lib/libtorch_cpu.so" ] && [ -f "$1/include/torch/csrc/api/include/torch/torch.h" ]
}

if [ -n "${LIBTORCH:-}" ]; then
    is_libtorch "$LIBTORCH" || fail "LIBTORCH=$LIBTORCH holds no libtorch (lib/libtorch_cpu.so and include/): correct it, or unset it to have one installed"
    echo "fedward: using your libtorch at $LIBTORCH"
    exit 0
fi

# Another list of wheels, or another number here for another way of unpacking them, has libtorch installed anew.
stamp="1 $(sha256sum "$requirements" | cut -d ' ' -f 1)"

is_installed() {
    is_libtorch .libtorch/torch && [ "$(cat .libtorch/stamp 2>/dev/null)" = "$stamp" ]
}

is_installed && [ ! -e .libtorch.tmp ] && exit 0
if [ -L .libtorch ]; then
    is_libtorch .libtorch/torch || fail ".libtorch is a link to something that holds no libtorch: remove it"
    exit 0
fi

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
    fail "libtorch is installed on x86_64 Linux only, this is $(uname -s) $(uname -m): set LIBTORCH to a libtorch $version of your own"

# Two installations at once would remove each other's temporary files.
if command -v flock >/dev/null; then
    exec 9>.libtorch.lock
    flock 9
fi
rm -rf .libtorch.tmp .libtorch.old
is_installed && exit 0

tools/require.sh python3 pip
free_kib=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ "$free_kib" -gt 3500000 ] || fail "installing libtorch needs 3.5 GB of disk for a moment (0.6 GB stay), found $((free_kib / 1000)) MB: free some space"

trap 'rm -rf .libtorch.tmp' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -p .libtorch.tmp/tmp

# pip takes a wheel whose platform is named exactly, so every glibc up to the newest wheel's is named.
platforms="--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64"
minor=5
while [ $minor -le 28 ]; do
    platforms="$platforms --platform manylinux_2_${minor}_x86_64"
    minor=$((minor + 1))
done

echo "fedward: installing libtorch $version into .libtorch (544 MB to download)"
# pip unpacks in TMPDIR first, and /tmp may be small. The settings switch off what a user's pip.conf may hold against --target.
# shellcheck disable=SC2086 # the platforms are separate words
TMPDIR=$PWD/.libtorch.tmp/tmp PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_NO_WARN_SCRIPT_LOCATION=1 PIP_ROOT_USER_ACTION=ignore \
    python3 -m pip install --quiet --disable-pip-version-check --target .libtorch.tmp/wheels --no-deps --no-compile \
    --only-binary=:all: --require-hashes --ignore-requires-python --python-version 3.12 --implementation cp $platforms \
    --requirement "$requirements" 9>&- ||
    fail "pip could not install libtorch: see its message above, then run again"

# Of 2.3 GB just the headers, the CPU libraries and their licences are of use.
wheels=.libtorch.tmp/wheels
tree=.libtorch.tmp/tree
mkdir -p $tree/torch/lib $tree/nvidia/cu13/lib
mv $wheels/torch/include $tree/torch/
for library in libc10.so libgomp.so.1 libtorch.so libtorch_cpu.so; do
    mv $wheels/torch/lib/$library $tree/torch/lib/
done
for library in libcudart.so.13 libcupti.so.13; do
    mv $wheels/nvidia/cu13/lib/$library $tree/nvidia/cu13/lib/
done
mv $wheels/*.dist-info $tree/
# torch-sys compares it with the version that it was made for; the wheel lacks it.
echo $version >$tree/torch/build-version
echo "$stamp" >$tree/stamp
is_libtorch $tree/torch || fail "the installed libtorch is incomplete: run again, and report this if it stays so"

[ ! -e .libtorch ] || mv .libtorch .libtorch.old
mv $tree .libtorch
rm -rf .libtorch.old
echo "fedward: libtorch $version is in .libtorch ($(du -sm .libtorch | cut -f 1) MB)"
