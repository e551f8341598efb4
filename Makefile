# Everything a newcomer types. Each target makes its own environment (.venv) first; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PY := $(VENV)/bin/python
# -qq: errors only.
PIP := $(PY) -m pip -qq --disable-pip-version-check
READY := $(VENV)/.ready

# The first Python that is new enough and can make an environment. Asked by running it: a name on the PATH may be a shim.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$python"; break; }; done)

# Without a GPU, Linux takes torch's CPU build: the default one brings gigabytes of CUDA along. Elsewhere the default is right.
TORCH ?= torch==2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(if $(filter Linux,$(shell uname -s)),$(if $(shell command -v nvidia-smi),,$(CPU_INDEX)))

.PHONY: help setup lint check test faults run audit clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

setup: $(READY) ## the environment alone, in .venv (PYTHON=, TORCH=, TORCH_INDEX= to choose others)

lint: $(READY) ## lint, format and types alone
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

check: lint ## lint, format, types and the tests without Ray: some 5 minutes
	@$(PY) -m pytest -q -n 2 --dist loadfile -m "not ray and not slow and not faults" --durations=10

test: lint ## lint, format, types and every test, Ray's too: less than half an hour
	@$(PY) -m pytest -q -n 2 --dist loadfile -m "not ray and not faults" --durations=12
	@$(PY) -m pytest -q -m "ray and not faults" --durations=12

faults: $(READY) ## drills on several nodes, then every fault on every kind of run: over an hour, as root
	@$(PY) -m pytest -q -m faults
	@$(PY) -m benchmarks.faults

run: $(READY) ## the demo: data, training on 2 Ray workers, answers of 2 actors, a table and a picture
	@$(PY) jobs/demo.py

audit: $(READY) ## known holes in the dependencies, by PyPI's advisories (asks the network)
	@$(PIP) install "pip-audit>=2.10"
	@$(PY) -m pip_audit --local --skip-editable --progress-spinner off

clean: ## caches and build products; leaves .venv, data/ and runs/ alone
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find eqr_ray tests jobs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or say PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(PY) || { echo "environment: $(VENV), from $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@if $(PY) -c 'import torch' 2>/dev/null; then echo "torch: already there"; \
	elif [ -n "$(TORCH_INDEX)" ] && $(PIP) install --no-deps --timeout 20 --retries 1 --index-url "$(TORCH_INDEX)" "$(TORCH)" 2>/dev/null; \
	then echo "torch: taken from $(TORCH_INDEX)"; \
	else echo "torch: $(if $(TORCH_INDEX),$(TORCH_INDEX) cannot be used; ,)taking the default build"; $(PIP) install "$(TORCH)"; fi
	@echo "dependencies: some 200 packages on first use, a few minutes"
	@$(PIP) install --editable ".[dev]"
	@$(PY) -c 'import torch; print("ready: torch", torch.__version__, "with CUDA" if torch.cuda.is_available() else "on the CPU")'
	@touch $@
