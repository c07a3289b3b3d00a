# Slipway. Bare `make` prints the list of targets. Needed: make and Python 3.11 or 3.12; everything else comes by itself.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ENV ?= local
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SLIPWAY := $(BIN)/slipway --env $(ENV)

# A Python that is too old or too new says so here, and not twenty lines into an installation.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	"$$python" -c '$(SUPPORTED)' 2>/dev/null && { echo "$$python"; break; }; done)

# uv reads its own variables only: hand it the index, mirror and certificates that pip was told.
LIKE_PIP = index="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || true)}}"; \
	index="$${PIP_INDEX_URL:-$$index}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	if [ -n "$${PIP_EXTRA_INDEX_URL:-}" ]; then export UV_INDEX="$${UV_INDEX:-$$PIP_EXTRA_INDEX_URL}"; fi; \
	if [ -n "$${PIP_CERT:-}" ]; then export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$PIP_CERT}"; fi; \
	export VIRTUAL_ENV="$(CURDIR)/$(VENV)" UV_LINK_MODE="$${UV_LINK_MODE:-copy}";

##@ The platform

.PHONY: help demo up preview status logs down doctor clean test tools test-cluster bench lint format lock

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nENV=name chooses platform/environments/name.toml (now: %s). Details: slipway --help\n' '$(ENV)'

demo: $(READY) ## tell the whole story on real flights and write demo/report.html
	@$(BIN)/python -m pipelines.flight_delay.demo

up: $(READY) ## start the platform and leave it running
	@$(SLIPWAY) up $(if $(YES),--yes)

preview: $(READY) ## on Kubernetes: show what up would change, and what the policies find
	@$(SLIPWAY) preview

status: $(READY) ## show processes, readiness, memory and addresses
	@$(SLIPWAY) status

logs: $(READY) ## show the logs (PROCESS=name, FOLLOW=1)
	@$(SLIPWAY) logs $(PROCESS) $(if $(FOLLOW),--follow)

down: $(READY) ## stop everything, keep the data here (Kubernetes: removes all; KEEP_DATA=1, YES=1)
	@$(SLIPWAY) down $(if $(KEEP_DATA),--keep-data) $(if $(YES),--yes)

doctor: $(READY) ## check what the platform needs from this machine
	@$(SLIPWAY) doctor

clean: $(READY) ## stop, and delete the data (asks first; YES=1 answers)
	@$(SLIPWAY) down --delete-data $(if $(YES),--yes)

##@ The code

test: lint ## lint, then all tests: hermetic ones first, then those with real processes
	@$(BIN)/pytest -m "not integration and not e2e and not cluster" -n 2
	@$(BIN)/pytest -m "integration or e2e"

tools: $(READY) ## build what the cluster tests run, pinned (needs Go; half an hour when cold)
	@$(BIN)/python -m tests.cluster.tools.build

test-cluster: tools ## the infrastructure against a real control plane and real controllers
	@$(BIN)/pytest tests/cluster -m cluster -n 2 --dist loadfile

bench: $(READY) ## measure against the peers; a table and JSON
	@$(BIN)/python -m tests.benchmarks

lint: $(READY) ## check style, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## put the code into the one format
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

lock: $(READY) ## choose the newest allowed versions anew: requirements.lock
	@$(LIKE_PIP) $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--python-version 3.11 --extra dev --extra infra --upgrade pyproject.toml -o requirements.lock
	@$(LIKE_PIP) $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--python-version 3.11 --constraints requirements.lock --upgrade pyproject.toml -o platform/images/requirements.lock
	@$(LIKE_PIP) echo uv | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--python-version 3.11 --upgrade - -o platform/requirements-uv.lock

# The environment: made once, made anew when the lock changes. The hashes say what is installed, whatever index serves it.
$(READY): requirements.lock platform/requirements-uv.lock pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(SUPPORTED)'; then \
		echo "Slipway needs Python 3.11 or 3.12; found: $$(python3 --version 2>&1 || echo none)" >&2; \
		echo "hint: install one of them, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; fi
	@[ -x $(BIN)/python ] && $(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "setting up $(VENV) with $$("$(PYTHON)" --version)"; \
		"$(PYTHON)" -m venv --clear $(VENV) || { echo "hint: apt-get install python3-venv" >&2; exit 1; }; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r platform/requirements-uv.lock
	@echo "installing $$(grep -c '^[a-z].*==' requirements.lock) packages as locked: once, some minutes"
	@$(LIKE_PIP) $(BIN)/uv pip install --compile-bytecode $$([ -t 2 ] || echo --quiet) --require-hashes -r requirements.lock
	@$(LIKE_PIP) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
