"""The commands of the documentation run as typed, page by page in their order, on small stand-ins for what they name.

A command is a line of a ```bash block. Each one runs, with the values of `SHORTER` in place of its own, or stands in
`NOT_RUN` with the reason. What installs or fetches something has to stand there. Japanese pages have the same commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.docs_stand_ins import FOUND, Workplace, make_workplace

RECORDS = ("results", "dev-log")  # what was run once, on data and machines of their own
PAGES = {
    page.name.removesuffix(".md"): page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if not page.name.endswith(".ja.md") and page.stem not in RECORDS
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

HARMLESS = re.compile(r"(\w+=\S+ )?(jpllm|accelerate launch|python recipes/\w+\.py|lm_eval run) [^;&|]+")

# Key → value where a command trains or asks: as few steps, rows and questions as show that it works, on small texts.
TRAINING = {"held_out_fraction": "0.1", "held_out_bytes": "3000", "eval_steps": "1000", "max_new_tokens": "5"}
QUESTIONS = {"limit": "2", "num_fewshot": "0", "any_jglue_content": "true"}  # the stand-ins are not what was published
FINETUNING = {"any_jglue_content": "true", "finetune_tasks": "jsts", "finetune_epochs": "1"}
FINETUNING |= {"finetune_learning_rates": "1e-3", "finetune_seeds": "0"}
SHORTER: dict[str, dict[str, str]] = {
    "jpllm tokenizer train": {"vocab_size": "1200"},
    "jpllm tokenizer extend": {"num_pieces": "50", "held_out_fraction": "0.1"},
    "recipes/pretrain_scratch.py": TRAINING | {"tokens": "1024"},
    "recipes/cpt.py": TRAINING | {"epochs": "0.02", "warmup_steps": "0"},
    "recipes/sft.py": {"epochs": "0.1", "gradient_accumulation_steps": "1", "max_new_tokens": "5"},
    "recipes/classify.py": {"epochs": "1"},
    "recipes/evaluate.py": {"max_bytes": "3000", "max_new_tokens": "5"},
    "recipes/evaluate.py --parts forgetting": {"max_bytes": "3000"},
    "recipes/evaluate.py --parts jglue": QUESTIONS,
    "recipes/evaluate.py --parts jglue_finetuned": FINETUNING,
    "lm_eval run": {"limit": "2"},
    "jpllm generate": {"max_new_tokens": "5"},
    "jpllm chat": {"max_new_tokens": "5"},
}

NETWORK, LOGIN, GPU, TPU = "needs the network", "needs a login and the network", "needs GPUs", "needs a TPU"
NOT_RUN = {
    "make demo": "takes nine minutes; its commands are those of the recipes",
    "make test": "runs this test",
    "python3 -m venv .venv && . .venv/bin/activate": "makes an environment; this test runs in one",
    "pip install -c constraints.txt -e '.[dev]'": NETWORK,
    "pip install 'jpllm[eval]'": NETWORK,
    "pip install 'jpllm[gguf]'": NETWORK,
    "pip install 'jpllm[wandb]'": NETWORK,
    "git clone https://github.com/OWNER/jpllm && cd jpllm && pip install -c constraints.txt -e '.[8bit]'": NETWORK,
    "git clone https://github.com/OWNER/jpllm && cd jpllm": NETWORK,
    "pip install torch==2.9.0 --index-url https://download.pytorch.org/whl/cpu": NETWORK,
    "pip install -c constraints-tpu.txt -e '.[tpu]'": NETWORK,
    "accelerate launch --config_file accelerate_configs/tpu.yaml recipes/pretrain_scratch.py "
    "--config recipes/configs/pretrain_scratch/published_c_tpu.yaml --output_dir /kaggle/working/published_c": TPU,
    "jpllm data jglue --output_dir JGLUE": NETWORK,
    "jpllm data jglue --tasks jnli jsts jcommonsenseqa --output_dir JGLUE/datasets": NETWORK,
    "accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/pretrain_scratch.py "
    "--config recipes/configs/pretrain_scratch/neox_1b_16gb.yaml --output_dir /content/drive/MyDrive/neox": GPU,
    "accelerate launch --config_file accelerate_configs/multi_gpu.yaml --num_processes 4 recipes/pretrain_scratch.py "
    "--config recipes/configs/pretrain_scratch/wiki_books_c4_math.yaml": GPU,
    "hf auth login": LOGIN,
    "jpllm export runs/NAME --to hub/NAME --push OWNER/NAME": LOGIN,
    "cd runs/mirrored && wandb sync --yes": LOGIN,
    "jpllm compare runs/mirrored runs/b --wandb ENTITY/PROJECT": LOGIN,
    "jpllm chat --model runs/sft/model --web": "serves a page until it is stopped (tests/evaluation/chat/test_page.py)",
}
TYPED = {"jpllm chat --model runs/sft/model": "こんにちは\n/quit\n"}  # what is typed into a conversation

EXTRAS = {"evaluation": ["lm_eval"], "sft": ["peft"], "share": ["gguf", "xllamacpp"], "tracking": ["wandb_workspaces"]}

RUN = ("config.yaml", "metrics.jsonl", "held_out.jsonl", "environment.json", "loss.png", "results.json", "model")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# Files that the pages promise, below the folder in the key that is named.
WRITTEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "recipes/pretrain_scratch.py": ("output_dir", (*RUN, "samples.jsonl", "plan.json", "plan.md")),
    "recipes/cpt.py": ("output_dir", (*RUN, "samples.jsonl", "plan.json", "plan.md")),
    "recipes/sft.py": ("output_dir", (*RUN, "samples.jsonl")),
    "recipes/classify.py": ("output_dir", (*RUN, "scores.png", "predictions.jsonl")),
    "recipes/evaluate.py": ("output_dir", ("evaluation.json", "evaluation.md")),
    "jpllm tokenizer train": ("output_dir", (*TOKENIZER, "tokenizer.model")),
    "jpllm tokenizer convert": ("output_dir", (*TOKENIZER, "tokenizer.model")),
    "jpllm tokenizer extend": ("output_dir", (*TOKENIZER, "config.json", "model.safetensors")),
    "jpllm data builtin": ("output_dir", ("documents.jsonl", "arithmetic.jsonl", "instructions.jsonl", "labels.jsonl")),
    "jpllm data dedup": ("output_dir", ("a.duplicates.jsonl", "b.duplicates.jsonl")),
    "jpllm card": ("RUN", ("model/README.md",)),
    "jpllm export": ("to", ("README.md", "config.json", "generation_config.json", "model.safetensors", *TOKENIZER)),
}
WRITTEN_FILES = ("output", "wandb_dry_run")  # keys that name the file itself


def commands(page: Path) -> Iterator[str]:
    """The commands of a page without their comments, each on one line."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in re.sub(r"\\\n\s*", "", block).splitlines() if language == "bash" else ():
            if command := re.sub(r"\s+# .*", "", line).strip():
                yield command


def kind(words: list[str]) -> str:
    """What a command is in `SHORTER` and `WRITTEN`: the recipe, or the words before the first key."""
    recipe = next((word for word in words if word.startswith("recipes/") and word.endswith(".py")), None)
    if recipe:
        return recipe
    begin = next((index for index, word in enumerate(words) if word in ("jpllm", "lm_eval")), 0)
    return " ".join(words[begin : begin + (3 if words[begin + 1] in ("data", "tokenizer") else 2)])


def value(words: list[str], key: str, place: Path) -> str | None:
    """The first value of a key: that of the command, else that of its configuration file."""
    if f"--{key}" in words:
        return words[words.index(f"--{key}") + 1]
    if "--config" not in words:
        return None
    configuration = yaml.safe_load((place / words[words.index("--config") + 1]).read_text(encoding="utf-8"))
    return configuration.get(key)


def shortened(command: str, place: Path) -> str:
    """The command with the keys of `SHORTER`, in place of its own where it has them."""
    words = shlex.split(command)
    parts = value(words, "parts", place)
    name = f"{kind(words)} --parts {parts}" if parts else kind(words)
    for key, short in SHORTER.get(name, {}).items():
        given = re.compile(rf" --{key} [^ ]+")
        command = given.sub("", command) + f" --{key} {short}"
    return command


def written(command: str, place: Path) -> Iterator[str]:
    """The files that the command is to write, by the pages."""
    words = shlex.split(command)
    key, names = WRITTEN.get(kind(words), ("", ()))
    folder = words[2] if key == "RUN" else value(words, key, place)
    yield from (f"{folder}/{name}" for name in names if folder)
    yield from (words[words.index(f"--{key}") + 1] for key in WRITTEN_FILES if f"--{key}" in words)
    if "--gguf" in words:
        yield f"{folder}/{Path(folder).name}-{value(words, 'gguf', place)}.gguf"
    if value(words, "report_to", place) == "wandb":
        yield f"{folder}/wandb"
    if kind(words) == "jpllm data pack":
        yield "runs/shards"


@pytest.fixture(scope="module")
def workplace(tokenizer_dir, tmp_path_factory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("stand_ins"), tokenizer_dir)


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, page in PAGES.items() if set(commands(page)) - set(NOT_RUN)])
def test_commands_run(page: str, workplace: Workplace, tmp_path: Path) -> None:
    for package in EXTRAS.get(page, []):
        pytest.importorskip(package, reason="the page says how to install it")
    workplace.put(page, tmp_path)
    for command in commands(PAGES[page]):
        if command not in NOT_RUN:
            assert HARMLESS.fullmatch(command), f"{command}: not to be run here; say why in NOT_RUN"
            done = workplace.run(shortened(command, tmp_path), tmp_path, TYPED.get(command, ""))
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            missing = [file for file in written(command, tmp_path) if not (tmp_path / file).exists()]
            assert missing == [], f"{command}\n{done.stdout}"


def test_what_is_run_and_what_is_not_are_commands_of_pages() -> None:
    found = {command for page in PAGES.values() for command in commands(page)}
    assert len(found - NOT_RUN.keys()) > 40
    assert [command for command in found - NOT_RUN.keys() if not HARMLESS.fullmatch(command)] == []
    assert sorted(NOT_RUN.keys() - found) == []
    assert sorted(TYPED.keys() - found) == []
    assert sorted(FOUND.keys() - PAGES.keys()) == []


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.stem)
def test_commands_stand_in_blocks_that_are_found(page: Path) -> None:
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = "\n".join(block for language, block in blocks if language != "bash")
    assert re.findall(r"^(?:jpllm|python|accelerate|pip|make) .*", lines, re.MULTILINE) == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES.values() if page.stem != "architecture"], ids=lambda page: page.stem
)
def test_both_languages_have_the_same_commands(page: Path) -> None:
    assert list(commands(page.with_name(page.name.replace(".md", ".ja.md")))) == list(commands(page))
