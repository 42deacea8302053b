#!/bin/sh
# test.sh [CARGO-FLAG…]: runs all tests of the workspace and ends with one line that counts them.
set -eu

cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log" "$log.status"' EXIT

# A pipe hides the exit status of its first command, so that goes through a file.
{
    status=0
    ${CARGO:-cargo} test --workspace --no-fail-fast "$@" || status=$?
    echo $status >"$log.status"
} 2>&1 | tee "$log"

awk '
    /^test result:/ {
        binaries++
        for (i = 1; i <= NF; i++) {
            if ($i == "passed;") passed += $(i - 1)
            if ($i == "failed;") failed += $(i - 1)
            if ($i == "ignored;") ignored += $(i - 1)
        }
    }
    END { printf "tests: %d passed, %d failed, %d ignored in %d test binaries\n", passed, failed, ignored, binaries }
' "$log"
exit "$(cat "$log.status")"
