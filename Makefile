# Two commands: `make demo` runs the whole job on real CT, `make test` checks the code. Both make the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LABEL_VENV := .venv-label
LABEL_STAMP := $(LABEL_VENV)/.installed
DEMO_OUT ?= demo
VERSIONS ?= 3.10 3.12 3.13
RESULTS_OUT ?= runs/results
STAMP := $(VENV)/.installed

.PHONY: install demo results bundles check lint types test pytest test-versions hooks test-all label-env test-label build docs clean
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

# The studies of docs/results.md, and their tables put into it. Stopped, it carries on.
results: $(STAMP)
	$(BIN)/medssl sample-data --out $(RESULTS_OUT)/samples
	$(BIN)/medssl study study_samples --data $(RESULTS_OUT)/samples/labels.csv --out $(RESULTS_OUT)/study_samples --into docs/results.md
	$(BIN)/medssl study study_phantom --out $(RESULTS_OUT)/study_phantom --into docs/results.md

# What bundles/ repeats is written from bundle_templates/: docs/bundles.md.
bundles: $(STAMP)
	$(BIN)/python bundle_templates/generate.py

# Lint and format at each commit, types at each push.
hooks: $(STAMP)
	$(BIN)/pre-commit install

check: lint types

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

test: check pytest

# Several processes with one thread each: threads of two processes on the same cores wait for each other.
PROCESSES ?= 2
RUN_TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile

pytest: $(STAMP)
	$(RUN_TESTS) -m 'not slow and not ddp and not gpu and not network and not label'

# The same tests on the other Pythons, each in an environment of its own: VERSIONS=3.12 for one of them.
test-versions:
	failed=; for version in $(VERSIONS); do \
		$(MAKE) pytest PYTHON=python$$version VENV=.venv-$$version || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "failed on Python$$failed"; exit 1; }

test-all: check
	$(RUN_TESTS)

# MONAI Label's own requirements hold numpy below 2 and a pydicom that cannot start its server: it comes without them.
label-env: $(LABEL_STAMP)

$(LABEL_STAMP): setup.cfg constraints.txt
	test -x $(LABEL_VENV)/bin/python || $(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[label]'
	$(LABEL_VENV)/bin/python -m pip install --quiet --no-deps monailabel==0.8.5
	touch $@

test-label: $(STAMP) $(LABEL_STAMP)
	$(BIN)/python -m pytest tests/label_server -m label

build: $(STAMP)
	$(BIN)/python -m build

# The site: open site/index.html. Figures: python docs/draw_figures.py --train
docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
