# `make demo` and `make test` work on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint docs lock clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# Two tests at a time with one thread each: most of them wait for a process of their own.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The parts of the pages that come from code and benchmarks, then the site in build/site; needs no network.
docs: $(STAMP)
	PYTHONPATH=. $(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The lock holds exact pins for Python 3.11 and 3.12; the project itself is installed editable on top.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "xtrain needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11 demo" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# Needs uv. The output names no index, so it is the same whichever mirror served it.
lock:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--no-header --no-emit-index-url --no-annotate --upgrade -o requirements.lock

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
