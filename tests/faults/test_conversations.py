"""Conversations in the columns that published files have."""

import json
import re

import pytest

from jpllm.data.conversations.layouts import read_conversations
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig

ASKED = [{"role": "user", "content": "猫は?"}, {"role": "assistant", "content": "いる。"}]


def read(tmp_path, *rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_conversations(SourceConfig(str(file), max_bad_fraction=0.9)))


def share_gpt(*turns):
    return {"id": "x_0", "conversations": [{"from": role, "value": text} for role, text in turns]}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (share_gpt(("human", "猫は?"), ("gpt", "いる。")), ASKED),
        (share_gpt(("user", "猫は?"), ("assistant", "いる。")), ASKED),
        (share_gpt(("user", "猫は?"), ("model", "いる。")), ASKED),
        (
            share_gpt(
                ("system", "短く"), ("human", "猫は?"), ("gpt", "いる。"), ("human", "犬は?"), ("chatgpt", "いない。")
            ),
            [
                {"role": "system", "content": "短く"},
                *ASKED,
                {"role": "user", "content": "犬は?"},
                {"role": "assistant", "content": "いない。"},
            ],
        ),
        (
            {**share_gpt(("human", "猫は?"), ("gpt", "いる。")), "system": "短く"},
            [{"role": "system", "content": "短く"}, *ASKED],
        ),
        ({**share_gpt(("human", "猫は?"), ("gpt", "いる。")), "system": ""}, ASKED),
        (
            {**share_gpt(("system", "短く"), ("human", "猫は?"), ("gpt", "いる。")), "system": "長く"},
            [{"role": "system", "content": "短く"}, *ASKED],
        ),
        ({"conversations": ASKED}, ASKED),
        ({"messages": [{"from": "human", "value": "猫は?"}, {"from": "gpt", "value": "いる。"}]}, ASKED),
        ({"question": "猫は?", "answer": "いる。", "id": 3}, ASKED),
    ],
)
def test_columns_of_published_files(row, messages, tmp_path):
    (found,) = read(tmp_path, row)
    assert found.messages == messages


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (share_gpt(("gpt", "いる。"), ("human", "猫は?")), "turns are not user, assistant"),
        (share_gpt(("human", "猫は?")), "turns are not user, assistant"),
        (share_gpt(("human", "猫は?"), ("function_call", "{}")), "unknown role: 'function_call'"),
        (share_gpt(("human", "猫は?"), ("gpt", None)), "a message without text"),
        (share_gpt(("human", "猫は?"), (["gpt"], "いる。")), r"unknown role: \['gpt'\]"),
        ({"conversations": None}, "conversations is no list of messages"),
        ({"conversations": [1]}, "conversations is no list of messages"),
    ],
)
def test_a_row_that_cannot_be_learned_is_left_out_with_its_reason(row, reason, tmp_path):
    bad, good = read(tmp_path, row, share_gpt(("human", "猫は?"), ("gpt", "いる。")))
    assert isinstance(bad, BadRow)
    assert good.messages == ASKED
    assert re.search(reason, str(bad))
