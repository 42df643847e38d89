# Two commands: `make up` starts timeshare here, `make test` runs everything.
# PYTHON: the interpreter the environment is built from. The system's one is preferred because
# multi-user sessions run as other users, who must be able to execute it.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV ?= .venv
BIN := $(VENV)/bin
UP ?=

.PHONY: up test lint fast hub browser stress bench setup clean

up: $(VENV)/.user
	$(BIN)/timeshare up $(UP)

setup: $(VENV)/.dev

$(VENV)/.user: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[hub]'
	touch $@

# Strict: mypy and the tests then see exactly what a wheel would hold.
$(VENV)/.dev: pyproject.toml $(shell git ls-files -co --exclude-standard '*.py' 2>/dev/null)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' --config-settings editable_mode=strict
	touch $@ $(VENV)/.user

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
