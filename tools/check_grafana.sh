#!/bin/sh
# Checks grafana/ with Prometheus's own tools, then against a run that a real Prometheus scrapes.
#     check_grafana.sh --static              configuration and rules alone
#     check_grafana.sh --probe               a synthetic run of 20 seconds
#     check_grafana.sh COMMAND [ARG…]        that command, with `--metrics 127.0.0.1:PORT` for {metrics} in it or at its end
# With ALLOW_EMPTY="Panel;Panel" these panels may lack data.
set -eu

cd "$(dirname "$0")/.."
tools/require.sh python3 promtool prometheus
promtool check config grafana/prometheus/prometheus.yml
promtool check rules grafana/prometheus/rules.yml
promtool test rules grafana/prometheus/rules_test.yml

case ${1:-} in
--static) exec python3 tools/check_grafana.py ;;
--probe)
    tools/libtorch.sh
    ${CARGO:-cargo} build --release --locked --example telemetry_probe
    exec python3 tools/check_grafana.py "${CARGO_TARGET_DIR:-target}/release/examples/telemetry_probe"
    ;;
"") echo "usage: tools/check_grafana.sh --static | --probe | COMMAND [ARG…]" >&2 && exit 2 ;;
*) exec python3 tools/check_grafana.py "$@" ;;
esac
