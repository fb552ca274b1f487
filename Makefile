# make demo    train MNIST by sequential backprop and in two processes, and set them side by side
# make test    lint, types and the fast tests;  make test-slow  the long ones
# Both set up .venv first, with the versions of constraints.txt.
# make gpu-check  everything that needs a GPU, in nine minutes on one: results in $OUT or docs/benchmarks/gpu
#                 (PYTHON_GPU=python3 where an image has its own torch; ARGS=--dry-run-cpu tries the script without one)
# make docs    the site in site/;  make dist  wheel and source distribution in dist/, checked
# make test-oldest  the fast tests with the lower bounds of setup.cfg;  make test-newest  with the newest releases

PYTHON ?= python3
PYTHON_OLDEST ?= python3.10
PYTHON_NEWEST ?= python3.13
PYTHON_GPU ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-oldest test-newest gpu-check lint docs dist clean

demo: .venv/installed
	$(BIN)/python -m launch.compare --task mnist-fcn --engines backprop cdni --stages 2 --epochs 10 --out runs/demo
	@printf '\nLook at  runs/demo/report.html        curves, and what both stages did at every moment (in a browser)\n'
	@printf '         runs/demo/compare.png        the same comparison as a picture\n'
	@printf 'Try next $(BIN)/python -m launch.compare --task mnist-fcn --engines 1f1b local cdni --stages 2 --out runs/b\n'
	@printf '         $(BIN)/python -m launch.train --stages 2 --task digits-fcn --epochs 20 --out runs/c\n'
	@printf '         your own model: docs/GUIDE.md#your-own-model\n'

test: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

test-oldest: constraints-oldest.txt setup.cfg
	$(PYTHON_OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[dev]'
	.venv-oldest/bin/python -m pytest -n 3 --dist worksteal

test-newest: setup.cfg
	$(PYTHON_NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e '.[dev]'
	.venv-newest/bin/python -m pytest -n 3 --dist worksteal

gpu-check:
	$(PYTHON_GPU) -m launch.gpu_check $(ARGS)

docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dist]'
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest runs build dist site *.egg-info
