# Two commands to start with: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
WORKSPACE ?= demo
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Each takes the next file, in order: those of tests/cluster, which take longest, come first.
TWO_PROCESSES := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test quicktest lint docs audit clean

demo: $(VENV)/installed
	$(BIN)/raypipe run --workspace $(WORKSPACE) --source simulated \
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
