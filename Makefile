PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all bench docs check fix clean

# A real study of 44 points on scikit-learn's handwritten digits, from nothing, in minutes.
demo: $(INSTALLED)
	$(BIN)/onnxprune sweep experiments/demo.toml

# Lint, types and the fast tests, the files of tests side by side.
test: check
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Also the tests on real datasets (ONNXPRUNE_DATA names their folder), the slow ones, MLflow's and those for CUDA.
test-all: check
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,mlflow]"
	$(BIN)/python -m pytest -m "slow or data or gpu or not slow"

# onnxprune against the same work written by hand, on Fashion-MNIST and CIFAR-10 (ONNXPRUNE_DATA); an hour.
bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -W ignore benchmarks/bench.py

# The documentation as a site, in build/site; what warns is an error.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/python -m mkdocs build --strict

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml onnxprune/version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -m pip check
	touch $@

clean:
	rm -rf $(VENV)
