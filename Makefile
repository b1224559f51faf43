# make demo   from raw text to three models and a page that compares them, in about nine minutes on two CPU cores
# make test   every test but the slow ones
# make ops    compile DeepSpeed's C++ operators ahead of their first use: about three minutes on two cores, once
# make test-full   ops, then every test
# make gpu-proof   what the memory recipes and the plan promise, measured on this machine's NVIDIA GPU
# make lint   ruff                     make clean       remove .venv and runs/demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo ops test test-full gpu-proof lint clean

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
	$(BIN)/python -c "from jpllm.training import operators as o; o.load_operators(o.PROCESSES, o.ADAM)"

test-full: ops
	$(BIN)/python -m pytest -n 2

gpu-proof: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[8bit]'
	$(BIN)/python benchmarks/gpu_proof.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(DEMO)
