# make demo   from raw text to three models and a page that compares them, in about nine minutes on two CPU cores
# make test   every test but the slow ones
# make test-minimal   the same with only the required dependencies installed, in .venv-minimal
# make test-oldest, make test-newest   the same with the oldest and the newest Python that are promised
# make ops    compile DeepSpeed's C++ operators ahead of their first use: about three minutes on two cores, once
# make test-full   ops, then every test
# make gpu-proof   what the memory recipes and the plan promise, measured on this machine's NVIDIA GPU
# make proof-1b    the 0.778 B model through its own files on a CPU: killed, gone on with, its memory against the plan
# make models-table   the tables of docs/models.md, found by trying each family of models: about six minutes
# make tpu-venv    the environment of a TPU host, .venv-tpu: PyTorch 2.9 and torch_xla
# make xla-proof   training through accelerate_configs/tpu.yaml on XLA's CPU device, held against plain runs: about 15 minutes
# make lint   ruff, and the type checker ty
# make clean  remove .venv, .venv-* and runs/demo
#
# TORCH_INDEX=https://download.pytorch.org/whl/cpu in front of a target spares its environment 5 GB of CUDA libraries.
PYTHON ?= python3
OLDEST_PYTHON := python3.10
NEWEST_PYTHON := python3.14
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
TPU_VENV := .venv-tpu
TORCH_INDEX ?=

TPU_EXTRAS := dev,lora,tpu
EXTRAS := 8bit,dev,deepspeed,energy,eval,gguf,lora,wandb,web_test
FAST_TESTS := -m pytest -n 2 -m "not slow"

.PHONY: demo ops test test-minimal test-oldest test-newest test-full gpu-proof proof-1b models-table tpu-venv xla-proof lint clean

# $(call install,INTERPRETER,CONSTRAINTS,EXTRAS): the environment of the target $(@D)/installed
define install
	$(1) -m venv $(@D)
	$(@D)/bin/pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(@D)/bin/pip install --quiet -c $(2) --index-url $(TORCH_INDEX) torch)
	$(@D)/bin/pip install --quiet -c $(2) -e '.[$(3)]'
	touch $@
endef

$(VENV)/installed: setup.cfg constraints.txt
	$(call install,$(PYTHON),constraints.txt,$(EXTRAS))

.venv-minimal/installed: setup.cfg constraints.txt
	$(call install,$(PYTHON),constraints.txt,dev)

.venv-python%/installed: setup.cfg constraints.txt
	$(call install,python$*,constraints.txt,$(EXTRAS))

$(TPU_VENV)/installed: setup.cfg constraints-tpu.txt
	$(call install,$(PYTHON),constraints-tpu.txt,$(TPU_EXTRAS))

demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(BIN)/jpllm data builtin --num_rows 20_000 --output_dir $(DEMO)/corpus
	$(BIN)/jpllm tokenizer train --input $(DEMO)/corpus/documents.jsonl --vocab_size 4000 --output_dir $(DEMO)/tokenizer
	$(BIN)/jpllm data pack --sources $(DEMO)/corpus/documents.jsonl --tokenizer $(DEMO)/tokenizer --output_dir $(DEMO)/shards
	$(BIN)/accelerate launch recipes/pretrain_scratch.py --config recipes/configs/pretrain_scratch/demo_cpu.yaml
	$(BIN)/python recipes/evaluate.py --config recipes/configs/evaluate/demo_cpu.yaml
	$(BIN)/accelerate launch recipes/cpt.py --config recipes/configs/cpt/demo_cpu.yaml
	$(BIN)/accelerate launch recipes/sft.py --config recipes/configs/sft/demo_cpu.yaml
	$(BIN)/jpllm compare $(DEMO)/scratch $(DEMO)/continued $(DEMO)/instructed --output $(DEMO)/report.html

test: $(VENV)/installed
	$(BIN)/python $(FAST_TESTS)

test-minimal: .venv-minimal/installed
	.venv-minimal/bin/python $(FAST_TESTS)

test-oldest: INTERPRETER = $(OLDEST_PYTHON)
test-newest: INTERPRETER = $(NEWEST_PYTHON)
test-oldest test-newest:
	@if ! $(INTERPRETER) -V >/dev/null 2>&1; then echo "$@ skipped: $(INTERPRETER) is not installed"; \
	elif [ -z "$(TORCH_INDEX)" ] && [ "$$(uname)" = Linux ]; \
	then echo "$@ skipped: PyTorch would come with 5 GB of CUDA libraries; name its CPU builds by TORCH_INDEX"; \
	else $(MAKE) .venv-$(INTERPRETER)/installed && .venv-$(INTERPRETER)/bin/python $(FAST_TESTS); fi

ops: $(VENV)/installed
	$(BIN)/python -c "from jpllm.training import engine as o; o.load_operators(o.PROCESSES, o.ADAM)"

test-full: ops
	$(BIN)/python -m pytest -n 2

gpu-proof: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[8bit]'
	$(BIN)/python benchmarks/gpu_proof.py

proof-1b: ops
	$(BIN)/python benchmarks/proof_1b.py

models-table: $(VENV)/installed
	$(BIN)/python benchmarks/model_families.py

tpu-venv: $(TPU_VENV)/installed

xla-proof: tpu-venv
	$(TPU_VENV)/bin/python benchmarks/xla_proof.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

clean:
	rm -rf $(VENV) .venv-* $(DEMO)
