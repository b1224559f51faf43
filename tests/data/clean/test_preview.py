"""The preview counts what each rule does, and shows where."""

import json

from rich.console import Console

from jpllm.cli import main
from jpllm.data.clean.pipeline import CleanRule
from jpllm.data.clean.preview import Example, html_page, preview, terminal_tables
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig

TEXTS = [
    "よい文章です。" * 5,
    "前<b>後\u200b。" + "続く文章。" * 60,
    "短い",
    " ",
    "よい文章です。" * 5 + "  \n\n\n\n終わり。",
]


def source(tmp_path):
    write_jsonl([*({"text": text} for text in TEXTS), {"text": None}], tmp_path / "a.jsonl")
    rules = [CleanRule("control_characters"), CleanRule("whitespace"), CleanRule("length", at_least=10)]
    return SourceConfig(str(tmp_path / "a.jsonl"), clean=rules)


def test_rates_and_examples(tmp_path):
    result = preview(source(tmp_path), 100)
    assert result.summary() == "a: 3 of 6 rows kept, 1 blank, 1 unreadable"
    assert [(e.rule, e.num_seen, e.num_changed, e.num_dropped) for e in result.effects] == [
        ("control_characters", 4, 1, 0),
        ("whitespace", 4, 1, 0),
        ("length", 4, 0, 1),
    ]
    assert result.effects[0].changed == [
        Example(TEXTS[1][:200] + "…", (TEXTS[1].replace("\u200b", ""))[:200] + "…"),
    ]
    (dropped,) = result.effects[2].dropped
    assert (dropped.before, dropped.after) == ("短い", "")
    assert "2 characters" in dropped.reason
    assert result.effects[1].figures() == ["4", "25.0%", "0.0%", "-1.0%"]
    assert result.kept[0] == TEXTS[0]
    assert preview(source(tmp_path), 2).num_rows == 2


def test_the_page_escapes_the_texts(tmp_path):
    page = html_page([preview(source(tmp_path), 100)])
    assert "前&lt;b&gt;後" in page
    assert "<b>後" not in page
    assert "column &#x27;text&#x27; is null" in page
    assert page.count("<table>") == 1


def test_the_table_names_rules_and_reasons(tmp_path):
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(terminal_tables([preview(source(tmp_path), 100)]))
    text = console.export_text()
    assert "control_characters" in text
    assert "2 characters" in text


def test_templates_removed_inside_sentences_are_listed(tmp_path):
    page = "<page><title>頁</title><ns>0</ns><revision><text>{}</text></revision></page>"
    texts = ["山は{{謎|k=v}}高い{{謎}}。{{箱}}が\n{{箱}}", "川は{{小箱}}長い{{謎}}。{{要出典}}", "{{箱}}"]
    (tmp_path / "a.xml").write_text(f"<mediawiki>{''.join(map(page.format, texts))}</mediawiki>", encoding="utf-8")
    write_jsonl([{"text": "海は{{謎}}広い。"}], tmp_path / "b.jsonl")
    result = preview(SourceConfig(str(tmp_path), clean=[CleanRule("length", at_least=1)]), 100)
    assert result.removed_templates.most_common() == [("謎", 3), ("箱", 1), ("小箱", 1)]
    assert [(e.rule, e.num_seen, e.num_changed, e.num_dropped) for e in result.effects] == [
        ("wikipedia", 3, 2, 1),
        ("length", 3, 0, 0),
    ]
    assert result.kept == ["山は高い。が", "川は長い。", "海は{{謎}}広い。"]
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(terminal_tables([result]))
    assert "unknown templates removed inside a sentence" in console.export_text()
    assert "<tr><td>謎</td><td>3</td></tr>" in html_page([result])


def test_the_command_writes_the_page(tmp_path, capsys):
    path = source(tmp_path).path
    entry = json.dumps({"path": path, "clean": ["whitespace"], "max_bad_fraction": 1})
    assert main(["data", "preview", "--sources", entry, "--output", str(tmp_path / "sub" / "p.html")]) == 0
    assert "whitespace: changed" in (tmp_path / "sub" / "p.html").read_text(encoding="utf-8")
    assert f"page {tmp_path / 'sub' / 'p.html'}" in capsys.readouterr().out
