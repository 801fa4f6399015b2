# EoS Atlas. `make` alone lists the targets.
#   make figures NOTEBOOKS=01,03 PROFILE=cifar10 JOBS=2

PYTHON    ?= python3
PROFILE   ?= quick
NOTEBOOKS ?=
JOBS      ?= 2
CHOICE    := $(if $(NOTEBOOKS),--notebooks $(NOTEBOOKS))

BIN       := .venv/bin
INSTALLED := .venv/.installed
LAB       := .venv/.installed-lab
BENCH     := .venv/.installed-bench
PIP       := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help figures test bench lab refresh clean distclean

help: ## list the targets
	@echo "usage: make TARGET [NOTEBOOKS=01,03] [PROFILE=quick] [JOBS=2] [PYTHON=python3]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

figures: $(INSTALLED) ## run the notebooks; write figures/ and the scorecard in README.md
	$(BIN)/python -m common.reproduce --profile $(PROFILE) --jobs $(JOBS) $(CHOICE)

# MPLBACKEND would take the figures out of the notebooks; bars would end up in their outputs
test: $(INSTALLED) ## lint, unit tests and doctests with coverage, then nbval on the notebooks
	@mkdir -p build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n $(JOBS) --doctest-modules --cov --cov-report=term tests common
	env -u MPLBACKEND TQDM_DISABLE=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 -p no:cacheprovider notebooks

bench: $(BENCH) ## measure the cost of the sharpness, other packages beside ours (three quarters of an hour)
	$(BIN)/python -W ignore -m tests.benchmarks.sharpness
	$(BIN)/python -m tests.benchmarks.every_step
	$(BIN)/python -m tests.benchmarks.scaling
	$(BIN)/python -m tests.benchmarks.overtaking
	$(BIN)/python -m tests.benchmarks.allocator

lab: $(LAB) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

refresh: $(INSTALLED) ## maintainers: run the notebooks with their defaults and store the outputs
	$(BIN)/python -m common.reproduce --inplace --jobs $(JOBS) $(CHOICE)

clean: ## remove build/: the cache of runs and the executed copies
	rm -rf build

distclean: clean ## remove .venv too
	rm -rf .venv

# The environment: made when .venv is missing, brought up to date when a pin has changed.
$(INSTALLED): pyproject.toml
	@[ -x $(BIN)/python ] \
	  || "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: '$(PYTHON)' is missing or older than Python 3.11;" \
	       "name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "making .venv"; "$(PYTHON)" -m venv .venv; }
	@echo "installing the pinned packages into .venv (minutes the first time)"
	@$(PIP) --editable ".[test]"
	@touch $@

$(LAB): $(INSTALLED)
	@$(PIP) --editable ".[test,lab]"
	@touch $@

$(BENCH): $(INSTALLED)
	@$(PIP) --editable ".[test,bench]"
	@touch $@
