"""What works with which family of models: the tables of docs/models.md and docs/models.ja.md, found by trying.

  python benchmarks/model_families.py                 # all families, and the tables are written anew: five minutes
  python benchmarks/model_families.py gemma2 qwen3    # shows these rows alone

Each family is a model of two layers with random weights and a tokenizer that is made like its own: the same kind of
pieces, the same ids around a text, the same template. Whatever a column says comes from the code that the recipes and
commands run: a tick, a figure, or the words of the refusal below the table.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from family_models import FAMILIES, Family, make_folder, write_corpus

from jpllm.runtime import InputError, StoppedEarly

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the recipes, which are no package
PAGES = {"docs/models.md": "family", "docs/models.ja.md": "モデル"}
BEGIN, END = "<!-- benchmarks/model_families.py writes from here -->", "<!-- to here -->"
YES = "✓"
LENGTH = 32
QUESTION, ANSWER = {"role": "user", "content": "猫は何と鳴きますか。"}, {"role": "assistant", "content": "にゃあ。"}


class Trial:
    """A family's model folder, and what has been found out about it so far."""

    def __init__(self, family: Family, folder: Path) -> None:
        from jpllm.tokenizer.load import load

        self.folder = folder
        self.model_dir = make_folder(family, folder / "family")
        self.tokenizer: PreTrainedTokenizerFast = load(self.model_dir)
        self.isolates = self.chunks = False

    def new_model(self) -> PreTrainedModel:
        """Return the model, loaded as `recipes/cpt.py` does."""
        from jpllm.models.build import load_to_continue

        return load_to_continue(self.model_dir, self.tokenizer, LENGTH)

    def trained(self, name: str, **settings: object) -> Path:
        """Return the model of a run of `recipes/cpt.py` over two steps."""
        keys = {
            "model": self.model_dir, "sources": write_corpus(self.folder / "corpus.jsonl"), "sequence_length": LENGTH,
            "output_dir": self.folder / name, "shards_dir": self.folder / "shards", "tokens": 4 * LENGTH,
            "per_device_train_batch_size": 2, "held_out_fraction": 0.1, "held_out_bytes": 500, "precision": "fp32",
            "save_steps": 1, "logging_steps": 1, "eval_steps": 100, "learning_rate": 1e-3, "warmup_steps": 0,
            "isolate_documents": str(self.isolates).lower(), "chunked_loss": str(self.chunks).lower(), **settings,
        }  # fmt: skip
        sys.argv = ["recipes/cpt.py", *(word for key in keys for word in (f"--{key}", str(keys[key])))]
        importlib.import_module("recipes.cpt").main()
        return self.folder / name / "model"


def loads(trial: Trial) -> str:
    """Load the folder to train on with it."""
    return type(trial.new_model()).__name__


def ids_around(trial: Trial) -> str:
    """Say which special ids the tokenizer puts around a text."""
    text = "猫が鳴く。"
    ids = trial.tokenizer(text)["input_ids"]
    inner = trial.tokenizer(text, add_special_tokens=False)["input_ids"]
    begins, ends = ids[: len(ids) - len(inner)] + inner == ids, ids[: len(inner)] == inner
    return {(True, False): "BOS", (False, True): "EOS", (True, True): "–"}.get((begins, ends), "BOS, EOS")


def isolates(trial: Trial) -> str:
    """Prove that packed documents do not see each other."""
    from jpllm.models.isolation import isolate_documents

    isolate_documents(trial.new_model())
    trial.isolates = True
    return YES


def chunks(trial: Trial) -> str:
    """Compute the loss in chunks; says how logits differ from the output layer's products."""
    from jpllm.models.logits import logit_function
    from jpllm.models.losses import use_chunked_loss

    model = trial.new_model()
    function = logit_function(model)
    use_chunked_loss(model)
    trial.chunks = True
    bias = ["bias"] if getattr(model.get_output_embeddings(), "bias", None) is not None else []
    scale = [f"× {function.scale:g}"] if function.scale != 1 else []
    cap = [f"cap {function.cap:g}"] if function.cap else []
    return " ".join([YES, ", ".join([*bias, *scale, *cap])]).strip()


def trains(trial: Trial) -> str:
    """Train two steps, prove the saved model, and load it with transformers alone."""
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(trial.trained("whole"), output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise InputError(f"transformers misses {info['missing_keys']} and does not know {info['unexpected_keys']}")
    return YES


def resumes(trial: Trial) -> str:
    """Stop after the first of the two steps, go on, and compare all weights bit by bit."""
    from safetensors.torch import load_file

    with contextlib.suppress(StoppedEarly):
        trial.trained("stopped", max_hours=1e-6)
        raise InputError("the run did not stop")
    whole = load_file(trial.folder / "whole" / "model" / "model.safetensors")
    resumed = load_file(trial.trained("stopped") / "model.safetensors")
    if not all(whole[name].equal(resumed[name]) for name in whole.keys() | resumed.keys()):
        raise InputError("the weights differ from those of a run that was not interrupted")
    return YES


def merges(trial: Trial) -> str:
    """Put random LoRA matrices on the model and return the largest change of a logit when they are added up."""
    import torch

    from jpllm.models.lora import add_lora, merged

    model = trial.new_model().eval()
    ids = torch.arange(3, 3 + LENGTH)[None]
    before = model(input_ids=ids).logits
    add_lora(model, rank=4, alpha=8, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        apart, together = model(input_ids=ids).logits, merged(model)(input_ids=ids).logits
    if float((apart - before).abs().max()) < 1e-4:
        raise InputError("the LoRA matrices change nothing")
    return f"{float((apart - together).abs().max()):.0e}"


def learns_turns(*messages: dict[str, str]) -> Callable[[Trial], str]:
    """Return a column: whether the answers of a conversation can be learned by the tokenizer's own template."""

    def turns(trial: Trial) -> str:
        from jpllm.tokenizer.chat_template import encode_conversation, set_template

        set_template(trial.tokenizer, "own")
        encode_conversation(trial.tokenizer, messages)
        return YES

    return turns


def exports(trial: Trial) -> str:
    """Write the trained model as `jpllm export` does; a fresh process proves equal logits."""
    from jpllm.commands.export import ExportConfig, save_and_prove

    folder, model_dir = trial.folder / "exported", trial.folder / "whole" / "model"
    folder.mkdir()
    save_and_prove(ExportConfig(run=[model_dir], to=folder), model_dir, model_dir, folder, None)
    return YES


def converts(trial: Trial) -> str:
    """Write a GGUF file, which llama.cpp proves."""
    from jpllm.models.build import load_trained
    from jpllm.sharing.gguf import file

    model_dir = trial.folder / "whole" / "model"
    model = load_trained(model_dir).to("cpu")
    file.refuse_impossible(model.config, type(model).__name__, trial.tokenizer, model_dir, "refuse")
    file.write(model, trial.tokenizer, model_dir, trial.folder / "model.gguf", "f32")
    file.prove(trial.folder / "model.gguf", model, trial.tokenizer, model_dir, "refuse")
    return YES


@dataclass(frozen=True)
class Column:
    """A question to a family: its headings, English and Japanese, and who answers it."""

    english: str
    japanese: str
    answer: Callable[[Trial], str]


COLUMNS = (
    Column("loads as", "読み込み", loads),
    Column("around a text", "文書の前後", ids_around),
    Column("isolation", "文書の分離", isolates),
    Column("loss in chunks", "損失の分割計算", chunks),
    Column("trains", "学習と保存", trains),
    Column("resumes", "再開", resumes),
    Column("LoRA, error of merging", "LoRAの併合誤差", merges),
    Column("template, one turn", "テンプレート（1往復）", learns_turns(QUESTION, ANSWER)),
    Column("two turns", "同（2往復）", learns_turns(QUESTION, ANSWER, QUESTION, ANSWER)),
    Column("export", "エクスポート", exports),
    Column("GGUF", "GGUF", converts),
)


def row_of(family: Family) -> tuple[list[str], dict[int, str]]:
    """Return the cells of a family's row, and by the number of its column the words of each refusal."""
    cells, refusals = [], {}
    with tempfile.TemporaryDirectory() as folder:
        with _silence():
            trial = Trial(family, Path(folder))
        for number, column in enumerate(COLUMNS):
            try:
                with _silence():
                    cells.append(column.answer(trial))
            except Exception as error:  # a traceback is what the table is to show first of all
                words = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                cells.append("no")
                words = " ".join(words.replace(cells[0], "MODEL").split())  # one note for all classes
                refusals[number] = re.sub(rf"{re.escape(folder)}\S*?(?=[:; ,])", "FOLDER", words)
    return cells, refusals


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the recipes' reports from standard output and the log."""
    argv = sys.argv
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        sys.argv = argv


def table(rows: dict[str, tuple[list[str], dict[int, str]]], language: str) -> str:
    """Return the table of all rows in Markdown, with the refusals, each once, in a numbered list below."""
    headings = [column.english if language == "family" else column.japanese for column in COLUMNS]
    lines = [f"| {language} | {' | '.join(headings)} |", "| --- |" + " --- |" * len(COLUMNS)]
    notes: list[str] = []
    for name, (cells, refusals) in rows.items():
        shown = list(cells)
        for number, words in refusals.items():
            if words not in notes:
                notes.append(words)
            shown[number] = f"– ({notes.index(words) + 1})"
        lines.append(f"| {name} | {' | '.join(shown)} |")
    wrapped = [
        "\n".join(textwrap.wrap(f"{number}. {note}", 118, subsequent_indent="   ", break_long_words=False))
        for number, note in enumerate(notes, start=1)
    ]
    return "\n".join([*lines, "", *wrapped])


def write_pages(rows: dict[str, tuple[list[str], dict[int, str]]]) -> None:
    """Put the table into the pages, between the two comments."""
    for name, language in PAGES.items():
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        page.write_text(f"{before}\n\n{table(rows, language)}\n\n{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"some of {', '.join(FAMILIES)}; the pages are not written then")
    names = parser.parse_args(argv).families
    rows = {}
    for name in names or FAMILIES:
        start = time.monotonic()
        rows[name] = row_of(FAMILIES[name])
        print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    if names:
        print(table(rows, "family"))
    else:
        write_pages(rows)


if __name__ == "__main__":
    main()
