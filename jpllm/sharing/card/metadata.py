"""The metadata of a model card: the YAML block by which the Hugging Face Hub finds a model and shows its scores.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jpllm.sharing.card.facts import Facts
from jpllm.sharing.card.tables import SPLIT_FIGURES
from jpllm.tracking.runs import number, rows_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

HELD_OUT = "held-out texts of the training data"
_METRIC_NAMES = {  # as the Hub calls them, where it does
    "acc": "accuracy",
    "balanced_acc": "balanced_accuracy",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "macro_f1": "f1",
}
_JGLUE_ARGUMENTS = (
    *("style", "num_fewshot", "limit", "n", "standard_error", "chance", "majority", "data_version", "lm_eval"),
)


def metadata(facts: Facts) -> ModelCardData:
    """Return what stands between the lines of ---."""
    from huggingface_hub import ModelCardData

    results = eval_results(facts)
    return ModelCardData(
        language=list(facts.languages) or None,
        license=facts.licence,
        license_name=facts.licence_name,
        license_link=facts.licence_link,
        library_name="transformers",
        pipeline_tag=facts.tag,
        tags=["jpllm", str(facts.model_config.get("model_type"))],
        datasets=list(dict.fromkeys(source.hub_name for source in facts.sources if source.hub_name)) or None,
        base_model=facts.base if facts.is_base_on_hub else None,
        model_name=facts.title if results else None,
        eval_results=results or None,
    )


def eval_results(facts: Facts) -> list[EvalResult]:
    """Return the scores as the Hub's `model-index` holds them; empty where there are none."""
    return [*_held_out_results(facts), *_split_results(facts), *_jglue_results(facts)]


def _held_out_results(facts: Facts) -> Iterator[EvalResult]:
    for key in ("bits_per_byte", "masked_accuracy", "token_accuracy"):
        value = facts.run.result(key)
        if value is not None:
            yield _result(facts, "held_out", HELD_OUT, key, value, key.replace("_", " "))


def _split_results(facts: Facts) -> Iterator[EvalResult]:
    for split in ("validation", "test"):
        for key in SPLIT_FIGURES:
            value = facts.run.result(split, key)
            if value is not None:
                label = facts.sources[0].label if facts.sources else "labelled rows"
                name = "macro-F1" if key == "macro_f1" else key
                yield _result(facts, label, label, _METRIC_NAMES.get(key, key), value, name, dataset_split=split)


def _jglue_results(facts: Facts) -> Iterator[EvalResult]:
    for evaluation in facts.run.evaluations:
        for row in rows_of(evaluation.get("jglue")):
            value, metric = number(row.get("value")), str(row.get("metric"))
            if value is None:
                continue
            yield _result(
                facts,
                "jglue",
                f"JGLUE {row.get('task')}",
                _METRIC_NAMES.get(metric, metric),
                value,
                f"{metric}, {row.get('style')}, {row.get('num_fewshot')} shots",
                dataset_config=str(row.get("task")),
                dataset_split="validation",
                metric_args={key: row[key] for key in _JGLUE_ARGUMENTS if row.get(key) is not None},
            )


def _result(facts: Facts, type_: str, name: str, metric: str, value: float, metric_name: str, **more) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=facts.tag or "text-generation",
        dataset_type=type_,
        dataset_name=name,
        metric_type=metric,
        metric_value=value,
        metric_name=metric_name,
        **more,
    )
