# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON  ?= python3
VENV    ?= .venv
TORCH   ?= torch==2.13.0
PROJECT ?= quickstart
BIN     := $(VENV)/bin

.PHONY: quickstart test test-slow lint docs install help

help:
	@echo "make quickstart   install into $(VENV) and run the whole pipeline once (results in $(PROJECT)/)"
	@echo "make test         install the test extra and run the tests"
	@echo "make test-slow    the long physics and the many kills too"
	@echo "make lint         ruff, mypy, import-linter, bandit"
	@echo "make docs         the manual, into docs/_build"

# uv installs the many packages several times faster than pip; torch stays pip's, so that a local wheel is found
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)" uv
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(UV) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(UV) -e ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(UV) -e ".[dev]" --config-settings editable_mode=strict
	@touch $@ $(VENV)/.test $(VENV)/.installed

install: $(VENV)/.installed

quickstart: $(VENV)/.installed
	$(BIN)/atomfoundry engine install espresso
	$(BIN)/atomfoundry run quickstart --project $(PROJECT)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n 2 -m "not slow" --durations 15

test-slow: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n 2 -m slow --durations 10

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p atomfoundry
	cd $(VENV) && $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml
	$(BIN)/bandit -q -c pyproject.toml -r atomfoundry makers models workflows

docs: $(VENV)/.dev
	$(BIN)/python -P -m sphinx -q -W --keep-going -b html docs docs/_build
