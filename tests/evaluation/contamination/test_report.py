import hashlib
from pathlib import Path

from rich.console import Console

from jpllm.evaluation.contamination.benchmarks import Benchmark, Item
from jpllm.evaluation.contamination.report import file_content, terminal_table
from jpllm.evaluation.contamination.search import Findings, Hit, Part


def findings(file: Path) -> Findings:
    items = [Item(f"id{n}", ("問い",), ("答え",)) for n in range(5)]
    hits = {3: Hit("wiki", 7, 1.0, "甲" * 40, 2), 0: Hit("wiki", 9, 0.95, "乙" * 10)}
    parts = [Part("question", 1, 2, hits), Part("question + answer", 5)]
    return Findings(Benchmark("bench", file, ("question",), "answer", None, items, "q_id"), parts, 0)


def test_file_names_the_items_in_the_order_of_the_benchmark(tmp_path):
    file = tmp_path / "bench.jsonl"
    file.write_text("x")
    (content,) = file_content([findings(file)])
    assert content["sha256"] == hashlib.sha256(b"x").hexdigest()
    assert (content["name"], content["num_items"], content["leave_out"]) == ("bench", 5, ["id0", "id3"])
    assert (content["id_column"], content["context"]) == ("q_id", None)
    part = content["parts"]["question"]
    assert (part["num_looked_for"], part["num_only_with_choices"], part["num_too_short"], part["num_found"]) == (
        4,
        2,
        1,
        2,
    )
    assert part["hits"][1] == {
        "item": "id3", "source": "wiki", "document": 7, "share": 1.0, "excerpt": "甲" * 40, "num_documents": 2
    }  # fmt: skip


def test_table(tmp_path):
    console = Console(width=150, record=True)
    console.print(terminal_table([findings(tmp_path / "b")]))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    rows = [cells for cells in lines if cells and cells[1].startswith("question")]
    assert rows == [
        ["bench", "question", "4", "1", "2", "50.00%", "id0 in wiki:9 " + "乙" * 10],
        ["", "question + answer", "0", "5", "0", "–", ""],
    ]
