# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
CAPTURE ?=
EXTRAS ?= triton,dev
INSTALLED := $(VENV)/.installed-$(EXTRAS)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## a virtual environment with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("lobsmith needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: install  ## the whole lifecycle; CAPTURE="FILE FILE" takes recorded sessions instead of the simulator
	$(BIN)/lobsmith demo $(if $(strip $(CAPTURE)),--capture $(CAPTURE))

test: install  ## all tests but the slow ones
	$(BIN)/pytest -m 'not slow'

test-slow: install  ## the tests that take minutes
	$(BIN)/pytest -m slow

lint: install  ## pip check, ruff, mypy and the layering
	$(BIN)/pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## write the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment, caches and local state; published versions stay
	rm -rf $(VENV) .lobsmith .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
