# make demo   trains a small network on built-in data      make test      every check, and the tests
# make bench  prints the benchmarks' tables                make test-all  the slow tests too
# make bench-diagnose  faulty and sound programs, and what the watch says of them (about an hour)
# make test-gpu, make bench-gpu  the same on a machine with a GPU
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test test-all test-gpu lint bench bench-gpu bench-diagnose clean

demo: .venv/ready
	$(BIN)/surefoot train digits-cnn --dir $(RUN)

test: lint
	$(BIN)/pytest -n auto

test-all: lint
	$(BIN)/pytest -n auto -m ""

# on a machine with a GPU, in an environment with torch's CUDA build: make test-gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python

test-gpu:
	PYTHONPATH=src $(GPU_PYTHON) -m pytest tests/engine/test_gpu.py tests/engine/test_gpu_device.py

bench-gpu:
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu.py

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: .venv/ready
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/low_precision.py
	$(BIN)/python benchmarks/backward_memory.py
	$(BIN)/python benchmarks/sharded.py
	$(BIN)/python benchmarks/matrix.py
	$(BIN)/python benchmarks/elementwise.py
	$(BIN)/python benchmarks/eight_bit.py
	$(BIN)/python benchmarks/schedule.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/record.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/watch.py
	$(BIN)/python benchmarks/optimizers.py
	$(BIN)/python benchmarks/tasks.py

bench-diagnose: .venv/ready
	$(BIN)/python -m benchmarks.diagnose.measure

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "surefoot needs Python 3.10 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
