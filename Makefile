# Two commands do everything on a fresh Linux with Python 3.10 or newer, venv and make:
#   make demo    encode, cut and decode real photographs; results in demo/
#   make test    the whole test suite
PYTHON ?= python3
VENV ?= .venv
# The build to test with. For the CPU build from torch's own index: make test TORCH_INDEX=<address>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PICTURES ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-arm lint types format clean

demo: $(VENV)/.demo
	$(BIN)/cutoff demo $(PICTURES) --out demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q

# Other processors, emulated; needs Debian's apt-get and dpkg, and unzip.
test-arm: $(VENV)/.dev
	PYTHONPATH=. $(BIN)/python tests/emulated/run.py .emulated

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	$(PIP) -e '.[dev,eval,export]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist
