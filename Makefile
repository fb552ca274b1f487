# make demo    train pipelined MNIST in two processes and set it beside sequential backprop
# make test    lint, types and the fast tests;  make test-slow  the long ones
# Both set up .venv first, with the versions of constraints.txt.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint clean

demo: .venv/installed
	$(BIN)/python -m launch.compare --task mnist-fcn --engines backprop cdni --stages 2 --epochs 5 --out runs/demo

test: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
