"""The sections of a model card in English, out of what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jpllm import markdown
from jpllm.sharing import card_facts
from jpllm.sharing.card_facts import PipelineTag, TrainedOn
from jpllm.tracking.quantities import count, duration, per_cent, three_digits
from jpllm.tracking.runs import Run

NOT_RECORDED = "not recorded"
PLOTS = {"loss.png": "Loss over the training", "scores.png": "Scores over the training"}
MAX_PROMPTS = 6
ARCHITECTURES = {"gpt2": "GPT-2", "gpt_neox": "GPT-NeoX", "llama": "Llama", "bert": "BERT"}
_SHOWN_SETTINGS = (
    *("objective", "masked_share", "template", "batching", "replay", "lora_rank", "lora_alpha", "trainable", "task"),
    *("sequence_length", "isolate_documents", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("optimizer", "learning_rate", "lr_scheduler_type", "warmup_steps", "embedding_warmup_steps", "weight_decay"),
    *("adam_beta1", "adam_beta2", "max_grad_norm", "label_smoothing", "dropout", "precision", "early_stopping_evals"),
    "seed",
)
_SAMPLING = ("temperature", "top_p", "repetition_penalty", "no_repeat_ngram_size", "max_new_tokens", "seed")


@dataclass(frozen=True)
class Facts:
    """Everything that a card is made of; None and empty for what was not recorded.

    Attributes:
        title: name of the model.
        model_config: what `config.json` of the model holds.
        plots: names of the pictures that lie beside the card.
        languages: codes of ISO 639.
        base: the model that was trained further, OWNER/NAME if `is_base_on_hub`, else the name of its folder.
    """

    title: str
    run: Run
    model_config: dict
    tag: PipelineTag | None
    licence: str | None
    licence_name: str | None
    licence_link: str | None
    languages: Sequence[str]
    sources: Sequence[TrainedOn]
    base: str | None
    is_base_on_hub: bool
    has_chat_template: bool
    plots: Sequence[str]

    @property
    def kind(self) -> card_facts.Kind:
        """Which recipe trained the model."""
        return card_facts.kind_of(self.run)

    @property
    def num_parameters(self) -> float | None:
        """All weights, counted once."""
        return self.run.num_parameters or self.run.result("num_parameters")

    @property
    def prompts(self) -> list[dict]:
        """The samples of the model that was kept, the first prompts only."""
        kept = self.run.results.get("best_step")
        steps = [row["step"] for row in self.run.samples]
        step = kept if kept in steps else max(steps, default=None)
        return [row for row in self.run.samples if row["step"] == step][:MAX_PROMPTS]


def introduction(facts: Facts) -> str:
    """What the model is, in a paragraph."""
    noun, does = {
        "text-generation": ("language model", "It continues texts."),
        "fill-mask": ("masked language model", "It fills in hidden words."),
        "text-classification": ("classifier", "It tells texts apart."),
    }.get(str(facts.tag), ("model", ""))
    if facts.has_chat_template:
        does = "It answers instructions."
    how = {
        "scratch": "It was trained from random weights.",
        "continued": f"It is {_base(facts)}, trained further on more texts.",
        "instructed": f"It is {_base(facts)} after instruction tuning.",
        "classifier": f"It is {_base(facts)} with a new head, trained on labelled rows.",
        "unknown": f"How it was trained is {NOT_RECORDED}.",
    }[facts.kind]
    size = facts.num_parameters
    parameters = f" of {size:,.0f} parameters" if size else ""
    architecture = str(facts.model_config.get("model_type"))
    if facts.tag == "text-classification" and facts.run.settings.get("task") == "classification":
        does = f"It tells {' and '.join(map(str, facts.model_config.get('id2label', {}).values()))} apart."
    return f"A {ARCHITECTURES.get(architecture, architecture)} {noun}{parameters}, made with jpllm. {does} {how}"


def data(facts: Facts) -> str:
    """The sources with licences and shares."""
    if not facts.sources:
        return f"The data of its training is {NOT_RECORDED}."
    head = ["source", "licence", "share of the tokens (asked)", "tokens", "passes"]
    rows = []
    for source in facts.sources:
        achieved, requested = source.achieved_share, source.requested_share
        asked = f" ({per_cent(requested)})" if requested is not None else ""
        rows.append(
            [
                source.label,
                source.licence or NOT_RECORDED,
                f"{per_cent(achieved)}{asked}" if achieved is not None else NOT_RECORDED,
                count(source.tokens) if source.tokens is not None else NOT_RECORDED,
                three_digits(source.epochs) if source.epochs is not None else NOT_RECORDED,
            ]
        )
    known = [column for column in range(len(head)) if any(row[column] != NOT_RECORDED for row in rows) or column == 1]
    table = markdown.table([head[column] for column in known], [[row[column] for column in known] for row in rows])
    lines = [
        f"- {markdown.escaped(source.label)}: https://huggingface.co/datasets/{source.hub_name}"
        for source in facts.sources
        if source.hub_name
    ]
    if facts.base:
        lines += ["", f"What {_base(facts)} was trained on before is not listed here; see its own card."]
    return "\n".join([table.rstrip(), *lines])


def training(facts: Facts) -> str:
    """Settings, time, energy, hardware and commit."""
    run = facts.run
    if run.state == "model":
        return f"How it was trained is {NOT_RECORDED}."
    tokens, steps, epochs = (run.result(key) for key in ("tokens", "step", "epoch"))
    kwh, peak = run.result("kwh"), run.result("peak_gpu_bytes")
    rows = [
        ("tokens", _or_not(tokens, lambda value: f"{value:,.0f}")),
        ("steps", _or_not(steps, lambda value: f"{value:,.0f}")),
        ("passes over the data", _or_not(epochs, three_digits)),
        ("training time", _or_not(card_facts.hours(run), duration)),
        ("energy", f"{kwh:.3g} kWh" if kwh is not None else "not measured"),
        ("hardware", card_facts.hardware(run) or NOT_RECORDED),
        ("engine", str(run.results.get("engine") or NOT_RECORDED)),
        ("code", f"jpllm, commit {card_facts.commits(run) or NOT_RECORDED}"),
        ("versions", ", ".join(f"{name} {found}" for name, found in card_facts.versions(run).items()) or NOT_RECORDED),
    ]
    if peak:
        rows.insert(5, ("peak memory of a GPU", f"{peak / 2**30:.1f} GiB"))
    shown = [key for key in _SHOWN_SETTINGS if run.settings.get(key) or (key == "seed" and key in run.settings)]
    settings = [(key, _setting(run.settings[key])) for key in shown]
    plots = [f"![{PLOTS[name]}]({name})" for name in facts.plots]
    return "\n".join([markdown.table(["", ""], rows), markdown.table(["setting", "value"], settings), *plots])


def samples(facts: Facts) -> str:
    """What the model wrote at the end of its training, and how it was asked."""
    rows = facts.prompts
    if not rows:
        return ""
    if facts.tag == "fill-mask":
        how = "The likeliest words in each gap."
    else:
        how = ", ".join(f"{key} {facts.run.settings.get(key)}" for key in _SAMPLING if key in facts.run.settings)
        how = f"Settings: {how}."
    blocks = [fenced(f"{row['prompt']}▸{row['text'].rstrip()}{_cut(row)}") for row in rows]
    return "\n\n".join([f"The first prompts of the run, not a choice of good answers. {how}", *blocks])


def limits(facts: Facts) -> str:
    """What the model cannot be relied on for."""
    return "\n".join(f"- {line}" for line in _limits(facts))


def fenced(text: str) -> str:
    """Text as it is, whatever marks are in it."""
    longest = max((len(run) for run in _backtick_runs(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _limits(facts: Facts) -> Iterator[str]:
    run = facts.run
    size, tokens = facts.num_parameters, run.result("tokens")
    if size and facts.tag == "text-generation":
        yield (
            f"It is small: {count(size)} parameters. What it writes can be wrong, repeat itself or make no sense, and "
            "nothing keeps it from offensive text."
        )
    if size and tokens and facts.kind == "scratch":
        yield f"It saw {tokens / size:.1f} tokens for each parameter."
    if facts.tag == "text-generation" and not facts.has_chat_template:
        yield "It continues texts; it was not taught to follow instructions."
    length = facts.model_config.get("trained_sequence_length")
    if length:
        yield f"It was trained on sequences of {length:,} tokens and knows nothing of longer ones."
    if facts.languages:
        yield f"Languages of the data: {', '.join(facts.languages)}. In others nothing was measured."
    for group, before, after in group_changes(run):
        if after > before:
            name = markdown.escaped(group)
            yield f"It forgot: bits per byte on the {name} texts rose from {before:.4f} to {after:.4f}."
    if facts.kind in ("continued", "instructed") and not group_changes(run):
        yield f"What it forgot of what {_base(facts)} knew was not measured."
    if facts.tag == "text-generation" and not any(evaluation.get("jglue") for evaluation in run.evaluations):
        yield "No benchmark of tasks was run on it."


def group_changes(run: Run) -> list[tuple[str, float, float]]:
    """Name of each group of held-out texts, its bits per byte before the training and after it."""
    known = run.results.get("groups")
    names = known if isinstance(known, dict) else {}
    found = [(name, run.result("groups", name, "before"), run.result("groups", name, "after")) for name in names]
    return [(name, before, after) for name, before, after in found if before is not None and after is not None]


def _base(facts: Facts) -> str:
    return f"**{markdown.escaped(facts.base)}**" if facts.base else "another model"


def _or_not(value: float | None, shown: Callable[[float], str]) -> str:
    return shown(value) if value is not None else NOT_RECORDED


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cut(row: dict) -> str:
    return " [cut]" if row.get("ended") is False else ""


def _backtick_runs(text: str) -> Iterator[str]:
    run = ""
    for letter in f"{text} ":
        if letter == "`":
            run += letter
        elif run:
            yield run
            run = ""
