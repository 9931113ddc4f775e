# Two targets do all their own set-up: `make repro` (the main job) and `make test` (all tests).
# They need Python >= 3.11 with pip, gcc and make.

PYTHON ?= python3
OUT ?= repro-out
SEED ?= 0
TABLE ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c constraints.txt
# One worker per core, up to four.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 4 ] && n=4; echo $$n)

.PHONY: repro test lint bench paper clean help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

repro: $(VENV)/.core ## run the main job (OUT=folder SEED=n TABLE=scored-responses.csv)
	$(BIN)/rlhfsim repro --out "$(OUT)" --seed "$(SEED)" $(if $(TABLE),--table "$(TABLE)")

# One thread for each worker's OpenBLAS, whose idle threads would wait busily on the others' cores;
# bytecode is kept, whatever the environment says, as each process that a test starts would compile
# the package again; whole files for each worker, so that what a file runs once is run once, in the
# order of `tests/conftest.py`.
test: $(VENV)/.test ## run all tests, the torch ones included
	PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.lint ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.bench ## measure against what people use today (writes benchmarks/*.md)
	$(BIN)/python benchmarks/wright_omega.py
	$(BIN)/python benchmarks/bench_solve.py
	$(BIN)/python benchmarks/bench_rewards.py
	$(BIN)/python benchmarks/bench_sampling.py
	$(BIN)/python benchmarks/bench_learners.py
	$(BIN)/python benchmarks/bench_dynamics.py
	$(BIN)/python benchmarks/bench_studies.py
	$(BIN)/python benchmarks/bench_games.py
	$(BIN)/python benchmarks/bench_online.py
	$(BIN)/python benchmarks/bench_mdp.py

paper: $(VENV)/.core ## reproduce the numbers of every paper in paper_repro/
	@for folder in paper_repro/*/; do \
		echo "== $$folder"; $(BIN)/rlhfsim paper "$$folder" || exit 1; \
	done

clean: ## remove what the other targets made
	rm -rf $(VENV) repro-out bench-out build dist *.egg-info
	rm -rf .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python without ensurepip (Debian's without python3-venv) cannot make environments itself.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed; set PYTHON=python3.11 or later"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		$(PYTHON) -m pip install --user --quiet virtualenv && $(PYTHON) -m virtualenv $(VENV); }

$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.core

$(VENV)/.bench: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[test,bench]'
	@touch $@ $(VENV)/.core $(VENV)/.test

$(VENV)/.lint: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[test,lint]'
	@touch $@ $(VENV)/.core $(VENV)/.test
