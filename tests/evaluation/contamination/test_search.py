import json

import pytest

from jpllm.evaluation.contamination.benchmarks import BenchmarkConfig, read_benchmark
from jpllm.evaluation.contamination.search import ContaminationConfig, ContaminationSearch, Hit

JCQA = [
    {
        "q_id": 8939,
        "question": "電子機器で使用される最も主要な電子回路基板の事をなんと言う？",
        **{f"choice{n}": c for n, c in enumerate(["掲示板", "パソコン", "マザーボード", "ハードディスク", "まな板"])},
        "label": 2,
    },
    {
        "q_id": 8940,
        "question": "田んぼが広がる風景を何という？",
        **{f"choice{n}": choice for n, choice in enumerate(["畑", "海", "田園", "地方", "牧場"])},
        "label": 2,
    },
    {
        "q_id": 8941,
        "question": "果物は？",
        **{f"choice{n}": choice for n, choice in enumerate(["にんじん", "りんご", "石", "机", "空"])},
        "label": 1,
    },
]
_PLANE, _PROPELLER = "空港に、１機の飛行機が停まっています。", "双翼プロペラの飛行機が駐機しています。"
JNLI = [
    {"sentence_pair_id": "0", "sentence1": _PLANE, "sentence2": _PROPELLER},
    {"sentence_pair_id": "1", "sentence1": _PROPELLER, "sentence2": _PLANE},
    {"sentence_pair_id": "2", "sentence1": "キリンが、木の中から首を出しています。", "sentence2": "鳥がいる。"},
]
_ANSWERS = [{"text": "小笠原諸島"}, {"text": "小笠原"}]
_CONTEXT = "梅雨 [SEP] 梅雨は北海道と小笠原諸島を除く日本でみられる気象現象である。"
_QUESTIONS = [
    {"id": "q0", "question": "日本で梅雨がないのは北海道とどこか。", "answers": _ANSWERS},
    {"id": "q1", "question": "日本で梅雨がみられるのはどの期間？", "answers": [{"text": "！"}]},
    {"id": "q2", "question": "期間は？", "answers": _ANSWERS},
]
JSQUAD = [{"data": [{"title": "梅雨", "paragraphs": [{"qas": _QUESTIONS, "context": _CONTEXT}]}]}]
FAR = "本文。" * 150


def search(folder, rows, *documents, **keys):
    """{part: {id: hit}} of one benchmark in documents 0, 10, 20, … of a source."""
    file = folder / "benchmark.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    found = ContaminationSearch([read_benchmark(BenchmarkConfig(str(file)))], ContaminationConfig(**keys))
    counts = list(found.look_in("corpus", ((10 * n, text) for n, text in enumerate(documents))))
    assert sum(count["documents"] for count in counts) == len(documents)
    assert sum(count["characters"] for count in counts) == sum(map(len, documents))
    (findings,) = found.findings
    items = findings.benchmark.items
    return {part.name: {items[item].id: hit for item, hit in part.hits.items()} for part in findings.parts}, findings


def ids(found):
    return {name: sorted(hits) for name, hits in found.items()}


def test_first_place_and_number_of_documents(tmp_path):
    question = JCQA[0]["question"]
    wide = question.replace("電子", "電 子\n").replace("？", "?」")
    found, _ = search(tmp_path, JCQA, "無関係な文章です。", f"前{wide}後", question * 2)
    letters = "電子機器で使用される最も主要な電子回路基板の事をなんと言う"
    assert found == {"question": {"8939": Hit("corpus", 10, 1.0, letters, 2)}, "question + answer": {}}


def test_width_and_case_do_not_matter(tmp_path):
    rows = [{"sentence_pair_id": "0", "sentence1": "ＡＢＣ社の１２３号機ﾃﾞｽ", "sentence2": "短い"}]
    found, _ = search(tmp_path, rows, "これはABC社の123号機デスね")
    assert ids(found)["sentence1"] == ["0"]


def test_an_answer_counts_near_its_question_and_not_inside(tmp_path):
    question = JCQA[1]["question"]
    assert ids(search(tmp_path, JCQA, f"{question} 畑、海、田園")[0])["question + answer"] == ["8940"]
    assert ids(search(tmp_path, JCQA, f"田園とは。{question}")[0])["question + answer"] == ["8940"]
    far = f"{question}{FAR}田園"
    assert ids(search(tmp_path, JCQA, far)[0]) == {"question": ["8940"], "question + answer": []}
    assert ids(search(tmp_path, JCQA, far, near_characters=302)[0])["question + answer"] == ["8940"]
    assert ids(search(tmp_path, JCQA, far, near_characters=301)[0])["question + answer"] == []
    inside = {**JCQA[1], "choice2": "風景"}
    assert ids(search(tmp_path, [inside], question)[0]) == {"question": ["8940"], "question + answer": []}
    again = f"{question}{FAR}{question}田園"  # the second one has it
    assert ids(search(tmp_path, JCQA, again)[0])["question + answer"] == ["8940"]


def test_a_short_question_counts_with_all_its_choices(tmp_path):
    found, findings = search(tmp_path, JCQA, "果物は。" + FAR + "果物は？ 0.にんじん 1.りんご 2.石 3.机 4.空")
    assert found["question"] == {"8941": Hit("corpus", 0, 1.0, "果物は", 1)}
    assert ids(found)["question + answer"] == ["8941"]
    assert [(part.num_too_short, part.num_only_with_choices) for part in findings.parts] == [(0, 1), (0, 1)]
    assert ids(search(tmp_path, JCQA, "果物はにんじんではなくりんごである")[0])["question"] == []


def test_two_sentences_together(tmp_path):
    one, other = JNLI[0]["sentence1"], JNLI[0]["sentence2"]
    found, findings = search(tmp_path, JNLI, one)
    assert ids(found) == {"sentence1": ["0"], "sentence2": ["1"], "sentence1 + sentence2": []}
    assert [part.num_too_short for part in findings.parts] == [0, 1, 1]
    found, _ = search(tmp_path, JNLI, one, other)
    assert ids(found) == {"sentence1": ["0", "1"], "sentence2": ["0", "1"], "sentence1 + sentence2": []}
    assert ids(search(tmp_path, JNLI, one + FAR + other)[0])["sentence1 + sentence2"] == []
    found, findings = search(tmp_path, JNLI, f"{other}\t{one}")
    assert found["sentence1 + sentence2"]["0"] == Hit(
        "corpus", 0, 1.0, "双翼プロペラの飛行機が駐機しています … 空港に1機の飛行機が停まっています", 1
    )
    assert sorted(found["sentence1 + sentence2"]) == ["0", "1"]
    assert findings.parts[findings.whole].name == "sentence1 + sentence2"


def test_context_apart_from_question_and_answer(tmp_path):
    found, findings = search(tmp_path, JSQUAD, "梅雨は北海道と小笠原諸島を除く日本でみられる気象現象である。")
    assert ids(found) == {"question": [], "question + answer": [], "context": ["q0", "q1", "q2"]}
    assert [part.num_too_short for part in findings.parts] == [1, 2, 0]  # of q1 no answer has a letter
    found, _ = search(tmp_path, JSQUAD, "日本で梅雨がないのは北海道とどこか：小笠原")
    assert ids(found) == {"question": ["q0"], "question + answer": ["q0"], "context": []}
    assert findings.parts[findings.whole].name == "question"


def test_a_changed_letter_in_a_long_text_and_in_a_short_one(tmp_path):
    """One letter spoils seven of the 7-grams: of 94 that leaves enough, of 24 it does not."""
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 100)))
    rows = [
        {"sentence_pair_id": str(n), "sentence1": text, "sentence2": "短い"} for n, text in enumerate([long, long[70:]])
    ]
    found, _ = search(tmp_path, rows, long.replace(long[85], "々"))
    assert {item: hit.share for item, hit in found["sentence1"].items()} == {"0": pytest.approx(87 / 94)}


def test_documents_in_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("jpllm.evaluation.contamination.search.BATCH_CHARACTERS", 100)
    documents = ["本文" * 30, JCQA[0]["question"], "本文" * 60, "", JCQA[1]["question"], JCQA[0]["question"]]
    found, _ = search(tmp_path, JCQA, *documents)
    assert {item: (hit.document, hit.num_documents) for item, hit in found["question"].items()} == {
        "8939": (10, 2),
        "8940": (40, 1),
    }
