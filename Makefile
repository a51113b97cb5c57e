# `make demo` and `make test` do everything on a fresh machine: they make a virtual environment and install into it.
VENV ?= .venv
PYTHON ?= python3
OUT ?= runs/demo
BIN = $(VENV)/bin

.PHONY: demo test lint types unit clean

demo: $(VENV)/installed
	$(BIN)/python -m picturebook.report.demo --out $(OUT)

test: lint types unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python requirements.txt
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
