# Every target sets up what it needs: a fresh machine needs nothing but Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test lint types tests explore demo serve bench clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

test: lint types tests  ## everything CI runs

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy aioray nodes/aioray_node tests bench examples

JOBS ?= 2
# They start some thousand Pythons, each in half the time where bytecode may be kept.
tests: export PYTHONDONTWRITEBYTECODE :=
tests: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

ROUNDS ?= 20
explore: $(VENV)/installed  ## the property tests, with new examples in each of ROUNDS rounds
	for round in $$(seq $(ROUNDS)); do \
		$(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile explore || exit 1; \
	done

demo: $(VENV)/installed  ## index the standard library, start the search service, ask it things
	$(BIN)/python -m examples.code_search demo $(CORPUS)

serve: $(VENV)/installed  ## the same, left running with a search page
	$(BIN)/python -m examples.code_search serve $(CORPUS)

bench: $(VENV)/installed
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
