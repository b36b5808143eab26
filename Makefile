# AsymRL. `make help` lists the targets; each works alone on a fresh machine.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --constraint constraints.txt
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
# Where a CPU build of torch comes from; PyPI's own on Linux brings gigabytes of CUDA along.
CPU_TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

ROWS := reinforce grpo grpo_ent grpo_clip_higher pos_only neg_only asym_sym asym ent_increase ent_decrease
BACKBONES := qwen3_4b qwen2.5_math_1.5b qwen2.5_7b
POCKET_TARGETS := $(ROWS:%=pocket-%)
BACKBONE_TARGETS := $(foreach model,$(BACKBONES),$(model)-grpo $(model)-asym)

.PHONY: help setup demo test test-all check fix pocket bench-sampler $(POCKET_TARGETS) $(BACKBONE_TARGETS)

help: ## this list
	@grep -hE '^[a-z$$().A-Z_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^\$$\(POCKET_TARGETS\)/pocket-<row>/; s/^\$$\(BACKBONE_TARGETS\)/<model>-<row>/' | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'
	@echo "  rows:   $(ROWS)"
	@echo "  models: $(BACKBONES) (rows grpo and asym)"

$(VENV)/core: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AsymRL needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@echo "setting up $(VENV) ($(if $(GPU),NVIDIA GPU: vLLM and CUDA torch,no NVIDIA GPU: CPU torch))"
	$(PYTHON) -m venv $(VENV)
ifeq ($(GPU),yes)
	$(PIP) --editable '.[gpu]'
else
	$(PIP) --no-deps --extra-index-url $(CPU_TORCH_INDEX) torch==2.13.0
	$(PIP) --editable .
endif
	@touch $@

$(VENV)/test: $(VENV)/core
	$(PIP) --editable '.[test]'
	@touch $@

setup: $(VENV)/core ## make .venv and install what training needs

demo: $(VENV)/core ## AsymGRPO beside GRPO on the pocket task -> runs/demo/report.html
	rm -rf runs/demo
	$(BIN)/python -m asymrl.pocket
	mkdir -p runs/demo
	@echo "two runs side by side: runs/demo/asym, shown here, and runs/demo/grpo (log: runs/demo/grpo.log)"
	@$(BIN)/python train.py --config pocket_grpo.yaml --output-dir runs/demo/grpo >runs/demo/grpo.log 2>&1 & \
	other=$$!; trap 'kill $$other 2>/dev/null || true' EXIT; \
	$(BIN)/python train.py --config pocket_asym.yaml --output-dir runs/demo/asym; \
	echo "waiting for runs/demo/grpo"; \
	wait $$other || { tail -n 3 runs/demo/grpo.log; exit 1; }; \
	tail -n 1 runs/demo/grpo.log
	$(BIN)/python -m asymrl.report runs/demo/asym runs/demo/grpo --out runs/demo/report.html

pocket: $(VENV)/core ## make the small policy and its data in runs/pocket, if they are not there
	$(BIN)/python -m asymrl.pocket

$(POCKET_TARGETS): pocket-%: $(VENV)/core ## train that row on the pocket task -> runs/pocket_<row>/report.html
	$(BIN)/python train.py --config pocket_$*.yaml
	$(BIN)/python -m asymrl.report runs/pocket_$* --out runs/pocket_$*/report.html

$(BACKBONE_TARGETS): $(VENV)/core ## train that row of a real backbone on a GPU machine -> runs/<model>_<row>
	$(BIN)/accelerate launch --num_processes 1 train.py --config $(subst -,_,$@).yaml

test: $(VENV)/test ## every test that this machine can run; what it skips is named
	$(BIN)/python -m pytest -m 'not long'

test-all: $(VENV)/test ## with the tests marked long (none so far)
	$(BIN)/python -m pytest

check: $(VENV)/test ## ruff, format, pyright; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

fix: $(VENV)/test ## let ruff mend and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-sampler: $(VENV)/core ## our sampler against transformers' generate, as a ratio
	$(BIN)/python benchmarks/sampler.py
