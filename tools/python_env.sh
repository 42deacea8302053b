#!/bin/sh
# python_env.sh reference|robust: makes .venv-reference or .venv-robust, Python with what numbers are held against (5 GB each). Does
# nothing twice.
set -eu

cd "$(dirname "$0")/.."
case ${1:-} in
reference)
    requirements="torch==2.11.0 transformers==5.23.0 peft==0.21.2 gguf==0.19.0 numpy datasets==5.2.0"
    # For their chat templates alone, so without what they train with.
    alone="trl==1.16.0 axolotl==0.19.0"
    ;;
robust)
    requirements="torch==2.11.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 flwr==1.42.0"
    # Without the plots and data sets of its benchmark.
    alone="byzfl==0.0.11"
    ;;
*)
    echo "usage: python_env.sh reference|robust" >&2
    exit 2
    ;;
esac
environment=.venv-$1
[ "$(cat "$environment/stamp" 2>/dev/null)" != "$requirements $alone" ] || exit 0
tools/require.sh python3 pip venv
echo "fedward: installing $requirements $alone into $environment (5 GB)"
rm -rf "$environment"
python3 -m venv "$environment"
# shellcheck disable=SC2086 # one word for each requirement
"$environment/bin/pip" install --quiet --disable-pip-version-check --no-compile $requirements
# shellcheck disable=SC2086 # one word for each requirement
"$environment/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps $alone
echo "$requirements $alone" >"$environment/stamp"
