# Commands to start with: `make demo`, `make demo-train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
WORKSPACE ?= demo
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Each takes the next file, in order: those of tests/cluster, which take longest, come first.
TWO_PROCESSES := --numprocesses 2 --dist loadfile --no-loadscope-reorder
WHEELS := build/gpu-wheels
FETCH = $(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps \
	--only-binary=:all: -c constraints.txt -r benchmarks/gpu_wheels.txt

.PHONY: model demo demo-train test quicktest lint docs audit gpu-check gpu-check-wheels clean

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

# Makes the model that ships with the package again, from the folder DATA of responses, spectra and
# the catalog of fits; hours on a CPU, minutes with DEVICE=cuda. To try the recipe in some minutes:
# make model DATA=DIR MODEL=build/trial FIRST="--steps 1000 --set train.batch_size=16" LAST="--steps 1000"
DEVICE ?= cpu
MODEL := raypipe/box/any-telescope-1
FIRST := --steps 9000 --set train.batch_size=256
LAST := --steps 3000 --set train.batch_size=1024
ON_ALL := --made-up 20 --device $(DEVICE) --set train.compile=false \
	--set train.precision=float32 --set train.patience=1000
model: $(VENV)/installed-dev
	test -n "$(DATA)" || { echo "say where the data are: make model DATA=FOLDER" >&2; exit 2; }
	$(BIN)/python -m recipes.any_telescope prepare --data $(DATA) --sky build/sky.npz
	$(BIN)/python -m recipes.any_telescope.train build/sky.npz build/first.safetensors \
		$(FIRST) $(ON_ALL)
	$(BIN)/python -m recipes.any_telescope.train build/sky.npz build/model.safetensors \
		--start build/first.safetensors $(LAST) $(ON_ALL)
	$(BIN)/python -m recipes.any_telescope bundle --data $(DATA) --sky build/sky.npz \
		--network build/model.safetensors --out $(MODEL)

audit: $(VENV)/installed-audit
	$(BIN)/python .ci/audit.py

# On a machine with a GPU and PyTorch, with or without the Internet: with the wheels that
# gpu-check-wheels fetched, if they are there. GPU_CHECK="--device cpu --small" shows that it runs.
gpu-check:
	if [ -d $(WHEELS) ]; then $(PYTHON) -m pip install --quiet --disable-pip-version-check \
		--no-index --no-deps --upgrade --find-links $(WHEELS) --target build/gpu-site \
		-r benchmarks/gpu_wheels.txt; fi
	PYTHONPATH=$(CURDIR):build/gpu-site $(PYTHON) -m benchmarks.gpu_check $(GPU_CHECK)

gpu-check-wheels:  # for x86-64 Linux, for Python 3.12 and the Python at hand
	$(FETCH) --dest $(WHEELS)
	$(FETCH) --dest $(WHEELS) --python-version 3.12 --implementation cp \
		$(foreach kind,2014 _2_17 _2_27 _2_28,--platform manylinux$(kind)_x86_64)

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
