import json

import pytest

from jpllm.config.parse import ConfigError, parse
from jpllm.evaluation.contamination.benchmarks import BenchmarkConfig, Item, read_benchmark
from jpllm.runtime import InputError
from tests.evaluation.contamination.test_search import JCQA, JNLI, JSQUAD


def read(folder, rows, **keys):
    file = folder / "valid-v1.3.json"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_benchmark(BenchmarkConfig(str(file), **keys))


def test_jcommonsenseqa(tmp_path):
    found = read(tmp_path, JCQA)
    assert (found.columns, found.answer, found.context) == (("question",), "answer", None)
    assert found.items[0] == Item(
        "8939", (JCQA[0]["question"],), ("マザーボード",), tuple(JCQA[0][f"choice{n}"] for n in range(5))
    )
    assert found.label == f"{tmp_path.name}/valid-v1.3"


def test_pairs_of_sentences(tmp_path):
    found = read(tmp_path, JNLI, name="JNLI")
    assert (found.label, found.columns, found.answer) == ("JNLI", ("sentence1", "sentence2"), None)
    assert [item.id for item in found.items] == ["0", "1", "2"]
    assert found.items[1].texts == (JNLI[1]["sentence1"], JNLI[1]["sentence2"])


def test_jsquad_without_the_title_before_its_paragraph(tmp_path):
    found = read(tmp_path, JSQUAD)
    assert (found.columns, found.answer, found.context) == (("question",), "answer", "context")
    context = "梅雨は北海道と小笠原諸島を除く日本でみられる気象現象である。"
    assert found.items[0] == Item(
        "q0", ("日本で梅雨がないのは北海道とどこか。",), ("小笠原諸島", "小笠原"), (), context
    )


@pytest.mark.parametrize("answers", [{"text": ["三", "四"], "answer_start": [0, 1]}, ["三", "四"]])
def test_jsquad_with_one_question_a_row(tmp_path, answers):
    row = {"id": "q0", "title": "数", "context": "数 [SEP] 三と四。", "question": "いくつ?", "answers": answers}
    found = read(tmp_path, [row])
    assert (found.columns, found.answer, found.context, found.id_column) == (("question",), "answer", "context", "id")
    assert found.items == [Item("q0", ("いくつ?",), ("三", "四"), (), "三と四。")]


def test_named_columns(tmp_path):
    rows = [{"q": "問い", "a": ["一", "二"], "p": "文章", "n": 7}, {"q": "次", "a": "三", "p": "", "n": "x"}]
    keys = {"columns": ["q"], "answer_column": "a", "context_column": "p"}
    assert read(tmp_path, rows, **keys).items == [
        Item("0", ("問い",), ("一", "二"), (), "文章"),
        Item("1", ("次",), ("三",), (), ""),
    ]
    named = read(tmp_path, rows, **keys, id_column="n")
    assert [item.id for item in named.items] == ["7", "x"]
    assert (named.id_column, read(tmp_path, rows, **keys).id_column) == ("n", None)


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        ([{"text": "a"}], {}, "1: not a file of JCommonsenseQA, JNLI, JSTS or JSQuAD; the row has text (set columns)"),
        ([], {}, "valid-v1.3.json: no rows"),
        ([{"q": "a"}, {"p": "b"}], {"columns": ["q"]}, "2: no column 'q'; the row has p"),
        ([{"q": 3}], {"columns": ["q"]}, "1: column 'q' is 3, not a text"),
        ([{"q": "a", "a": [1]}], {"columns": ["q"], "answer_column": "a"}, "not a text or a list of texts"),
        ([{"q": "a", "n": None}], {"columns": ["q"], "id_column": "n"}, "'n' is None, not a name or a number"),
        ([{**JCQA[0], "label": 5}], {}, "label 5 is not the number of a choice (0 to 4)"),
        ([{"data": [{"paragraphs": "x"}]}], {}, "1: 'paragraphs' is 'x', not a list of objects"),
        ([{"sentence1": "a", "sentence_pair_id": "0"}], {}, "no column 'sentence2'"),
    ],
)
def test_bad_files(tmp_path, rows, keys, message):
    with pytest.raises(InputError) as caught:
        read(tmp_path, rows, **keys)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_truncated_file(tmp_path):
    file = tmp_path / "valid.json"
    file.write_text(json.dumps(JSQUAD[0])[:-9])
    with pytest.raises(InputError, match=r"valid\.json:1: not a JSON object"):
        read_benchmark(BenchmarkConfig(str(file)))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{path: a.jsonl, id_column: x}", "'x' has no effect without columns"),
        ("{path: a.jsonl, columns: [q], answer_column: q}", "'q' is named twice"),
    ],
)
def test_settings_that_do_not_go_together(entry, message):
    from jpllm.commands.data import ContaminationFiles

    with pytest.raises(ConfigError, match=message):
        parse(
            [ContaminationFiles],
            ["--sources", "b.txt", "--output", "o", "--benchmarks", entry],
            prog="",
            description="",
        )


def test_official_files(real_data):
    sizes = {}
    for file in sorted((real_data / "jglue").glob("*/valid-*.json")):
        found = read_benchmark(BenchmarkConfig(str(file)))
        sizes[found.label] = len(found.items), len({item.id for item in found.items})
    assert sizes == {
        "jcommonsenseqa-v1.3/valid-v1.3": (1119, 1119),
        "jnli-v1.3/valid-v1.3": (2434, 2434),
        "jsquad-v1.3/valid-v1.3": (4442, 4442),
        "jsts-v1.3/valid-v1.3": (1457, 1457),
    }
