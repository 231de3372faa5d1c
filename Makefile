# Two commands: `make demo` shows what optkit does, `make test` checks everything. Both make .venv on demand.
.DEFAULT_GOAL := help
.PHONY: help demo test lint onnx-suite mutants random-models bench bench-readme clean

VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto
# a python of 3.11 to 3.13; override with PYTHON=...
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; \
	done)

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

# pip runs again when the dependencies change, and only then
$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; install one, or run make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## train a small network, compile it in FP32 and INT8, verify, benchmark
	$(BIN)/python -m benchmarks.demo

test: lint ## everything: ruff, mypy, pytest, doctests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --doctest-modules tests optkit passes/optkit_passes targets/optkit_targets

lint: $(VENV)/.test ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

onnx-suite: $(VENV)/.test ## ONNX's own backend suite, all of it; RESUME=--resume goes on where it was stopped
	$(BIN)/python -m tests.onnx_suite.run --jobs 2 $(RESUME)

mutants: $(VENV)/.test ## ten thousand malformed models: each compiled, or refused in one line
	$(BIN)/python -m tests.robustness.run --jobs 2

random-models: $(VENV)/.test ## models that grow at random, against ONNX Runtime; MODELS='--open --passes int8 --count 500'
	$(BIN)/python -m tests.random_models.run $(MODELS)

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench ## race ONNX Runtime, OpenVINO and torch.compile; BENCH='resnet50 --threads 1 2' narrows or widens
	$(BIN)/python -m benchmarks.cpu $(BENCH)

bench-readme: $(VENV)/.test ## put what `make bench` found (benchmarks/results/cpu.json) into README.md
	$(BIN)/python -m benchmarks.figures --readme README.md

clean: ## remove what the commands above made, .venv too
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
