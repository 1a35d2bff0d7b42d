PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && { echo $$python; break; }; done)
BIN := .venv/bin
PAGE := upbit_assets/dashboard

.DEFAULT_GOAL := help
.PHONY: help demo up down test test-compose test-celery lint lint-page bench screenshots vendor secrets backup restore install \
  install-dev install-clients lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: install ## everything, against the offline exchange: nothing else to install, no network
	@exec $(BIN)/upbit-assets demo

up: install ## everything, against the real exchange
	@exec $(BIN)/upbit-assets up

down: install ## stop an embedded database that plain Dagster commands started
	@$(BIN)/upbit-assets down

test: install-dev install-clients ## the whole test suite, on a real PostgreSQL that it starts itself
	@$(BIN)/python -m pytest $(ARGS)

test-compose: install-dev ## docker compose, for real: every service brought up, killed and healed; needs Docker
	@$(BIN)/python -m pytest upbit_assets_tests/compose.py --numprocesses=0 --timeout=1200 $(ARGS)

test-celery: install-dev ## runs on workers, for real, and a worker killed; needs redis-server
	@$(BIN)/python -m pytest upbit_assets_tests/scaling/workers.py --numprocesses=0 --timeout=600 $(ARGS)

lint: install-dev lint-page ## style and types; and that tests and workers run on the versions that users get
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@for lock in requirements-dev.lock deploy/*/requirements.lock; do \
	  grep -oE '^[^ ]+==[^ ]+' requirements.lock | while read -r pin; do \
	    grep -qF "$$pin " $$lock || echo "$$lock is without $$pin of requirements.lock; run: make lock"; \
	  done; done | { ! grep .; }
	@! grep -n '://' *.lock deploy/*/*.lock || { echo "A lock file names a server."; exit 1; }

lint-page: $(PAGE)/node_modules/.installed ## the same of the board's JavaScript alone
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix $(PAGE) run --silent check

bench: install-dev ## measure what people wait for, and write docs/bench.md
	@$(BIN)/python -m bench

screenshots: install-dev ## the board's pictures in docs/images, of simulated data
	@$(BIN)/python -m upbit_assets_tests.dashboard.screenshots

vendor: ## fetch the board's chart libraries again, and check them
	@upbit_assets/dashboard/vendor.sh

# what follows needs Docker, and no environment
secrets: ## docker compose: a random password for each login that has none yet
	@sh deploy/secrets.sh secrets

TO = backups/$(shell date +%Y%m%d-%H%M%S)
backup: ## docker compose: write all databases into a new folder; TO=folder
	@VIA="docker compose exec -T postgres" sh deploy/backup.sh $(TO)

restore: ## docker compose: put a backup back in place of what is there; FROM=folder
	@test -d "$(FROM)" || { echo "Say which: make restore FROM=backups/..."; exit 1; }
	@docker compose down
	@docker compose up -d --wait postgres
	@docker compose run --rm roles
	@VIA="docker compose exec -T postgres" sh deploy/restore.sh $(FROM)
	@docker compose up -d

install: .venv/.runtime ## only the environment: .venv with the locked dependencies

install-dev: .venv/.dev

install-clients: .venv-clients/.installed

# pip alone, so that a company's pip.conf and package mirror are obeyed
.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; set one with: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

.venv/.runtime: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing the locked dependencies, about a minute the first time ..."
	@$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	@echo "Installing the locked development dependencies ..."
	@$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

# the development environment brings Node.js along
$(PAGE)/node_modules/.installed: $(PAGE)/package-lock.json .venv/.dev
	@echo "Installing what checks the page's JavaScript ..."
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix $(PAGE) ci --silent
	@touch $@

# clients of the exchange, which pin what this project leaves free
.venv-clients/.installed: requirements-clients.lock | .venv/bin/python
	@echo "Installing the locked clients of the exchange that the tests run ..."
	@$(BIN)/python -m venv .venv-clients
	@.venv-clients/bin/python -m pip install -q --no-deps --require-hashes -r requirements-clients.lock
	@touch $@

COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
  --no-annotate --upgrade
lock: install-dev ## renew the lock files from pyproject.toml
	@$(COMPILE) pyproject.toml --extra build -o requirements.lock
	@$(COMPILE) pyproject.toml --extra build --extra celery -c requirements.lock -o deploy/celery/requirements.lock
	@$(COMPILE) pyproject.toml --extra build --extra kubernetes -c requirements.lock -o deploy/kubernetes/requirements.lock
	@$(COMPILE) pyproject.toml --extra build --extra dev --extra celery -c requirements.lock -o requirements-dev.lock
	@$(COMPILE) --group clients -o requirements-clients.lock

clean: ## remove the environment; the data stays
	@rm -rf .venv .venv-clients $(PAGE)/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache
