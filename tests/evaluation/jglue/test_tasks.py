"""The table of tasks: its rows agree with the prompt files, and a task needs nothing but a row and two of these."""

import json
import re
import shutil
from dataclasses import fields, replace

import pytest
import yaml

from jpllm.config.parse import parse
from jpllm.evaluation import leaderboard
from jpllm.evaluation.jglue import files, finetuning, harness
from jpllm.evaluation.jglue.lm_eval_tasks import tasks
from jpllm.evaluation.jglue.lm_eval_tasks.metrics import SCORES
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS
from jpllm.scores import score_title


class PromptFile(yaml.SafeLoader):
    """Reads a task file; functions stay names."""


PromptFile.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("style", ["base", "alpaca"])
def test_prompt_files_agree_with_the_rows(name, style):
    content = yaml.load((harness.TASK_FILES / f"{name}_{style}.yaml").read_text(encoding="utf-8"), PromptFile)
    assert (content["task"], content["tag"]) == (f"jglue_{name}_{style}", f"jglue_{style}")
    assert content["dataset_kwargs"] == {"task": name}
    offered = content.get("doc_to_choice")
    assert offered == "choices" if TASKS[name].choice_columns else len(offered or []) == TASKS[name].num_choices


def test_every_prompt_file_has_a_row():
    names = {file.stem for file in harness.TASK_FILES.glob("[a-z]*.yaml")}
    assert names == {f"{name}_{style}" for name in TASKS for style in ("base", "alpaca")}


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_whole(name):
    """What can be fetched has a version; checksums are those of SHA-256; scores have known metrics."""
    task = TASKS[name]
    assert not task.repository or task.version
    sums = [*task.sha256.values(), *task.items_sha256.values()]
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in sums)
    assert {*task.sha256, *task.num_items, *task.items_sha256} <= {"train", "valid"}
    published = [*task.published.values(), *task.published_finetuned.values()]
    assert {*task.finetuning_metrics, *(metric for scores in published for metric in scores)} <= {*SCORES}


def test_paths_in_the_official_repositories():
    found = {name: task.official_path("valid") for name, task in TASKS.items() if task.repository}
    names = ("jcommonsenseqa", "jnli", "jsquad", "jsts")
    expected = {name: f"{name}-v1.3/valid-v1.3.json" for name in names}
    assert found == {**expected, "jcola": "jcola-v1.0/in_domain_valid-v1.0.json"}
    assert TASKS["jcola"].official_path("train") == "jcola-v1.0/in_domain_train-v1.0.json"


def test_what_recipes_classify_is_told():
    pair = {"text_column": "sentence1", "pair_column": "sentence2"}
    choices = ["choice0", "choice1", "choice2", "choice3", "choice4"]
    assert {name: finetuning.classify_keys(name) for name in finetuning.FINETUNED_TASKS} == {
        "jnli": pair,
        "jsts": {"task": "regression", **pair},
        "jcommonsenseqa": {"task": "multiple_choice", "text_column": "question", "choice_columns": choices},
        "marc_ja": {"text_column": "sentence"},
        "jcola": {"text_column": "sentence"},
    }
    assert finetuning.FINETUNED_TASKS == ["jnli", "jsts", "jcommonsenseqa", "marc_ja", "jcola"]


def test_only_names_in_the_table_can_be_configured():
    (settings,) = parse([files.JglueConfig], ["--tasks", "jcola", "jaqket"], prog="x", description="x")
    assert settings.tasks == ["jcola", "jaqket"]
    with pytest.raises(Exception, match="jglue"):
        parse([files.JglueConfig], ["--tasks", "jglue"], prog="x", description="x")


def test_published_scores_by_model():
    models = tasks.published_by_model(finetuned=False)
    assert list(models) == [tasks.NEOX_SMALL, tasks.OPEN_CALM_MEDIUM, tasks.GPT_1B, tasks.LARGE_LM]
    assert models[tasks.OPEN_CALM_MEDIUM] == {
        ("jcommonsenseqa", "acc"): (0.39500, 0.01462),
        ("jnli", "acc"): (0.42317, 0.01002),
        ("jsquad", "exact_match"): (0.28726, None),
        ("jsquad", "f1"): (0.39803, None),
    }
    finetuned = tasks.published_by_model(finetuned=True)
    assert list(finetuned) == ["Tohoku BERT base", "Waseda RoBERTa base", "human"]
    assert finetuned["human"]["jsts", "spearman"].value == 0.861


def test_answers_stay_valid_when_only_published_scores_change(tmp_path, monkeypatch):
    """And are asked for again when items are read otherwise: each field counts, or does not, as said here."""
    data = files.TaskData("jnli", tmp_path, "1.3", {})
    before = harness.task_sha256(data, "base")
    changes = {
        field.name: ("other",) if isinstance(getattr(TASKS["jnli"], field.name), tuple) else "other"
        for field in fields(tasks.Task)
    }
    counted = set()
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setitem(TASKS, "jnli", replace(TASKS["jnli"], **{name: value}))
            if harness.task_sha256(data, "base") != before:
                counted.add(name)
    assert counted == {"kind", "id_column", "text_columns", "choice_columns", "labels"}


def test_a_new_task_is_a_row_and_two_prompt_files(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="pip install 'jpllm[eval]'")
    from tests.evaluation.jglue.test_harness import KnowsAll

    row = tasks.Task(
        title="Weather",
        kind="label",
        folder="weather-v*",
        id_column="day",
        text_columns=("sky",),
        labels=("rain", "sun", "snow"),
        finetuning_metrics=("acc",),
    )
    copy = shutil.copytree(harness.TASK_FILES, tmp_path / "tasks")
    table = (copy / "tasks.py").read_text(encoding="utf-8")
    added = f'TASKS: dict[str, Task] = {{\n    "weather": {row!r},\n'
    (copy / "tasks.py").write_text(table.replace("TASKS: dict[str, Task] = {\n", added), encoding="utf-8")
    for style in ("base", "alpaca"):
        content = (
            f"include: _choice.yaml\ntask: jglue_weather_{style}\ndataset_kwargs: {{task: weather}}\nnum_fewshot: 2\n"
        )
        content += 'doc_to_text: "{{sky}}"\ndoc_to_choice: [雨, 晴れ, 雪]\nmetadata: {version: 1.0}\n'
        (copy / f"weather_{style}.yaml").write_text(content, encoding="utf-8")
    monkeypatch.setattr(harness, "TASK_FILES", copy)
    monkeypatch.setitem(TASKS, "weather", row)
    for split in ("train", "valid"):
        file = tmp_path / "data" / "weather-v2.0" / f"{split}-v2.0.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        days = [{"day": n, "sky": f"{split}{n}", "label": row.labels[n % 3]} for n in range(9)]
        file.write_text("".join(json.dumps(day) + "\n" for day in days), encoding="utf-8")

    (data,) = files.find_all(tmp_path / "data")
    assert (data.task, data.version) == ("weather", "2.0")
    assert harness.prompts(data, "alpaca", 1) == ["train0雨\n\ntrain1晴れ\n\nvalid0"]
    scored = harness.evaluate_with(KnowsAll(), data, "base")
    assert [(one["metric"], one["value"], one["chance"]) for one in scored.rows] == [
        ("acc", 1.0, 1 / 3),
        ("balanced_acc", 1.0, 1 / 3),
    ]
    assert scored.answers[1] == {"id": "1", "gold": 1, "answer": 1, "cluster": 1}
    assert finetuning.classify_keys("weather") == {"text_column": "sky"}
    runs = [
        finetuning.FinetunedRun(
            1e-5, 0, [(0, 0)], finetuning.pairs_of("weather", [{"label": "sun", "predicted": "snow"}] * 2)
        )
    ]
    assert [(one["metric"], one["value"]) for one in finetuning.score_rows("weather", runs)] == [("acc", 0.0)]
    assert score_title("weather", "acc") == "Weather accuracy"
    folder = tmp_path / "results"
    folder.mkdir()
    content = {"model": "m", "jglue": scored.rows}
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    assert leaderboard.tables([folder])[0].header == ["model", "Weather accuracy", "Weather balanced accuracy"]
