SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos check bench

PYTHON ?= python3
OUT ?= ffr-demo
BIN := .venv/bin
READY := .venv/.ready
PINS := requirements/constraints.txt

help: ## what there is to make
	@sed -En 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## the environment, in .venv (PYTHON=... chooses the interpreter: 3.11 or newer)

demo: $(READY) ## the whole way on built-in data, into OUT=ffr-demo; run again, it goes on where it was
	$(BIN)/ffr demo --out "$(OUT)"

# Two at a time, as many of them wait for other processes; in larger parts than files, so that what a file shares is made once.
test: $(READY) ## all tests that this machine can run
	$(BIN)/pytest --numprocesses 2 --dist worksteal

chaos: $(READY) ## the long suite of kills, races and failing stores
	$(BIN)/pytest tests/chaos -m chaos

check: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## the quick form of every benchmark, with its goal
	$(BIN)/python -m bench --all --quick

# torch first and alone: whichever build of it is on offer (CPU, CUDA) stays, and the others settle around it.
# Last comes the file that says it is whole: an install that was interrupted is made again.
$(READY): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make setup PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint $(PINS) torch
	$(BIN)/pip install --constraint $(PINS) --editable '.[dev]'
	@touch $@
