# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
CAPTURE ?=
EXTRAS ?= dev
INSTALLED := $(VENV)/.installed-$(EXTRAS)
# Tests write to memory where it takes 4 GiB: a container's /dev/shm has 64 MiB by default.
TEST_FILES := $(shell test -w /dev/shm && df -Pk /dev/shm | awk 'NR == 2 && $$4 > 4194304 { print "/dev/shm" }')
# Two processes; a module's tests stay in one, so that what they share is made once.
PYTEST = files=$$(mktemp -d -p "$(or $(TEST_FILES),$${TMPDIR:-/tmp})" lobsmith-XXXXXXXX); \
	trap 'rm -rf "$$files"' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/pytest -n 2 --dist loadscope --basetemp="$$files"

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow notebooks lint format docs clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## a virtual environment with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] in ((3, 11), (3, 12)) else "lobsmith needs Python 3.11 or 3.12; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: install  ## the whole lifecycle; CAPTURE="FILE FILE" takes captured sessions instead of the simulator
	$(BIN)/lobsmith demo $(if $(strip $(CAPTURE)),--capture $(CAPTURE))

test: install  ## all tests but the slow ones, and the examples in docstrings
	@$(PYTEST) -m 'not slow' --doctest-modules $$(grep -rl ">>> " src --include="*.py") tests

test-slow: install  ## the tests that take minutes
	@$(PYTEST) -m slow --no-loadscope-reorder tests

notebooks: install  ## run the notebooks of examples/ and store their outputs
	@$(BIN)/python examples/run.py

lint: install  ## pip check, ruff, mypy and the layering
	$(BIN)/pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## write the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## the guide, into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:  ## remove the environment, caches and local state; published versions stay
	rm -rf $(VENV) .lobsmith site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
