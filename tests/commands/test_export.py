"""`jpllm export` as typed: each folder is loaded by a fresh process, which takes seconds."""

import io
import json
import pickletools
import re
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from jpllm import cli
from jpllm.models.build import build_from_scratch, load_trained
from jpllm.models.classifier import build_classifier
from jpllm.models.presets import ModelConfig
from jpllm.sharing import export_proof, hub
from jpllm.sharing.gguf import llama_cpp_alone
from jpllm.tokenizer.load import load, save
from jpllm.tokenizer.special_tokens import ensure_mask_token
from tests.recipes.test_pretrain_scratch import RECIPE, SMALL, call_recipe
from tests.sharing.card import card_runs
from tests.tokenizer.byte_level import byte_level_tokenizer

LICENCES = ["--license", "apache-2.0", "--data_license", *card_runs.DATA_LICENSE]
SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 64}
FILES = ["README.md", "config.json", "generation_config.json", "loss.png", "model.safetensors"]
TOKENIZER_FILES = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
CANARY = "hf_canary0123456789"


@pytest.fixture(scope="module")
def model_dir(tokenizer_dir, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("model"), load(tokenizer_dir)
    build_from_scratch(ModelConfig(model="llama-tiny", **SHAPE), tokenizer, seed=0).save_pretrained(folder)
    save(tokenizer, tokenizer_dir, folder)
    (folder / "training_args.bin").write_bytes(b"a pickle with paths")
    (folder / "optimizer.pt").write_bytes(b"another")
    return folder


@pytest.fixture
def run(model_dir, tmp_path):
    return run_of(tmp_path / "neko", "scratch", model_dir)


def run_of(folder, kind, model_dir):
    """A run of that recipe with the model."""
    card_runs.write(folder, kind)
    for file in model_dir.iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    return folder


def is_pickle(content: bytes) -> bool:
    try:
        return all(True for _ in pickletools.genops(content))
    except Exception:
        return False


@pytest.fixture(scope="module")
def exported(model_dir, tmp_path_factory):
    """A run, the folder that was made of it while somebody was logged in, and what was printed."""
    place = tmp_path_factory.mktemp("exported")
    run, target = run_of(place / "neko", "scratch", model_dir), place / "out" / "neko-1"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setenv("HF_TOKEN", CANARY)
        assert cli.main(["export", str(run), "--to", str(target), *LICENCES]) == 0
    return run, target, printed.getvalue()


def test_a_clean_folder(exported):
    run, target, printed = exported
    assert "without jpllm gives equal logits, bit by bit, and equal ids on 4" in printed
    assert sorted(path.name for path in target.iterdir()) == [*FILES, *TOKENIZER_FILES]
    for file in target.iterdir():
        content = file.read_bytes()
        assert not zipfile.is_zipfile(file)
        assert not is_pickle(content)
        for private in (str(run.parent), card_runs.PRIVATE, CANARY):
            assert private.encode() not in content
    card = ModelCard((target / "README.md").read_text(encoding="utf-8"))
    assert card.data.license == "apache-2.0"
    settings = json.loads((target / "generation_config.json").read_text())
    assert (settings["max_new_tokens"], settings["temperature"], settings["eos_token_id"]) == (20, 0.8, 3)
    original, exported = (load_file(folder / "model.safetensors") for folder in (run / "model", target))
    assert original.keys() == exported.keys()
    assert all(torch.equal(original[name], exported[name]) for name in original)
    assert list(target.parent.iterdir()) == [target]


def test_with_only_transformers(exported, tmp_path):
    """What the proof does, by hand: the folder alone, and nothing of this project in the process."""
    run, target, _ = exported
    code = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("吾輩は猫である。", return_tensors="pt")["input_ids"]
torch.set_num_threads(1)
torch.save(model.eval()(ids).logits, sys.argv[2])
assert "jpllm" not in sys.modules
"""
    file = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-I", "-c", code, str(target), str(file)], cwd=tmp_path, check=True)
    ids = load(run / "model")("吾輩は猫である。", return_tensors="pt")["input_ids"]
    model = load_trained(run / "model").cpu()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, torch.load(file))
    torch.set_num_threads(num_threads)


def test_another_dtype(run, tmp_path, capsys):
    target = tmp_path / "half"
    assert cli.main(["export", str(run), "--to", str(target), "--dtype", "bfloat16", *LICENCES]) == 0
    assert "logits that differ from the original's by at most 0.0" in capsys.readouterr().out
    original, exported = (load_file(folder / "model.safetensors") for folder in (run / "model", target))
    assert all(torch.equal(original[name].bfloat16(), exported[name]) for name in original)
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked", "continued", "instructed", "classifier"])
def test_the_other_recipes(kind, tokenizer_dir, tmp_path):
    tokenizer, folder = load(tokenizer_dir), tmp_path / "model"
    preset = {"masked": "bert-tiny", "instructed": "neox-tiny"}.get(kind, "gpt2-tiny")
    if kind == "masked":
        ensure_mask_token(tokenizer)
    build_from_scratch(ModelConfig(model=preset, **SHAPE), tokenizer, seed=0).save_pretrained(folder)
    if kind == "classifier":
        build_classifier(folder, ["negative", "positive"], seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    target = tmp_path / "out"
    assert cli.main(["export", str(run_of(tmp_path / "neko", kind, folder)), "--to", str(target), *LICENCES]) == 0
    assert (target / "README.md").exists()
    assert (target / "generation_config.json").exists() == (kind not in ("masked", "classifier"))


def test_a_bare_model_with_a_card_of_its_own(model_dir, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert cli.main(["export", str(folder), "--to", str(tmp_path / "a")]) == 2
    assert "there is no record beside the model" in capsys.readouterr().err
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert cli.main(["export", str(folder), "--to", str(tmp_path / "a"), "--license", "mit"]) == 2
    assert "--license: " in capsys.readouterr().err
    assert cli.main(["export", str(folder), "--to", str(tmp_path / "a")]) == 0
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    own, _, added = card.partition("\n<!-- written by jpllm export -->\n\n")
    assert own == "---\nlicense: mit\n---\n# Mine\n"
    assert added.startswith("## Run it elsewhere")
    assert cli.main(["export", str(tmp_path / "a"), "--to", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8") == card.replace(
        "served-model-name a", "served-model-name again"
    )
    (folder / "README.md").write_text("---\nlicense: mine\n---\n# Mine\n")
    assert cli.main(["export", str(folder), "--to", str(tmp_path / "b")]) == 2
    assert "the Hub would refuse the card: license: 'mine'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the licence of the data diary"),
        ([*LICENCES, "--to", "neko"], "neko is there already and not empty"),
        ([*LICENCES, "--push", "neko"], "--push: 'neko' is no name of a repository; write OWNER/NAME"),
        ([*LICENCES, "--public"], "--public: acts with push only"),
        ([*LICENCES, "--gguf_unknown", "unk"], "--gguf_unknown: acts with gguf only"),
        ([*LICENCES, "--dtype", "int8"], "--dtype: write one of float32, bfloat16, float16"),
    ],
)
def test_bad_input_leaves_nothing(argv, message, run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    argv = ["export", "neko", *argv, *([] if "--to" in argv else ["--to", "out"])]
    before = sorted(run.parent.rglob("*"))
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err
    assert sorted(run.parent.rglob("*")) == before


@pytest.fixture
def pushed(monkeypatch):
    """What would have gone to the Hub, where somebody is logged in."""
    calls = []
    monkeypatch.setattr(hub, "refuse_without_login", lambda: None)
    monkeypatch.setattr(hub, "push", lambda *arguments: calls.append(arguments) or "https://example.com")
    return calls


def test_pushed_when_asked_and_proved(run, tmp_path, pushed, monkeypatch, capsys):
    target = tmp_path / "out"
    argv = ["export", str(run), "--to", str(target), "--push", "me/neko", *LICENCES]
    with monkeypatch.context() as patch:
        real = export_proof.logits
        results = [0.0, 1.0]  # the model changes while it is saved
        patch.setattr(export_proof, "logits", lambda *a: real(*a) + results.pop(0))
        assert cli.main(argv) == 2
    assert "the exported model is not the one that was saved" in capsys.readouterr().err
    assert (pushed, target.exists()) == ([], False)
    assert cli.main(argv) == 0
    assert pushed == [(target, "me/neko", False)]
    assert 'name = "me/neko"' in (target / "README.md").read_text(encoding="utf-8")
    assert "pushed to https://example.com" in capsys.readouterr().out


def test_without_a_login_nothing_begins(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert cli.main(["export", str(run), "--to", str(tmp_path / "out"), "--push", "me/neko", *LICENCES]) == 2
    assert "push: log in to the Hugging Face Hub first" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_gguf(run, tmp_path, capsys):
    pytest.importorskip("gguf", reason="pip install 'jpllm[gguf]'")
    pytest.importorskip("xllamacpp", reason="pip install 'jpllm[gguf]'")
    target = tmp_path / "out"
    argv = ["export", str(run), "--to", str(target), "--gguf", "f16", *LICENCES]
    assert cli.main(argv) == 2
    assert "llama.cpp has no byte fallback for this kind" in capsys.readouterr().err
    assert not target.exists()
    tokenizer = byte_level_tokenizer()
    build_from_scratch(ModelConfig(model="gpt2-tiny", **SHAPE), tokenizer, seed=0).save_pretrained(run / "model")
    for file in TOKENIZER_FILES:
        (run / "model" / file).unlink()
    tokenizer.save_pretrained(run / "model")
    assert cli.main(argv) == 0
    assert "\n`out-f16.gguf` was read by llama.cpp" in capsys.readouterr().out
    assert "## GGUF\n\n`out-f16.gguf` was read by llama.cpp" in (target / "README.md").read_text(encoding="utf-8")
    assert (target / "out-f16.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["llama-tiny", "gpt2-tiny"])
def test_a_model_trained_as_the_refusal_advises(preset, corpus_file, run, tmp_path, monkeypatch, capsys):
    """From a text to llama.cpp: the tokenizer of the message, a model from scratch, a GGUF file without <unk>."""
    pytest.importorskip("gguf", reason="pip install 'jpllm[gguf]'")
    pytest.importorskip("xllamacpp", reason="pip install 'jpllm[gguf]'")
    assert cli.main(["export", str(run), "--to", str(tmp_path / "no"), "--gguf", "f32", *LICENCES]) == 2
    advice = re.search("`jpllm (tokenizer train [^`]+)`", capsys.readouterr().err)[1].split()
    tokenizer_dir, target = tmp_path / "tok", tmp_path / "out"
    files = ["--input", str(corpus_file), "--output_dir", str(tokenizer_dir), "--vocab_size", "1400"]
    assert cli.main([*advice, *files]) == 0
    argv = ["--model", preset, *SMALL[2:], "--sources", str(corpus_file), "--tokenizer", str(tokenizer_dir)]
    argv += ["--shards_dir", str(tmp_path / "shards"), "--output_dir", str(tmp_path / "scratch")]
    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    argv = ["export", str(tmp_path / "scratch"), "--to", str(target), "--license", "apache-2.0", "--gguf", "f32"]
    assert cli.main([*argv, "--data_license", f"{corpus_file.stem}=CC0-1.0"]) == 0
    assert "<unk>" not in (target / "README.md").read_text(encoding="utf-8")

    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    model = transformers.AutoModelForCausalLM.from_pretrained(target)
    texts = ["吾輩は猫である。\n\t名前はＡ①、ｶﾞ。\u3000鬱𠮷👩🏽\u200d🚀", "It's </s> <0x0A>  a ▁", ""]
    request = {"texts": texts, "parse_special": False, "prompts": tokenizer(texts[:2])["input_ids"]}
    (tmp_path / "request.json").write_text(json.dumps(request | {"num_ids": len(tokenizer)}))
    files = [str(target / "out-f32.gguf"), str(tmp_path / "request.json"), str(tmp_path / "answer.json")]
    subprocess.run([sys.executable, llama_cpp_alone.__file__, *files], check=True, capture_output=True)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["ids"] == [*request["prompts"], []]
    for prompt, theirs in zip(request["prompts"], answer["log_probabilities"], strict=True):
        with torch.no_grad():
            own = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        assert torch.allclose(torch.tensor(theirs), own, atol=1e-4 if preset == "llama-tiny" else 2e-3)
