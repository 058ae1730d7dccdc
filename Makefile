# Commands to start with: `make demo`, `make demo-train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
WORKSPACE ?= demo
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Each takes the next file, in order: those of tests/cluster, which take longest, come first.
TWO_PROCESSES := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo demo-train test quicktest lint docs audit clean

demo: $(VENV)/installed  # embed a small survey with the model in the box
	$(BIN)/raypipe run --workspace $(WORKSPACE) --source simulated --set simulate.detections=1000

demo-train: $(VENV)/installed  # train a model, and a baseline, on a larger one
	$(BIN)/raypipe run --workspace $(WORKSPACE)-train --source simulated --train \
		--set 'evaluate.baseline_presets=["paper"]'

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow or not slow" $(TWO_PROCESSES) --durations 40

quicktest: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(TWO_PROCESSES)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/installed-dev  # into build/docs; a warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs

audit: $(VENV)/installed-audit
	$(BIN)/python .ci/audit.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing raypipe into $(VENV): a few minutes the first time"
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --editable ".[dev]"
	touch $@

$(VENV)/installed-audit: $(VENV)/installed
	$(INSTALL) --editable ".[audit]"
	touch $@

clean:
	rm -rf $(VENV) build dist docs/generated .mypy_cache .ruff_cache .pytest_cache .hypothesis
