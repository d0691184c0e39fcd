# nodeshare: everything a developer or an operator of one machine runs. `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes
# Many tests wait more than they compute: two at a time use a machine better. 0: one process, for a debugger.
WORKERS ?= 2
PYTEST := $(SUDO) env CI=$(CI) $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: help
help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: up
up: $(VENV)/.run  ## Install what is missing, then run the agents on this machine (Ctrl-C ends everything)
	@exec $(SUDO) $(BIN)/nodeshare up $(ARGS)

.PHONY: test
test: $(VENV)/.dev $(VENV)/.s3 $(VENV)/.hub build/chart/.ready  ## Install what is missing, then run all levels of the tests with short counts
	@deploy/machine/install-packages test image
	$(PYTEST) $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev $(VENV)/.s3 $(VENV)/.hub build/chart/.ready  ## The same tests with the long counts
	@deploy/machine/install-packages test image
	$(PYTEST) --soak --timeout 3600 $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev  ## Measure against the peers on this machine; prints a table, writes build/bench.json
	@deploy/machine/install-packages test bench
	@mkdir -p build
	$(SUDO) $(BIN)/python -m tests.bench --json build/bench.json $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev build/chart/.ready  ## Formatting, lint, types, import rules, generated code, metrics
	@deploy/machine/install-packages lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python deploy/docs/generate_metrics.py --check
	$(BIN)/python deploy/grafana/generate.py --check
	$(BIN)/python deploy/helm/generate.py --check
	deploy/machine/chart-tools helm lint --strict nodeshare
	promtool check metrics < tests/fixtures/exposition.txt
	promtool check rules deploy/prometheus/rules.yaml

.PHONY: image
image:  ## Build the images of the agents with docker, podman or buildah (BASE, IMAGE, ENGINE: deploy/docker/README.md)
	@deploy/docker/build-image $(ARGS)

.PHONY: proto
proto: $(VENV)/.dev  ## Generate agents/_pb from proto/
	$(BIN)/python proto/generate.py

.PHONY: docs
docs: $(VENV)/.dev  ## Generate deploy/docs/metrics.md and the dashboards (then: make chart)
	$(BIN)/python deploy/docs/generate_metrics.py
	$(BIN)/python deploy/grafana/generate.py

.PHONY: chart
chart: $(VENV)/.dev build/chart/.ready  ## Generate what the Helm chart and the kustomize base hold copies of
	$(BIN)/python deploy/helm/generate.py

.PHONY: lock
lock:  ## Pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --quiet requirements-build.in -o requirements-build.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --quiet pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --quiet --extra dev -c requirements.lock pyproject.toml \
	  -o requirements-dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --quiet requirements-s3.in -o requirements-s3.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --quiet requirements-hub.in -o requirements-hub.lock

.PHONY: clean
clean:  ## Remove what was built here (the virtual environment too)
	$(SUDO) rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The build dependencies are pinned too: hence no build isolation.
$(VENV)/.build: requirements-build.lock deploy/machine/install-packages
	@deploy/machine/install-packages run
	@echo "creating $(VENV) (a minute or two the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements-build.lock
	@touch $@

$(VENV)/.run: $(VENV)/.build requirements.lock pyproject.toml
	@$(PIP) --no-build-isolation -r requirements.lock
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	@$(PIP) --no-build-isolation -r requirements-dev.lock
	@touch $@

# The S3 server of the tests has a place of its own: its libraries want older packages than we do.
$(VENV)/.s3: $(VENV)/.build requirements-s3.lock
	@$(PYTHON) -m venv $(VENV)/s3
	@$(VENV)/s3/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-s3.lock
	@touch $@

# So has the hub that the tests spawn with.
$(VENV)/.hub: $(VENV)/.build requirements-hub.lock
	@$(PYTHON) -m venv $(VENV)/hub
	@$(VENV)/hub/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-hub.lock
	@touch $@

# helm and kubectl, for tests of the chart.
build/chart/.ready: deploy/machine/chart-tools deploy/helm/helm.lock
	@deploy/machine/install-packages chart
	@deploy/machine/chart-tools install
	@touch $@
