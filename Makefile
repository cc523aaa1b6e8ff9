# make demo    draw unusual guitars       make check   lint, format, types
# make test    run the tests              make bench   speed ratios
# make test-newest  the same on the newest versions that pyproject.toml admits
# make test-slow  commands killed at random moments, leaks, 10,000 made-up files of each kind
# make gpu-check  all forms on an accelerator against the CPU
# make docs    documentation into site/  make tables  the papers' claims, re-run
# make pocket  what CreTok and DisTok learn for pocket, after its weights changed
# make clean   remove what check, test, docs and builds made
#
# Needs Python 3.10 to 3.13; choose one with: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= -c constraints.txt
override DEMO := out/demo

# threads that spin while they wait make a busy two-core machine ten times slower
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := demo
.PHONY: demo test test-newest test-slow check gpu-check bench tables pocket docs clean

demo: $(VENV)/.installed
	@if [ -f $(DEMO)/request.json ]; then rm -rf $(DEMO); fi
	$(BIN)/offbeat explore guitar --out $(DEMO)
	@echo
	@echo "Ordinary beside unusual: $(DEMO)/contact.png    All of it: $(DEMO)/report.html"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n logical --dist loadfile

# the newest versions that the ranges admit, in an environment of their own
test-newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=--upgrade

# minutes to an hour: what is too long for each commit
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n logical --dist loadfile -m slow
	OFFBEAT_EXAMPLES=10000 $(BIN)/python -m pytest -q -n logical tests/verbs/test_fuzz.py

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# under 4 minutes, no weights needed; DEVICE=cuda:1 chooses another
gpu-check: $(VENV)/.installed-dev
	$(BIN)/python tests/gpu_check.py $(or $(DEVICE),auto)

bench: $(VENV)/.installed
	$(BIN)/offbeat bench speed

tables: $(VENV)/.installed
	$(BIN)/offbeat bench papers --workers $$(nproc) --out out/papers --report docs/results.md

# what methods learn once for pocket: made anew when its weights change, for it fits no others
pocket: $(VENV)/.installed
	$(BIN)/python -m recipes.pocket.trained

# read it with: python -m http.server -d site
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf site build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "expected Python 3.10 to 3.13, got: `$(PYTHON) --version 2>&1`; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv "$(VENV)"

# The stamps are older than these two files when an install is due.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(CONSTRAINTS) -e ".[dev]"
	@touch $@ $(VENV)/.installed
