"""The official files: read as they are, refused where they cannot be scored, examples apart from what is scored."""

import hashlib
import json
import shutil

import pytest

from jpllm.evaluation.jglue import files
from jpllm.evaluation.jglue.lm_eval_tasks import items as official
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS
from jpllm.runtime import InputError
from tests.evaluation.jglue.jglue_files import write_jglue, write_mirrors


@pytest.fixture
def folder(tmp_path):
    return write_jglue(tmp_path / "datasets")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_train", [True, False])
def test_examples_are_never_scored(tmp_path, task, with_train):
    folder = write_jglue(tmp_path, with_train=with_train)
    splits = official.load(task, str(folder))
    shots, scored = ([json.dumps(row, sort_keys=True) for row in splits[name]] for name in ("shots", "test"))
    assert not set(shots) & set(scored)
    assert len(shots) == (8 if with_train else 4)
    if task == "jsquad":  # nor other questions on the text of an example
        assert not set(splits["shots"]["context"]) & set(splits["test"]["context"])
        assert len(scored) == (24 if with_train else 2 * (12 - 4))
    elif with_train:
        assert len(scored) == 12
    else:
        assert len(scored) == 8
        ids = [row["id"] for row in splits["test"]]
        assert ids == sorted(ids, key=lambda name: int(name.lstrip("RQ")))


@pytest.mark.parametrize("task", ["jnli", "jsts"])
def test_mirrors_of_examples_are_not_scored(tmp_path, task):
    """Each pair is there in both orders; of those in examples neither is scored, and no example mirrors another."""
    file = write_jglue(tmp_path, with_train=False) / f"{task}-v1.3" / "valid-v1.3.json"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    mirrored = [
        {**row, "sentence_pair_id": f"m{row['sentence_pair_id']}"}
        | {"sentence1": row["sentence2"], "sentence2": row["sentence1"]}
        for row in rows
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows + mirrored), encoding="utf-8")
    splits = official.load(task, str(tmp_path))
    shots, scored = (
        [frozenset((row["sentence1"], row["sentence2"])) for row in splits[name]] for name in ("shots", "test")
    )
    assert (len(set(shots)), len(scored)) == (4, 2 * (12 - 4))
    assert not set(shots) & set(scored)


def test_backups_are_not_read(folder):
    task = folder / "jcola-v1.0"
    for name in ("in_domain_valid-v1.0.json.bak", "in_domain_valid-v1.0.json~", "in_domain_valid-v1.0.jsonx"):
        (task / name).write_text("{", encoding="utf-8")
    assert official.find_files("jcola", folder)["valid"] == task / "in_domain_valid-v1.0.json"
    (task / "in_domain_valid-v1.0.json").rename(task / "in_domain_valid-v1.0.jsonl")
    assert official.find_files("jcola", folder)["valid"] == task / "in_domain_valid-v1.0.jsonl"


def test_examples_of_labels_take_turns(folder):
    assert official.load("jnli", str(folder))["shots"]["gold"] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert official.load("jcola", str(folder))["shots"]["gold"] == [0, 1] * 3 + [1, 1]  # three of label 0 in the file
    assert official.load("jcommonsenseqa", str(folder))["shots"]["id"] == [str(number) for number in range(1000, 1008)]


def test_items(folder, monkeypatch):
    monkeypatch.setenv("JGLUE_DIR", str(folder))
    assert official.load("jsquad")["test"][2] == {
        "id": "a1p0q0",
        "context": "第1川は約1キロを流れて海に注ぐ。",
        "question": "川の長さは?",
        "answers": ["1キロ", "約1キロ"],
        "target": "1キロ",
    }
    jaqket = official.load("jaqket")["test"][0]
    assert len(jaqket["contexts"]) == 5
    assert jaqket["answering_context"] == "山1の高さは1メートルである。"
    assert official.load("jsts")["test"][3]["target"] == "2.1"


def test_questions_without_a_text_that_answers_are_left_out(folder):
    file = folder / "jaqket-v2.0/dev_jaqket_59.350.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    for context in rows[0]["ctxs"][:5]:
        context["has_answer"] = False
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert [row["id"] for row in official.load("jaqket", str(folder))["test"]] == [
        f"Q{number}" for number in range(1, 12)
    ]


def test_all_tasks_are_found_below_the_repository(folder):
    for place in (folder, folder.parent):
        found = files.find_all(place, any_content=True)
        assert [task.task for task in found] == list(TASKS)
        assert {task.version for task in found} == {"1.3", "1.0", "2.0"}
        assert all(task.shots_from == "train" for task in found)


def test_published_files_are_known(real_data):
    found = {task.task: task for task in files.find_all(real_data / "jglue")}
    assert list(found) == ["jcommonsenseqa", "jnli", "jsquad", "jsts"]
    assert found["jnli"].shots_from == "valid"
    assert len(official.load("jcommonsenseqa", str(real_data / "jglue"))["test"]) == 1_119
    assert len(official.load("jnli", str(real_data / "jglue"))["test"]) == 2_434 - 4 - 3  # mirrors of examples
    assert len(official.load("jsts", str(real_data / "jglue"))["test"]) == 1_457


def test_newer_version_is_taken_and_older_refused(folder):
    shutil.copytree(folder / "jnli-v1.3", folder / "jnli-v1.1")
    assert files.check("jnli", folder, any_content=True).version == "1.3"
    shutil.rmtree(folder / "jnli-v1.3")
    with pytest.raises(InputError, match=r"jnli-v1.1: version 1.1 of jnli; scores are those of version 1.3"):
        files.check("jnli", folder, any_content=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], r"valid-v1.3.json:12: broken JSON, is the file whole\?"),
        (lambda text: text.replace("neutral", "unklar"), r"valid-v1.3.json:1: not an item of jnli"),
        (lambda text: text.replace("sentence1", "premise"), r"valid-v1.3.json:1: not an item of jnli .*sentence1"),
        (lambda text: "", r"valid-v1.3.json: broken JSON"),
        (lambda text: text, r"12 items, not the file that was published .* cut or changed"),
    ],
)
def test_broken_files_are_refused(folder, change, message):
    file = folder / "jnli-v1.3/valid-v1.3.json"
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        files.find_all(folder, ["jnli"])


def test_other_mistakes(folder, tmp_path):
    (folder / "jsquad-v1.3/valid-v1.3.json").write_text('{"data": [{"title": "川", "para', encoding="utf-8")
    with pytest.raises(InputError, match=r"jsquad-v1.3/valid-v1.3.json: broken JSON"):
        files.check("jsquad", folder)
    (folder / "jsts-v1.3/valid-v1.3.json").unlink()
    with pytest.raises(InputError, match=r"no jsts-v\*/valid-v\*.json"):
        files.check("jsts", folder)
    (folder / "jcola-v1.0/in_domain_valid-v1.0.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        files.check("jcola", folder)
    shutil.rmtree(folder / "marc_ja-v1.0")
    with pytest.raises(InputError, match=r"has no marc_ja-v\*; of the tasks it holds jcommonsenseqa, jnli"):
        files.find_all(folder, ["jnli", "marc_ja"])
    with pytest.raises(InputError, match="no such folder"):
        files.find_all(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no folder of a task"):
        files.find_all(tmp_path / "empty")


@pytest.mark.parametrize("answers_as_lists", [True, False])
@pytest.mark.parametrize(
    "change", [lambda mirrors: None, lambda mirrors: shutil.move(mirrors / "JSQuAD", mirrors / "jsquad")]
)
def test_parquet_gives_the_same_items(folder, tmp_path, answers_as_lists, change):
    mirrors = write_mirrors(tmp_path / "mirrors", folder, answers_as_lists)
    change(mirrors)
    for task in ("jcommonsenseqa", "jsquad"):
        expected, found = official.load(task, str(folder)), official.load(task, str(mirrors))
        assert {split: rows.to_list() for split, rows in found.items()} == {
            split: rows.to_list() for split, rows in expected.items()
        }
    found = files.find_all(mirrors, any_content=True)
    assert [(one.task, one.version, one.shots_from) for one in found] == [
        ("jcommonsenseqa", "? as Parquet", "train"),
        ("jsquad", "? as Parquet", "train"),
    ]
    (valid,) = (mirrors / "JCommonsenseQA" / "data").glob("validation*")
    assert found[0].sha256["valid"] == hashlib.sha256(valid.read_bytes()).hexdigest()


def test_official_files_come_before_parquet(folder):
    write_mirrors(folder, folder)
    assert files.check("jsquad", folder, any_content=True).version == "1.3"


def test_published_items_are_known_as_parquet(real_data, tmp_path):
    """The items of version 1.3, written as the mirror writes them; with one other answer they are not known."""
    import pyarrow
    import pyarrow.parquet

    official = real_data / "jglue"
    shutil.copytree(official / "jcommonsenseqa-v1.3", tmp_path / "a" / "jcommonsenseqa-v1.3")
    shutil.copytree(official / "jsquad-v1.3", tmp_path / "a" / "jsquad-v1.3")
    shutil.copy(official / "jsquad-v1.3/valid-v1.3.json", tmp_path / "a/jsquad-v1.3/train-v1.3.json")
    mirrors = write_mirrors(tmp_path / "b", tmp_path / "a")
    (mirrors / "JSQuAD/data/train-00000-of-00001.parquet").unlink()
    found = files.find_all(mirrors)
    assert [(one.task, one.version, one.shots_from) for one in found] == [
        ("jcommonsenseqa", "1.3 as Parquet", "train"),
        ("jsquad", "1.3 as Parquet", "valid"),
    ]
    file = mirrors / "JSQuAD/data/validation-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(file).to_pylist()
    rows[7]["answers"]["text"][0] += "。"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    with pytest.raises(
        InputError, match=r"validation-00000-of-00001.parquet: 4,442 items, not the items of version 1.3"
    ):
        files.find_all(mirrors)
    assert files.find_all(mirrors, ["jsquad"], any_content=True)[0].version == "? as Parquet"


def test_broken_parquet_is_refused(folder, tmp_path):
    mirrors = write_mirrors(tmp_path / "mirrors", folder)
    file = mirrors / "JCommonsenseQA/data/validation-00000-of-00001.parquet"
    content = file.read_bytes()
    for broken in (content[: len(content) // 2], b"", content[:-4]):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"validation-00000-of-00001.parquet: broken Parquet, is the file whole\?"):
            files.find_all(mirrors, any_content=True)
    file.write_bytes(content)
    file.rename(file.with_name("validation-00000-of-00002.parquet"))
    with pytest.raises(InputError, match=r"validation-00000-of-00002\.parquet: one of 2 files"):
        files.find_all(mirrors, any_content=True)
    shutil.copy(mirrors / "JCommonsenseQA/data/train-00000-of-00001.parquet", mirrors / "JSQuAD/data")
    with pytest.raises(InputError, match=r"train-00000-of-00001.parquet: row 1: not an item of jsquad"):
        files.check("jsquad", mirrors, any_content=True)
    shutil.rmtree(mirrors / "JSQuAD/data")
    shutil.rmtree(mirrors / "JCommonsenseQA")
    with pytest.raises(InputError, match=r"has no folder of a task .*, or as Parquet JCommonsenseQA, JSQuAD"):
        files.find_all(mirrors)
