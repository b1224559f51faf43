"""Records of runs of each recipe, for cards: every path in them is private, and every number is known."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tracking.run_folders import RESULTS, place, write_run

PRIVATE = "/home/somebody/secret"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAMPLING = {
    "max_new_tokens": 20,
    "temperature": 0.8,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 0,
}
SESSION = {
    "commit": COMMIT,
    "versions": {"jpllm": "0.1.0", "torch": "2.13.0"},
    "cpu": "Example CPU",
    "cores": 8,
    "gpus": [{"name": "Example GPU", "memory_bytes": 1}, {"name": "Example GPU", "memory_bytes": 1}],
}
AOZORA = {"path": "hf://globis-university/aozorabunko-clean", "name": "aozora", "licence": "CC BY 4.0"}
DIARY = {"path": f"{PRIVATE}/diary.jsonl", "licence": None}
DATA_LICENSE = ["diary=CC0-1.0"]


def use(source: str, share: float, tokens: int) -> dict:
    return {"source": source, "requested_share": share, "achieved_share": share, "tokens": tokens, "epochs": 1.5}


MIXTURE = [use("aozora", 0.75, 3000), use("diary", 0.25, 1000)]
GROUPS = {"new": {"before": 2.5, "after": 2.0}, "old": {"before": 1.0, "after": 1.125}}
SPLIT = {"num_rows": 400, "accuracy": 0.92, "macro_f1": 0.915, "standard_error": 0.0136, "chance": 0.5, "majority": 0.6}
# Settings, what the results have beside the usual, and the configuration of the model.
KINDS: dict[str, tuple[dict, dict, dict]] = {
    "scratch": (
        {"objective": "clm", "tokenizer": f"{PRIVATE}/tok", "sources": [AOZORA, DIARY], **SAMPLING},
        {"mixture": MIXTURE, "kwh": 0.125},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "trained_sequence_length": 256},
    ),
    "masked": (
        {"objective": "mlm", "sources": [AOZORA, DIARY]},
        {"mixture": MIXTURE, "masked_accuracy": 0.4, "bits_per_byte": None},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
    ),
    "continued": (
        {"model": "openai-community/gpt2", "sources": [AOZORA], "replay_sources": [DIARY], "replay": 0.25, **SAMPLING},
        {"mixture": MIXTURE, "groups": GROUPS},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    ),
    "instructed": (
        {"model": f"{PRIVATE}/runs/base/model", "batching": "packed", "sources": [DIARY], **SAMPLING, "temperature": 0},
        {"token_accuracy": 0.5, "loss_before": 4.0, "answers_right": {"before": 0.0, "after": 0.25}},
        {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]},
    ),
    "classifier": (
        {"model": f"{PRIVATE}/runs/base/model", "train_file": f"{PRIVATE}/diary.csv", "task": "classification"},
        {"validation": SPLIT, "test": {**SPLIT, "accuracy": 0.9}, "bits_per_byte": None},
        {
            "model_type": "gpt2",
            "architectures": ["GPT2ForSequenceClassification"],
            "id2label": {"0": "negative", "1": "positive"},
        },
    ),
}


def write(
    folder: Path, kind: str, *, held_out: str = "吾輩は猫である。", texts: list[dict] | None = None, **more
) -> Path:
    """The folder of a finished run; `more` replaces settings."""
    settings, results, model_config = KINDS[kind]
    found = {key: value for key, value in (RESULTS | results).items() if value is not None}
    if texts is None:
        texts = [{**place(4), "prompt": "むかし、", "text": "あるところに。"}]
    write_run(folder, settings=settings | more, results=found, held_out=held_out, texts=texts)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(model_config), encoding="utf-8")
    if kind == "instructed":
        (folder / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"sessions": [SESSION]}), encoding="utf-8")
    (folder / "loss.png").write_bytes(b"\x89PNG")
    return folder
