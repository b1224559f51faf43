import io

from rich.console import Console

from jpllm.tracking.compare.comparison import compare, to_markdown, to_terminal
from jpllm.tracking.compare.samples import Prompt, Sample
from jpllm.tracking.runs import Refused, read_run
from tests.tracking.run_folders import PROMPT, RESULTS, place, samples, write_run


def two_runs(tmp_path):
    mixture = [
        {"source": "a|b", "requested_share": 0.5, "achieved_share": 0.5, "tokens": 2000, "epochs": 1.0},
        {"source": "c", "requested_share": 0.5, "achieved_share": 0.5, "tokens": 2000, "epochs": 0.5},
    ]
    texts = [{**place(4), "prompt": PROMPT, "text": "<b>\n|x|", "ended": False}]
    first = write_run(tmp_path / "first", results=RESULTS | {"mixture": mixture}, texts=texts)
    second = write_run(tmp_path / "second", settings={"seed": 1}, results=RESULTS | {"bits_per_byte": 0.5})
    (second / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"st', encoding="utf-8")
    return [read_run(folder, folder.name) for folder in (first, second)]


def test_markdown_of_two_runs(tmp_path):
    found = compare(two_runs(tmp_path), [Refused("third", "no such folder")])
    assert (
        to_markdown(found)
        == """\
# first, second

|  | first | second |
| --- | --- | --- |
| parameters | 3.31 M | 3.31 M |
| tokens | 4,000 | 4,000 |
| epochs | 0.5 | 0.5 |
| training time | 3.0 min | 3.0 min |
| tokens per second | 5,560 | 5,560 |
| bits per byte | 0.7500 | ● 0.5000 |
| xz -9, bits per byte | 2.5000 | 2.5000 |
| loss, nats per token | 2.0000 | 2.0000 |

## Settings that differ

|  | first | second |
| --- | --- | --- |
| seed | 0 | 1 |

## Training data

|  | first | second |
| --- | --- | --- |
| a\\|b | 50.0 % (asked 50.0 %), 2,000 tokens, 1.00 epochs |  |
| c | 50.0 % (asked 50.0 %), 2,000 tokens, 0.50 epochs |  |

Share of the tokens that were trained on; the mark of a bar is what was asked for.

## Samples at the end of the training

| prompt | first | second |
| --- | --- | --- |
| 吾輩は猫である | \\<b\\><br>\\|x\\| \\[cut\\] | 名前はまだ無い。 |

## Remarks

| run | remark |
| --- | --- |
| second | metrics.jsonl: the last line is cut |
| third | not compared: no such folder |
"""
    )


def test_answers_asked_for_come_before_the_recorded_ones(tmp_path):
    runs = two_runs(tmp_path)
    asked = [Prompt("p", [[Sample(" a")], []])]
    text = to_markdown(compare(runs, asked=asked, asked_note="seed 0, top_p 0.95"))
    assert (
        "## Answers\n\n| prompt | first | second |\n| --- | --- | --- |\n| p | a |  |\n\nseed 0, top_p 0.95\n" in text
    )
    assert text.index("## Answers") < text.index("## Samples at the end of the training")


def test_many_runs_stand_below_each_other(tmp_path):
    runs = [read_run(write_run(tmp_path / f"r{index}", texts=samples("x")), f"r{index}") for index in range(7)]
    lines = to_markdown(compare(runs)).splitlines()
    assert lines[0] == "# 7 runs"
    assert lines[2].startswith("|  | parameters | tokens | epochs | training time |")
    assert [line.split(" | ")[0] for line in lines[4:11]] == [f"| r{index}" for index in range(7)]


def test_the_table_in_the_terminal(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    runs = two_runs(tmp_path)
    runs[0].name = "[bold]a"  # shown, not obeyed
    console.print(to_terminal(compare(runs)))
    lines = [line.strip("│┃ ") for line in console.file.getvalue().splitlines()]
    assert [cell.strip() for cell in lines[1].split("┃")] == ["[bold]a", "second"]
    assert ["bits per byte", "0.7500", "● 0.5000"] in [[cell.strip() for cell in line.split("│")] for line in lines]
