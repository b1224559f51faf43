"""`jpllm export`: write a proved folder to give away, on request with a GGUF file and to the Hub."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jpllm import runtime, whole_files
from jpllm.commands.card import read_run
from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import REQUIRED, option
from jpllm.runtime import InputError
from jpllm.sharing.card.compose import CARD_NAME, CardConfig
from jpllm.sharing.export import Dtype
from jpllm.sharing.gguf import file as gguf_files
from jpllm.sharing.gguf.proof import Prompts, Tolerance, Unknown, describe
from jpllm.sharing.gguf.quantize import GgufType
from jpllm.sharing.hub import is_repository

if TYPE_CHECKING:
    from jpllm.sharing.export_proof import Proof
    from jpllm.sharing.licences import Licence
    from jpllm.tracking.runs import Run

_SAMPLING_KEYS = ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "no_repeat_ngram_size")
_MAX_HELD_OUT_TEXTS = 300
_OF_EXPORT = "<!-- written by jpllm export -->"  # what stands behind it in a card is of the folder that was exported


@dataclass
class ExportConfig:
    """Export"""

    run: list[Path] = option(REQUIRED, "Folder of the run, or of a model.")
    to: Path = option(REQUIRED, "New folder to give away.")
    dtype: Dtype | None = option(None, "Weights in another dtype; by default in that of the model.")
    gguf: GgufType | None = option(
        None, "Also write a GGUF file for llama.cpp, with matrices in f32, f16 or bf16, or rounded to q8_0 or q4_k_m."
    )
    gguf_unknown: Unknown = option(
        "refuse",
        "Characters without a piece that llama.cpp cannot spell in bytes: refuse the file, or let them be <unk> there.",
    )
    gguf_prompts: Prompts = option(
        "refuse",
        "Conversations of which llama.cpp makes other prompts: refuse the file, or write it and say so in the card.",
    )
    push: str | None = option(None, "Upload the folder to this repository of the Hugging Face Hub, OWNER/NAME.")
    public: bool = option(False, "Make a new repository public, or push to one that is; by default it is private.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield problems: not exactly one run, or keys that would have no effect."""
        if len(self.run) != 1:
            yield "run", "name one run folder"
        if self.push and (not is_repository(self.push) or "/" not in self.push):
            yield "push", f"{self.push!r} is no name of a repository; write OWNER/NAME"
        if self.public and not self.push:
            yield "public", "acts with push only; remove it"
        for key in ("gguf_unknown", "gguf_prompts"):
            if getattr(self, key) != "refuse" and not self.gguf:
                yield key, "acts with gguf only; remove it"

    @property
    def tolerance(self) -> Tolerance:
        """The differences that a GGUF file may have."""
        return Tolerance(self.gguf_unknown, self.gguf_prompts)


def export(argv: Sequence[str]) -> None:
    """Make a clean folder of a run's model, prove it, and on request push it."""
    settings, card = parse(
        [ExportConfig, CardConfig],
        argv,
        prog="jpllm export",
        description=f"{export.__doc__} Example: jpllm export runs/NAME --to NAME --license apache-2.0",
        positional="run",
    )
    (folder,) = settings.run
    if settings.push:
        from jpllm.sharing import hub

        hub.refuse_without_login()
    with whole_model(folder, card.base_model, settings.to) as whole:
        _export(settings, card, whole, [folder, whole])


def _export(settings: ExportConfig, card: CardConfig, folder: Path, private: list[Path]) -> None:
    """Export the model of a folder; no file of it may name a `private` folder."""
    from jpllm.sharing import export as exports
    from jpllm.sharing import hub, licences
    from jpllm.sharing.card import compose as cards

    model_dir = cards.model_folder(folder)
    if settings.gguf:
        refuse_impossible_gguf(folder, model_dir, settings.gguf, settings.tolerance)
    run = read_run(folder, [])
    text, plots = card_of(folder, model_dir, run, card, settings.push)
    base_licence = licences.of_base(run)
    if base_licence:
        refuse_unlicensed(base_licence, text, settings.push)
    with whole_files.new_folder(settings.to, "to") as unfinished:
        proof, sections = save_and_prove(settings, folder, model_dir, unfinished, sampling_of(run))
        whole = "\n".join([text.partition(f"\n{_OF_EXPORT}")[0], *[f"{_OF_EXPORT}\n"] * bool(sections), *sections])
        cards.write(whole, unfinished, plots, folder)
        licences.copy_files(base_licence or licences.licence_of(model_dir), unfinished)
        exports.refuse_unwanted(unfinished, [*private, model_dir, Path.home(), Path.cwd()])
    difference = "equal logits, bit by bit"
    if settings.dtype:
        difference = f"logits that differ from the original's by at most {proof.largest_difference:.3g}"
    runtime.announce(
        f"exported {settings.to}: a fresh process with transformers {proof.transformers} and without jpllm gives "
        f"{difference}, and equal ids on {proof.num_texts:,} texts"
    )
    for section in sections:
        if section.startswith("## GGUF"):
            runtime.announce(section.splitlines()[-1])
    if settings.push:
        runtime.announce(f"pushed to {hub.push(settings.to, settings.push, settings.public)}")


@contextmanager
def whole_model(folder: Path, base_model: str | None, target: Path) -> Generator[Path]:
    """Yield the folder of a run or of a model; of an adapter one that is like it, with the adapter in the weights.

    It lies beside `target` as long as it is needed. `base_model` stands for the base that the adapter names,
    unless it is a name for the card alone and that base is a folder here.
    """
    from jpllm.models import adapters
    from jpllm.tracking.runs import MODEL_NAME

    adapter = next((place for place in (folder / MODEL_NAME, folder) if adapters.is_adapter(place)), None)
    if adapter is None:
        yield folder
        return
    from jpllm.models.merging import merge_adapter
    from jpllm.tokenizer.load import load, save

    base = adapters.base_of(adapter)
    if base_model and (Path(base_model).is_dir() or not Path(base).is_dir()):
        base = base_model
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merged.", dir=target.absolute().parent) as scratch:
        whole = Path(scratch) / folder.resolve().name
        model_dir = whole if adapter == folder else whole / MODEL_NAME
        merge_adapter(adapter, base, model_dir)
        source = adapters.tokenizer_source(adapter, base)
        save(load(source, needs_eos=False), source, model_dir)
        for entry in folder.resolve().iterdir() if adapter != folder else ():
            if entry.name != MODEL_NAME:
                (whole / entry.name).symlink_to(entry)
        yield whole


def refuse_unlicensed(base: Licence, card: str, repository: str | None) -> None:
    """Raise InputError where the licence of the model that was trained further asks for another name or for words."""
    from jpllm.sharing import licences

    names = {"push": repository.partition("/")[2]} if repository else {}
    found = list(licences.problems(base, None, names))
    for words in licences.words_missing(base, card):
        found.append(
            f"{CARD_NAME}: the licence {base.known_as} of the model that was trained further asks for the words "
            f'"{words}"; write them into the card beside the model, or remove it, and a new one has them'
        )
    if found:
        raise InputError("\n".join(found))


def refuse_impossible_gguf(folder: Path, model_dir: Path, precision: GgufType, tolerance: Tolerance) -> None:
    """Raise InputError where the model or its tokenizer cannot go into a GGUF file, before anything is written."""
    from transformers import AutoConfig

    from jpllm.tokenizer.load import load

    config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    architecture = (config.architectures or ["a model that names no class"])[0]
    tokenizer = load(model_dir, needs_eos=False)
    texts = held_out_texts(folder)
    gguf_files.refuse_impossible(config, architecture, tokenizer, model_dir, precision, tolerance, texts)


def card_of(folder: Path, model_dir: Path, run: Run, settings: CardConfig, name: str | None) -> tuple[str, list[str]]:
    """Return the card that lies beside the model or else a new one, and the names of its pictures.

    Raises:
        InputError: see `jpllm.sharing.card.compose.gather`; or there is a card, and settings for a new one.
    """
    from jpllm.sharing import hub
    from jpllm.sharing.card import compose as cards
    from jpllm.sharing.card.facts import PLOTS

    file = model_dir / CARD_NAME
    if not file.is_file():
        facts = cards.gather(folder, run, settings)
        return cards.compose(facts, settings, name or "."), list(facts.plots)
    default = CardConfig()
    given = [f.name for f in dataclasses.fields(settings) if getattr(settings, f.name) != getattr(default, f.name)]
    if given:
        raise ConfigError(f"--{key}: {file} is the card already; remove that file or this key" for key in given)
    text = file.read_text(encoding="utf-8")
    if problems := list(hub.card_problems(text)):
        raise InputError(f"{file}: the Hub would refuse the card: {'; '.join(problems)}")
    return text, [name for name in PLOTS if (folder / name).is_file()]


def sampling_of(run: Run) -> dict | None:
    """Return the settings with which the run sampled; None where it has none."""
    return {key: run.settings[key] for key in _SAMPLING_KEYS if key in run.settings} or None


def save_and_prove(
    settings: ExportConfig, folder: Path, model_dir: Path, unfinished: Path, sampling: dict | None
) -> tuple[Proof, list[str]]:
    """Write weights, tokenizer and, if asked for, the GGUF file, and prove each.

    Returns the proof, and for the card sections on the GGUF file and on programs that run the model. Raises InputError
    where one of them fails.
    """
    import torch
    import transformers

    from jpllm.models.build import context_length, load_trained
    from jpllm.models.pretrained import read_config
    from jpllm.sharing import export as exports
    from jpllm.sharing import export_proof, serving
    from jpllm.sharing.card.facts import pipeline_tag
    from jpllm.sharing.gguf.architectures import longest_text
    from jpllm.tokenizer.load import load

    architecture = read_config(model_dir, is_local=True)
    name = (architecture.architectures or [""])[0]
    tag = pipeline_tag(architecture.to_dict())
    if tag is None or not hasattr(transformers, name):
        raise InputError(f"{model_dir}: {architecture.architectures} is no architecture that is exported here")
    tokenizer = load(model_dir, needs_eos=False)
    model = load_trained(model_dir, getattr(transformers, name)).to("cpu")
    ids = export_proof.proof_ids(model)
    original = export_proof.logits(model, ids)
    saved_dtype = cast("torch.dtype", architecture.dtype)
    exports.set_dtype(model, getattr(torch, settings.dtype) if settings.dtype else saved_dtype)
    exports.save_model(model, tokenizer, model_dir, unfinished, sampling)
    exports.set_dtype(model, torch.float32)
    expected = export_proof.logits(model, ids)
    sections = []
    gguf_name = f"{settings.to.name}-{settings.gguf}.gguf" if settings.gguf else None
    if settings.gguf and gguf_name:
        file, texts = unfinished / gguf_name, held_out_texts(folder)
        found = gguf_files.write_and_prove(model, tokenizer, model_dir, file, settings.gguf, settings.tolerance, texts)
        sections.append(f"## GGUF\n\n{describe(file.name, found)}\n")
    if tag == "text-generation":
        length = longest_text(model) if gguf_name else context_length(model)
        defaults = model.generation_config
        sections.append(serving.write(unfinished, settings.to.name, gguf_name, defaults, tokenizer, length))
    return export_proof.prove(unfinished, tag, tokenizer, ids, original, expected), sections


def held_out_texts(folder: Path) -> list[str]:
    """Return lines of the texts that a run was evaluated on; none where it has no such texts."""
    from jpllm.sharing.card.facts import texts_of
    from jpllm.tracking.runs import HELD_OUT_NAME

    file = folder / HELD_OUT_NAME
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as stream:
        lines = (line for row in stream for text in texts_of(row) for line in text.splitlines() if line)
        return list(islice(lines, _MAX_HELD_OUT_TEXTS))
