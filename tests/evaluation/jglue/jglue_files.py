"""Small data of our own in the official formats of JGLUE, JCoLA and JAQKET."""

from __future__ import annotations

import json
from pathlib import Path

ANIMALS = ["犬", "猫", "馬", "牛", "鳥", "魚", "熊"]
LABELS = ["neutral", "entailment", "contradiction", "neutral"]


def write_jglue(folder: Path, num_items: int = 12, with_train: bool = True) -> Path:
    """All seven tasks; their training items differ from those to score. Every fourth JNLI item is neutral twice."""
    splits = {"valid": range(num_items)} | ({"train": range(1000, 1000 + num_items)} if with_train else {})
    for split, numbers in splits.items():
        _lines(folder / f"jcommonsenseqa-v1.3/{split}-v1.3.json", map(_jcommonsenseqa, numbers))
        _lines(folder / f"jnli-v1.3/{split}-v1.3.json", map(_jnli, numbers))
        _lines(folder / f"jsts-v1.3/{split}-v1.3.json", map(_jsts, numbers))
        _lines(folder / f"marc_ja-v1.0/{split}-v1.0.json", map(_marc_ja, numbers))
        _lines(folder / f"jcola-v1.0/in_domain_{split}-v1.0.json", map(_jcola, numbers))
        _json(folder / f"jsquad-v1.3/{split}-v1.3.json", {"data": [*map(_jsquad, numbers)]})
        name = {"valid": "dev", "train": "train"}[split]
        _json(folder / f"jaqket-v2.0/{name}_jaqket_59.350.json", [*map(_jaqket, numbers)])
    return folder


def write_mirrors(folder: Path, source: Path, answers_as_lists: bool = True) -> Path:
    """JCommonsenseQA and JSQuAD of `source` as Parquet, in the layout of their mirrors on the Hub."""
    import pyarrow
    import pyarrow.parquet

    for task, name in (("jcommonsenseqa", "JCommonsenseQA"), ("jsquad", "JSQuAD")):
        for split, their_split in (("train", "train"), ("valid", "validation")):
            text = (source / f"{task}-v1.3" / f"{split}-v1.3.json").read_text(encoding="utf-8")
            rows = [json.loads(line) for line in text.splitlines()]
            if task == "jsquad":
                rows = [_flat(row, answers_as_lists) for article in rows[0]["data"] for row in _questions(article)]
            file = folder / name / "data" / f"{their_split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return folder


def _questions(article: dict) -> list[dict]:
    return [
        {"title": article["title"], "context": paragraph["context"], **question}
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _flat(question: dict, answers_as_lists: bool) -> dict:
    keys = ("answer_start", "text")
    lists = {key: [answer.get(key) for answer in question["answers"]] for key in keys}
    return question | ({"answers": lists} if answers_as_lists else {})


def _jcommonsenseqa(number: int) -> dict:
    choices = {f"choice{place}": ANIMALS[(number + place) % 7] for place in range(5)}
    return {"q_id": number, "question": f"{number}番目に来た動物は?", **choices, "label": number * 3 % 5}


def _jnli(number: int) -> dict:
    return {
        "sentence_pair_id": str(number),
        "yjcaptions_id": f"{number}-1-2",
        "sentence1": f"{number}匹の犬が道を歩いています。",
        "sentence2": f"{ANIMALS[number % 7]}が歩いています。",
        "label": LABELS[number % 4],
    }


def _jsts(number: int) -> dict:
    return {**_jnli(number), "label": number * 7 % 51 / 10}


def _marc_ja(number: int) -> dict:
    good = number % 3 > 0
    return {
        "sentence": f"{number}回使いました。{'とても良いです' if good else 'すぐに壊れました'}。",
        "label": "positive" if good else "negative",
        "review_id": f"R{number}",
    }


def _jcola(number: int) -> dict:
    sentence = f"太郎が{number}冊の本を{'読んだ' if number % 4 else '読まれる'}。"
    return {"uid": number, "source": "ours", "label": int(number % 4 > 0), "diacritic": "g", "sentence": sentence}


def _jsquad(number: int) -> dict:
    answers = [{"text": text, "answer_start": 0} for text in (f"{number}キロ", f"約{number}キロ")]
    questions = [
        {"question": "川の長さは?", "id": f"a{number}p0q0", "answers": answers, "is_impossible": False},
        {"question": "流れる先は?", "id": f"a{number}p0q1", "answers": [{"text": "海"}], "is_impossible": False},
    ]
    context = f"第{number}川 [SEP] 第{number}川は約{number}キロを流れて海に注ぐ。"
    return {"title": f"第{number}川", "paragraphs": [{"context": context, "qas": questions}]}


def _jaqket(number: int) -> dict:
    contexts = [
        {"id": str(place), "title": f"山{place}", "text": f"山{place}の高さは{number + place}メートルである。"}
        for place in range(7)
    ]
    for place, context in enumerate(contexts):
        context |= {"score": "1.5", "has_answer": place == number % 3 + 1}
    answer = f"山{number % 3 + 1}"
    return {"qid": f"Q{number}", "question": f"{number}番の山は?", "answers": [answer], "ctxs": contexts}


def _lines(file: Path, rows: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _json(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
