# Bursar's chores. `make` alone lists them. Needs Python >= 3.11 and nothing else (`make test-system` adds Debian's nginx, wrk and rsyslog).

PYTHON ?= python3
ARGS ?=

RUN_ENV := .env-run
TEST_ENV := .env-test
BENCH_ENV := .env-bench
PEERS_ENV := .env-peers
CLIENTS_ENV := .env-clients
IN_TEST_ENV := PATH="$(CURDIR)/$(TEST_ENV)/bin:$$PATH"

.DEFAULT_GOAL := help
.PHONY: help run test test-system bench bench-peers check format lock clean

help: ## list these chores
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  ARGS="..." goes to bursar, pytest or the bench; PYTHON=python3.12 names the interpreter'

run: $(RUN_ENV)/made ## make the environment if needed and start Bursar (ARGS go to `bursar up`)
	@exec $(RUN_ENV)/bin/bursar up $(ARGS)

test: $(TEST_ENV)/made $(CLIENTS_ENV)/made ## every test that needs only Python and the package registry
	@$(IN_TEST_ENV) python -m pytest -m "not system" $(ARGS)

test-system: $(TEST_ENV)/made ## the tests beside Debian's own servers (installs nginx, wrk and rsyslog if missing)
	@sh scripts/system_packages.sh
	@$(IN_TEST_ENV) python -m pytest -m system $(ARGS)

bench: $(BENCH_ENV)/made ## the F rows beside nginx and a bare pass-through; writes bench/RESULTS.md
	@sh scripts/system_packages.sh
	@$(BENCH_ENV)/bin/python -m bench $(ARGS)

bench-peers: $(BENCH_ENV)/made $(PEERS_ENV)/made ## Bursar beside LiteLLM and Portkey; needs npm; writes bench/PEERS.md
	@sh scripts/system_packages.sh
	@$(BENCH_ENV)/bin/python -m bench.peers $(ARGS)

check: $(TEST_ENV)/made ## lint, format, types, import contracts, purity of the core, sizes
	@$(IN_TEST_ENV) sh scripts/check.sh

format: $(TEST_ENV)/made ## let ruff write the format and the safe fixes
	@$(IN_TEST_ENV) ruff check --fix --quiet . ; $(IN_TEST_ENV) ruff format .

lock: $(TEST_ENV)/made ## choose versions anew and write requirements/*.lock
	@$(IN_TEST_ENV) sh scripts/lock.sh

clean: ## remove environments, caches and bench output (never data)
	rm -rf .env-run .env-test .env-bench .env-peers .env-clients .env-node .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/out build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_ENV)/made: requirements/run.lock requirements/build.lock scripts/make_env.py pyproject.toml
	@$(PYTHON) scripts/make_env.py $(RUN_ENV) requirements/run.lock requirements/build.lock && touch $@

$(TEST_ENV)/made: requirements/test.lock scripts/make_env.py pyproject.toml
	@$(PYTHON) scripts/make_env.py $(TEST_ENV) requirements/test.lock && touch $@

$(BENCH_ENV)/made: requirements/bench.lock scripts/make_env.py pyproject.toml
	@$(PYTHON) scripts/make_env.py $(BENCH_ENV) requirements/bench.lock && touch $@

$(PEERS_ENV)/made: requirements/peers.lock bench/peers/package-lock.json scripts/make_env.py
	@command -v npm >/dev/null || { echo 'bursar: npm is needed for Portkey; on Debian: apt-get install npm' >&2; exit 3; }
	@$(PYTHON) scripts/make_env.py --bare $(PEERS_ENV) requirements/peers.lock
	@cp bench/peers/package.json bench/peers/package-lock.json $(PEERS_ENV)/
	@npm ci --prefix $(PEERS_ENV) --ignore-scripts --no-audit --no-fund --silent && touch $@

$(CLIENTS_ENV)/made: requirements/clients.lock scripts/make_env.py
	@$(PYTHON) scripts/make_env.py --bare $(CLIENTS_ENV) requirements/clients.lock && touch $@
