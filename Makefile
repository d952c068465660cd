# Everything a fresh machine needs: `make demo` runs the main job, `make test` passes the tests. All targets are idempotent.
PYTHON ?= python3
CHECK_PYTHON = $(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python {v[0]}.{v[1]} found, 3.11 to 3.13 needed: make PYTHON=python3.11" if not (3, 11) <= v <= (3, 13) else 0)'
BIN := .venv/bin
SETUP := .venv/.setup-done
BIN_0_25 := .venv-vllm-0.25/bin
SETUP_0_25 := .venv-vllm-0.25/.setup-done
CLUSTER := .venv-cluster/.setup-done
TRITON_0_25 := .venv-vllm-0.25/triton
# A process each: engines of one process share vLLM's cached environment and each other's memory.
ENGINE_TESTS := $(sort $(wildcard tests/engine/test_*.py))
# Killed processes belong to the full tier: engines of three processes each start slowly.
FAULT_TESTS := $(filter-out %/test_processes.py,$(sort $(wildcard tests/faults/test_*.py)))
LOSSLESS_TESTS := $(sort $(wildcard tests/lossless/test_*.py))
# What runs on GPUs alone, in Triton's interpreter.
INTERPRETED_TESTS := tests/gpu/test_fused.py $(sort $(wildcard tests/v2/test_*.py))
# NeMo-RL rewrites files of the vLLM that it finds, so it has one to itself. VLLM: 0.25.1, which it pins, or 0.32.0.
VLLM ?= 0.25.1
VENV_NEMO_RL := .venv-nemo-rl-$(VLLM)
SETUP_NEMO_RL := $(VENV_NEMO_RL)/.setup-done
LOCK_OF_VLLM := $(if $(filter 0.32.0,$(VLLM)),requirements/cpu.lock,requirements/vllm-$(VLLM).lock)
NEMO_RL_TESTS := $(sort $(wildcard tests/nemo_rl/test_*.py))
TESTS := tests/unit tests/fuzz tests/mutants tests/browser tests/job tests/gpu_benchmarks tests/nemo_rl tests/slurm tests/docker \
	$(ENGINE_TESTS) tests/soak tests/megatron $(LOSSLESS_TESTS) $(FAULT_TESTS) $(INTERPRETED_TESTS)
JOBS ?= 2

.PHONY: setup audit demo test test-vllm-0.25 test-nemo-rl nemo-rl-source wheel cluster-environment test-slurm test-image browser chromium proof mutants reliability lint bench clean

setup: $(SETUP)

$(SETUP): requirements/cpu.lock pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# PyPI's torch 2.11 is linked against CUDA, which must then be there although nothing runs on it.
$(SETUP_0_25): requirements/vllm-0.25.1.lock requirements/torch-2.11-cuda.lock pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-vllm-0.25
	$(BIN_0_25)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/vllm-0.25.1.lock
	$(BIN_0_25)/python -c 'import sys, importlib.metadata as m; sys.exit("+cpu" not in m.version("torch"))' || \
	$(BIN_0_25)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/torch-2.11-cuda.lock
	$(BIN_0_25)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	# For its interpreter alone, so beside the environment: this torch would compile with it.
	$(BIN_0_25)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(TRITON_0_25) triton==3.9.0
	touch $@

demo: setup
	$(BIN)/python -m examples.grpo_math --name demo

test: setup
	@$(MAKE) --no-print-directory --output-sync --jobs $(JOBS) WITH=$(BIN)/python $(TESTS:%=pytest/%)

pytest/%:
	$(WITH) -m pytest $*

$(INTERPRETED_TESTS:%=pytest/%): export TRITON_INTERPRET = 1

# The vLLM that NeMo-RL pins, in an environment of its own.
test-vllm-0.25: $(SETUP_0_25)
	@$(MAKE) --no-print-directory --output-sync --jobs $(JOBS) WITH=$(BIN_0_25)/python \
		$(patsubst %,pytest/%,$(ENGINE_TESTS) $(LOSSLESS_TESTS))
	@PYTHONPATH=$(TRITON_0_25) $(MAKE) --no-print-directory --output-sync --jobs $(JOBS) WITH=$(BIN_0_25)/python \
		$(patsubst %,pytest/%,$(filter tests/v2/test_twin_%,$(INTERPRETED_TESTS)))

# NeMo-RL's own generation workers with this package, on a CPU: make test-nemo-rl NEMO_RL_SOURCE=DIR [VLLM=0.32.0]
# One process at a time: Ray gives its own up that do not start within half a minute.
test-nemo-rl: $(SETUP_NEMO_RL)
	@NEMO_RL_SOURCE=$(abspath $(NEMO_RL_SOURCE)) PYTHONPATH=$(abspath $(NEMO_RL_SOURCE)) \
		$(MAKE) --no-print-directory --jobs 1 WITH=$(VENV_NEMO_RL)/bin/python $(NEMO_RL_TESTS:%=pytest/%)

nemo-rl-source:
	@test -f "$(NEMO_RL_SOURCE)/nemo_rl/models/generation/vllm/vllm_worker.py" || { \
		echo "NEMO_RL_SOURCE='$(NEMO_RL_SOURCE)' is no checkout of NeMo-RL: clone NVIDIA-NeMo/RL from GitHub and run make test-nemo-rl NEMO_RL_SOURCE=DIR" >&2; exit 2; }

$(SETUP_NEMO_RL): $(LOCK_OF_VLLM) requirements/torch-2.11-cuda.lock requirements/nemo-rl.lock pyproject.toml | nemo-rl-source
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV_NEMO_RL)
	$(VENV_NEMO_RL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(LOCK_OF_VLLM)
	$(VENV_NEMO_RL)/bin/python -c 'import sys, importlib.metadata as m; sys.exit(m.version("torch") == "2.11.0")' || \
	$(VENV_NEMO_RL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/torch-2.11-cuda.lock
	$(VENV_NEMO_RL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/nemo-rl.lock
	$(VENV_NEMO_RL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

wheel: setup
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

cluster-environment: $(CLUSTER)

$(CLUSTER): requirements/cluster.lock
	$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/cluster.lock
	touch $@

# $(call debian,PROGRAM,PACKAGES): installs the packages unless the program is there. Nothing is started.
debian = command -v $(1) > /dev/null || { apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends $(2); }

# Two Slurm nodes on this machine, as root; with NEMO_RL_SOURCE=… also NeMo-RL's own ray.sub.
test-slurm: setup cluster-environment
	$(call debian,slurmctld,slurm-wlm munge)
	$(BIN)/python -m pytest tests/slurm

# The image on a stand-in for NeMo-RL's, as root; without a container engine.
test-image: setup cluster-environment
	$(call debian,buildah,buildah debootstrap crun)
	$(BIN)/python -m pytest tests/docker

# Every HTML page in headless Chromium; screenshots go to build/screenshots.
browser: setup chromium
	$(BIN)/python -m pytest tests/browser

# Debian's, as root.
chromium:
	$(call debian,chromedriver,chromium chromium-driver fonts-dejavu-core)

record/%:
	$(WITH) -m pytest $* --proof docs/reliability/$(subst /,-,$(subst test_,,$(basename $(patsubst tests/%,%,$*)))).json

# Exactness under everything that a rollout meets, half an hour.
proof: setup
	@$(RECORD) $(LOSSLESS_TESTS:%=record/%); failed=$$?; $(BIN)/python -m tests.reliability; exit $$failed

# Deliberate faults, each of which must turn the test red that is named for it.
mutants: setup
	@$(RECORD) record/tests/mutants; failed=$$?; $(BIN)/python -m tests.reliability; exit $$failed

# Everything in docs/reliability.md, an hour.
reliability: setup
	@$(RECORD) $(RECORDED:%=record/%); failed=$$?; $(BIN)/python -m tests.reliability; exit $$failed

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck --external-sources --source-path=SCRIPTDIR docker/*.sh examples/grpo_math/slurm/*.sh examples/grpo_math/slurm/*.sbatch \
		tests/slurm/stand_ins/*

# Known vulnerabilities of everything that is pinned. Needs a network; no part of `make test`.
audit:
	$(CHECK_PYTHON)
	test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@failed=0; for lock in requirements/*.lock; do \
		echo "$$lock"; .venv-audit/bin/pip-audit --no-deps --disable-pip --strict --requirement $$lock || failed=1; \
	done; exit $$failed

bench: setup
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.cpu_speedup
	$(BIN)/python -m benchmarks.gate_live
	$(BIN)/python -m benchmarks.gate_decision
	$(BIN)/python -m benchmarks.requantize
	$(BIN)/python -m benchmarks.acceptance

clean:
	rm -rf .venv .venv-vllm-0.25 .venv-nemo-rl-* .venv-cluster .venv-audit dist runs .pytest_cache .ruff_cache
