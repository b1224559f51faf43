"""Which fine-tunings are done and which are there already; what is skipped, and what is refused."""

import json

import pytest
import yaml

from jpllm.config.parse import ConfigError, parse
from jpllm.runtime import InputError, StoppedEarly
from jpllm.training import jglue_finetuning
from jpllm.training.jglue_finetuning import FinetuneConfig
from tests.evaluation.jglue.jglue_files import write_jglue

WEIGHTS = {"model": "gone/model", "weights_sha256": "w", "config_sha256": "c", "tokenizer_sha256": "t"}


@pytest.fixture
def jglue_dir(tmp_path):
    return write_jglue(tmp_path / "jglue")


@pytest.fixture
def done(monkeypatch):
    """Commands that would have been run; each leaves what recipes/classify.py leaves of ten rows on either side.

    Of the learning rate 1e-3 six validation rows are right and two test rows, of another three and nine; above 1 it
    diverges.
    """
    commands = []

    def leave(command, run_dir):
        given: dict[str, list[str]] = {}
        for word in command[2:]:
            if word.startswith("--"):
                given[word[2:]] = values_of_key = []
            else:
                values_of_key.append(word)
        commands.append(given)
        (run_dir / "model").mkdir(parents=True)
        values = {key: found if len(found) > 1 else yaml.safe_load(found[0]) for key, found in given.items()}
        values |= {key: float(values[key]) for key in ("learning_rate", "epochs")}
        (run_dir / "config.yaml").write_text(yaml.safe_dump(values))
        if values["learning_rate"] > 1:
            (run_dir / "diverged.txt").write_text("step 3: loss is nan, training has diverged\n")
            raise InputError(f"{run_dir}: classify.py ended with exit code 2; it says above why")
        names = ["neutral", "entailment"] if "jnli-v1.3" in given["train_file"][0] else [0, 1]
        right = (6, 2) if values["learning_rate"] == 1e-3 else (3, 9)
        with (run_dir / "predictions.jsonl").open("w") as file:
            for split, num_right in zip(("validation", "test"), right, strict=True):
                for place in range(10):
                    row = {"split": split, "label": names[1], "predicted": names[place < num_right]}
                    row |= {"text": f"text {place // 2}"}
                    file.write(json.dumps(row) + "\n")
        (run_dir / "results.json").write_text('{"num_cut": {"train": 4, "test": 3}}')

    monkeypatch.setattr(jglue_finetuning, "run_recipe", leave)
    return commands


def evaluate(jglue_dir, output_dir, results=None, **settings):
    settings = {"finetune_tasks": ["jcommonsenseqa"], "finetune_learning_rates": [1e-2, 1e-3]} | settings
    finetuning = FinetuneConfig(**settings)
    chosen = jglue_finetuning.choose_tasks(finetuning, jglue_dir, any_content=True)
    results = WEIGHTS | (results or {})
    jglue_finetuning.add_missing(results, chosen, finetuning, 2048, "classify.py", output_dir)
    return results


def test_each_run_is_done_once(jglue_dir, tmp_path, done):
    out = tmp_path / "out"
    results = evaluate(jglue_dir, out, finetune_seeds=[0, 1])
    folder = out / "finetuned" / "jcommonsenseqa"
    runs = ["lr0.01_seed0", "lr0.01_seed1", "lr0.001_seed0", "lr0.001_seed1"]
    assert [given["output_dir"] for given in done] == [[str(folder / name)] for name in runs]
    (row,) = results["jglue_finetuned"]
    assert (row["learning_rate"], row["value"], row["n"], row["num_cut"], row["num_seeds"]) == (1e-3, 0.2, 10, 3, 2)
    assert (row["scored"], row["data_version"], set(row["data_sha256"])) == (
        "validation file",
        "1.3",
        {"train", "valid"},
    )
    # Two of ten rows are right, both on the first of five texts: residual sums 1.6 and four times −0.4.
    assert row["standard_error"] == pytest.approx((5 / 4 * (1.6**2 + 4 * 0.4**2)) ** 0.5 / 10)
    assert json.loads((out / "evaluation.json").read_text())["jglue_finetuned"] == [row]
    assert not list(out.rglob("model"))

    assert evaluate(jglue_dir, out, finetune_seeds=[0, 1]) == results
    assert len(done) == 4
    (row,) = evaluate(jglue_dir, out, finetune_seeds=[1, 5], finetune_learning_rates=[1e-3, 1e-5])["jglue_finetuned"]
    runs = ["lr0.001_seed5", "lr1e-05_seed1", "lr1e-05_seed5"]
    assert [given["output_dir"] for given in done[4:]] == [[str(folder / name)] for name in runs]
    assert (row["learning_rate"], row["num_seeds"]) == (1e-3, 3)  # with seed 0 of the first command
    assert [(one["learning_rate"], one["seed"]) for one in row["runs"]] == [
        *((1e-5, 1), (1e-5, 5), (1e-3, 0), (1e-3, 1), (1e-3, 5), (1e-2, 0), (1e-2, 1))
    ]


def test_all_runs_of_a_folder_have_the_same_settings(jglue_dir, tmp_path, done):
    """Also those that are not asked for again: scores are of all of them."""
    evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0], finetune_learning_rates=[1e-2])
    one = {"finetune_seeds": [0], "finetune_learning_rates": [1e-3], "finetune_epochs": 1.0}
    with pytest.raises(InputError, match=r"lr0\.01_seed0: fine-tuned with another epochs \(4\.0, not 1\.0\)"):
        evaluate(jglue_dir, tmp_path / "out", **one)
    assert len(done) == 1


def test_a_run_that_diverges_is_not_chosen_and_not_repeated(jglue_dir, tmp_path, done, capsys):
    one = {"finetune_seeds": [0], "finetune_learning_rates": [5.0, 1e-2]}
    for _ in range(2):
        (row,) = evaluate(jglue_dir, tmp_path / "out", **one)["jglue_finetuned"]
        assert (row["learning_rate"], row["value"], row["num_seeds"]) == (1e-2, 0.9, 1)
        assert row["runs"][1] == {"learning_rate": 5.0, "seed": 0, "validation": None, "value": None}
        assert [given["learning_rate"] for given in done] == [["5.0"], ["0.01"]]
    assert "learning rate 5, seed 0: diverged; this learning rate is not chosen" in capsys.readouterr().out


def test_a_task_whose_learning_rates_all_diverge(jglue_dir, tmp_path, done):
    """The other tasks go on."""
    tasks = {"finetune_tasks": ["jcommonsenseqa", "jnli"], "finetune_seeds": [0]}
    results = evaluate(jglue_dir, tmp_path / "out", **tasks, finetune_learning_rates=[5.0])
    assert results["jglue_finetuned"] == []
    why = "each learning rate has a run that diverged; name lower ones"
    assert results["jglue_finetuned_skipped"] == {"jcommonsenseqa": why, "jnli": why}
    results = evaluate(jglue_dir, tmp_path / "out", **tasks, finetune_learning_rates=[5.0, 1e-3])
    assert [row["value"] for row in results["jglue_finetuned"]] == [0.2, 0.2]
    assert results["jglue_finetuned_skipped"] == {}


def test_another_failure_ends_it(jglue_dir, tmp_path, monkeypatch):
    def fail(command, run_dir):
        raise InputError("classify.py ended with exit code 2")

    monkeypatch.setattr(jglue_finetuning, "run_recipe", fail)
    with pytest.raises(InputError, match="exit code 2"):
        evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])


def test_finished_runs_may_be_moved(jglue_dir, tmp_path, done):
    """Data, model and results in other places: what they are is compared, not where they are."""
    before = evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])
    jglue_dir.rename(tmp_path / "moved")
    (tmp_path / "out").rename(tmp_path / "results")
    after = evaluate(tmp_path / "moved", tmp_path / "results", {"model": "other/place"}, finetune_seeds=[0])
    assert after["jglue_finetuned"] == before["jglue_finetuned"]
    assert len(done) == 2


def test_a_model_left_by_a_kill_is_removed(jglue_dir, tmp_path, done):
    """The run was finished, and its model not yet removed."""
    one = {"finetune_seeds": [0], "finetune_learning_rates": [1e-3]}
    evaluate(jglue_dir, tmp_path / "out", **one, finetune_keep_models=True)
    assert len(list((tmp_path / "out").rglob("model"))) == 1
    evaluate(jglue_dir, tmp_path / "out", **one)
    assert not list((tmp_path / "out").rglob("model"))
    assert len(done) == 1


def test_what_a_run_is_given(jglue_dir, tmp_path, done):
    one = {"finetune_seeds": [7], "finetune_learning_rates": [3e-5], "finetune_max_train_rows": 9}
    evaluate(jglue_dir, tmp_path / "out", **one, finetune_keep_models=True)
    folder = jglue_dir / "jcommonsenseqa-v1.3"
    assert done == [
        {
            "model": ["gone/model"],
            "task": ["multiple_choice"],
            "text_column": ["question"],
            "choice_columns": ["choice0", "choice1", "choice2", "choice3", "choice4"],
            "train_file": [str(folder / "train-v1.3.json")],
            "test_file": [str(folder / "valid-v1.3.json")],
            "validation_share": ["0.1"],
            "max_train_rows": ["9"],
            "trainable": ["all"],
            "max_row_tokens": ["512"],
            "epochs": ["4.0"],
            "per_device_train_batch_size": ["32"],
            "gradient_accumulation_steps": ["1"],
            "activation_checkpointing": ["False"],
            "optimizer": ["adamw"],
            "save_total_limit": ["1"],
            "learning_rate": ["3e-05"],
            "seed": ["7"],
            "output_dir": [str(tmp_path / "out" / "finetuned" / "jcommonsenseqa" / "lr3e-05_seed7")],
        }
    ]
    assert len(list((tmp_path / "out").rglob("model"))) == 1


def test_less_memory(jglue_dir, tmp_path, done):
    """A step learns from as many rows as ever."""
    one = {"finetune_seeds": [0], "finetune_learning_rates": [1e-3]}
    less = {"finetune_gradient_accumulation_steps": 8, "finetune_activation_checkpointing": True}
    (row,) = evaluate(jglue_dir, tmp_path, **one, **less, finetune_optimizer="adamw_8bit")["jglue_finetuned"]
    (given,) = done
    assert (given["per_device_train_batch_size"], given["gradient_accumulation_steps"]) == (["4"], ["8"])
    assert (given["activation_checkpointing"], given["optimizer"]) == (["True"], ["adamw_8bit"])
    assert (row["batch_size"], row["optimizer"]) == (32, "adamw_8bit")


def test_tasks_and_results_that_are_there_stay(jglue_dir, tmp_path, done):
    evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])
    earlier = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    earlier["samples"] = []
    (row,) = earlier["jglue_finetuned"]
    earlier["jglue_finetuned"] = [row | {"task": "marc_ja", "value": 0.5}, row | {"value": 0.25}]
    results = evaluate(jglue_dir, tmp_path / "out", earlier, finetune_seeds=[0])
    assert results["jglue_finetuned"] == [row | {"task": "marc_ja", "value": 0.5}, row]
    assert "samples" in results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"finetune_epochs": 1.0},
            r"lr0\.01_seed0: fine-tuned with another epochs \(4\.0, not 1\.0\); name another out",
        ),
        ({"finetune_max_train_rows": 5}, r"fine-tuned with another max_train_rows \(None, not 5\)"),
        (
            {"results": {"weights_sha256": "x"}},
            r"jcommonsenseqa: fine-tuned with another weights_sha256 \('w', not 'x'\)",
        ),
        ({"results": {"config_sha256": "x"}}, r"fine-tuned with another config_sha256 \('c', not 'x'\)"),
        ({"finetune_batch_size": 16}, r"fine-tuned with another batch_size \(32, not 16\)"),
    ],
)
def test_runs_of_something_else_are_refused(jglue_dir, tmp_path, done, change, message):
    evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])
    with pytest.raises(InputError, match=message):
        evaluate(jglue_dir, tmp_path / "out", **{"finetune_seeds": [0, 1]} | change)
    assert len(done) == 2


def test_less_memory_for_the_runs_that_are_missing(jglue_dir, tmp_path, done):
    """After the memory ran out in one run, those before it stay."""
    evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])
    less = {"finetune_gradient_accumulation_steps": 4, "finetune_activation_checkpointing": True}
    evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0, 1], **less)
    assert [given["per_device_train_batch_size"] for given in done] == [["32"], ["32"], ["8"], ["8"]]


def test_other_data_is_refused(jglue_dir, tmp_path, done):
    evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])
    file = jglue_dir / "jcommonsenseqa-v1.3" / "train-v1.3.json"
    file.write_text(file.read_text(encoding="utf-8").replace("動物", "生き物"), encoding="utf-8")
    with pytest.raises(InputError, match="fine-tuned with another data_sha256"):
        evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])


def test_a_task_without_a_training_file(jglue_dir, tmp_path, done, capsys):
    (jglue_dir / "jnli-v1.3" / "train-v1.3.json").unlink()
    one = {"finetune_seeds": [0], "finetune_learning_rates": [1e-3]}
    chosen = jglue_finetuning.choose_tasks(FinetuneConfig(), jglue_dir, any_content=True)
    assert [data.task for data in chosen.tasks] == ["jsts", "jcommonsenseqa", "marc_ja", "jcola"]
    assert chosen.skipped["jnli"].startswith("no train-v*.json beside its validation file")
    assert "jnli is skipped: no train-v*.json" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"finetune_tasks: jnli: no train-v\*\.json beside its validation file"):
        evaluate(jglue_dir, tmp_path / "out", finetune_tasks=["jnli"], **one)
    cut = {"finetune_tasks": ["jnli"], "finetune_split_validation": True}
    (row,) = evaluate(jglue_dir, tmp_path / "out", **cut, **one)["jglue_finetuned"]
    assert (row["task"], row["value"], row["n"], row["scored"]) == ("jnli", 0.2, 10, "a fifth of the validation file")
    assert set(row["data_sha256"]) == {"valid"}
    assert done[0]["train_file"] == [str(jglue_dir / "jnli-v1.3" / "valid-v1.3.json")]
    assert "test_file" not in done[0]


def test_stopped_between_two_runs(jglue_dir, tmp_path, done, monkeypatch):
    """What is finished stays; the same command does the rest."""
    leave = jglue_finetuning.run_recipe

    def stop_at_the_second(command, run_dir):
        if len(done) == 1:
            raise StoppedEarly("stopped")
        leave(command, run_dir)

    with monkeypatch.context() as patch:
        patch.setattr(jglue_finetuning, "run_recipe", stop_at_the_second)
        with pytest.raises(StoppedEarly):
            evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])
    evaluate(jglue_dir, tmp_path / "out", finetune_seeds=[0])
    assert [given["learning_rate"] for given in done] == [["0.01"], ["0.001"]]


def test_several_processes_are_refused(jglue_dir, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"each run is a process of its own; start python recipes/evaluate\.py once"):
        jglue_finetuning.choose_tasks(FinetuneConfig(), jglue_dir, any_content=True)


def test_a_run_is_named_once(tmp_path):
    argv = ["--finetune_seeds", "1", "1", "--finetune_learning_rates", "--finetune_epochs", "1"]
    with pytest.raises(ConfigError) as error:
        parse([FinetuneConfig], argv, prog="x", description="x")
    assert error.value.problems == [
        "--finetune_learning_rates: []: name at least one, and each once",
        "--finetune_seeds: [1, 1]: name at least one, and each once",
    ]


def test_forward_passes_share_the_rows_of_a_step_equally():
    argv = ["--finetune_batch_size", "30", "--finetune_gradient_accumulation_steps", "4"]
    with pytest.raises(ConfigError) as error:
        parse([FinetuneConfig], argv, prog="x", description="x")
    assert error.value.problems == [
        "--finetune_gradient_accumulation_steps: 4 passes cannot share the 30 rows of finetune_batch_size equally; "
        "name a divisor"
    ]
