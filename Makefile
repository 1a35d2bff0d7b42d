PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && { echo $$python; break; }; done)
BIN := .venv/bin
PAGE := upbit_assets/dashboard

.DEFAULT_GOAL := help
.PHONY: help demo up down test test-long test-compose test-celery lint lint-page docs dictionary bench bench-year screenshots vendor \
  secrets backup restore install install-dev install-clients lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: install ## run everything against the offline exchange; needs no network
	@exec $(BIN)/upbit-assets demo

up: install ## run everything against the real exchange
	@exec $(BIN)/upbit-assets up

down: install ## stop an embedded database left running by plain Dagster commands
	@$(BIN)/upbit-assets down

test: install-dev install-clients ## run the tests, but for the long ones, on a PostgreSQL that it starts itself
	@$(BIN)/python -m pytest $(ARGS)

test-long: install-dev install-clients ## run the long proofs
	@$(BIN)/python -m pytest -m long $(ARGS)

test-compose: install-dev ## start, kill and recover every service of docker compose; needs Docker
	@$(BIN)/python -m pytest upbit_assets_tests/compose.py --numprocesses=0 --timeout=1200 $(ARGS)

test-celery: install-dev ## test runs on Celery workers, with one killed; needs redis-server
	@$(BIN)/python -m pytest upbit_assets_tests/scaling/workers.py --numprocesses=0 --timeout=600 $(ARGS)

lint: install-dev lint-page docs ## check style, types, the manual, and that all lock files agree with requirements.lock
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@for lock in requirements-dev.lock deploy/*/requirements.lock; do \
	  grep -oE '^[^ ]+==[^ ]+' requirements.lock | while read -r pin; do \
	    grep -qF "$$pin " $$lock || echo "$$lock is without $$pin of requirements.lock; run: make lock"; \
	  done; done | { ! grep .; }
	@! grep -n '://' *.lock deploy/*/*.lock || { echo "A lock file names a server."; exit 1; }

lint-page: $(PAGE)/node_modules/.installed ## check the board's JavaScript only
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix $(PAGE) run --silent check

docs: install-dev ## build the manual into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

dictionary: install-dev ## write the data dictionary in docs from the schema
	@$(BIN)/python -m manual

bench: install-dev ## run the benchmarks and write docs/bench.md
	@$(BIN)/python -m bench

bench-year: install-dev ## measure what a year of data slows down and write docs/year.md; ARGS="--scale 0.2" takes less time
	@$(BIN)/python -m bench year $(ARGS)

screenshots: install-dev ## take the board's screenshots in docs/images, with simulated data
	@$(BIN)/python -m upbit_assets_tests.dashboard.screenshots

vendor: ## download the board's chart libraries again and verify them
	@upbit_assets/dashboard/vendor.sh

# the following need Docker but no .venv
secrets: ## docker compose: generate a random password for each login that has none yet
	@sh deploy/secrets.sh secrets

TO = backups/$(shell date +%Y%m%d-%H%M%S)
backup: ## docker compose: back up all databases into a new folder; TO=folder
	@VIA="docker compose exec -T postgres" sh deploy/backup.sh $(TO)

restore: ## docker compose: replace all databases by a backup; FROM=folder
	@test -d "$(FROM)" || { echo "Name the backup: make restore FROM=backups/..."; exit 1; }
	@docker compose down
	@docker compose up -d --wait postgres
	@docker compose run --rm roles
	@VIA="docker compose exec -T postgres" sh deploy/restore.sh $(FROM)
	@docker compose up -d

install: .venv/.runtime ## create .venv with the locked dependencies

install-dev: .venv/.dev

install-clients: .venv-clients/.installed

# only pip, so that a company's pip.conf and package mirror apply
.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; set one with: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Creating .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

PIP_INSTALL = PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --progress-bar off --no-deps --require-hashes
# a line for every 20 packages; fails if pip did, whose errors are on stderr
PROGRESS = awk -v all="$$(grep -c == $<)" '/^Collecting/ && ++n % 20 == 0 { print "  " n " of " all " packages"; fflush() } \
  /^Installing/ { print "  unpacking them ..."; fflush() } /^(Successfully|Requirement already)/ { done = 1 } END { exit !done }'

.venv/.runtime: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing the locked dependencies, about a minute the first time ..."
	@$(PIP_INSTALL) -r requirements.lock | $(PROGRESS)
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	@echo "Installing the locked development dependencies ..."
	@$(PIP_INSTALL) -r requirements-dev.lock | $(PROGRESS)
	@touch $@

# Node.js comes with the development environment
$(PAGE)/node_modules/.installed: $(PAGE)/package-lock.json .venv/.dev
	@echo "Installing the JavaScript linters ..."
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix $(PAGE) ci --silent
	@touch $@

# the exchange's client libraries, in an own environment because their pins conflict with this project's
.venv-clients/.installed: requirements-clients.lock | .venv/bin/python
	@echo "Installing the locked client libraries of the exchange for the tests ..."
	@$(BIN)/python -m venv .venv-clients
	@$(subst .venv/,.venv-clients/,$(PIP_INSTALL)) -r requirements-clients.lock | $(PROGRESS)
	@touch $@

COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
  --no-annotate --upgrade
lock: install-dev ## update the lock files from pyproject.toml
	@$(COMPILE) pyproject.toml --extra build -o requirements.lock
	@$(COMPILE) pyproject.toml --extra build --extra celery -c requirements.lock -o deploy/celery/requirements.lock
	@$(COMPILE) pyproject.toml --extra build --extra kubernetes -c requirements.lock -o deploy/kubernetes/requirements.lock
	@$(COMPILE) pyproject.toml --extra build --extra dev --extra celery -c requirements.lock -o requirements-dev.lock
	@$(COMPILE) --group clients -o requirements-clients.lock

clean: ## remove the environment; keeps the data
	@rm -rf .venv .venv-clients $(PAGE)/node_modules *.egg-info site .mypy_cache .ruff_cache .pytest_cache
