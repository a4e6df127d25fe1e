# Each target does its own set-up: a .venv with everything from PyPI.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# One worker a core, and one thread in each: many small networks, no large one.
TESTS := OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile

.PHONY: help demo test test-all test-long check format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

demo: $(VENV)/installed  ## Teacher, student alone, KD and DHKD on digits; ends in a report
	$(RUN) -m understudy demo

test: $(VENV)/installed  ## The fast tests (a few minutes)
	$(TESTS) -m "not slow and not data and not long" $(PYTEST)

test-all: $(VENV)/installed  ## The slow tests, and those on real data if they are there
	$(TESTS) -m "slow or data" $(PYTEST)

test-long: $(VENV)/installed  ## Training on real data, tens of minutes
	$(RUN) -m pytest -m long $(PYTEST)

check: $(VENV)/installed  ## Format, lint and types
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/pyright --pythonpath $(RUN)

format: $(VENV)/installed  ## Format the code
	$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

clean:  ## Remove the environment and what builds leave
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
