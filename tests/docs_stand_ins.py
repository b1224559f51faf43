"""What the commands of the documentation find: small stand-ins for the texts, models and runs that the pages name."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from jpllm.data.read.jsonl import write_jsonl
from jpllm.demo import builtin
from tests.conftest import ROOT
from tests.evaluation.jglue.jglue_files import write_jglue
from tests.tokenizer.byte_level import byte_level_tokenizer

CORPORA = ("corpus.jsonl.gz", "corpus.jsonl", "aozora.jsonl.gz", "japanese.jsonl", "english.jsonl", "more.jsonl")
CORPORA += ("a.jsonl", "b.jsonl", "c.jsonl", "held_out.jsonl")
# What the commands of a page find beside those texts: path → name of a stand-in.
FOUND = {
    "README": {},
    "pretrain_scratch": {},
    "cpt": {"runs/aozora": "run"},
    "tokenizer": {},
    "data": {"runs/tok": "tokenizer", "JGLUE": "jglue", "quiz.jsonl": "quiz"},
    "classify": {"runs/aozora": "run", "SMSSpamCollection.tsv": "spam", "JGLUE/datasets": "jglue"},
    "sft": {"runs/neox_1b_16gb": "run", "instructions.jsonl": "instructions"},
    "evaluation": {
        **dict.fromkeys(("runs/NAME", "runs/A", "runs/B"), "run"),
        **{f"{run}/evaluation": "evaluation" for run in ("runs/A", "runs/B")},
        **{"MODEL": "model", "JGLUE": "jglue"},
    },
    "generate": {"runs/published_a": "run", "runs/published_b": "run", "runs/sft/model": "chat model"},
    "compare": dict.fromkeys(
        ("runs/scratch", "runs/continued", "runs/sft", "runs/published_a", "runs/published_b"), "run"
    ),
    "tracking": {"runs/NAME": "run", "runs/b": "run", "CONFIG.yaml": "config"},
    "share": {"runs/NAME": "run"},
}


def make_workplace(folder: Path, tokenizer_dir: Path) -> Workplace:
    """A finished run, models, tokenizers, tables and benchmarks; GPT-2's name on the Hub stands for a small model."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "WANDB_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    place = Workplace(folder, environment)
    shutil.copytree(tokenizer_dir, folder / "tokenizer")
    _make_run(place)
    shutil.copytree(folder / "run" / "model", folder / "model")
    shutil.copytree(folder / "run" / "model", folder / "hub/hub/models--openai-community--gpt2/snapshots/0")
    (folder / "hub/hub/models--openai-community--gpt2/refs").mkdir()
    (folder / "hub/hub/models--openai-community--gpt2/refs/main").write_text("0")
    _make_chat_model(folder)
    write_jglue(folder / "jglue", num_items=60)  # a step of fine-tuning takes 32
    _make_tables(folder)
    shutil.copy(folder / "run" / "config.yaml", folder / "config")
    return place


def write_texts(file: Path, seed: int) -> None:
    """Sixty thousand bytes of the built-in corpus."""
    plain = file.with_name(file.name.removesuffix(".gz"))
    write_jsonl(({"text": text} for text in builtin.documents(seed, 60_000)), plain)
    if plain != file:
        file.write_bytes(gzip.compress(plain.read_bytes()))


def _make_run(place: Workplace) -> None:
    """A run of some steps with a byte-level tokenizer, and an evaluation of its model."""
    byte_level_tokenizer().save_pretrained(place.folder / "byte_level")
    write_texts(place.folder / "documents.jsonl", seed=100)
    shape = "--model llama-tiny --hidden_size 32 --num_layers 2 --num_heads 2 --intermediate_size 64"
    keys = "--max_positions 1024 --sequence_length 256 --tokens 4096 --per_device_train_batch_size 2 --eval_steps 5"
    keys += " --held_out_fraction 0.05 --max_new_tokens 5 --shards_dir shards --output_dir run"
    source = f"{{path: {place.folder / 'documents.jsonl'}, licence: Apache-2.0}}"
    for command in (
        f"python {ROOT}/recipes/pretrain_scratch.py {shape} {keys} --sources '{source}' "
        f"--tokenizer {place.folder / 'byte_level'}",
        f"python {ROOT}/recipes/evaluate.py --model run/model --texts run/held_out.jsonl --output_dir evaluation "
        "--max_new_tokens 5",
    ):
        done = place.run(command, place.folder)
        assert done.returncode == 0, done.stdout


def _make_chat_model(folder: Path) -> None:
    from jpllm.tokenizer.chat_template import set_template
    from jpllm.tokenizer.load import load

    shutil.copytree(folder / "model", folder / "chat model")
    tokenizer = load(folder / "model")
    set_template(tokenizer, "chat")
    tokenizer.save_pretrained(folder / "chat model")


def _make_tables(folder: Path) -> None:
    write_jsonl(builtin.instructions(0, 60), folder / "instructions")
    questions = (
        {"question": f"{number}番目に高い山は何ですか", "answer": f"山{number}", "id": number} for number in range(9)
    )
    write_jsonl(questions, folder / "quiz")
    rows = [f"{'spam' if number % 2 else 'ham'}\tmessage {number}: call now" for number in range(60)]
    (folder / "spam").write_text("\n".join(["Label\tSMS", *rows]) + "\n", encoding="utf-8")


@dataclass
class Workplace:
    """Stand-ins, made once, and the environment in which commands find them and nothing else."""

    folder: Path
    environment: dict[str, str]

    def run(self, command: str, cwd: Path, typed: str = "") -> subprocess.CompletedProcess:
        """The command in a shell, with `typed` as what a person types; what it says is in `stdout`."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=cwd,
            env=self.environment,
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

    def put(self, page: str, place: Path) -> None:
        """Everything that the commands of a page find."""
        for name in ("recipes", "accelerate_configs", "ds_configs", "jpllm"):
            (place / name).symlink_to(ROOT / name)
        for number, name in enumerate(CORPORA):
            write_texts(place / name, seed=number)
        for path, name in FOUND.get(page, {}).items():
            source, target = self.folder / name, place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)
