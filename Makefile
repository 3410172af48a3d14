# Every target sets up what it needs: a checkout, make and Python 3.11 or newer are enough.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo run test sim ledger crash storm broker cron-truth servers lint bench bench-peers bench-docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Options: PYTHON=python3.12 (which Python makes the environment), ARGS='...' (more arguments for the command)."

demo: $(READY) ## see it work: nothing to configure, nothing left behind
	$(BIN)/python -m cascadenced demo $(ARGS)

run: $(READY) ## the daemon, in the foreground
	$(BIN)/cascadenced up $(ARGS)

# How many at once: tests/conftest.py.
test: $(READY) servers ## the whole test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

sim: $(READY) ## SEEDS worlds in virtual time, each with crashes and a broker of its own; SEED=… shows one again
	$(BIN)/python -m tests.sim $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) $(if $(SEED),--seed $(SEED)) $(if $(BUG),--bug $(BUG)) $(ARGS)

ledger: $(READY) ## SEEDS months of schedules in virtual time, under fire: one record for each due instant; SEED=… again
	$(BIN)/python -m tests.schedules $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) $(if $(SEED),--seed $(SEED)) $(ARGS)

crash: $(READY) ## kill the daemon N times under load and KILLS times at durable runs, cut the power POWER times; SEED=… again
	$(BIN)/python -m tests.crash $(if $(SEED),--seed $(SEED)) $(if $(N),--rounds $(N)) $(if $(KILLS),--kills $(KILLS)) \
	  $(if $(WORLDS),--worlds $(WORLDS)) $(if $(POWER),--power $(POWER)) $(ARGS)

storm: $(READY) ## broken messages by the ten thousand, each accounted for (N=50000 SEED=1)
	STORM_N=$(or $(N),50000) STORM_SEED=$(or $(SEED),1) $(BIN)/python -m pytest -s tests/acceptance/test_storm.py $(ARGS)

broker: $(READY) servers ## damage, hang and empty the broker N times under load; SEED=… deals the same breaks again
	$(BIN)/python -m tests.broker $(if $(SEED),--seed $(SEED)) $(if $(N),--breaks $(N)) $(ARGS)

cron-truth: $(READY) ## schedules around every change of clocks, against two oracles; ZONES=60 EXPRESSIONS=200 SEED=0
	$(BIN)/python -m tests.recurrence.truth $(if $(ZONES),--zones $(ZONES)) $(if $(EXPRESSIONS),--expressions $(EXPRESSIONS)) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

servers: $(READY) ## fetch old nats-servers to test against, once
	@$(BIN)/python -m tests.servers

lint: $(READY) ## style, layout and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## measure this machine; ARGS=--quick for one short round
	$(BIN)/python -m bench $(ARGS)

bench-peers: $(READY) ## measure DBOS, Huey, FastStream, APScheduler beside us; installs them in .bench
	$(BIN)/python -m bench.peers $(ARGS)

bench-docs: $(READY) ## both, and with their figures the chart and tables in docs
	@mkdir -p .bench
	$(BIN)/python -m bench --json .bench/ours.json $(ARGS)
	$(BIN)/python -m bench.peers --json .bench/peers.json $(ARGS)
	$(BIN)/python -m bench.publish .bench/ours.json .bench/peers.json

clean: ## remove everything the targets above have made
	rm -rf $(VENV) .servers .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo .bench build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an installation that was interrupted is done again.
$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: there is no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$($(PYTHON) --version) is too old: Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV) (once, and again when pyproject.toml changes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python -m compileall -q cascadenced # pip does it for what it copies, not for what it links to
	@touch $@
