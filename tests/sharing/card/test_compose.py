import json
import re

import jinja2
import pytest
from huggingface_hub import ModelCard

from jpllm.runtime import InputError
from jpllm.sharing import hub
from jpllm.sharing.card import compose as module
from jpllm.sharing.card.compose import CardConfig, compose, gather, write
from jpllm.sharing.card.metadata import metadata
from jpllm.tracking.runs import read_run
from tests.sharing.card import card_runs
from tests.tracking.run_folders import place


def settings(**more):
    return CardConfig(**{"license": "apache-2.0", "data_license": card_runs.DATA_LICENSE, **more})


def card_of(folder, config=None):
    config = config or settings()
    return compose(gather(folder, read_run(folder, folder.name), config), config)


@pytest.mark.parametrize("kind", card_runs.KINDS)
def test_a_card_of_each_recipe_is_what_the_hub_takes_and_private(kind, tmp_path):
    card = card_of(card_runs.write(tmp_path / "neko", kind))
    assert list(hub.card_problems(card)) == []
    data = ModelCard(card).data
    assert (data.license, data.language, data.library_name) == ("apache-2.0", ["ja"], "transformers")
    assert data.model_name == "neko"
    assert data.pipeline_tag in card
    for private in (card_runs.PRIVATE, str(tmp_path), "somebody", "runs/x"):
        assert private not in card
    assert "not recorded" not in card.replace("![", "")
    assert "## 日本語の要約" in card
    assert "![Loss over the training](loss.png)" in card


def test_the_numbers_are_those_of_the_record(tmp_path):
    card = card_of(card_runs.write(tmp_path / "neko", "scratch"))
    for line in (
        "A Llama language model of 3,307,200 parameters, made with jpllm. It continues texts. It was trained from "
        "random weights.",
        "| aozora | CC BY 4.0 | 75.0 % (75.0 %) | 3,000 | 1.50 |",
        "| diary | CC0-1.0 | 25.0 % (25.0 %) | 1,000 | 1.50 |",
        "- aozora: https://huggingface.co/datasets/globis-university/aozorabunko-clean",
        "| tokens | 4,000 |",
        "| training time | 3.0 min |",
        "| energy | 0.125 kWh |",
        "| hardware | 2 × Example GPU |",
        f"| code | jpllm, commit {card_runs.COMMIT} |",
        "| bits per byte, the lower the better | 0.7500 |",
        "Settings: temperature 0.8, top_p 0.95, repetition_penalty 1.1, no_repeat_ngram_size 0, max_new_tokens 20, "
        "seed 0.",
        "```text\nむかし、▸あるところに。\n```",
        "It was trained on sequences of 256 tokens and knows nothing of longer ones.",
        "No benchmark of tasks was run on it.",
        "- **学習データ**：aozora（CC BY 4.0、トークンの 75.0 %）、diary（CC0-1.0、トークンの 25.0 %）",
    ):
        assert line in card
    data = ModelCard(card).data
    assert data.datasets == ["globis-university/aozorabunko-clean"]
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("bits_per_byte", 0.75)]


def test_what_was_forgotten_and_the_base(tmp_path):
    card = card_of(card_runs.write(tmp_path / "neko", "continued"))
    assert ModelCard(card).data.base_model == "openai-community/gpt2"
    assert "| old | 1.0000 | 1.1250 | +0.1250 |" in card
    assert "It forgot: bits per byte on the old texts rose from 1.0000 to 1.1250." in card
    assert "（忘却した）テキスト：old。" in card
    card = card_of(card_runs.write(tmp_path / "inu", "instructed"))
    assert ModelCard(card).data.base_model is None  # a folder of this machine is no name on the Hub
    assert "It is **base** after instruction tuning." in card
    assert "What it forgot of what **base** knew was not measured." in card
    assert "| right answers | 25.0% (0.0% before) |" in card
    card = card_of(tmp_path / "inu", settings(base_model="me/base"))
    assert ModelCard(card).data.base_model == "me/base"


def test_scores_of_a_classifier(tmp_path):
    card = card_of(card_runs.write(tmp_path / "neko", "classifier"))
    assert "It tells negative and positive apart." in card
    assert "| test | 400 | 0.9000 | 0.9150 | 0.0136 | 0.5000 | 0.6000 |" in card
    results = ModelCard(card).data.eval_results
    assert [(r.dataset_split, r.metric_type, r.metric_value) for r in results] == [
        ("validation", "accuracy", 0.92),
        ("validation", "f1", 0.915),
        ("test", "accuracy", 0.9),
        ("test", "f1", 0.915),
    ]


def test_scores_of_evaluations(tmp_path):
    row = {
        "task": "jnli",
        "style": "base",
        "num_fewshot": 3,
        "n": 2434,
        "metric": "acc",
        "value": 0.36,
        "chance": 1 / 3,
    }
    row |= {"standard_error": 0.01, "majority": 0.55, "data_version": "1.3", "lm_eval": "0.4.13", "is_constant": True}
    text = {"text": "held_out", "num_bytes": 1000, "bits_per_byte": 0.75, "context_length": 256, "stride": 255}
    matrix = {"models": ["/home/x/runs/old/model", "/home/x/runs/neko/model"], "bits_per_byte": {"news": [1.0, 1.5]}}
    run = read_run(card_runs.write(tmp_path / "neko", "scratch"), "neko")
    run.evaluations = [{"perplexity": [text], "jglue": [row], "forgetting": matrix}]
    card = compose(gather(tmp_path / "neko", run, settings()), settings())
    assert "| jnli | 1.3 | base | 3 | 2,434 | acc | 36.0 % | 1.0 % | 33.3 % | 55.0 % | almost always the same" in card
    assert "| held_out | 1,000 | 0.7500 |" in card
    assert "| texts, bits per byte | old | this model |\n| --- | --- | --- |\n| news | 1.0000 | 1.5000 |" in card
    assert "No benchmark" not in card
    assert "without items" not in card
    found = ModelCard(card).data.eval_results[1]
    assert (found.dataset_config, found.metric_type, found.metric_value) == ("jnli", "accuracy", 0.36)
    assert (found.metric_args["num_fewshot"], found.metric_args["standard_error"]) == (3, 0.01)


def test_scores_of_tasks_and_of_what_was_left_of_them(tmp_path):
    left = {"left_out": "items", "num_left_out": 34, "n": 2400, "value": 0.375, "standard_error": 0.0123}
    row = {"task": "jnli", "style": "base", "num_fewshot": 0, "metric": "acc", "n": 2434, "value": 0.36}
    row |= {"standard_error": 0.01, "chance": 1 / 3, "majority": 0.55, "data_version": "1.3", "lm_eval": "0.4.13"}
    jsts = row | {"task": "jsts", "metric": "pearson", "chance": 0.0, "majority": 0.0, "limit": 2434}
    tuned = {"task": "jcola", "metric": "mcc", "value": 0.25, "standard_error": 0.03, "num_seeds": 3, "n": 865}
    tuned |= {"learning_rate": 2e-05, "chance": 0.0}
    run = read_run(card_runs.write(tmp_path / "neko", "scratch"), "neko")
    run.evaluations = [{"jglue": [row | {"without_hits": [left, {"n": 3}]}, jsts], "jglue_finetuned": [tuned]}]
    card = compose(gather(tmp_path / "neko", run, settings()), settings())
    lines = [line.split(" | ") for line in card.splitlines() if line.startswith(("| task |", "| jnli |", "| jsts |"))]
    assert [line[9:] for line in lines] == [
        ["majority", "", "without items in its training texts |"],
        ["55.0 %", "", "37.5 ± 1.2 % (n 2,400, 34 items left out) |"],
        ["0.000", "the first 2434 items only", " |"],
    ]
    assert lines[2][5:9] == ["pearson", "0.360", "0.010", "0.000"]
    assert "| jcola | mcc | 0.250 | 0.030 | 3 | 2e-05 | 865 | 0.000 |" in card


def test_everything_that_is_missing_comes_in_one_message(tmp_path):
    folder = card_runs.write(tmp_path / "neko", "scratch", held_out="I am a cat.")
    with pytest.raises(InputError) as error:
        card_of(folder, CardConfig())
    assert str(error.value).splitlines() == [
        f"{folder}: not recorded, and a card states nothing that was not:",
        "  the licence of the model: give --license, such as --license apache-2.0",
        "  the licence of the data diary: give --data_license diary=LICENCE, or licence: in its entry of sources "
        "before the training",
        "  the language of the data: give --model_language, such as --model_language ja",
        "or write 'not recorded' in their place with --allow_missing",
    ]
    card = card_of(folder, CardConfig(allow_missing=True))
    assert "| diary | not recorded |" in card
    assert "The licence of this model is not recorded." in card
    assert ModelCard(card).data.license is None
    card = card_of(folder, settings(model_language=["en"]))
    assert ModelCard(card).data.language == ["en"]


def test_a_model_without_a_record(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    with pytest.raises(InputError, match="there is no record beside the model"):
        card_of(tmp_path, CardConfig(license="mit", model_language=["ja"]))
    card = card_of(tmp_path, CardConfig(license="mit", model_language=["ja"], allow_missing=True))
    assert "How it was trained is not recorded." in card
    assert "The data of its training is not recorded." in card
    assert list(hub.card_problems(card)) == []


def test_texts_of_others_are_shown_as_they_are(tmp_path):
    evil = "```\n# x\n<script>alert(1)</script>\n````"
    texts = [{**place(4), "prompt": "<b>|", "text": evil}]
    source = {"path": "a.jsonl", "name": "<img>|`x`", "licence": "MIT"}
    card = card_of(
        card_runs.write(tmp_path / "neko", "scratch", texts=texts, sources=[source]), CardConfig(license="mit")
    )
    assert f"`````text\n<b>|▸{evil}\n`````" in card
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", card, flags=re.S | re.M)
    assert "<script>" not in outside
    assert "<b>" not in outside
    assert "| \\<img\\>\\|\\`x\\` | MIT |" in outside


def test_samples_are_those_of_the_model_that_was_kept(tmp_path):
    texts = [{**place(step), "prompt": "p", "text": f"step {step}"} for step in (0, 2, 4)]
    folder = card_runs.write(tmp_path / "neko", "scratch", texts=texts)
    assert "▸step 4" in card_of(folder)
    file = folder / "results.json"
    file.write_text(file.read_text().replace('"step": 4', '"step": 4, "best_step": 2'))
    card = card_of(folder)
    assert "▸step 2" in card
    assert "▸step 4" not in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("results.json", "the run is not finished"),
        ("environment.json", "environment.json is broken"),
        ("model", "no model: it holds neither model/config.json nor config.json"),
    ],
)
def test_half_a_record(change, message, tmp_path):
    folder = card_runs.write(tmp_path / "neko", "scratch")
    if change == "results.json":
        (folder / change).unlink()
    elif change == "model":
        (folder / "model" / "config.json").unlink()
    else:
        (folder / change).write_text("{")
    with pytest.raises(InputError, match=message):
        card_of(folder)


def test_keys_that_do_not_fit(tmp_path):
    folder = card_runs.write(tmp_path / "neko", "scratch")
    with pytest.raises(InputError, match="not trained on 'diery', but on aozora, diary"):
        card_of(folder, settings(data_license=["diery=MIT"]))
    with pytest.raises(InputError, match="base_model: the model was trained from random weights"):
        card_of(folder, settings(base_model="me/base"))
    found = dict(
        CardConfig(
            license="Apache", license_name="x", data_license=["a"], model_language=["jp"], base_model="/a"
        ).check()
    )
    assert "did you mean" in found["license"] or "other needs" in found["license"]
    assert set(found) == {"license", "data_license", "model_language", "base_model"}
    assert list(CardConfig(license="other", license_name="My licence", license_link="LICENSE").check()) == []


def test_another_licence(tmp_path):
    config = settings(license="other", license_name="my-licence", license_link="https://example.com/l")
    card = card_of(card_runs.write(tmp_path / "neko", "scratch"), config)
    data = ModelCard(card).data
    assert (data.license, data.license_name, data.license_link) == ("other", "my-licence", "https://example.com/l")
    assert "This model: my-licence, https://example.com/l." in card


def test_written_with_its_pictures(tmp_path):
    folder = card_runs.write(tmp_path / "neko", "scratch")
    file = write("card", folder / "model", ["loss.png"], folder)
    assert file.read_text() == "card"
    assert (folder / "model" / "loss.png").read_bytes() == b"\x89PNG"


@pytest.mark.parametrize("kind", card_runs.KINDS)
def test_the_templates_name_nothing_that_is_not_there(kind, tmp_path):
    """As huggingface_hub renders them, what a template misspells would be left out of the card in silence."""
    folder = card_runs.write(tmp_path / "neko", kind)
    facts = gather(folder, read_run(folder, "neko"), settings())
    source = "\n".join(file.read_text(encoding="utf-8") for file in module.TEMPLATES)
    strict = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(source)
    values = {"card_data": metadata(facts).to_yaml(), **module.template_values(facts, ".")}
    assert strict.render(values).rstrip() == compose(facts, settings()).rstrip()


def test_names_of_others_are_no_markup(tmp_path):
    """Those of classes, groups of texts, models, machines and architectures."""
    evil = "<i>*x*</i>"
    folder = card_runs.write(tmp_path / "neko", "classifier", model=f"runs/{evil.replace('/', '')}/model")
    config = {"model_type": evil, "architectures": ["XForSequenceClassification"], "id2label": {"0": evil, "1": "b"}}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(
        json.dumps({"sessions": [{**card_runs.SESSION, "gpus": [{"name": evil}]}]})
    )
    results = json.loads((folder / "results.json").read_text())
    results["groups"] = {evil: {"before": 1.0, "after": 1.5}}
    (folder / "results.json").write_text(json.dumps(results))
    card = card_of(folder, settings(title=evil))
    text = card[card.index("\n---\n") :]
    assert text.count(r"\<i\>\*x\*") == 14  # title, class, 2 × architecture and machine, 5 × base, 3 × group
    assert "<i>" not in text.replace(r"\<i\>", "")
    assert "*x" not in text.replace(r"\*x", "")


def test_figures_of_the_hardware_and_of_every_part_of_an_evaluation(tmp_path):
    folder = card_runs.write(tmp_path / "neko", "continued")
    results = json.loads((folder / "results.json").read_text())
    results |= {"peak_gpu_bytes": 3.5 * 2**30, "loss_before": 9.0, "answers_ended": {"before": 0.125, "after": 0.75}}
    (folder / "results.json").write_text(json.dumps(results))
    card = card_of(folder)
    for line in (
        "| peak memory of a GPU | 3.5 GiB |",
        "| loss, nats per token | 2.0000 |\n| nats per token, before | 9.0000 |",
        "| answers that end by themselves | 75.0% (12.5% before) |",
        "- **評価**：評価用テキストの 1 バイトあたりのビット数 0.7500（設定と標準誤差は上の英語の表を参照）",
    ):
        assert line in card
