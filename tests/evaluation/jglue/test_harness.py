"""JGLUE by the harness: models whose score is known beforehand, and the prompts as the boards word them.

The golden files hold the first three prompts of each task and style on data of our own. After a change that is meant:
JPLLM_WRITE_GOLDEN=1 python -m pytest tests/evaluation/jglue/test_harness.py -k wording
"""

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jpllm.evaluation.jglue import files, harness
from jpllm.evaluation.jglue.continuations import PromptReader
from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS
from jpllm.models.build import build_from_scratch
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from jpllm.tokenizer.load import load
from tests.evaluation.jglue.jglue_files import write_jglue, write_mirrors

LM = pytest.importorskip("lm_eval.api.model", reason="pip install 'jpllm[eval]'").LM
GOLDEN = Path(__file__).parent / "golden"
CHOICE_TASKS = {"jcommonsenseqa": 5, "jnli": 3, "marc_ja": 2, "jcola": 2}
STYLES = ("base", "alpaca")


class Always(LM):
    """Thinks one choice the likeliest, and gives one answer."""

    def __init__(self, choice: int, text: str = "") -> None:
        super().__init__()
        self.choice, self.text = choice, text

    def loglikelihood(self, requests):
        return [(-1.0 if request.idx == self.choice else -2.0, False) for request in requests]

    def generate_until(self, requests):
        return [self.text for _ in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


class KnowsAll(Always):
    """Knows what is right."""

    def __init__(self) -> None:
        super().__init__(0)

    def loglikelihood(self, requests):
        return [(-1.0 if request.idx == request.doc["gold"] else -2.0, False) for request in requests]

    def generate_until(self, requests):
        return [request.doc["target"] for request in requests]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_jglue(tmp_path_factory.mktemp("jglue"), num_items=60)


def task_data(folder, task):
    return files.check(task, folder, any_content=True)


@pytest.fixture(scope="module")
def neox(tokenizer_dir):
    tokenizer = load(tokenizer_dir)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "max_positions": 1024}
    return build_from_scratch(ModelConfig(model="neox-tiny", **shape), tokenizer, seed=0).eval(), tokenizer


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("style", STYLES)
def test_who_knows_all_has_all(folder, task, style):
    scored = harness.evaluate_with(KnowsAll(), task_data(folder, task), style)
    assert {row["metric"]: row["value"] for row in scored.rows} == pytest.approx(
        {row["metric"]: 1.0 for row in scored.rows}, abs=1e-12
    )
    names = {"jcommonsenseqa": ["acc"], "jcola": ["acc", "balanced_acc", "mcc"], "jsts": ["pearson", "spearman"]}
    default = ["acc", "balanced_acc"] if task in CHOICE_TASKS else ["exact_match", "f1"]
    assert [row["metric"] for row in scored.rows] == names.get(task, default)
    assert all(row["n"] == (120 if task == "jsquad" else 60) == len(scored.answers) for row in scored.rows)
    assert all(row["num_fewshot"] == harness.board_shots(task_data(folder, task), style) for row in scored.rows)
    assert not any(row["is_constant"] for row in scored.rows)


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_one_answer_gives_the_majority_line(folder, task):
    gold = [answer["gold"] for answer in harness.evaluate_with(Always(0), task_data(folder, task), "base").answers]
    (choice, count), *_ = collections.Counter(gold).most_common(1)
    scored = harness.evaluate_with(Always(choice), task_data(folder, task), "base")
    rows = {row["metric"]: row for row in scored.rows}
    assert rows["acc"]["value"] == rows["acc"]["majority"] == count / 60
    assert rows["acc"]["standard_error"] == pytest.approx(np.std([g == choice for g in gold], ddof=1) / 60**0.5)
    assert rows["acc"]["chance"] == 1 / CHOICE_TASKS[task]
    assert all(row["is_constant"] and row["commonest_answer"] == 1 for row in scored.rows)
    if "balanced_acc" in rows:
        assert rows["balanced_acc"]["value"] == rows["balanced_acc"]["majority"] == 1 / CHOICE_TASKS[task]
    if "mcc" in rows:
        assert rows["mcc"]["value"] == rows["mcc"]["majority"] == rows["mcc"]["chance"] == 0


@pytest.mark.parametrize(("task", "choice", "count"), [("jnli", 2, 1_347), ("jcommonsenseqa", 2, 240)])
def test_one_answer_gives_the_majority_line_of_real_data(real_data, task, choice, count):
    """1,350 of JNLI's 2,434 items are neutral; without a training file four are examples, with three mirrors."""
    data = files.check(task, real_data / "jglue")
    row = harness.evaluate_with(Always(choice), data, "base").rows[0]
    assert row["n"] == {"jnli": 2_427, "jcommonsenseqa": 1_119}[task]
    assert row["value"] == row["majority"] == count / row["n"]
    assert row["is_constant"]
    assert (row["data_version"], row["shots_from"]) == ("1.3", "valid" if task == "jnli" else "train")
    assert row["data_sha256"]["valid"] == TASKS[task].sha256["valid"]


def test_one_text_is_a_constant_answer_too(folder):
    em, f1 = harness.evaluate_with(Always(0, " 海。"), task_data(folder, "jsquad"), "base").rows
    assert em["value"] == em["majority"] == f1["value"] == f1["majority"] == 0.5  # every second question
    assert em["is_constant"]
    pearson, spearman = harness.evaluate_with(Always(0, "3.0"), task_data(folder, "jsts"), "alpaca").rows
    assert (pearson["value"], pearson["majority"], spearman["value"]) == (0, 0, 0)


@pytest.mark.parametrize("task", ["jnli", "jcommonsenseqa"])
@pytest.mark.parametrize("style", STYLES)
def test_random_model_is_near_chance(tmp_path, neox, task, style):
    """On items whose classes are equally frequent, within three standard errors of a share of so many items."""
    folder = write_jglue(tmp_path, num_items=60)
    file = folder / "jnli-v1.3/valid-v1.3.json"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["label"] = ["entailment", "contradiction", "neutral"][number % 3]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    row = harness.evaluate(PromptReader(*neox, 16), task_data(folder, task), style, None, None).rows[0]
    assert abs(row["value"] - row["chance"]) <= 3 * (row["chance"] * (1 - row["chance"]) / row["n"]) ** 0.5
    assert row["num_cut"] == 0


@pytest.mark.slow
def test_random_model_is_near_chance_on_real_data(real_data, neox):
    """Of JNLI, most of whose items are neutral, the balanced accuracy: always one answer has that of chance."""
    reader = PromptReader(*neox, 32)
    for task, place in (("jcommonsenseqa", 0), ("jnli", 1)):
        row = harness.evaluate(reader, files.check(task, real_data / "jglue"), "base", None, 200).rows[place]
        assert row["metric"] == ("acc", "balanced_acc")[place]
        assert abs(row["value"] - row["chance"]) <= 3 * (row["chance"] * (1 - row["chance"]) / row["n"]) ** 0.5


@pytest.mark.parametrize("task", TASKS)
def test_batch_size_changes_nothing(folder, neox, task):
    found = [
        harness.evaluate(PromptReader(*neox, batch_size), task_data(folder, task), "base", None, 12)
        for batch_size in (1, 7, 64)
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0].answers) == 12
    assert found[0].rows[0]["limit"] == 12


@pytest.mark.parametrize("task", ["jcommonsenseqa", "jnli", "jsts"])
def test_answers_are_those_of_the_harness_own_model(folder, neox, task):
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = neox
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    data = task_data(folder, task)
    expected = harness.evaluate_with(theirs, data, "base", limit=12)
    assert harness.evaluate(PromptReader(model, tokenizer, 4), data, "base", None, 12).answers == expected.answers


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("style", STYLES)
def test_wording(tmp_path, task, style):
    prompts = harness.prompts(task_data(write_jglue(tmp_path), task), style, 3)
    text = "\n======\n".join(prompts) + "\n"
    file = GOLDEN / f"{task}_{style}.txt"
    if os.environ.get("JPLLM_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_number_of_examples(folder):
    data = task_data(folder, "jnli")
    assert harness.evaluate_with(KnowsAll(), data, "base", num_fewshot=0, limit=2).rows[0]["num_fewshot"] == 0
    with pytest.raises(InputError, match="num_fewshot: 9 examples; there are 8 of jnli from its train file"):
        harness.evaluate_with(KnowsAll(), data, "base", num_fewshot=9)


def test_standard_error_knows_which_items_share_a_text(folder):
    """Of each text one question is answered: the share is 1/2 whatever the texts, so there is no error."""
    scored = harness.evaluate_with(Always(0, "海"), task_data(folder, "jsquad"), "base")
    assert [answer["cluster"] for answer in scored.answers] == [number // 2 for number in range(120)]
    assert [(row["value"], row["standard_error"]) for row in scored.rows] == [(0.5, 0.0), (0.5, 0.0)]


def test_missing_tasks_are_added(folder, neox, tmp_path, monkeypatch):
    results, reader = {"model": "m"}, PromptReader(*neox, 16)
    tasks = [task_data(folder, "jnli"), task_data(folder, "jsts")]
    harness.add_missing(results, reader, tasks[:1], "base", None, 5, tmp_path)
    first = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["jglue"]
    assert [(row["task"], row["metric"]) for row in first] == [("jnli", "acc"), ("jnli", "balanced_acc")]
    asked = []
    evaluate = harness.evaluate
    monkeypatch.setattr(harness, "evaluate", lambda *given: asked.append(given[1:]) or evaluate(*given))
    harness.add_missing(results, reader, tasks, "base", 3, 5, tmp_path)  # 3 examples are the default of JNLI
    harness.add_missing(results, reader, tasks[:1], "base", 1, 5, tmp_path)
    harness.add_missing(results, reader, tasks[:1], "alpaca", None, 5, tmp_path)
    harness.add_missing(results, reader, tasks[:1], "base", None, 4, tmp_path)
    settings = [(data.task, *rest) for data, *rest in asked]
    assert settings == [
        ("jsts", "base", 3, 5),
        ("jnli", "base", 1, 5),
        ("jnli", "alpaca", 3, 5),
        ("jnli", "base", 3, 4),
    ]
    assert results["jglue"][:2] == first
    assert all(row["versions"]["lm_eval"] and "commit" in row for row in first)
    answers = (tmp_path / "answers" / first[0]["answers"]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in answers] == ["0", "1", "2", "3", "4"]
    names = [file.name for file in (tmp_path / "answers").iterdir()]
    assert sorted(names) == sorted({row["answers"] for row in results["jglue"]})
    assert sorted(name.rpartition("_")[0] for name in names) == [
        *("jnli_alpaca_3shots_first5", "jnli_base_1shots_first5", "jnli_base_3shots_first4"),
        *("jnli_base_3shots_first5", "jsts_base_3shots_first5"),
    ]
    table = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert table.count("| jnli |") == 8
    assert "| jnli | base | 3 | acc | " in table


def test_answers_to_other_data_stand_beside(folder, neox, tmp_path):
    """Rows are kept for each content of the files, and so are their answers."""
    results, reader = {"model": "m"}, PromptReader(*neox, 16)
    other = write_jglue(tmp_path / "other", num_items=7)
    for place in (folder, other):
        harness.add_missing(results, reader, [task_data(place, "jnli")], "base", 0, 5, tmp_path)
    assert len(results["jglue"]) == 4
    assert len({row["answers"] for row in results["jglue"]}) == 2
    for row in results["jglue"]:
        lines = (tmp_path / "answers" / row["answers"]).read_text(encoding="utf-8").splitlines()
        pairs = [(answer["gold"], answer["answer"]) for answer in map(json.loads, lines)]
        assert metrics.SCORES[row["metric"]](pairs) == row["value"]


@pytest.mark.parametrize("name", ["jnli_base.yaml", "_choice.yaml", "metrics.py", "items.py"])
def test_another_task_file_is_asked_again(folder, neox, tmp_path, monkeypatch, name):
    results, reader, tasks = {"model": "m"}, PromptReader(*neox, 16), [task_data(folder, "jnli")]
    harness.add_missing(results, reader, tasks, "base", 0, 2, None)
    before = results["jglue"][:]
    copy = shutil.copytree(harness.TASK_FILES, tmp_path / "jglue")
    monkeypatch.setattr(harness, "TASK_FILES", copy)
    harness.add_missing(results, reader, tasks, "base", 0, 2, None)
    assert results["jglue"] == before
    (copy / name).write_text((copy / name).read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    harness.add_missing(results, reader, tasks, "base", 0, 2, None)
    assert [row["metric"] for row in results["jglue"]] == ["acc", "balanced_acc"]
    assert before[0]["task_sha256"] != results["jglue"][0]["task_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [tuple(TASKS), ("jcommonsenseqa", "jsquad")])
def test_tasks_run_without_our_code(folder, tmp_path, tasks):
    """The command of lm-evaluation-harness on a copy of the task files, from a folder where jpllm is not.

    The two tasks that have mirrors are read as Parquet.
    """
    data = folder if tasks == tuple(TASKS) else write_mirrors(tmp_path / "mirrors", folder)
    shutil.copytree(harness.TASK_FILES, tmp_path / "tasks")
    names = ",".join(f"jglue_{task}_{style}" for task in tasks for style in STYLES)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "dummy", "--include_path", str(tmp_path / "tasks")]
    command += ["--tasks", names, "--limit", "3", "--output_path", str(tmp_path / "out.json")]
    environment = {**os.environ, "JGLUE_DIR": str(data), "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    for task in tasks:
        assert f"jglue_{task}_base" in done.stdout
