"""The summary of a model card in Japanese, out of the same facts as the English sections."""

from __future__ import annotations

from collections.abc import Iterator

from jpllm import markdown
from jpllm.sharing import card_facts
from jpllm.sharing.card_text import ARCHITECTURES, Facts, group_changes

NOT_RECORDED = "記録なし"


def summary(facts: Facts) -> str:
    """What the model is, what it was trained on and with, how good it is and what it cannot do, as a list."""
    return "\n".join(f"- **{title}**：{text}" for title, text in _lines(facts))


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    size = facts.num_parameters
    what = {
        "text-generation": "文章の続きを書く言語モデル",
        "fill-mask": "隠した単語を当てるマスク言語モデル",
        "text-classification": "文章の分類モデル",
    }.get(str(facts.tag), "モデル")
    if facts.has_chat_template:
        what = "指示に答える言語モデル"
    parameters = f"、パラメータ数 {size:,.0f}" if size else ""
    architecture = str(facts.model_config.get("model_type"))
    yield "モデル", f"{what}（{ARCHITECTURES.get(architecture, architecture)}{parameters}）"
    yield "学習方法", _training(facts)
    yield "学習データ", "、".join(map(_source, facts.sources)) or NOT_RECORDED
    yield "モデルのライセンス", markdown.escaped(facts.licence_name or facts.licence or NOT_RECORDED)
    yield "学習量と費用", _cost(facts)
    yield "評価", _scores(facts)
    yield "限界", "".join(_limits(facts))


def _training(facts: Facts) -> str:
    base = markdown.escaped(facts.base or "別のモデル")
    return {
        "scratch": "ランダムな重みから学習",
        "continued": f"{base} を追加のテキストで継続事前学習",
        "instructed": f"{base} を指示チューニング",
        "classifier": f"{base} に分類用の出力層を付けて学習",
        "unknown": NOT_RECORDED,
    }[facts.kind]


def _source(source: card_facts.TrainedOn) -> str:
    share = f"、トークンの {100 * source.achieved_share:.1f} %" if source.achieved_share is not None else ""
    licence = markdown.escaped(source.licence or f"ライセンスは{NOT_RECORDED}")
    return f"{markdown.escaped(source.label)}（{licence}{share}）"


def _cost(facts: Facts) -> str:
    run = facts.run
    tokens, time, kwh = run.result("tokens"), card_facts.hours(run), run.result("kwh")
    parts = [f"{tokens:,.0f} トークン" if tokens else f"トークン数は{NOT_RECORDED}"]
    parts.append(f"学習時間 {time:.3g} 時間" if time is not None else f"学習時間は{NOT_RECORDED}")
    parts.append(f"消費電力量 {kwh:.3g} kWh" if kwh is not None else "消費電力量は未計測")
    parts.append(markdown.escaped(card_facts.hardware(run) or f"ハードウェアは{NOT_RECORDED}"))
    return "、".join(parts)


def _scores(facts: Facts) -> str:
    run = facts.run
    names = {
        "bits_per_byte": "評価用テキストの 1 バイトあたりのビット数",
        "masked_accuracy": "隠した単語の正解率",
        "token_accuracy": "回答トークンの正解率",
    }
    parts = [f"{name} {run.result(key):.4f}" for key, name in names.items() if run.result(key) is not None]
    for split, name in (("validation", "検証データ"), ("test", "テストデータ")):
        for key, metric in (("accuracy", "正解率"), ("pearson", "ピアソン相関係数")):
            if (value := run.result(split, key)) is not None:
                parts.append(f"{name}の{metric} {value:.4f}")
    return "、".join(parts) + "（設定と標準誤差は上の英語の表を参照）" if parts else "未計測"


def _limits(facts: Facts) -> Iterator[str]:
    if facts.tag == "text-generation":
        yield "小さなモデルなので、誤りや繰り返し、意味の通らない文を出力することがあります。"
        if not facts.has_chat_template:
            yield "指示に従うようには学習していません。"
    length = facts.model_config.get("trained_sequence_length")
    if length:
        yield f"学習時の系列長は {length:,} トークンで、それより長い入力は扱えません。"
    forgotten = [name for name, before, after in group_changes(facts.run) if after > before]
    if forgotten:
        names = markdown.escaped("、".join(forgotten))
        yield f"学習後に 1 バイトあたりのビット数が悪化した（忘却した）テキスト：{names}。"
    elif facts.kind in ("continued", "instructed") and not group_changes(facts.run):
        yield "元のモデルの知識をどれだけ忘れたかは計測していません。"
    if facts.languages:
        yield f"データの言語：{'、'.join(facts.languages)}。ほかの言語では評価していません。"
