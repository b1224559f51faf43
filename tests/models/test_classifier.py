"""A head on any trained model: what is loaded, what is new, what learns, and whose vector is classified."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from jpllm.models.classifier import (
    build_classifier,
    choose_trainable,
    load_any_kind,
    num_trainable,
    sees_ahead,
    trainable_line,
)
from jpllm.models.resize import add_pad_row
from jpllm.runtime import InputError
from tests.models.test_build import FakeTokenizer, tiny_model

CAUSAL = ["gpt2-tiny", "neox-tiny", "llama-tiny"]
ALL = [*CAUSAL, "bert-tiny"]
NAMES = ["ham", "spam", "やや"]
PAD = 1  # of `FakeTokenizer`


@pytest.fixture
def folder(tmp_path):
    def save(preset, **settings):
        tiny_model(preset, **settings).save_pretrained(tmp_path / preset)
        return tmp_path / preset

    return save


@pytest.mark.parametrize("preset", ALL)
def test_the_body_is_the_trained_one_and_the_head_is_new(folder, preset):
    path = folder(preset)
    model = build_classifier(path, NAMES, seed=3)
    body = tiny_model(preset).base_model.state_dict()
    own = model.base_model.state_dict()
    assert own.keys() - body.keys() <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(own[name], body[name]) for name in body)
    assert (model.config.num_labels, model.config.problem_type) == (3, "single_label_classification")
    assert model.config.id2label == dict(enumerate(NAMES))

    head = [(name, p) for name, p in model.named_parameters() if name.split(".", 1)[-1] not in body]
    matrices = torch.cat([p.flatten() for name, p in head if p.ndim > 1])
    assert matrices.std().item() == pytest.approx(model.config.initializer_range, rel=0.2)
    assert all((p == 0).all() for name, p in head if p.ndim == 1)
    again, other = (build_classifier(path, NAMES, seed=seed) for seed in (3, 4))
    key = "score.weight" if preset in CAUSAL else "classifier.weight"
    assert torch.equal(again.state_dict()[key], model.state_dict()[key])
    assert not torch.equal(other.state_dict()[key], model.state_dict()[key])


def test_a_number_has_one_output(folder):
    model = build_classifier(folder("gpt2-tiny"), None, seed=0)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert model(torch.tensor([[3, 4]])).logits.shape == (1, 1)


def test_a_choice_has_one_output_and_another_name_than_a_number(folder, tmp_path):
    model = build_classifier(folder("gpt2-tiny"), ["choice"], seed=0)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")  # so pipelines give it as it is
    assert model.config.id2label == {0: "choice"}
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match="a classifier of choice, and the labels are score; take the model"):
        build_classifier(tmp_path / "saved", None, seed=0)


@pytest.mark.parametrize("preset", ALL)
@pytest.mark.parametrize("names", [NAMES, ["choice"]], ids=["classes", "choice"])
def test_padding_on_either_side_gives_equal_logits(folder, preset, names):
    """The vector of the last real token (of the first one in BERT); on the left, positions have to be told."""
    model = build_classifier(folder(preset), names, seed=0).eval()
    rows = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    alone = torch.cat([model(torch.tensor([row])).logits for row in rows])
    right, left, mask, positions = (torch.full((3, 5), fill) for fill in (PAD, PAD, 0, 0))
    for index, row in enumerate(rows):
        right[index, : len(row)] = left[index, -len(row) :] = torch.tensor(row)
        mask[index, : len(row)] = 1
        positions[index, -len(row) :] = torch.arange(len(row))
    assert torch.allclose(model(right, attention_mask=mask).logits, alone, atol=1e-5)
    if preset in CAUSAL:
        padded = model(left, attention_mask=mask.flip(1), position_ids=positions).logits
        assert torch.allclose(padded, alone, atol=1e-5)


@pytest.mark.parametrize("preset", CAUSAL)
def test_a_new_pad_row_changes_no_logits(folder, preset):
    model = build_classifier(folder(preset), NAMES, seed=0).eval()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    before = model(ids).logits
    tokenizer = FakeTokenizer(51)
    tokenizer.pad_token_id = 50
    add_pad_row(model, tokenizer)
    assert (model.config.vocab_size, model.config.pad_token_id) == (51, 50)
    assert torch.equal(model(ids).logits, before)
    assert torch.allclose(model(torch.tensor([[5, 6, 7, 50]])).logits, before[:1], atol=1e-5)


def test_who_sees_ahead(folder):
    assert [sees_ahead(build_classifier(folder(preset), NAMES, 0)) for preset in ALL] == [False, False, False, True]


@pytest.mark.parametrize("preset", ALL)
def test_any_kind_is_loaded_with_all_that_it_has(folder, preset):
    """A language model with its head, as for the other parts of an evaluation; an encoder without."""
    path = folder(preset)
    own, trained = load_any_kind(path).state_dict(), tiny_model(preset)
    expected = (trained if preset in CAUSAL else trained.base_model).state_dict()
    assert own.keys() - expected.keys() <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(own[name], expected[name]) for name in expected)


@pytest.mark.parametrize("preset", ALL)
@pytest.mark.parametrize("trainable", ["head", "last_block", "all"])
def test_only_what_is_promised_has_gradients(folder, preset, trainable):
    model = build_classifier(folder(preset, **({} if preset == "llama-tiny" else {"dropout": 0.1})), NAMES, seed=0)
    frozen = choose_trainable(model, trainable)
    model.train()
    model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    head = {name for name, _ in model.named_parameters() if name.startswith(("score", "classifier", "bert.pooler"))}
    norms = {name for name, _ in model.named_parameters() if ".ln_f." in name or "final_layer_norm" in name}
    norms |= {"model.norm.weight"} if preset == "llama-tiny" else set()
    last = {name for name, _ in model.named_parameters() if ".1." in name}
    everything = {name for name, _ in model.named_parameters()}
    assert learned == {"head": head, "last_block": head | norms | last, "all": everything}[trainable]
    assert len(frozen) == {"head": 2, "last_block": 1, "all": 0}[trainable]
    numbers = num_trainable(model), model.num_parameters()
    assert numbers[0] == sum(p.numel() for name, p in model.named_parameters() if name in learned)
    assert trainable_line(model).startswith(f"{numbers[0]:,} of {numbers[1]:,} parameters are trained (")


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "bert-tiny"])
def test_the_frozen_part_drops_nothing_out(folder, preset):
    """Whatever mode the model is in, the last layer gets the same states; its own dropout acts."""
    model = build_classifier(folder(preset, dropout=0.5), NAMES, seed=0)
    (frozen,) = choose_trainable(model, "last_block")
    seen = []
    frozen.register_forward_hook(lambda module, inputs, output: seen.append(output))
    ids = torch.tensor([[5, 6, 7]])
    logits = [model.train(mode)(ids).logits for mode in (False, True, True)]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert not torch.allclose(logits[1], logits[2])


def test_a_classifier_keeps_its_head_if_the_classes_are_the_same(folder, tmp_path):
    model = build_classifier(folder("neox-tiny"), NAMES, seed=0)
    model.save_pretrained(tmp_path / "saved")
    again = build_classifier(tmp_path / "saved", NAMES, seed=9)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(InputError, match="a classifier of ham, spam, やや, and the labels are a, b; take the model"):
        build_classifier(tmp_path / "saved", ["a", "b"], seed=0)


def test_what_is_not_whole_is_refused(folder, tmp_path):
    path = folder("neox-tiny")
    weights = load_file(path / "model.safetensors")
    broken = {name: weight for name, weight in weights.items() if "layers.1.mlp" not in name}
    save_file(broken, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"do not fit the model: missing \['gpt_neox\.layers\.1\.mlp"):
        build_classifier(path, NAMES, seed=0)
    weights["gpt_neox.final_layer_norm.weight"][0] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"gpt_neox\.final_layer_norm\.weight has values that are not finite"):
        build_classifier(path, NAMES, seed=0)
    with pytest.raises(InputError, match="no model folder"):
        build_classifier(tmp_path, NAMES, seed=0)
    with pytest.raises(InputError, match="no such folder"):
        build_classifier(tmp_path / "gone", NAMES, seed=0)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    AutoConfig.for_model("t5", d_model=8).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="t5 has an encoder and a decoder; take one or the other"):
        build_classifier(tmp_path, NAMES, seed=0)
