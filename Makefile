# `make` lists the targets. Every target sets up what it needs; `setup` does nothing when nothing changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done
# The lock that .venv was made from stays its lock; LOCK=requirements/gpu.lock makes it anew from another.
MADE_FROM := $(shell cat $(STAMP) 2>/dev/null)
LOCK := $(or $(MADE_FROM),requirements/cpu.lock)
RUNS ?= results/runs
SWEEP ?= demo

# A variable given to make is one of these, in either case. The others go to what the recipes start.
VARIABLES := PYTHON VENV LOCK RUNS SWEEP
PASSED_ON := PIP_% CTPO_% QWEN3_% WANDB_% HF_% RAY_% CUDA_% SBATCH_%
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
upper = $(shell tr a-z A-Z <<<'$1')
$(foreach name,$(filter-out $(VARIABLES) $(PASSED_ON),$(GIVEN)),$(if $(filter $(filter-out $(GIVEN),$(VARIABLES)),$(call upper,$(name))),\
  $(eval override $(call upper,$(name)) = $$($(name))),\
  $(error $(name)=$($(name)): unknown, or given twice; there are $(VARIABLES), in either case)))

.PHONY: help
help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: $(VARIABLES), in either case, for example make figures SWEEP=exponent"

.PHONY: setup
setup: $(STAMP)  ## Install everything into .venv (and, as root, the Debian packages it needs)

ifneq ($(LOCK),$(MADE_FROM))
.PHONY: $(STAMP)
endif
$(STAMP): $(LOCK) pyproject.toml requirements/vllm-alias/pyproject.toml requirements/setup.sh requirements/check_vllm.py
	$(if $(filter-out $(LOCK),$(MADE_FROM)),rm -rf $(VENV))
	PYTHON=$(PYTHON) bash requirements/setup.sh $(VENV) $(LOCK)
	echo $(LOCK) >$@

.PHONY: demo
demo: setup  ## Train GRPO, GSPO, CTPO and the fixed-clip ablation on a tiny Qwen3, then draw the figures
	$(PY) experiments/run.py sweeps=demo 'run.root="$(if $(filter /%,$(RUNS)),$(RUNS),$(CURDIR)/$(RUNS))"'
	$(PY) -m analysis --runs "$(RUNS)" --sweep demo

.PHONY: figures
figures: setup  ## Every table and figure of SWEEP=name (default demo), from its run records, in paper_figures/name
	$(PY) -m analysis --runs "$(RUNS)" --sweep "$(SWEEP)"

.PHONY: status
status: setup  ## Live table of the runs of SWEEP=name (default demo), from run records and Slurm
	$(PY) experiments/status.py --runs "$(RUNS)" --sweep "$(SWEEP)"

.PHONY: check
check: lint  ## ruff, mypy and the fast unit tests: what to run while working (3 minutes on 2 cores)
	$(PY) -m pytest tests/unit -n 2 -q -m "not slow"

.PHONY: test
test: check  ## check, the slow unit tests, then end to end on real verl, vLLM, the sandbox and Slurm (as root)
	bash requirements/test-packages.sh
	$(PY) -m pytest tests/unit -n 2 -q -m slow --durations=20
	$(PY) -m pytest tests/e2e -q --durations=20
	$(PY) -m pytest tests/slurm -q --durations=20

.PHONY: slurm-up
slurm-up:  ## As root: a real Slurm on this machine alone, with accounting and 8 declared GPUs; installs its packages
	slurm/cluster/up.sh

.PHONY: slurm-down
slurm-down:  ## End it and its jobs
	slurm/cluster/down.sh

.PHONY: lint
lint: setup  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

.PHONY: bench
bench: setup  ## Speed as ratios, both sides measured in one run
	$(PY) experiments/bench.py

.PHONY: clean
clean:  ## Remove caches; keeps .venv and results
	rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
