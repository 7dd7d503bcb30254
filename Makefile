# Every target does its own set-up in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: setup try test editors e2e e2e-llama lint fix bench soak clean

# The package alone: what a user installs.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

# Everything that tests and benchmarks need.
$(VENV)/.setup: pyproject.toml constraints.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,export,gateway,collector,analysis,dev]'
	touch $@

setup: $(VENV)/.setup

try: $(VENV)/.installed
	$(BIN)/snowcoder try

lint: $(VENV)/.setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest

# Installs the real editors (see tests/e2e/README.md) and drives them.
e2e: editors
	cd tests/e2e/node && npm ci --no-audit --no-fund
	$(BIN)/python -m pytest tests/e2e --ignore tests/e2e/test_llama_server.py --override-ini addopts=-q

# Our server against a real llama.cpp server, which is compiled first (7 minutes).
e2e-llama: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[e2e]'
	$(BIN)/python -m tests.e2e.llama_server
	$(BIN)/python -m pytest tests/e2e/test_llama_server.py --override-ini addopts=-q

# What they need, and the extension as it is now: npm and apt see themselves what is there.
editors: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[e2e]'
	$(BIN)/python -m tests.e2e.install
	cd vscode-ext && npm ci --no-audit --no-fund && npm run package

# About an hour on a machine with nothing else to do; llama.cpp is compiled first.
bench: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.prepare
	$(BIN)/python -m benchmarks.results

# The long forms of what the tests do in short: about an hour.
soak: $(VENV)/.setup
	$(BIN)/python -m benchmarks.prepare
	$(BIN)/python -m benchmarks.fuzz --messages 20000 --json
	$(BIN)/python -m benchmarks.soak --steps 100000 --json
	$(BIN)/python -m benchmarks.load --clients 8 --json
	$(BIN)/python -m benchmarks.filters --json

clean:
	rm -rf $(VENV) build dist *.egg-info
