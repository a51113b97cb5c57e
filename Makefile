# `make demo`, `make chat` and `make test` do everything on a fresh machine: they make a virtual environment and install into it.
VENV ?= .venv
PYTHON ?= python3
OUT ?= runs/demo
BIN = $(VENV)/bin

.PHONY: demo chat test test-slow compat docs lint types unit clean

demo: $(VENV)/installed
	$(BIN)/python -m gill demo --out $(OUT)

chat: $(VENV)/installed
	$(BIN)/python -m gill chat $(MODEL)

# About seven minutes on two cores; what takes longer is in test-slow.
test: lint types unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow" --durations 15

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow --durations 15

# The built wheel with the oldest and with the newest versions that pyproject.toml allows.
compat: $(VENV)/installed-dev
	$(BIN)/python tests/compat/environments.py

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python requirements.txt
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev requirements-docs.txt
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	touch $@

clean:
	rm -rf $(VENV) .compat runs build site *.egg-info distributions/*/build distributions/*/*.egg-info
