# Every target sets up what it needs. The environment is made once and made anew when the lock changes.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The models of tests and demo come in a package: nothing asks a hub.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM ?= true

# Much of a test is waiting, so two run side by side; those that measure time run by themselves.
PROCESSES ?= 2
# In the order of their names, not those with most tests first: the longest files have few.
BESIDE = -m "not alone" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install servers demo up down status send check audit sbom test test-system chaos bench acceptance generate lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

install: $(STAMP) ## Make the virtual environment from the lock file

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements.lock | cut -d' ' -f1)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

servers: $(STAMP) ## Fetch the real servers that the system tests start (Java 17 and Maven are needed)
	@$(BIN)/python deploy/local/install.py kafka flink postgres prometheus alertmanager toxiproxy faketime prism kubernetes

up: $(STAMP) ## Start Kafka, Prometheus, Alertmanager, the job and the monitor here, without Docker; CONFIG=file, ARGS=…
	@$(BIN)/python deploy/local/install.py kafka prometheus alertmanager
	@env -u HF_HUB_OFFLINE $(BIN)/python -m deploy.local.stack up $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

down: $(STAMP) ## Stop what `make up` has started, and nothing else
	@$(BIN)/python -m deploy.local.stack down $(ARGS)

status: $(STAMP) ## Say what of `make up` runs and answers
	@$(BIN)/python -m deploy.local.stack status $(ARGS)

send: $(STAMP) ## Send documents, one JSON object a line on standard input, to the topic of `make up`
	@$(BIN)/python -m deploy.local.stack send $(ARGS)

demo: $(STAMP) ## Watch documents flow from a topic into a searchable index, all on this machine
	@$(BIN)/plumbline demo

check: $(STAMP) ## Lint, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

audit: $(STAMP) ## Pins, licences, withdrawn releases and known vulnerabilities of all dependencies
	$(BIN)/python -m deploy.audit $(AUDIT)

sbom: $(STAMP) ## Write the bill of materials (CycloneDX) to build/plumbline.cdx.json
	$(BIN)/python -m deploy.sbom build/plumbline.cdx.json

test: $(STAMP) ## Unit and integration tests: nothing else has to run
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/unit tests/integration $(BESIDE)
	$(BIN)/pytest tests/unit tests/integration -m alone

test-system: servers ## System tests on Apache Kafka and Flink, with processes that are killed; alert rules
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/rules tests/system $(BESIDE)
	$(BIN)/pytest tests/system -m alone

chaos: servers ## Harm everything at random while a rollout is built: make chaos SEED=7 KILLS=40 RUNNER=flink
	PLUMBLINE_TEST_SEED=$(or $(SEED),1) PLUMBLINE_TEST_KILLS=$(or $(KILLS),40) OMP_NUM_THREADS=1 $(BIN)/pytest tests/system/test_chaos.py -k $(or $(RUNNER),in_process)

bench: $(STAMP) ## Measure throughput, redelivery and memory; ratios within one run
	$(BIN)/python -m tests.benchmarks

acceptance: servers ## The long runs, of which CI does a short seed
	PLUMBLINE_TEST_ACCEPTANCE=1 $(BIN)/pytest tests -m acceptance

generate: $(STAMP) ## Write what is generated: the table of all metrics, rules, alerts, dashboards
	$(BIN)/python -m monitors.document > docs/metrics.md
	$(BIN)/python -m deploy.alerting
	$(BIN)/python -m deploy.kubernetes
	$(BIN)/python -m deploy.docker
	$(BIN)/python -m dashboards

lock: ## Resolve the lock file anew from pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-emit-package plumbline --no-annotate --no-header --group dev pyproject.toml --extra demo --extra postgres --output-file requirements.lock

clean: ## Remove the environment, caches and the demo's data
	rm -rf $(VENV) .cache build dist *.egg-info plumbline-data .mypy_cache .ruff_cache .pytest_cache .hypothesis
