# The two commands of a newcomer are `make demo` and `make test`; both set everything up in .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
CORES ?= 2

.PHONY: help setup demo report test slurm-test lint format staleness audit docs lock clean prune-store
.DEFAULT_GOAL := help

help: ## list of targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/ready ## install everything into .venv, at the versions of requirements.lock

$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'firstshot needs Python 3.11 or later, found: $(or $(PYTHON),none).' \
	       'Install it (Debian: apt-get install python3 python3-venv) or name one: make PYTHON=/path/to/python3.11'; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || { \
	  echo 'no virtual environment could be made; on Debian: apt-get install python3-venv'; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## synthetic machines, small UNTRAINED networks, every stage; then the report
	@echo 'The demo uses synthetic sounds and untrained networks: its scores say nothing about DCASE.'
	snakemake --cores $(CORES) --configfile config/demo.yaml
	snakemake --cores $(CORES) --configfile config/demo.yaml --report results/demo/report.html
	@echo 'Scores: results/demo/metric/official.csv   Report: results/demo/report.html'

test: setup lint ## lint, format checks and all tests
	pytest

slurm-test: setup ## the workflow on a real Slurm of one node, from Debian packages (as root on Debian)
	pytest -rs --timeout=3000 tests/slurm

lint: setup ## ruff, mypy, snakefmt and snakemake --lint, changing nothing
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check --compact-diff Snakefile workflow/rules
	snakemake --lint

format: setup ## bring code and rules into form
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow/rules

staleness: setup ## the staleness matrix: what is run again after which change
	python tests/staleness/matrix.py

audit: setup ## compare all artefacts with the present code, config and inputs: make audit CONFIG=config/demo.yaml [DEEP=1]
	python workflow/scripts/audit.py $(if $(CONFIG),--configfile $(CONFIG)) $(if $(DEEP),--deep)

docs: setup ## the configuration reference, from the schema
	python docs/configuration.py

lock: ## write requirements.lock from what .venv holds
	@{ echo '# Exact versions of everything that `make setup` installs beside the package itself (Python 3.11). Made by `make lock`.'; \
	   $(VENV)/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel | LC_ALL=C sort -f; } > requirements.lock

clean: ## remove results of demo and tiny, and caches; other experiments and the store stay
	rm -rf results/demo results/tiny .mypy_cache .pytest_cache .ruff_cache

prune-store: setup ## remove stored outputs that no result links any more: make prune-store STORE=results/.store
	python workflow/scripts/prune_store.py $(or $(STORE),results/.store)
