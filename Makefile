# make demo    draw unusual handbags      make check   lint, format, types
# make test    run the tests              make bench   speed ratios and tables
# make docs    API pages into site/       make clean   remove what these made
#
# Needs Python 3.10 to 3.13; choose one with: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/demo

# threads that spin while they wait make a busy two-core machine ten times slower
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := demo
.PHONY: demo test check bench docs clean

demo: $(VENV)/.installed
	@rm -rf "$(OUT)"
	$(BIN)/offbeat explore handbag --novelty 0.999 -n 8 --out "$(OUT)"
	@echo
	@echo "Ordinary beside unusual: $(OUT)/contact.png    All of it: $(OUT)/report.html"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m offbeat.bench speed

docs: $(VENV)/.installed-dev
	$(BIN)/pdoc --docformat google --output-directory site offbeat

clean:
	rm -rf site build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "expected Python 3.10 to 3.13, got: `$(PYTHON) --version 2>&1`; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv "$(VENV)"

# The stamps are older than these two files when an install is due.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed
