# make demo   from raw text to three models and a page that compares them, in about nine minutes on two CPU cores
# make test   every test but the slow ones
# make ops    compile DeepSpeed's C++ operators ahead of their first use: about three minutes on two cores, once
# make test-full   ops, then every test
# make gpu-proof   what the memory recipes and the plan promise, measured on this machine's NVIDIA GPU
# make tpu-venv    the environment of a TPU host, .venv-tpu: PyTorch 2.9 and torch_xla; TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                  spares it 5 GB of CUDA libraries
# make xla-proof   training through accelerate_configs/tpu.yaml on XLA's CPU device, held against plain runs: about 15 minutes
# make lint   ruff                     make clean       remove .venv, .venv-tpu and runs/demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
TPU_VENV := .venv-tpu
TORCH_INDEX ?=

.PHONY: demo ops test test-full gpu-proof tpu-venv xla-proof lint clean

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,deepspeed,energy,eval,gguf,lora,wandb,web_test]'
	touch $@

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
	$(BIN)/python -m pytest -n 2 -m "not slow"

ops: $(VENV)/installed
	$(BIN)/python -c "from jpllm.training import engine as o; o.load_operators(o.PROCESSES, o.ADAM)"

test-full: ops
	$(BIN)/python -m pytest -n 2

gpu-proof: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[8bit]'
	$(BIN)/python benchmarks/gpu_proof.py

$(TPU_VENV)/installed: setup.cfg constraints-tpu.txt
	$(PYTHON) -m venv $(TPU_VENV)
	$(TPU_VENV)/bin/pip install --quiet --upgrade pip
	$(TPU_VENV)/bin/pip install --quiet -c constraints-tpu.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(TPU_VENV)/bin/pip install --quiet -c constraints-tpu.txt -e '.[dev,lora,tpu]'
	touch $@

tpu-venv: $(TPU_VENV)/installed

xla-proof: tpu-venv
	$(TPU_VENV)/bin/python benchmarks/xla_proof.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(TPU_VENV) $(DEMO)
