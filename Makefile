# Sidelane's tasks. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The order of the steps is meant, and each of them uses all cores by itself.
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

# The lab and the demo look for the program in .build.
unexport CARGO_TARGET_DIR
unexport CARGO_BUILD_TARGET_DIR
unexport RUSTFLAGS

STEP := .ci/step
SIDELANE := .build/release/sidelane
# What rdma-sys is built with. A link, so looking for it costs nothing.
LIBCLANG := scripts/lib/libclang/libclang.so

# Arguments for `sidelane demo`, such as DEMO_ARGS=--json.
DEMO_ARGS ?=

.PHONY: help
help: ## List these tasks
	@echo "make TASK, where TASK is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Everything that is built goes to .build; the lab's image to ~/.cache/sidelane."

.PHONY: demo
demo: setup-build release ## Build, then write and read back through peer memory; no special hardware, no root
	@$(SIDELANE) demo $(DEMO_ARGS)

.PHONY: test
test: setup-test build-folder fetch fmt shellcheck deny no-verbs clippy docs release lab-image doc-tests ## Everything: lints, all tests, the lab
	@$(STEP) "tests, the lab's included" cargo nextest run --locked --workspace --profile ci

.PHONY: check-fast
check-fast: build-folder fmt clippy ## Format, clippy and the tests without the lab
	@$(STEP) "tests without the lab" cargo nextest run --locked --workspace

.PHONY: lab
lab: setup-test release ## Boot the lab and stay in it: a shell with both sides ready
	@tests/lab/vm shell --topology two-cmb

.PHONY: lab-test
lab-test: release lab-image ## Only the tests that run in the lab
	@$(STEP) "tests in the lab" cargo nextest run --locked --package sidelane-tests --profile ci \
		-E 'kind(test) & binary(/^lab|^sidelane.tests$$/)'

.PHONY: lab-image
lab-image: ## Build the lab's image, unless it is in the cache
	@$(STEP) "image of the lab" tests/lab/vm image

.PHONY: release
release: | $(LIBCLANG) ## Build the program: .build/release/sidelane
	@$(STEP) "release build" cargo build --locked --release --package sidelane --bin sidelane

.PHONY: fmt
fmt: ## Check the format (cargo fmt mends it)
	@$(STEP) "format" cargo fmt --all --check

.PHONY: no-verbs
no-verbs: ## Check that the program builds without rdma-core and libclang
	@$(STEP) "without the feature verbs" cargo check --locked --package sidelane --no-default-features

.PHONY: clippy
clippy: | $(LIBCLANG) ## Clippy on everything; a warning is an error
	@$(STEP) "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: docs
docs: | $(LIBCLANG) ## Build the documentation; a broken link is an error
	@# Private items are documented too, so links to them lead somewhere.
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(STEP) "documentation" \
		cargo doc --quiet --locked --workspace --no-deps --document-private-items

.PHONY: doc-tests
doc-tests: | $(LIBCLANG) ## The examples in the documentation
	@$(STEP) "examples in the documentation" cargo test --quiet --locked --workspace --doc

.PHONY: deny
deny: ## Licences, sources and known holes of dependencies
	@$(STEP) "dependencies" .ci/deny

.PHONY: bench
bench: | $(LIBCLANG) ## What a command costs: a table, and .build/bench.json
	@$(STEP) "benchmarks" cargo bench --quiet --locked --package sidelane-tests --bench sidelane -- \
		--json $(CURDIR)/.build/bench.json

# Rounds of `make bench-lab`, milliseconds of a run, and names of targets and backends; all of those when empty.
PAIRS ?= 5
RUN_MS ?= 1500
TARGETS ?=
BACKENDS ?=

.PHONY: bench-lab
bench-lab: setup-test release lab-image ## Sidelane beside the kernel's target, in the lab: table, plot, figures; 20 min
	@$(STEP) "targets side by side" cargo run --quiet --locked --package sidelane-tests --example bench_lab -- \
		--out $(CURDIR)/.build/bench-lab --publish $(CURDIR) --pairs $(PAIRS) --run-ms $(RUN_MS) \
		--targets "$(TARGETS)" --backends "$(BACKENDS)"

.PHONY: fuzz
fuzz: | $(LIBCLANG) ## Feed the parsers and state machines what nobody should send, FUZZ_SECONDS (20) each
	@$(STEP) "fuzzer" tests/fuzz/run

.PHONY: shellcheck
shellcheck: ## Lint the shell scripts
	@$(STEP) "shell scripts" .ci/shellcheck

.PHONY: clean
clean: build-folder ## Delete what was built; the lab's image stays
	cargo clean

.PHONY: build-folder
build-folder:
	@$(STEP) "build folder" .ci/build-folder

.PHONY: fetch
fetch:
	@$(STEP) "dependencies to build from" cargo fetch --locked

.PHONY: libclang-matrix
libclang-matrix: ## Build rdma-sys with every libclang that apt and pip offer; downloads 150 MB
	@$(STEP) "libclangs" scripts/lib/libclang-matrix

$(LIBCLANG):
	@$(STEP) "libclang" scripts/setup libclang

.PHONY: setup-build
setup-build:
	@$(STEP) "packages to build with" scripts/setup build

.PHONY: setup-test
setup-test:
	@$(STEP) "packages to test with" scripts/setup test
