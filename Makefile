# `make demo` and `make test` work on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

ORT_WEB := build/node_modules/onnxruntime-web

.PHONY: demo test lint docs lock image sbom audit clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# Two tests at a time with one thread each: most of them wait for a process of their own. In the order of the files: by the
# number of their tests, long files of few tests would come last and keep one worker waiting.
test: lint $(ORT_WEB)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# What runs models in a browser; without npm, or its registry, the tests that need it are skipped, and say so.
$(ORT_WEB):
	@mkdir -p build
	@npm install --prefix build --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
		onnxruntime-web@1.30.0 || echo "no onnxruntime-web: npm is not here, or cannot fetch it"

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
UV_COMPILE := uv pip compile pyproject.toml --no-header --no-emit-index-url --no-annotate --python-version 3.11
lock:
	$(UV_COMPILE) --all-extras --universal --upgrade -o requirements.lock
	$(MAKE) serving/requirements-cpu.txt serving/requirements-gpu.txt serving/requirements-sbom.txt

# What a container installs: serving's packages at the lock's pins, with their digests. uv only builds bentos.
CONTAINER := $(UV_COMPILE) --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-package uv \
	--constraints requirements.lock --extra grpc --extra otel --extra sign
serving/requirements-gpu.txt: requirements.lock pyproject.toml
	$(CONTAINER) --extra gpu -o $@

serving/requirements-cpu.txt: requirements.lock pyproject.toml
	mkdir -p build
	echo "onnxruntime-gpu ; sys_platform == 'never'" > build/overrides.txt
	sed -n 's/^\(onnxruntime==[^ ]*\).*/\1/p' requirements.lock >> build/overrides.txt
	$(CONTAINER) --overrides build/overrides.txt -o $@

serving/requirements-sbom.txt: requirements.lock
	echo cyclonedx-bom | uv pip compile - --no-header --no-emit-index-url --no-annotate --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --generate-hashes --constraints requirements.lock -o $@

# The container, where a container engine is installed.
ENGINE ?= docker
VARIANT ?= cpu
image:
	$(ENGINE) build -f serving/Dockerfile --build-arg VARIANT=$(VARIANT) \
		--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(if $(MODEL),--build-arg MODEL=$(MODEL)) \
		-t xtrain:$(VARIANT) .

# The packages of the container, from its pins, in CycloneDX's format.
sbom: $(STAMP)
	@mkdir -p build
	PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		-o build/sbom-$(VARIANT).cdx.json serving/requirements-$(VARIANT).txt

# What PyPI knows against them; needs the network.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes -r serving/requirements-$(VARIANT).txt

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
