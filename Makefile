# Everything runs in .venv, which is set up from .ci/requirements.txt whenever that or pyproject.toml changes.
#
#   make demo NODES=3            make demo ARGS="--teams 500 --rate 20"
#   make test ARGS="-k config"   make test PYTHON=python3.12

PYTHON ?= python3
PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check
READY := .venv/.ready
PURE := tests/test_model.py tests/test_config.py tests/test_dsn.py tests/test_docs.py tests/test_compression.py \
	tests/board tests/cluster/test_coordinator.py tests/cluster/test_wire.py tests/cluster/test_debug_log.py \
	tests/backends/test_value_layout.py tests/builder/test_channel.py tests/builder/test_ledger.py \
	tests/builder/test_incremental_writer.py tests/client/test_backoff.py tests/client/test_board.py \
	tests/client/test_events.py tests/client/test_sync_state.py tests/web/test_address.py tests/web/test_delta_updates.py

.PHONY: help demo check test simulate chaos bench lint types lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: $(READY) ## a simulated contest on real servers; NODES=3 for a cluster, Ctrl-C ends it
	@exec .venv/bin/scoreboardd demo $(if $(NODES),--nodes $(NODES)) $(ARGS)

check: lint types ## lint, types and the tests that need no server, in seconds
	.venv/bin/python -m pytest -q -n 2 $(PURE)

test: $(READY) ## the test suite, against real servers; ARGS="-n0 -k config" one by one, EFFORT=5 with five times the examples
	.venv/bin/python -m pytest -n 3 --dist worksteal $(ARGS)

simulate: $(READY) ## clusters in virtual time, a seed each; SEEDS=100000 FIRST=0
	.venv/bin/python -m tests.simulation $(or $(SEEDS),10000) $(or $(FIRST),0)

chaos: $(READY) ## every fault at real processes; MINUTES=10 NODES=4 SEED=1 BACKEND=redis, archived, postgres or local
	.venv/bin/python -m tests.chaos $(or $(MINUTES),10) $(or $(NODES),4) $(or $(SEED),1) $(or $(BACKEND),redis)

bench: $(READY) build/bench-venv/.ready ## measure, beside the peers; QUICK=1 only sees that it works
	BENCH_PYTHON=build/bench-venv/bin/python .venv/bin/python -m bench $(if $(QUICK),--quick) $(ARGS)

lint: $(READY) ## ruff
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: $(READY) ## mypy
	.venv/bin/mypy

lock: ## pin the newest releases that pyproject.toml allows
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile --quiet --upgrade --generate-hashes \
		--extra server --extra demo --extra dev --build-deps-for editable --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--output-file .ci/requirements.txt pyproject.toml

clean: ## remove all that make made
	rm -rf .venv build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

new_enough = $(shell $(PYTHON) -c 'import sys; print(*["yes"] * (sys.version_info >= (3, 11)))' 2>/dev/null)

$(READY): .ci/requirements.txt pyproject.toml
	$(if $(new_enough),,$(error scoreboardd needs Python 3.11 or newer; name one with PYTHON=python3.11))
	@echo "Setting up .venv, once"
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install --require-hashes --requirement .ci/requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

build/bench-venv/.ready: bench/requirements.txt
	@echo "Setting up the benchmark's peers, once"
	@$(PYTHON) -m venv --clear build/bench-venv
	@build/bench-venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt
	@touch $@
