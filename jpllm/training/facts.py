"""What decides the losses of a run: it is compared before a run goes on, and some of it can never change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import yaml

from jpllm.config.settings import to_yaml, with_defaults
from jpllm.training import engine

# Keys that change neither a loss nor the model, so that they may differ at each start, also when a run is finished.
_FREE_KEYS = frozenset(
    [
        *("output_dir", "max_hours", "save_steps", "save_total_limit", "resume_changed", "ddp_timeout"),
        *("report_to", "measure_energy", "machine"),
        *("processes", "shards_dir", "verify_shards", "dataloader_num_workers", "sample_prompts"),
    ]
)
_KEYS_OF_THE_END = frozenset(["save"])  # they change what is made of the trained weights, and not these
# Keys that name texts and tokenizer, which are compared by their content.
_KEYS_OF_CONTENT = frozenset(
    [
        *("sources", "eval_sources", "replay_sources", "old_texts", "tokenizer", "held_out_bytes", "held_out_fraction"),
        *("train_file", "validation_file", "test_file"),
    ]
)
# Keys that no run can change on its way: the weights, or the states of the optimizer, would not fit.
_LASTING_KEYS = frozenset(
    [
        *("objective", "optimizer", "lora_rank", "lora_targets", "lora_full", "trainable", "task"),
        *("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions", "tie_embeddings"),
        "vocab_size",
    ]
)
# Each tells its recipe from the others.
_KEYS_OF_ONE_RECIPE = ("objective", "embedding_warmup_steps", "template", "trainable")
_NUM_SHOWN = 12


@dataclass(frozen=True)
class Facts:
    """What decides the losses of a run; a checkpoint goes on exactly only where none of it has changed.

    Attributes:
        data: fingerprint of the training blocks and their order, and of the texts to evaluate on.
        tokenizer: fingerprint of the tokenizer.
        configuration: the keys that decide the losses, with their values as JSON has them.
        world_size: number of processes.
        engine: how they share the model, such as "DDP".
        shards: hash of the ids in the token shards; None where it is not known, as in checkpoints of version 0.1.0.
        classes: of the configuration; their defaults stand for keys that an older version did not know.
    """

    data: str
    tokenizer: str
    configuration: dict
    world_size: int = 1
    engine: str = ""
    shards: str | None = None
    classes: tuple[type, ...] = field(default=(), repr=False, compare=False)

    def record(self) -> dict:
        """Return what is written down, as JSON has it."""
        found = {name: value for name, value in asdict(self).items() if name != "classes"}
        return json.loads(json.dumps(found))

    def changes(self, earlier: Mapping) -> list[str]:
        """Return what differs from facts that were written down, a line for each."""
        now = self.record()
        lines = [
            f"{name}: {earlier.get(name)} when it was written, {now[name]} now"
            for name in ("world_size", "engine")
            if earlier.get(name) != now[name]
        ]
        lines += [f"{name}: another one" for name in ("data", "tokenizer") if earlier.get(name) != now[name]]
        is_known = None not in (earlier.get("shards"), self.shards)
        if earlier.get("data") == now["data"] and is_known and earlier["shards"] != self.shards:
            lines.append("data: other token ids in the shards")
        return lines + changed_settings(earlier.get("configuration", {}), now["configuration"], self.classes)

    def obstacles(self, earlier: Mapping) -> list[str]:
        """Return the changes that make it impossible to go on, a line for each, with the reason."""
        now, before = self.record(), earlier.get("configuration", {})
        is_sharded = any(name not in ("", "DDP") for name in (earlier.get("engine"), now["engine"]))
        lines = []
        if [key in before for key in _KEYS_OF_ONE_RECIPE] != [
            key in now["configuration"] for key in _KEYS_OF_ONE_RECIPE
        ]:
            lines.append("it is a run of another recipe")
        if is_sharded and earlier.get("engine") != now["engine"]:
            lines.append(f"engine: {earlier.get('engine') or 'one process'}, not {now['engine'] or 'one process'}")
        if now["engine"].startswith("DeepSpeed"):
            if earlier.get("world_size") != now["world_size"]:
                lines.append(f"world_size: {earlier.get('world_size')} processes, not {now['world_size']}")
            if before.get("precision") != now["configuration"].get("precision"):
                lines.append(f"precision: {before.get('precision')}, not {now['configuration'].get('precision')}")
        is_of_preset = {"model"} if "hidden_size" in now["configuration"] else set()  # elsewhere `model` is a folder
        lasting = {key: value for key, value in now["configuration"].items() if key in _LASTING_KEYS | is_of_preset}
        known = with_defaults(before, self.classes)
        lines += [
            f"{key}: {known[key]}, not {value}" for key, value in lasting.items() if known.get(key, value) != value
        ]
        warmups = [settings.get("embedding_warmup_steps", 0) for settings in (before, now["configuration"])]
        if bool(warmups[0]) != bool(warmups[1]):
            lines.append(f"embedding_warmup_steps: {warmups[0]}, not {warmups[1]}")
        return lines


def facts_of(
    data_fingerprint: str,
    tokenizer_fingerprint: str,
    configuration: Iterable[object],
    shards_hash: str | None = None,
) -> Facts:
    """Return what decides the losses of a run that this launcher starts, given fingerprints of data and tokenizer."""
    configuration = list(configuration)
    values = yaml.safe_load(to_yaml(configuration))
    deciding = {key: value for key, value in values.items() if _decides(key)}
    wanted = engine.requested()
    classes = tuple(type(part) for part in configuration)
    return Facts(
        *(data_fingerprint, tokenizer_fingerprint, deciding, wanted.num_processes, wanted.name, shards_hash, classes)
    )


def changed_settings(before: Mapping, now: Mapping, classes: Iterable[type]) -> list[str]:
    """Return the keys that decide losses and differ between two configurations, a line for each.

    A key that the earlier one lacks, being of an older version, counts with its default.
    """
    classes = list(classes)
    known = with_defaults(before, classes)
    keys = {key for key in before.keys() | now.keys() if _decides(key)}
    lines = [
        f"{key}: {known.get(key, 'not set')} when it was written, {now.get(key, 'not set')} now"
        for key in sorted(keys)
        if (key in known, known.get(key)) != (key in now, now.get(key))
    ]
    return [*lines[:_NUM_SHOWN], f"and {len(lines) - _NUM_SHOWN} keys more"] if len(lines) > _NUM_SHOWN else lines


def changed_keys_of_finished(before: Mapping, configuration: Iterable[object]) -> Iterator[str]:
    """Yield the keys by which a finished run is another one than that of this configuration."""
    configuration = list(configuration)
    known = with_defaults(before, [type(part) for part in configuration])
    for key, value in yaml.safe_load(to_yaml(configuration)).items():
        if key not in _FREE_KEYS and known.get(key) != value:
            yield key


def _decides(key: str) -> bool:
    return key not in _FREE_KEYS | _KEYS_OF_CONTENT | _KEYS_OF_THE_END
