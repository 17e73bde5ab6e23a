# make demo and make test are for everybody; the rest is for who works on the suite.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIST := $(VENV)/.files
DEMO := runs/demo

# Each of two processes takes a half of the tests, and keeps the fixtures that it made, until the other has none left.
PARALLEL := -n 2 --dist worksteal

# Most modules of the libraries are never imported: compiling them all doubles the time of the installation. What a run
# imports is compiled, or every start would compile it again, for longer than the rest of the start takes.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt

# The installation is links to the files: without its folder of links it has to be made again.
ifeq ($(wildcard build/__editable__*),)
$(shell rm -f $(STAMP))
endif

.PHONY: setup demo test test-all coverage test-lowest lint format typecheck site owner help FORCE

help:
	@echo "make setup      .venv with the package, editable, and the exact versions of constraints.txt"
	@echo "make demo       train a method of each family on the built-in data and print their leaderboard"
	@echo "make test       run the tests; make test-all runs the slow ones too"
	@echo "make coverage   the fast tests, and what of the code they run"
	@echo "make test-lowest   the fast tests with the lowest versions that are declared, but HOLD='torch==2.13.0'"
	@echo "make lint format typecheck"
	@echo "make site       build the documentation site in build/site; warnings are errors"
	@echo "make owner NAME=you   name the owner of the repository, after a fork, wherever its address stands"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(LIST)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "cmr-bench needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
			"Name another: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@test -e $(STAMP) || echo "Installing into $(VENV) (once; some minutes) ..."
	@$(PIP) setuptools
	@rm -rf build
	@$(PIP) --no-build-isolation --config-settings editable_mode=strict -e '.[dev]'
	@$(BIN)/python -c 'import cmr_bench.commands.run, cmr_bench.experiment.run'
	@touch $(STAMP)

# Changes only when a file of the package was added or removed, as only then new links are needed.
$(LIST): FORCE
	@mkdir -p $(VENV)
	@find benchmark models datamodules experiments -name '*.py' -o -name '*.yaml' -o -name py.typed -o -name '*.html' -o -name '*.css' -o -name '*.js' \
		| LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

demo: setup
	@code=0; $(BIN)/cmr-bench suite four_families --jobs 2 --runs $(DEMO) || code=$$?; \
		$(BIN)/cmr-bench leaderboard --data synthetic --runs $(DEMO) || code=$$?; exit $$code

test: setup
	$(BIN)/pytest $(PARALLEL) -m 'not slow'

test-all: setup
	$(BIN)/pytest $(PARALLEL)

# Into build/coverage: a page of HTML, a report in JSON, and its summary.
coverage: setup
	COVERAGE_FILE=build/coverage/data $(BIN)/pytest $(PARALLEL) -m 'not slow' --cov --cov-report=html:build/coverage/html \
		--cov-report=json:build/coverage/coverage.json
	$(BIN)/python .ci/coverage_summary.py build/coverage/coverage.json > build/coverage/summary.md
	@cat build/coverage/summary.md

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: setup
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy benchmarks

# The theme warns of a successor of mkdocs, about which nobody who builds the pages can do anything.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The lowest versions that pyproject.toml declares, of what it declares itself, in an environment of their own. HOLD keeps
# some where they are, as where an index lacks the lowest: make test-lowest HOLD='torch==2.13.0 torchvision==0.28.0'
# The package is made anew each time, as uv would keep the copy of an earlier tree.
HOLD ?=
TESTS ?= -m 'not slow'
test-lowest:
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q uv
	@rm -rf build/lib
	.venv-lowest/bin/uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct --reinstall-package cmr-bench '.[test]' $(HOLD)
	.venv-lowest/bin/python -m pytest $(PARALLEL) $(TESTS)

# The address stands in pyproject.toml; the files that repeat it are held to it by tests/test_packaging.py.
ADDRESSED = $(wildcard pyproject.toml mkdocs.yml README.md CONTRIBUTING.md SECURITY.md docs/*.md)
owner:
	@test -n "$(NAME)" || { echo "make owner NAME=the-owner-on-GitHub" >&2; exit 1; }
	@old=$$(sed -n 's|^Repository = "https://github.com/\([^/]*\)/.*|\1|p' pyproject.toml); \
		sed -i.bak -e "s|\b$$old/cmr-bench|$(NAME)/cmr-bench|g" -e "s|\b$$old\.github\.io/cmr-bench|$(NAME).github.io/cmr-bench|g" \
			$(ADDRESSED); rm -f *.bak docs/*.bak
