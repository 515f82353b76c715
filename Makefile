# `make demo`, `make train-demo` and `make test` set up a virtual environment first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo train-demo test install clean
demo: .venv/demo
	$(BIN)/python demo.py

train-demo: .venv/demo
	$(BIN)/python demo.py --train

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

install: .venv/demo

.venv/demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ .venv/demo

clean:
	rm -rf .venv out *.egg-info
