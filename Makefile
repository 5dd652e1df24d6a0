# Two commands on a fresh machine with Python >= 3.11 and make:  make demo, make test.
#   PYTHON=python3.12 make test    another interpreter        WORKERS=8 make test    more test processes
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin

# One thread for each process: the tests run in WORKERS processes, and one thread gives the same sums everywhere.
# Bytecode is kept whatever the environment says: tests start many processes, each of which would compile the package.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE=
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test verify lint format clean

help:
	@echo "make demo     install into $(VENV) if need be, train a VAE on the digits, measure and draw it"
	@echo "make test     install likewise, then lint, type check, tests, examples in docstrings"
	@echo "make verify   the slow proofs and the benchmarks (of imputation, which takes hours, a short run)"
	@echo "make lint     ruff and mypy alone;  make format  lets ruff rewrite the files"
	@echo "make clean    remove caches and build outputs ($(VENV) stays)"

demo: $(VENV)/.installed
	$(BIN)/pyro-gen demo

test: lint
	$(PYTEST) --doctest-modules tests pyro_gen

verify: $(VENV)/.installed-test
	$(PYTEST) -m slow tests
	@missed=; for benchmark in benchmarks/*.py; do \
	  case "$$benchmark" in */machine.py) continue ;; */imputation.py) short=--quick ;; *) short= ;; esac; \
	  echo "$$benchmark" $$short; OMP_NUM_THREADS=1 $(BIN)/python "$$benchmark" $$short || missed+=" $$benchmark"; \
	done; [ -z "$$missed" ] || { echo "These missed a bar:$$missed"; exit 1; }

lint: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache
	find pyro_gen tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The environment. A stamp is renewed when pyproject.toml changes; the install with the test tools contains the plain one.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pyro-gen needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Of pip's output only the large downloads and the last step are shown; all of it is kept in install.log.
define install
	@echo "Installing $(1) into $(VENV): about 3 minutes the first time, PyTorch is large"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '$(1)' 2>&1 | tee $(VENV)/install.log \
	  | awk '/\([0-9][0-9]+(\.[0-9]+)? MB\)/ || /GB\)/ || /^Installing collected/ {print substr($$0, 1, 110); fflush()}' \
	  || { tail -n 20 $(VENV)/install.log; echo "The installation failed; all of its output is in $(VENV)/install.log"; exit 1; }
	@touch $(VENV)/.installed
endef

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(call install,.)

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(call install,.[test])
	@touch $@
