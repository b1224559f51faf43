"""Probabilities and greedy answers are those of one prompt alone, computed from its beginning."""

import pytest
import torch

from jpllm.evaluation.jglue import continuations
from jpllm.evaluation.jglue.continuations import PromptReader
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model

EOS, BOS = 0, 48
SHARED = "例を見て答える。"


class Characters:
    """One id per character; `appends_eos` and `joins` are what some tokenizers do."""

    eos_token_id = EOS
    pad_token_id = 1

    def __init__(self, appends_eos: bool = False, joins: str | None = None, writes_bos: bool = False) -> None:
        self.appends_eos, self.joins, self.writes_bos = appends_eos, joins, writes_bos

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict:
        pieces = text.replace(self.joins, "\0") if self.joins else text
        ids = [49 if piece == "\0" else 2 + ord(piece) % 46 for piece in pieces]
        begin, end = ([BOS] * self.writes_bos, [EOS] * self.appends_eos) if add_special_tokens else ([], [])
        return {"input_ids": begin + ids + end}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(100 + number) for number in ids)


PAIRS = [(SHARED + "問" * (n % 4) + f"{n // 2}は", answer) for n in range(7) for answer in ("甲", "乙丙", "丁戊己庚")]


def expected_score(model, ids: list[int], num_given: int) -> float:
    with torch.no_grad():
        logs = model.double()(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logs[place - 1, ids[place]].item() for place in range(num_given, len(ids)))


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("appends_eos", [False, True])
def test_log_likelihoods_are_those_of_float64(preset, batch_size, appends_eos):
    tokenizer = Characters(appends_eos)
    found = PromptReader(tiny_model(preset), tokenizer, batch_size).log_likelihoods(PAIRS)
    exact = tiny_model(preset).double()
    for (prompt, continuation), (score, _) in zip(PAIRS, found, strict=True):
        ids = Characters()(prompt + continuation)["input_ids"]
        assert score == pytest.approx(expected_score(exact, ids, len(prompt)), abs=1e-5)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_answers_are_those_of_generate(preset, batch_size):
    model, tokenizer = tiny_model(preset), Characters()
    prompts = sorted({prompt for prompt, _ in PAIRS})
    reader = PromptReader(model, tokenizer, batch_size)
    whole = reader.answers(prompts, ["\n"], 6)
    for prompt, text in zip(prompts, whole, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": EOS, "pad_token_id": 1}
        new = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :].tolist()
        assert text == tokenizer.decode(new[: new.index(EOS)] if EOS in new else new)
    stop = next(text for text in whole if len(text) > 2)[1]
    assert reader.answers(prompts, [stop], 6) == [text.split(stop)[0] for text in whole]


def test_the_greedy_continuation_is_marked():
    model, tokenizer = tiny_model("neox-tiny"), Characters()
    ids = tokenizer("あ")["input_ids"]
    with torch.no_grad():
        best = model(torch.tensor([ids])).logits[0, -1].argmax().item()
    texts = {2 + ord(letter) % 46: letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"}
    wrong = next(letter for number, letter in texts.items() if number != best)
    marks = [
        mark for _, mark in PromptReader(model, tokenizer, 2).log_likelihoods([("あ", texts[best]), ("あ", wrong)])
    ]
    assert marks == [True, False]


def test_a_token_across_the_seam_is_scored_with_all_choices():
    """`は甲` is one token: behind that prompt each choice is scored from the token before the seam on."""
    model, tokenizer = tiny_model("llama-tiny"), Characters(joins="は甲")
    pairs = [("これは", "甲"), ("これは", "乙")]
    found = PromptReader(model, tokenizer, 8).log_likelihoods(pairs)
    exact = tiny_model("llama-tiny").double()
    for (prompt, continuation), (score, _) in zip(pairs, found, strict=True):
        ids = tokenizer(prompt + continuation)["input_ids"]
        assert score == pytest.approx(expected_score(exact, ids, 2), abs=1e-5)


@pytest.mark.parametrize("writes_bos", [False, True])
def test_prompts_too_long_lose_their_beginning(writes_bos):
    """But not the BOS that the tokenizer writes."""
    model, tokenizer, plain = tiny_model("neox-tiny"), Characters(writes_bos=writes_bos), Characters()
    model.config.trained_sequence_length = 20
    pairs = [(SHARED + "長" * length, answer) for length in (3, 15, 30) for answer in ("甲", "乙丙丁")]
    reader = PromptReader(model, tokenizer, 4)
    found = reader.log_likelihoods(pairs)
    assert reader.num_cut == 2
    exact = tiny_model("neox-tiny").double()
    for (prompt, continuation), (score, _) in zip(pairs, found, strict=True):
        room = 20 - 2 - writes_bos  # all but the last token of the longest answer must fit
        ids = [BOS] * writes_bos + plain(prompt)["input_ids"][-room:]
        ids_after = plain(continuation)["input_ids"]
        assert score == pytest.approx(expected_score(exact, ids + ids_after, len(ids)), abs=1e-5)
    with pytest.raises(InputError, match="an answer of 30 tokens does not fit the model's 20 tokens"):
        reader.answers(["あ"], ["\n"], 30)


@pytest.mark.parametrize("num_ranks", [2, 3, 9])
def test_processes_share_the_prompts(num_ranks, monkeypatch):
    """Each result is found by one process, is the one of a process alone, and all processes are asked for theirs."""
    model, tokenizer = tiny_model("neox-tiny"), Characters()
    prompts = sorted({prompt for prompt, _ in PAIRS})
    alone = PromptReader(model, tokenizer, 2)
    scores, texts = alone.log_likelihoods(PAIRS), alone.answers(prompts, ["\n"], 4)
    parts: list[dict] = []
    monkeypatch.setattr(continuations, "gathered", lambda own: parts.append(own) or {})
    shown: list[list[tuple]] = [[] for _ in range(num_ranks)]
    for rank in range(num_ranks):
        reader = PromptReader(model, tokenizer, 2, rank, num_ranks)
        reader.log_likelihoods(PAIRS, lambda *given, rank=rank: shown[rank].append(given))
    for rank in range(num_ranks):
        PromptReader(model, tokenizer, 2, rank, num_ranks).answers(prompts, ["\n"], 4)
    for found, expected in ((parts[:num_ranks], scores), (parts[num_ranks:], texts)):
        assert sum(map(len, found)) == len(expected)
        merged = {number: result for part in found for number, result in part.items()}
        assert [merged[number] for number in range(len(expected))] == expected
    assert all(calls == shown[0] for calls in shown)
    assert shown[0] == [(2, 2, 7), (4, 2, 7), (6, 2, 7), (7, 1, 7)]  # progress is that of all together
