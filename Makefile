# Every target works on a fresh machine: it sets up what it needs first.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(if $(shell command -v python$(v)),python$(v))) python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests and the demo keep two cores busy with processes, not threads.
export OMP_NUM_THREADS ?= 2
# Threads that spin while they wait make a busy machine many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format docs plans bench gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 12

setup: $(STAMP) ## make .venv and install stu with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) with $(PYTHON) (about two minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## phantom data to a scored mask and a picture in ./demo, on the CPU
	@echo "== running the demo into ./demo"
	$(BIN)/stu demo --output demo

test: setup ## static checks, then unit, contract, docs and integration tests
	@echo "== static checks"
	$(BIN)/ruff format --check stu_pipeline tests docs
	$(BIN)/ruff check stu_pipeline tests docs
	$(BIN)/mypy
	@echo "== tests"
	$(BIN)/pytest -m "not gpu and not slow" --durations=15

test-all: setup ## everything, the slow tier included
	$(BIN)/pytest -m "not gpu" --durations=30

check: setup ## what to run before a commit: format, lint, types, fast tests
	$(BIN)/ruff format --check stu_pipeline tests docs
	$(BIN)/ruff check stu_pipeline tests docs
	$(BIN)/mypy
	$(BIN)/pytest

format: setup ## put the code into shape
	$(BIN)/ruff format stu_pipeline tests docs
	$(BIN)/ruff check --fix stu_pipeline tests docs

docs: setup ## regenerate the generated pages
	$(BIN)/python docs/generate.py

plans: setup ## regenerate the reference plans
	$(BIN)/python -m stu_pipeline.planning.reference

bench: setup ## measure against stock nnU-Net on this machine
	$(BIN)/python -m tests.bench

gpu: setup ## tests and measurements that need a CUDA device
	$(BIN)/pytest -m gpu tests/gpu
	$(BIN)/python -m tests.bench.measure_gpu
	$(BIN)/python -m tests.bench.train_gpu
	$(BIN)/python -m tests.bench.predict_gpu

clean: ## remove what the targets made
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
