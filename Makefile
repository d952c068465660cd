# Everything a fresh machine needs: `make demo` runs the main job, `make test` passes the tests. All targets are idempotent.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.setup-done
# A process each: engines of one process share vLLM's cached environment and each other's memory.
TESTS := tests/unit tests/job tests/gpu_benchmarks $(sort $(wildcard tests/engine/test_*.py)) tests/megatron $(sort $(wildcard tests/lossless/test_*.py))

.PHONY: setup demo test test-kernels lint bench clean

setup: $(SETUP)

$(SETUP): requirements/cpu.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python {v[0]}.{v[1]} found, 3.11 to 3.13 needed: make PYTHON=python3.11" if not (3, 11) <= v <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/python -m examples.grpo_math --name demo

test: setup
	for part in $(TESTS); do $(BIN)/python -m pytest $$part || exit 1; done

# The Triton kernels in Triton's interpreter, which needs no GPU but a gigabyte.
test-kernels: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check triton==3.9.0
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu/test_fused.py
	$(BIN)/python -m pytest tests/unit/test_fused_compiled.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.cpu_speedup
	$(BIN)/python -m benchmarks.gate_live
	$(BIN)/python -m benchmarks.gate_decision
	$(BIN)/python -m benchmarks.requantize
	$(BIN)/python -m benchmarks.acceptance

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache
