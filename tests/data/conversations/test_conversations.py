"""Instruction rows: layouts, what is left out and why, and which ids of a batch are learned."""

import json

import numpy as np
import pytest

from jpllm.data.conversations.blocks import InstructDataset, PackedRows, RowsByLength, pack_rows, padded
from jpllm.data.conversations.layouts import Conversation, InstructDataConfig, read_conversations
from jpllm.data.conversations.report import noise_lines, signs_of_noise
from jpllm.data.conversations.rows import Row, encode_rows, held_out_and_rest, read_rows
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.runtime import InputError, UnusableRow

EOS = 0


def write(tmp_path, *rows):
    file = tmp_path / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return SourceConfig(str(file), max_bad_fraction=0.9)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "問い", "target": "答え"}, [user("問い"), assistant("答え")]),
        ({"instruction": "足す", "input": "", "output": "3"}, [user("足す"), assistant("3")]),
        ({"instruction": "足す", "output": "3"}, [user("足す"), assistant("3")]),
        ({"instruction": "足す", "input": "1と2", "output": "3"}, [user("足す\n\n### 入力:\n1と2"), assistant("3")]),
        ({"messages": [user("a"), assistant("b"), user("c"), assistant("d")], "id": 1}, None),
    ],
)
def test_layouts(tmp_path, row, messages):
    (found,) = read_conversations(write(tmp_path, row))
    assert found == Conversation(f"{tmp_path}/rows.jsonl:1", messages or row["messages"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "turns are not user, assistant"),
        ({"messages": [user("a")]}, "turns are not user, assistant"),
        ({"messages": [assistant("a"), user("b")]}, "turns are not user, assistant"),
        ({"messages": [user("a"), {"role": "tool", "content": "b"}]}, "unknown role: 'tool'"),
        ({"messages": [user("a"), assistant(" ")]}, "a message without text"),
        ({"messages": "a"}, "messages is no list of messages"),
        ({"messages": [user("a"), assistant("b\0")]}, "NUL character"),
        ({"messages": [user("\ud800"), assistant("b")]}, "lone surrogate"),
    ],
)
def test_messages_that_cannot_be_learned(tmp_path, row, reason):
    text = json.dumps(row)
    (found,) = read_conversations(write(tmp_path, text))
    assert isinstance(found, BadRow)
    assert reason in str(found)
    assert f"{tmp_path}/rows.jsonl:1" in str(found)


def test_bad_rows_and_files(tmp_path):
    good = {"prompt": "a", "target": "b"}
    found = list(
        read_conversations(write(tmp_path, good, {"prompt": "a", "target": ""}, {"prompt": 3, "target": "b"}, "{"))
    )
    assert [type(one).__name__ for one in found] == ["Conversation", "BadRow", "BadRow", "BadRow"]
    assert "column 'target' holds no text" in str(found[1])
    with pytest.raises(InputError, match=r"rows.jsonl:1: the row has the columns question, a, and needs messages; or"):
        list(read_conversations(write(tmp_path, {"question": "a", "a": "b"})))
    source = write(tmp_path, good, "{")
    source.max_bad_fraction = 0.1
    with pytest.raises(InputError, match="1 of 2 rows cannot be read"):
        list(read_conversations(source))


def encode(messages):
    """One id per character: its code point; answers are learned, and end with the EOS."""
    ids, learned = [], []
    for message in messages:
        is_answer = message["role"] == "assistant"
        found = [ord(character) for character in message["content"]] + [EOS] * is_answer
        ids += found
        learned += [is_answer] * len(found)
    return ids, learned


def rows_of(*texts, max_tokens=10, too_long="drop"):
    conversations = [Conversation(f"row {n}", [user(q), assistant(a)]) for n, (q, a) in enumerate(texts)]
    return encode_rows(conversations, encode, lambda messages: None, max_tokens, too_long)


def ids(text):
    return [ord(character) for character in text]


def test_rows_that_are_too_long():
    texts = ("ab", "cd"), ("abcdefgh", "ij"), ("abcdefghi", "j"), ("ab", "cdefghijkl"), ("abcdefgh", "ijk")
    rows, counts = rows_of(*texts)
    assert [row.ids.tolist() for row in rows] == [[*ids("abcd"), EOS]]
    assert counts.left_out == {"longer than sequence_length": 4}
    rows, counts = rows_of(*texts, too_long="cut")
    assert [row.ids.tolist() for row in rows] == [
        [*ids("abcd"), EOS],
        [*ids("abcdefghi"), EOS],
        [*ids("abcdefghi"), EOS],  # one word of the answer is left
        [*ids("abcdefghi"), EOS],
    ]
    assert [row.learned.sum() for row in rows] == [3, 2, 8, 2]
    assert counts.num_cut == 3
    assert counts.left_out == {"the prompt fills the whole length": 1}
    with pytest.raises(InputError, match="row 1: 11 tokens, and sequence_length is 10; raise it, or write too_long"):
        rows_of(*texts, too_long="refuse")
    for row in rows:
        assert row.labels[-1] == EOS


def refusing(messages):
    """Refuse conversations with more than one turn, as a template may."""
    if len(messages) > 2:
        raise UnusableRow("earlier turns change", "template: write learn: last_answer")
    return encode(messages)


@pytest.mark.parametrize(("num_long", "is_refused"), [(2, False), (3, True)])
def test_rows_that_the_template_cannot_take(tmp_path, num_long, is_refused):
    """They are counted with an example; more than a tenth of the rows are refused as a whole, and all of them too."""
    short = [{"messages": [user(f"a{number}"), assistant("b")]} for number in range(20)]
    long = [{"messages": [user(f"c{number}"), assistant("d")] * 2} for number in range(num_long)]
    source = write(tmp_path, *short[: 20 - num_long], *long)
    source.max_bad_fraction = 0.001
    config = InstructDataConfig(sources=[source], sequence_length=20)
    place = f"{tmp_path}/rows.jsonl:{21 - num_long}"
    if is_refused:
        with pytest.raises(InputError) as error:
            read_rows([source], config, refusing, lambda messages: None)
        assert str(error.value) == (
            f"{source.label}: 3 of 20 rows cannot be learned with this template, more than 10%. Choose another one, "
            "leave these rows out, or raise max_bad_fraction:\n"
            f"  {place}: earlier turns change: template: write learn: last_answer"
        )
        source.max_bad_fraction = 0.15
    rows, lines = read_rows([source], config, refusing, lambda messages: None)
    assert len(rows) == 20 - num_long
    assert lines[:2] == [
        f"{source.label}: {20 - num_long} of 20 rows",
        f"  {num_long} left out: earlier turns change ({place}: template: write learn: last_answer)",
    ]


def test_copies_and_special_tokens_are_left_out():
    conversations = [Conversation(str(n), [user(text), assistant("b")]) for n, text in enumerate("aab")]
    rows, counts = encode_rows(
        [*conversations, BadRow("3", "no text")],
        encode,
        lambda m: "</s>" if m[0]["content"] == "b" else None,
        9,
        "drop",
    )
    assert [row.conversation.place for row in rows] == ["0"]
    assert counts.left_out == {"exact copy of another row": 1, "a message spells a special token": 1, "no text": 1}
    assert counts.lines("x") == [
        *("x: 1 of 4 rows", "  1 left out: exact copy of another row"),
        *("  1 left out: a message spells a special token", "  1 left out: no text"),
    ]


def test_a_source_of_which_nothing_is_left(tmp_path):
    source = write(tmp_path, {"prompt": "long prompt", "target": "answer"})
    config = InstructDataConfig(sources=[source], sequence_length=8)
    with pytest.raises(
        InputError, match=r"rows: 0 of 1 rows\n.*1 left out: longer[^\n]*\nthe first of them:\n.*18 tokens"
    ):
        read_rows([source], config, encode, lambda messages: None)


def test_held_out_rows_are_those_of_the_same_questions():
    rows, _ = rows_of(*((chr(97 + n % 20), chr(65 + n)) for n in range(40)))
    held_out, rest = held_out_and_rest(rows, 6)
    assert (len(held_out), len(rest)) == (4, 36)  # a tenth at most
    questions = [{row.conversation.messages[0]["content"] for row in part} for part in (held_out, rest)]
    assert not questions[0] & questions[1]
    again, _ = held_out_and_rest(rows[::-1], 6)
    assert {row.conversation.place for row in again} == {row.conversation.place for row in held_out}


@pytest.mark.parametrize(("max_rows", "expected"), [(10, 9), (8, 6), (3, 3), (200, 9)])
def test_held_out_groups_are_whole_and_within_the_limit(max_rows, expected):
    """Groups of 3 rows, and one of 70: as many whole groups as fit into the limit and into a tenth."""
    rows, _ = rows_of(*(("z", chr(0x3042 + n)) for n in range(70)), *((chr(97 + n // 3), str(n)) for n in range(30)))
    held_out, rest = held_out_and_rest(rows, max_rows)
    assert (len(held_out), len(rest)) == (expected, 100 - expected)
    assert "z" not in {row.conversation.messages[0]["content"] for row in held_out}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(str(n), "a") for n in range(9)], "9 rows, too few to hold a tenth out"),
        ([("a", str(n)) for n in range(20)], "of 20 rows at least 20 share each of them, where 2 may be held out"),
        ([(str(n // 5), str(n)) for n in range(20)], "at least 5 share each of them, where 2 may be held out"),
    ],
)
def test_rows_that_cannot_be_held_out(rows, message):
    with pytest.raises(InputError, match=f"^sources: .*{message}.*name eval_sources"):
        held_out_and_rest(rows_of(*rows)[0], 200)


def test_packed_blocks():
    rows, _ = rows_of(("ab", "c"), ("d", "efg"), ("h", "i"))  # 4, 5 and 3 tokens
    packed = PackedRows(rows, 8, filler_token_id=EOS)
    assert packed.num_items == 2
    items = sorted((packed.item(n) for n in range(2)), key=lambda item: item["input_ids"][0])
    assert items[0]["input_ids"].tolist() == [*ids("abc"), EOS, *[EOS] * 4]
    assert items[0]["labels"].tolist() == [-100, -100, ord("c"), EOS, *[-100] * 4]
    assert items[0]["position_ids"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert items[1]["input_ids"].tolist() == [*ids("defg"), EOS, *ids("hi"), EOS]
    assert items[1]["labels"].tolist() == [-100, *ids("efg"), EOS, -100, ord("i"), EOS]
    assert items[1]["position_ids"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert all(item[name].dtype == np.int64 for item in items for name in item)


@pytest.mark.parametrize("seed", range(3))
def test_packing_wastes_little_and_loses_nothing(seed):
    lengths = np.random.default_rng(seed).integers(1, 65, 500).tolist()
    blocks = pack_rows(lengths, 64)
    assert sorted(index for block in blocks for index in block) == list(range(500))
    assert max(sum(lengths[index] for index in block) for block in blocks) <= 64
    assert len(blocks) <= 1.1 * sum(lengths) / 64
    with pytest.raises(InputError, match="a row has 65 tokens"):
        pack_rows([3, 65], 64)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_batch(side):
    rows, _ = rows_of(("ab", "c"), ("d", "e"))
    items = [{"input_ids": row.ids, "labels": row.labels} for row in rows]
    batch = padded(items, 99, side)
    pad = (lambda row, one: [*row, one]) if side == "right" else (lambda row, one: [one, *row])
    assert batch["input_ids"].tolist() == [[*ids("abc"), EOS], pad([*ids("de"), EOS], 99)]
    assert batch["labels"].tolist() == [[-100, -100, ord("c"), EOS], pad([-100, ord("e"), EOS], -100)]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], pad([1, 1, 1], 0)]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], pad([0, 1, 2], 0)]


def test_rows_by_length_are_alike_in_a_step_and_all_seen_in_an_epoch():
    lengths = np.random.default_rng(0).integers(2, 60, 103)
    rows = [
        Row(Conversation(str(n), []), np.zeros(size, np.int32), np.ones(size, bool)) for n, size in enumerate(lengths)
    ]
    order = RowsByLength(rows, rows_per_step=8, seed=3)
    for epoch in range(2):
        seen = [order._row(103 * epoch + n).conversation.place for n in range(103)]
        assert sorted(map(int, seen)) == list(range(103))
        waste = [max(s) * len(s) - sum(s) for s in np.split(lengths[np.array(seen[:96], int)], 12)]
        assert sum(waste) <= 0.1 * lengths.sum()
    assert order.num_tokens(5) == len(order._row(5))
    again = RowsByLength(rows, rows_per_step=8, seed=3)
    assert again._row(150) is order._row(150)  # known without those before


class Text:
    """Stands in for blocks of plain text."""

    sequence_length, num_positions = 8, 0

    def __getitem__(self, position):
        assert position < self.num_positions
        return {"input_ids": np.full(8, 1000 + position)}


def test_replay_is_a_share_of_the_blocks():
    rows, _ = rows_of(*((chr(97 + n), "bcd") for n in range(20)))  # 5 tokens each
    dataset = InstructDataset(PackedRows(rows, 8, EOS), Text(), replay=0.25)
    dataset.num_positions = 80
    replayed = [position for position in range(80) if dataset[position]["input_ids"][0] >= 1000]
    assert len(replayed) == 20
    assert [dataset[position]["input_ids"][0] for position in replayed] == list(range(1000, 1020))
    assert dataset.items_per_epoch == round(20 / 0.75)
    assert dataset.mean_tokens == pytest.approx(0.75 * 5 + 0.25 * 8)
    assert dataset.tokens_until(8).tolist()[-1] == 60 * 5 + 20 * 8
    with pytest.raises(ValueError, match="there are no blocks of it"):
        InstructDataset(PackedRows(rows, 8, EOS), replay=0.25)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"replay": 0.2}, "give both the share and replay_sources"),
        ({"replay": 0.2, "replay_sources": [SourceConfig("a")], "batching": "by_length"}, "acts with batching: packed"),
        ({"sources": []}, "name at least one source"),
    ],
)
def test_settings_that_cannot_act(settings, problem):
    config = InstructDataConfig(**({"sources": [SourceConfig("a.jsonl")]} | settings))
    assert any(problem in message for _, message in config.check())


@pytest.mark.parametrize(
    ("question", "answer", "sign"),
    [
        ("翻訳する。", "翻訳する。", "answers repeat the question"),
        ("翻訳する。", "I am a language model", "answers have no Japanese character, and letters"),
        ("波ではなく」の意味", "説明です。", "rows have brackets without their pair"),
        (
            "書く。",
            "これはとても長い答えで、途中で終わってしまうので文の終わりを示す句点がどこにもありません" * 1,
            "break off",
        ),
        ("書く。", "同じ文です。同じ文です。同じ文です。同じ文です。", "answers repeat themselves"),
    ],
)
def test_signs_of_noise(question, answer, sign):
    assert any(sign in found for found in signs_of_noise(question, answer))


def test_noise_is_counted_with_a_place():
    conversations = [
        Conversation("f:1", [user("翻訳する。"), assistant("翻訳する。")]),
        Conversation("f:2", [user("a"), assistant("b")]),
    ]
    conversations.append(Conversation("f:3", [user("a"), assistant("c")]))
    assert noise_lines(conversations) == [
        "signs of noise (kept):",
        "  1 (33.3%) answers repeat the question, as f:1",
        "  1 questions with more than one answer",
    ]
    assert noise_lines(conversations[1:2]) == []
