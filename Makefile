# One command each for what people do with this checkout. Every target sets up what it needs, may be interrupted at any
# point and run again, and does nothing twice.

CARGO ?= cargo
SCENARIO ?= scenarios/quickstart.toml
# More arguments for `fedward run`, for example: make demo RUN_ARGS="--metrics 127.0.0.1:9464"
RUN_ARGS ?=
# More arguments for the bench: --quick, --rows FILE, --only sft,grouped,sft-f32,round,generate,score,
# score-grouped,start.
BENCH_ARGS ?=
# More arguments for the kill check: --strategy fedavg, --do kill,half,eio,full, --every N, --twice.
KILL_ARGS ?=
# A demo that was interrupted begins afresh, unless somebody says --resume.
AGAIN = $(if $(findstring --resume,$(RUN_ARGS)),,--overwrite)
# A demo of a minute or two: the same scenario, one round.
SHORT_ARGS ?= --set federation.rounds=1

# One profile for demo, tests and checks, so that the dependencies are compiled once.
PROFILE := --release --locked
FEDWARD := $(or $(CARGO_TARGET_DIR),target)/release/fedward
DEMO_CATALOGUE := smollm2-135m-instruct advbench scored-responses do-not-answer
# Models, data and what scenarios share are kept in the checkout, for demo and tests alike.
export FEDWARD_HOME ?= $(CURDIR)/.fedward
# libtorch's OpenMP threads read this when the program is loaded.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help prepare demo demo-short test build setup libtorch fetch lint doc reference bench bench-scale bench-aggregation bench-settings peft-check judge-check kill-check grafana-check dashboard-check clean distclean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: prepare ## Set up everything and run the quickstart scenario
	$(FEDWARD) run $(SCENARIO) $(AGAIN) $(RUN_ARGS)

demo-short: prepare ## The quickstart scenario with one round
	$(FEDWARD) run $(SCENARIO) $(AGAIN) $(SHORT_ARGS) $(RUN_ARGS)

prepare: fetch ## Set up everything, and make the starting adapter and guard that SCENARIO needs
	$(FEDWARD) prepare $(SCENARIO)

# The tests' build also makes the binary; a build of its own would compile a dozen crates twice, with other features.
test: setup ## Set up everything and run all tests
	$(CARGO) build $(PROFILE) --workspace --bins --tests
	$(FEDWARD) fetch $(DEMO_CATALOGUE)
	@tools/test.sh $(PROFILE)

build: setup ## Compile target/release/fedward
	$(CARGO) build $(PROFILE)

setup: libtorch ## Check the tools, install libtorch

libtorch: ## Install libtorch into .libtorch (a LIBTORCH of your own wins)
	@tools/require.sh cargo cc c++
	@tools/libtorch.sh

fetch: build ## Fetch the model and the data that demo and tests use
	$(FEDWARD) fetch $(DEMO_CATALOGUE)

lint: setup ## Formatting, clippy and, where shellcheck is installed, the shell scripts
	$(CARGO) fmt --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck tools/*.sh .ci/run; \
	else echo "shellcheck is not installed: the shell scripts were not checked"; fi

dashboard-check: ## Type-check the dashboards against Grafana's schema (needs npm)
	@tools/require.sh npm
	cd tools/dashboard-check && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent check

doc: setup ## API documentation in target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(PROFILE) --workspace --no-deps

reference: fetch ## Compute the reference numbers anew with transformers and peft (5 GB into .venv-reference)
	@tools/reference.sh

bench: fetch ## Measure speed and memory beside transformers and peft (5 GB into .venv-reference; BENCH_ARGS=--quick takes minutes)
	@tools/bench.sh $(FEDWARD) $(BENCH_ARGS)

bench-scale: fetch ## Measure what many clients cost, beside Flower's simulation (430 MB into .venv-flower; BENCH_ARGS=--quick takes minutes)
	@tools/bench_scale.sh $(FEDWARD) $(BENCH_ARGS)

bench-aggregation: setup ## Measure robust aggregation beside ByzFL (5 GB into .venv-robust and of memory; BENCH_ARGS="--updates 40" is smaller)
	@tools/bench_aggregation.sh $(BENCH_ARGS)

bench-settings: fetch ## Measure what settings that save memory cost (BENCH_ARGS="--rows FILE" for rows of your own)
	python3 tests/bench/settings.py $(FEDWARD) runs/bench $(BENCH_ARGS)

peft-check: setup ## Run the tests that speak to an installed peft, transformers, trl and axolotl (5 GB into .venv-reference)
	@tools/peft_check.sh $(PROFILE)

judge-check: fetch ## Have a real server judge MT-Bench and teach Constitutional AI (110 MB into .venv-judge)
	@tools/judge_check.sh $(FEDWARD)

kill-check: fetch ## Kill a tiny run at every event of its files, or have the event fail, and resume it (half an hour; KILL_ARGS="--every 10" takes minutes)
	python3 tests/kill/kill_check.py $(FEDWARD) $(KILL_ARGS)

grafana-check: build ## Check dashboards and alerts on a synthetic run (needs Debian's prometheus)
	@tools/check_grafana.sh --probe

clean: ## Remove what was compiled
	$(CARGO) clean

distclean: clean ## Remove what was compiled and what was installed, but no runs and no fetched data
	rm -rf .libtorch .libtorch.* .venv-reference .venv-flower .venv-judge .venv-robust
