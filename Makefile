# `make demo` and `make test` do all their own set-up in .venv; neither needs a GPU, a model hub or torchvision.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test format lint types tests nightly fuzz sample clean

demo: $(INSTALLED)
	$(BIN)/medvl demo

test: lint types tests

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

tests: $(INSTALLED)
	$(BIN)/pytest -q

nightly: $(INSTALLED)
	$(BIN)/pytest -q -m "not gpu"

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.dicom.fuzz $(or $(COUNT),100000)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medvl needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

sample: $(INSTALLED)
	$(BIN)/python -m medvl.evaluate.sample sample_data

clean:
	rm -rf $(VENV)
