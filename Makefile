# Two commands: `make demo` runs the whole job on real CT, `make test` checks the code. Both make the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo
STAMP := $(VENV)/.installed

.PHONY: install demo check lint types test test-all build clean
.DEFAULT_GOAL := install

install: $(STAMP)

# torch and torchvision must be releases that fit each other: constraints.txt names them.
$(STAMP): setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/medssl demo --out $(DEMO_OUT) $(if $(filter-out 0,$(OFFLINE)),--offline)

check: lint types

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -m 'not slow and not ddp and not gpu and not network'

test-all: check
	$(BIN)/python -m pytest

build: $(STAMP)
	$(BIN)/python -m build

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
