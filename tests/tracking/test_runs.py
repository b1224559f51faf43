import json
import shutil

import pytest

from jpllm.runtime import InputError
from jpllm.tracking import runs
from jpllm.tracking.runs import Refused, encodable, read_all, read_run, shareable, short_names
from tests.models.test_build import tiny_model
from tests.tracking.run_folders import RESULTS, place, samples, write_rows, write_run


def test_a_finished_run(tmp_path):
    evaluation = {"model": "/home/alice/m", "jglue": []}
    run = read_run(write_run(tmp_path / "a", evaluation=evaluation), "a")
    assert (run.state, run.remarks, run.model) == ("finished", [], None)
    assert run.results == RESULTS
    assert run.settings["learning_rate"] == 0.001
    assert run.evaluations == [{"model": "~/m", "jglue": []}]
    assert run.samples == samples("あ", "名前はまだ無い。")
    assert run.curves["eval_loss"].values.tolist() == [8.5, 2.0]
    (tmp_path / "a" / "model").mkdir()
    assert read_run(tmp_path / "a", "a").model == str(tmp_path / "a" / "model")


def test_figures_of_the_results_and_of_the_latest_evaluation(tmp_path):
    finished = read_run(write_run(tmp_path / "a", results=RESULTS | {"bits_per_byte": 0.7}), "a")
    assert (finished.figure("bits_per_byte"), finished.figure("accuracy")) == (0.7, None)
    assert finished.result("versions", "torch") is None
    assert finished.result("groups", "old", "before") is None
    unfinished = read_run(write_run(tmp_path / "b", results=None), "b")
    assert (unfinished.state, unfinished.figure("bits_per_byte"), unfinished.remarks) == ("unfinished", 0.75, [])
    assert (unfinished.clock.last("step"), unfinished.result("hours")) == (4, None)


@pytest.mark.parametrize("value", ["12", None, True, float("nan"), float("inf"), [1], {}])
def test_what_is_no_number(value):
    assert runs.number(value) is None


def test_runs_share_their_held_out_texts_or_do_not(tmp_path):
    first, second, other = (
        read_run(write_run(tmp_path / name, held_out=text), name) for name, text in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    assert first.held_out == second.held_out != other.held_out
    (tmp_path / "c" / "held_out.jsonl").unlink()
    assert read_run(tmp_path / "c", "c").held_out is None


@pytest.mark.parametrize(
    ("name", "content", "remark"),
    [
        ("results.json", '{"step": 1', "results.json is broken and left out"),
        ("results.json", "[1]", "results.json is broken and left out"),
        ("results.json", "[" * 100_000, "results.json is broken and left out"),
        ("environment.json", "\x00", "environment.json is broken and left out"),
        ("plan.json", "", "plan.json is broken and left out"),
        ("config.yaml", "a: [", "config.yaml is broken: its settings are left out"),
        ("config.yaml", "- 1", "config.yaml is broken: its settings are left out"),
        ("metrics.jsonl", '{"step": 1, "loss": 2}\n{"st', "metrics.jsonl: the last line is cut"),
        ("metrics.jsonl", "", "metrics.jsonl has no rows"),
        (
            "samples.jsonl",
            '{"step": 0, "prompt": "p", "text": "t"}\n{"step": 1\n',
            "samples.jsonl: 1 broken lines are left out",
        ),
        ("evaluation.json", "{", "evaluation.json is broken and left out"),
    ],
)
def test_a_broken_file_is_a_remark(name, content, remark, tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / name).write_text(content, encoding="utf-8")
    run = read_run(folder, "a")
    assert run.remarks == [remark]
    assert run.state == ("unfinished" if name == "results.json" else "finished")


def test_a_run_that_has_only_begun(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    run = read_run(folder, "a")
    assert (run.state, run.settings, run.remarks) == ("unfinished", {"seed": 1}, ["metrics.jsonl has no rows"])


def test_bytes_that_are_no_text(tmp_path):
    folder = write_run(tmp_path / "a")
    for name in ("config.yaml", "results.json"):
        (folder / name).write_bytes(b"a: \xff\xfe")
    (folder / "samples.jsonl").write_bytes(b'{"step": 0, "prompt": "p", "text": "t"}\n\xe7\xe7\n')
    run = read_run(folder, "a")
    assert len(run.remarks) == 3
    assert run.samples == [{"step": 0, "prompt": "p", "text": "t"}]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_texts_hold_what_ends_a_line_elsewhere(mark, tmp_path):
    texts = samples(f"一行目{mark}二行目", "次")
    run = read_run(write_run(tmp_path / "a", texts=texts), "a")
    assert (run.samples, run.remarks) == (texts, [])


def test_samples_need_a_place_and_a_text(tmp_path):
    rows = [
        {**place(0), "prompt": "p", "text": "half of \ud800"},
        {"prompt": "p", "text": "no step"},
        {**place(1), "prompt": "p", "text": 3},
        {"step": float("nan"), "prompt": "p", "text": "t"},
    ]
    folder = write_run(tmp_path / "a", texts=[])
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = read_run(folder, "a")
    assert run.samples == [{**place(0), "prompt": "p", "text": "half of ?"}]
    assert run.remarks == ["samples.jsonl: 1 broken lines are left out"]


def test_evaluations_stand_in_the_folder_or_below_it(tmp_path):
    folder = write_run(tmp_path / "a", evaluation={"model": "below"})
    (folder / "evaluation.json").write_text('{"model": "beside"}', encoding="utf-8")
    assert [found["model"] for found in read_run(folder, "a").evaluations] == ["beside", "below"]


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.write_text("x"), "a file, not the folder of a run"),
        (lambda path: path.mkdir(), "no config.yaml, so it is no run, and no config.json, so it is no model"),
    ],
)
def test_what_is_no_run(prepare, reason, tmp_path):
    prepare(tmp_path / "a")
    with pytest.raises(InputError, match=f"^{reason}$"):
        read_run(tmp_path / "a", "a")


def test_bad_folders_do_not_keep_the_others_away(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    found, refused = read_all([str(tmp_path / name) for name in "abc"])
    assert [run.name for run in found] == ["a"]
    assert refused == [
        Refused("b", "no config.yaml, so it is no run, and no config.json, so it is no model"),
        Refused("c", "no such folder"),
    ]


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    write_run(tmp_path / "a")

    def refuse(file):
        raise PermissionError(13, "Permission denied", str(tmp_path / "a" / "metrics.jsonl"))

    monkeypatch.setattr(runs, "read_curves", refuse)
    assert read_all([str(tmp_path / "a")]) == ([], [Refused("a", "metrics.jsonl: Permission denied")])


def test_a_model_without_a_record(tmp_path):
    model = tiny_model("gpt2-tiny")
    folder = tmp_path / "gpt2"
    model.save_pretrained(folder)
    run = read_run(folder, "gpt2")
    assert (run.state, run.model, run.num_parameters) == ("model", str(folder), model.num_parameters())
    assert run.remarks == ["a model without a record of its training"]
    config = json.loads((folder / "config.json").read_text())
    for broken in ({"model_type": "none"}, config | {"architectures": ["NoSuchModel"]}):
        (folder / "config.json").write_text(json.dumps(broken))
        broken_run = read_run(folder, "gpt2")
        assert broken_run.num_parameters is None
        assert broken_run.remarks[1].startswith("its parameters cannot be counted: ")
        runs.count_parameters(broken_run)
        assert len(broken_run.remarks) == 2  # said once


def test_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, refused = read_all(["owner/name", "gone"], hub_names=True)
    assert [(run.name, run.state, run.model) for run in found] == [("owner/name", "model", "owner/name")]
    assert refused == [Refused("gone", "no such folder")]
    assert read_all(["owner/name"]) == ([], [Refused("name", "no such folder")])
    (tmp_path / "owner").mkdir()  # then it is meant as a folder
    assert read_all(["owner/name"], hub_names=True) == ([], [Refused("name", "no such folder")])


def test_names_are_as_short_as_they_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x/run", "y/run", "z"):
        write_run(tmp_path / name)
    assert short_names(["x/run", "y/run", str(tmp_path / "z")]) == ["x/run", "y/run", "z"]
    assert short_names(["x/run"]) == ["run"]
    assert short_names(["z/", "./x/run"]) == ["z", "run"]
    monkeypatch.chdir(tmp_path / "z")
    assert short_names(["."]) == ["z"]
    shutil.rmtree(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    assert short_names(["x/run", "y/run"]) == ["x/run", "y/run"]


def test_hostile_shapes_of_known_files(tmp_path):
    """Whatever stands where mappings and lists are expected, the run is read."""
    folder = write_run(tmp_path / "a", evaluation={"jglue": "x", "perplexity": {"a": 1}, "forgetting": [1]})
    (folder / "results.json").write_text(
        '{"groups": "x", "mixture": 3, "validation": [], "step": {}}', encoding="utf-8"
    )
    (folder / "environment.json").write_text('{"sessions": 3}', encoding="utf-8")
    write_rows(folder / "metrics.jsonl", [{"step": 1, "loss": {"a": 1}, "eval_loss": "2"}])
    run = read_run(folder, "a")
    assert runs.rows_of(run.results["groups"]) == runs.rows_of(run.results["mixture"]) == []
    assert runs.rows_of([1, {"a": 1}]) == [{"a": 1}]


def test_home_folders_become_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/me")
    found = shareable(
        {
            "tokenizer": "/srv/people/me/tok",
            "model": "/home/alice/runs/a",
            "sources": [{"path": "/Users/bob"}, "C:\\Users\\eve\\x.txt"],
            "/root/key": 3,
            "text": "from /root/a and /home/c",
            "kept": ["/srv/people/mean", "/rootfs/x", "https://example.org/home/page", "/data/corpus", None, 1.5],
        }
    )
    assert found == {
        "tokenizer": "~/tok",
        "model": "~/runs/a",
        "sources": [{"path": "~"}, "~\\x.txt"],
        "~/key": 3,
        "text": "from ~/a and ~",
        "kept": ["/srv/people/mean", "/rootfs/x", "https://example.org/home/page", "/data/corpus", None, 1.5],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mnt/home/alice/x", "~/x"),
        ("/nfs/users/alice/x", "~/x"),
        ("/mnt/c/Users/alice", "~"),
        ("C:/Users/al/x", "~/x"),
        ("d:\\backup\\Users\\al\\x", "~\\x"),
        ("\\\\server\\users\\al\\x", "\\~\\x"),
        ("file:///home/alice/x", "file://~/x"),
        ("C://Users/al/x", "C:/~/x"),
        ("no file /scratch/home/alice/m, or no model", "no file ~/m, or no model"),
        ("https://example.org/home/page, /home/alice/x", "https://example.org/home/page, ~/x"),
        ("s3://bucket/users/guide", "s3://bucket/users/guide"),
        ("docs/users/guide.md", "docs/users/guide.md"),
    ],
)
def test_homes_on_other_disks_and_systems(text, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/me")
    assert shareable(text) == expected


def test_a_long_text_of_slashes_takes_no_time():
    assert shareable("/!" * 50_000) == "/!" * 50_000


def test_a_home_that_is_the_root_hides_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert shareable("/data/x") == "/data/x"


def test_halves_of_characters():
    assert encodable("猫\ud800😀") == "猫?😀"
