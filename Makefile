# Pollux. `make help` lists what there is; README.md says what it is for.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Everything that is fetched, and the programs and images of the testbed, so that a fresh clone finds them again. Not what
# cargo builds: it tells fresh from stale by the files' times, and takes another clone's binaries for its own.
export POLLUX_CACHE ?= $(HOME)/.cache/pollux
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# dev: what the tests run, and so what `make demo` runs. release: what is published.
export PROFILE ?= dev
# 1.36 or 1.33; the exact versions are in e2e/testbed/versions.toml.
export KUBERNETES ?= 1.36
NODES ?= 2
CLUSTER ?= pollux
export CARGO_TERM_COLOR ?= auto

STAGE := .ci/stage
NEED := .ci/need
DENY := $(POLLUX_CACHE)/tools/bin/cargo-deny
DENY_VERSION := 0.20.2
# One build for everything: cargo picks a dependency's features anew for every selection of packages, and would compile
# hundreds of crates again for each.
BUILD := cargo build --workspace --all-targets $(if $(filter release,$(PROFILE)),--release)
BIN := $(CARGO_TARGET_DIR)/$(shell rustc -vV | sed -n 's/^host: //p')/$(if $(filter release,$(PROFILE)),release,debug)
TESTBED := $(BIN)/pollux-testbed
# A cluster of the user's is touched only when make is told of it (make demo KUBECONFIG=...): many have one in their environment
# and do not expect a test to use it.
ifeq ($(origin KUBECONFIG),command line)
YOURS := yes
SCENARIOS := $(BIN)/pollux-scenarios --kubeconfig $(KUBECONFIG) $(if $(IMAGE_REGISTRY),--registry $(IMAGE_REGISTRY))
else
SCENARIOS := $(BIN)/pollux-scenarios
endif
TESTBED_TESTS := cargo test --quiet --workspace --test cluster -- --ignored
IMAGES := e2e/images/build.sh --no-cargo $(if $(YOURS),$(if $(IMAGE_REGISTRY),--push=$(IMAGE_REGISTRY)))

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## === the two commands of the README ===

.PHONY: demo demo-down test
demo: need-build $(if $(YOURS),,need-cluster) ## Real bots on a real cluster, updated under load: a timeline, a verdict, and a cluster to play with
	@$(STAGE) "Pollux and its tests" 900 $(BUILD)
	$(if $(YOURS),,@$(STAGE) "Kubernetes" 900 $(TESTBED) build --kubernetes $(KUBERNETES))
	@$(STAGE) "images" 300 $(IMAGES)
	@$(SCENARIOS) demo

demo-down: ## Remove what `make demo` left running
	@test -x $(TESTBED) || $(BUILD)
	@$(SCENARIOS) demo-down

test: ## All tests: lint, unit, e2e; ends with "N passed, N failed"
	@.ci/test

## === its parts ===

.PHONY: lint unit e2e e2e-full generate audit bench-lease soak soak-model soak-schedules soak-summary false-alarms burden burden-hour
lint: need-build $(DENY) ## Formatting, clippy, generated files, licences and sources of dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BUILD) --quiet
	@BIN=$(BIN) .ci/generated
	e2e/bots/check_docs.py
	$(DENY) --log-level error check bans licenses sources

unit: need-build need-unit need-cluster ## Tests of all crates: pure ones, on a real PostgreSQL, in a real browser, the chart
	$(BUILD)
	@$(STAGE) "Kubernetes, for kubectl and helm" 900 $(TESTBED) build --kubernetes $(KUBERNETES)
	cargo test --workspace --all-targets --no-fail-fast --quiet

e2e: need-build $(if $(YOURS),,need-cluster) ## Every library and every fault once, on a real cluster; one JSON object as its last line
	@$(STAGE) "Pollux and its tests" 900 $(BUILD)
	$(if $(YOURS),,@$(STAGE) "Kubernetes" 900 $(TESTBED) build --kubernetes $(KUBERNETES))
	@$(STAGE) "images" 300 $(IMAGES)
	$(if $(YOURS),,@$(STAGE) "the testbed's own tests" 180 $(TESTBED_TESTS))
	@$(SCENARIOS) e2e

e2e-full: need-build $(if $(YOURS),,need-cluster) ## The same five times, and on Kubernetes 1.33 too (an hour and a half)
	$(BUILD)
	$(if $(YOURS),,@$(TESTBED) build --kubernetes 1.36 && $(TESTBED) build --kubernetes 1.33)
	@$(IMAGES)
	$(if $(YOURS),,@KUBERNETES=1.33 $(TESTBED_TESTS))
	@$(SCENARIOS) e2e --full

generate: need-build ## Write the generated files anew (crds/, the chart's copies)
	$(BUILD) --quiet
	@BIN=$(BIN) .ci/generated --write

audit: $(DENY) ## Known vulnerabilities in dependencies (needs the network)
	$(DENY) check advisories

# Without the machine's other work, or the milliseconds are those of somebody else. BENCH='--quick' shows in three minutes that it
# works; BENCH='--only kill_ttl,river' measures these rows only.
bench-lease: need-build need-bench need-cluster ## The lease beside other leader electors, in one run (25 minutes); one JSON object as its last line
	@$(STAGE) "the bench, as it is published" 600 cargo build --release --package pollux-bench
	@$(STAGE) "the testbed" 900 cargo build --package pollux-testbed
	@$(STAGE) "Kubernetes" 900 $(TESTBED) build --kubernetes $(KUBERNETES)
	@$(dir $(BIN))release/pollux-bench lease $(if $(BENCH),$(BENCH),--svg docs/bench-lease.svg)

.PHONY: bench-gate
bench-gate: need-build ## The gate as a proxy beside a bare one and nginx, in one run (3 minutes); one JSON object as its last line
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || $(NEED) "nginx=the gate is measured beside it"
	@$(STAGE) "the bench and the agent, as they are published" 900 cargo build --release --package pollux-bench --package pollux-agent
	@$(dir $(BIN))release/pollux-bench gate $(BENCH)

# Where the runs of a machine add up, over clones and commits.
SOAK_REPORT ?= $(POLLUX_CACHE)/soak/schedules.jsonl
SOAK_MINUTES ?= 55
SOAK_LANES ?= 4
SOAK_FAULTS ?= all
# Beside it there are false-alarms and burden: what must do no harm, and what it costs.
soak: soak-model soak-schedules fuzz ## The lease at length: the model with wider bounds, 100,000 simulated schedules, and real ones; and the fuzz targets

# One seed: POLLUX_SEEDS=184..185 cargo test -p pollux-lease --lib simulation
soak-model: need-build ## The model with two deviations of each schedule, each variant's world with its rule kept, and 100,000 simulated schedules
	@$(STAGE) "simulation" 3600 env POLLUX_SEEDS=0..100000 cargo test --release -p pollux-lease --lib core::simulation::at_no_instant -- --nocapture
	@$(STAGE) "variants" 3600 env POLLUX_DEVIATIONS=2 cargo test --release -p pollux-lease --lib core::model -- --nocapture --test-threads 1
	@$(STAGE) "model" 7200 cargo test --release -p pollux-lease --lib two_things_go_wrong -- --ignored --nocapture --test-threads 1

soak-schedules: need-build need-unit ## Random schedules of faults on a real PostgreSQL, from the last seed on, for an hour (SOAK_MINUTES)
	$(BUILD)
	@$(STAGE) "schedules of faults" $$(($(SOAK_MINUTES) * 60 + 300)) $(BIN)/pollux-lease-soak schedules --minutes $(SOAK_MINUTES) \
	  --lanes $(SOAK_LANES) --faults $(SOAK_FAULTS) --report $(SOAK_REPORT)

soak-summary: need-build ## What all runs of `make soak-schedules` showed together
	$(BUILD) --quiet
	@$(BIN)/pollux-lease-soak summary --report $(SOAK_REPORT)

# ALARMS='--quick' shows in a minute that it works; ALARMS='--only stall2s,busy' is for these rows of the table only.
false-alarms: need-build need-postgres ## Leaders that are deposed though nobody is dead: there must be none (15 minutes); one JSON object as its last line
	$(BUILD)
	@$(BIN)/pollux-lease-soak alarms $(ALARMS)

BURDEN_MINUTES ?= 15
burden: need-build need-postgres ## What the leases of 100 bots cost the database (BURDEN_MINUTES); one JSON object as its last line
	$(BUILD)
	@$(BIN)/pollux-lease-soak burden --minutes $(BURDEN_MINUTES)

burden-hour: BURDEN_MINUTES := 60
burden-hour: burden ## The same for an hour, which shows more of autovacuum and checkpoints

# MATRIX='--bots grammy --modes gate --scenarios roll' is for one cell; docs/libraries.md is written by a whole run only.
.PHONY: matrix matrix-quick
matrix: need-build need-postgres need-bots ## Real bots of every library in every scenario, as processes (two hours); one JSON object as its last line
	$(BUILD)
	@e2e/bots/install.sh
	@$(BIN)/pollux-matrix $(if $(MATRIX),$(MATRIX),--table docs/libraries.md)

# Those of Python and Node: they are installed in seconds. Rolls and crashes, which the whole product is about.
QUICK_BOTS := ptb aiogram pytelegrambotapi grammy grammy-runner telegraf ntba2 gramio
empty :=
comma := ,
matrix-quick: need-build need-postgres need-bots
	$(BUILD) --quiet
	@e2e/bots/install.sh $(QUICK_BOTS)
	@$(BIN)/pollux-matrix --bots $(subst $(empty) ,$(comma),$(QUICK_BOTS)) --modes gate,settled --scenarios roll,crash --rolls 2 --lanes 3

# What libFuzzer needs to see, by the pinned stable compiler: these flags are what cargo-fuzz sets, less the sanitizers.
FUZZ := $(CARGO_TARGET_DIR)/fuzz
FUZZ_MINUTES ?= 10
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
.PHONY: fuzz
fuzz: need-build ## What a bot may send to its gate, FUZZ_MINUTES for each of two targets; what is found stays in the target folder
	@command -v g++ >/dev/null || $(NEED) "g++=libFuzzer is written in it"
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --release --locked --manifest-path operator/gate/fuzz/Cargo.toml --target-dir $(FUZZ)
	@for target in arguments path; do \
	  mkdir -p $(FUZZ)/corpus/$$target; \
	  $(FUZZ)/$(shell rustc -vV | sed -n 's/^host: //p')/release/$$target -max_total_time=$$(($(FUZZ_MINUTES) * 60)) -max_len=4096 \
	    -timeout=10 -print_final_stats=1 -verbosity=0 -artifact_prefix=$(FUZZ)/$$target- $(FUZZ)/corpus/$$target operator/gate/fuzz/corpus/$$target; \
	done

## === the testbed ===

.PHONY: images cluster cluster-down clean-cache
images: need-build ## Build all images from their Dockerfiles (buildah, or docker with IMAGE_BUILDER=docker)
	$(BUILD)
	@$(IMAGES)

cluster: need-build need-cluster ## Start a Kubernetes of NODES nodes on this machine and say how to reach it
	$(BUILD)
	@$(TESTBED) build --kubernetes $(KUBERNETES)
	@$(TESTBED) up --name $(CLUSTER) --nodes $(NODES) --kubernetes $(KUBERNETES)

cluster-down: ## Stop it; nothing is left but the caches
	@test -x $(TESTBED) || $(BUILD)
	@$(TESTBED) down --name $(CLUSTER)

clean-cache: ## Remove the testbed's programs and the images (1.5 GB); stop clusters before
	rm -rf "$(POLLUX_CACHE)"

## === what the targets bring along ===

.PHONY: need-build need-unit need-libraries need-bots need-postgres need-bench need-cluster
need-build:
	@command -v cc >/dev/null || $(NEED) "gcc=Rust links with it" "libc6-dev=Rust links against it"

need-unit: need-libraries
	@$(NEED) "postgresql=the lease is tested on a real PostgreSQL" "faketime=PostgreSQL's wall clock is shifted" \
	  "iproute2=the lease's contenders have network namespaces" "iptables=they are cut off from PostgreSQL" \
	  "chromium=the lanes page is looked at in a real browser" \
	  "pgbouncer=agents behind a transaction pooler"

# Of the programs in docs/exactly-once.md. By their commands: Node and Python do not always come from Debian.
need-libraries:
	@python3 -m pip --version >/dev/null 2>&1 || $(NEED) "python3-pip=fetches psycopg, which a tested program uses"
	@command -v npm >/dev/null || $(NEED) "npm=fetches pg and typescript, which a tested program uses"
	@e2e/exactly-once/libraries/install.sh

need-bots:
	@python3 -m pip --version >/dev/null 2>&1 || $(NEED) "python3-pip=fetches the libraries of the bots in Python"
	@command -v npm >/dev/null || $(NEED) "npm=fetches the libraries of the bots in JavaScript"

need-postgres:
	@$(NEED) "postgresql=the lease is kept in it"

need-bench:
	@$(NEED) "postgresql=the lease and other electors are kept in it" "pgbouncer=agents behind a transaction pooler"

need-cluster:
	@$(NEED) "iproute2=nodes are network namespaces" "iptables=kube-proxy, and faults that cut a node off" "conntrack=kube-proxy" \
	  "pkg-config=runc is built with seccomp" "libseccomp-dev=runc is built with seccomp"
	@PATH="$$PATH:/usr/local/go/bin:/usr/lib/go-1.26/bin"; command -v go >/dev/null || \
	  { echo "Go 1.26 or newer is needed to build Kubernetes: https://go.dev/doc/install" >&2; exit 1; }

$(DENY): | need-build
	@echo "cargo-deny $(DENY_VERSION): built once, about 4 minutes"
	cargo install --quiet --locked --root $(POLLUX_CACHE)/tools cargo-deny --version $(DENY_VERSION)
