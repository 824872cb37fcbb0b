# Two commands do everything on a fresh Linux with Python 3.10 or newer, venv and make:
#   make demo    encode, cut and decode real photographs; results in demo/; then a camera, a poor link and a server
#   make test    the whole test suite
PYTHON ?= python3
VENV ?= .venv
# The build to test with. For the CPU build from torch's own index: make test TORCH_INDEX=<address>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# What imports of checkpoints are held against; without the packages it asks for, which its models do not need.
COMPRESSAI ?= compressai==1.2.8
# Processes that test side by side, each with one thread of torch: two with anything beside them are far slower.
WORKERS ?= 2
PICTURES ?=
SOURCE ?=
KODAK ?=
CLASSIFY ?=
CURVES ?=
# How long to fuzz each target: whichever ends first, of runs and of seconds (0: no limit)
FUZZ_TARGETS ?= stream head body decoder manifest tables onnx
FUZZ_RUNS ?= 100000
FUZZ_SECONDS ?= 60
# Faults at full length: seconds of an outage, connections of a flood, frames that must wait in the spool meanwhile
FAULTS ?= FAULTS_LONG=1 FAULTS_OUTAGE_S=30 FAULTS_CONNECTIONS=1000 FAULTS_FRAMES=50 FAULTS_PATIENCE_S=240
SOAK ?= --cameras 8 --minutes 30
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo figures speed test test-arm faults soak fuzz fuzz-keep lint types format clean

demo: $(VENV)/.demo
	$(BIN)/cutoff demo $(PICTURES) --out demo --live $(if $(SOURCE),--source $(SOURCE))

# README's figures: make figures KODAK=folder CLASSIFY=folder-with-classifier [CURVES="published.csv ..."]
# Takes an hour or more on two cores, and an otherwise idle machine, as times are measured; a rerun goes on. See CONTRIBUTING.md.
figures: $(VENV)/.eval
	PYTHONPATH=. $(BIN)/python benchmarks/figures.py --kodak $(KODAK) --classify $(CLASSIFY) \
	  $(if $(CURVES),--curves $(CURVES)) --out figures --readme README.md
	$(MAKE) speed PICTURES=$(KODAK)

# README's tables of speed and memory: make speed PICTURES=folder; half an hour on an otherwise idle machine.
speed: $(VENV)/.dev
	PYTHONPATH=. $(BIN)/python benchmarks/speed.py $(PICTURES) --json benchmarks/results/speed.json --readme README.md
	PYTHONPATH=. $(BIN)/python benchmarks/peers.py $(PICTURES) --json benchmarks/results/peers.json --readme README.md
	PYTHONPATH=. $(BIN)/python benchmarks/throughput.py $(PICTURES) --json benchmarks/results/throughput.json --readme README.md
	PYTHONPATH=. $(BIN)/python benchmarks/memory.py $(firstword $(wildcard $(PICTURES:=/*.png)) $(PICTURES)) \
	  --json benchmarks/results/memory.json --readme README.md

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

# Other processors, emulated; needs Debian's apt-get and dpkg, and unzip, and says so where it has to be skipped.
test-arm: $(VENV)/.dev
	PYTHONPATH=. $(BIN)/python tests/emulated/run.py .emulated

# Outages of half a minute, floods of a thousand connections, full disks, jumping clocks: see CONTRIBUTING.md.
faults: $(VENV)/.dev
	$(FAULTS) $(BIN)/python -m pytest -q tests/faults

# Half an hour with eight cameras on this machine; 1 if memory, handles or threads grow.
soak: $(VENV)/.dev
	PYTHONPATH=. $(BIN)/python benchmarks/soak.py $(SOAK) --json benchmarks/results/soak.json

# Stops at the first fault; the input that shows it is then in .fuzz/. See CONTRIBUTING.md.
fuzz: $(VENV)/.fuzz
	set -e; for target in $(FUZZ_TARGETS); do PYTHONPATH=. $(BIN)/python tests/fuzz/run.py $$target .fuzz \
	  -runs=$(FUZZ_RUNS) -max_total_time=$(FUZZ_SECONDS); done

# Renews tests/fuzz/corpus from what was found.
fuzz-keep: $(VENV)/.fuzz
	set -e; for target in $(FUZZ_TARGETS); do PYTHONPATH=. $(BIN)/python tests/fuzz/run.py $$target .fuzz --keep; done

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
	$(PIP) -e '.[demo,edge,serve]'
	touch $@

$(VENV)/.eval: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[eval,fast]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)'
	$(PIP) -e '.[dev,edge,eval,export,serve]'
	$(PIP) --no-deps --only-binary :all: '$(COMPRESSAI)' || echo 'no wheel of compressai: tests of its checkpoints skip'
	touch $@

$(VENV)/.fuzz: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[fuzz]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist
