# Every target sets up what it needs in .venv, on a Mac and on Linux; python3 ≥ 3.11 and make suffice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
BACKEND ?= mlx
# Of torch and BLAS in each of two processes: `make test THREADS=4`, or OMP_NUM_THREADS.
THREADS ?= $(or $(OMP_NUM_THREADS),1)
# What `make quick` takes: the plans of runs, the shape of the code, and the laws on both backends.
QUICK ?= tests/laws/test_laws.py tests/prepare tests/architecture
# Left to `make test`: whole schedules, every word and window, networks of true sizes, fresh interpreters.
SLOW := $(addprefix prepare/,samplers/test_samplers text/test_tokenizer scaling/test_scales scaling/test_windows) \
	$(addprefix architecture/test_,wheel arrows pictures rooms)

.PHONY: demo docs test quick test-machines lint bench bench-conversion parity parity-table recorded fuzz fuzz-api clean

demo: $(VENV)/.runtime
	$(BIN)/ipa-mlx demo --backend $(BACKEND)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs docs/built
	@echo docs/built/index.html

test: $(VENV)/.dev
	OMP_NUM_THREADS=$(THREADS) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

quick: $(VENV)/.dev
	OMP_NUM_THREADS=$(THREADS) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder \
		$(SLOW:%=--ignore=tests/%.py) $(QUICK) $(PYTEST_ARGS)

test-machines: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m machines $(MACHINES_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/ipa-mlx bench $(or $(BENCH_ARGS),step image decode --size 256)

bench-conversion: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m benchmarks.conversion $(BENCH_ARGS)

parity: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m benchmarks.true_size $(PARITY_ARGS)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.true_size_xl $(PARITY_ARGS)

recorded: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m benchmarks.record_demo

parity-table: $(VENV)/.dev
	@OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m benchmarks.table $(TABLE_ARGS)

fuzz-api: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m benchmarks.api_fuzz $(FUZZ_ARGS)

fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ_ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	-$(BIN)/ipa-mlx accelerate
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(PIP) -e '.[docs]'
	@touch $@

# open_clip_torch is there for its vocabulary and its networks' modules, DeepCache for its one class: so without what they
# depend on.
$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps open_clip_torch DeepCache
	@touch $@
