import pytest
import torch

from jpllm.evaluation.generate import SamplingConfig, encode_prompt, generate
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model


class LetterTokenizer:
    """Letters a–z are ids 2–27; EOS 0 is appended by itself, as some published tokenizers do."""

    eos_token_id, pad_token_id = 0, 1

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(letter) - 95 for letter in text] + [0] * add_special_tokens}

    def decode(self, ids, skip_special_tokens):
        return "".join(chr(95 + int(index)) for index in ids if index > 0 or not skip_special_tokens)


@pytest.fixture
def model():
    return tiny_model("gpt2-tiny", num_ids=28)


def test_prompt_never_ends_in_eos():
    assert encode_prompt(LetterTokenizer(), "abc") == [2, 3, 4]
    assert encode_prompt(LetterTokenizer(), "") == [0]


def test_greedy_equals_token_by_token(model):
    ids = [2, 3, 4]
    with torch.no_grad():
        for _ in range(10):
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] == 0:
                break
    settings = SamplingConfig(max_new_tokens=10, temperature=0, repetition_penalty=1.0)
    assert generate(model, LetterTokenizer(), ["abc"], settings) == [LetterTokenizer().decode(ids[3:], True)]


def test_seed_decides_and_the_callers_random_state_stays(model):
    settings = SamplingConfig(max_new_tokens=20, temperature=1.5)
    state = torch.get_rng_state()
    first = generate(model, LetterTokenizer(), ["abc", "xyz"], settings, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert generate(model, LetterTokenizer(), ["abc", "xyz"], settings, seed=1) == first
    assert generate(model, LetterTokenizer(), ["abc", "xyz"], settings, seed=2) != first
    assert generate(model, LetterTokenizer(), ["xyz"], settings, seed=1) == first[1:]  # prompts do not mix


def test_answer_stops_at_the_models_positions(model):
    (answer,) = generate(model, LetterTokenizer(), ["a" * 126], SamplingConfig(max_new_tokens=50, temperature=1.0))
    assert len(answer) <= 2
    with pytest.raises(InputError, match="has 128 tokens; the model reads at most 128"):
        generate(model, LetterTokenizer(), ["a" * 128], SamplingConfig())


def test_no_repeated_ngram(model):
    settings = SamplingConfig(max_new_tokens=60, temperature=0, repetition_penalty=1.0, no_repeat_ngram_size=2)
    (answer,) = generate(model, LetterTokenizer(), ["a"], settings)
    text = "a" + answer
    pairs = [text[n : n + 2] for n in range(len(text) - 1)]
    assert len(pairs) == len(set(pairs))
