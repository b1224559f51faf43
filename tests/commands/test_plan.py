import json
import re
from pathlib import Path

import pytest

from jpllm import cli
from jpllm.commands import plan
from jpllm.config.parse import parse
from jpllm.config.types import keys_of
from jpllm.models.presets import ModelConfig
from jpllm.planning.hardware import HardwareConfig
from jpllm.training import machine, recipe_configs

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = ["pretrain_scratch", "cpt", "sft", "classify"]
YAMLS = [file for recipe in RECIPES for file in sorted((ROOT / "recipes" / "configs" / recipe).glob("*.yaml"))]
TINY = ["--model", "gpt2-tiny", "--vocab_size", "500", "--sequence_length", "64", "--tokens", "10_000"]
TAUGHT = ["--model", "gpt2-tiny", "--vocab_size", "500", "--sequence_length", "64"]
NEOX = ["--model", "neox-1b", "--vocab_size", "32000", "--tokens", "15_565_271_040"]


def run(*argv):
    """Exit code of `jpllm plan …`."""
    try:
        return cli.main(["plan", *argv])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a source, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "gpus", lambda: [])
    (tmp_path / "x.txt").write_text("吾輩は猫である。" * 200, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_a_plan_reads_the_classes_of_the_recipe(name):
    """With the shape of what stands in for a trained model; only the tokenizer of a new model may be missing."""
    own = recipe_configs.RECIPES[name]
    planned = {key: declared for cls in plan.classes_of(name) for key, declared in keys_of(cls).items()}
    keys = {key: declared for cls in own for key, declared in keys_of(cls).items()}
    of_plan = keys_of(HardwareConfig).keys() | {"recipe"}
    assert planned.keys() == of_plan | keys.keys() | keys_of(ModelConfig).keys() - {"dropout"} | keys.keys()
    changed = {key for key in keys if keys[key].field.default != planned[key].field.default}
    assert changed == ({"tokenizer"} if name == "pretrain_scratch" else set())


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_run_with_these_classes(name):
    source = (ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    assert f'parse(RECIPES["{name}"]' in re.sub(r"\(\s+", "(", source)


@pytest.mark.parametrize("recipe", RECIPES)
def test_keys_of_another_recipe_say_which(recipe):
    keys = {name: {key for cls in classes for key in keys_of(cls)} for name, classes in recipe_configs.RECIPES.items()}
    classes = plan.classes_of(recipe)
    known = {key for cls in classes for key in keys_of(cls)}
    known |= {key for cls in recipe_configs.RECIPES[recipe] for key in getattr(cls, "renamed_keys", {})}
    advice = classes[1].renamed_keys
    assert advice.keys() == set.union(*keys.values()) - known
    for key, words in advice.items():
        assert words.startswith("a key of recipes/")
        assert key in keys[words.rpartition(" ")[2]]


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_shipped_configuration_parses(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    parse(plan.classes_of(file.parent.name), ["--config", str(file)], prog="", description="")


def test_a_small_model_fits_this_machine(here, capsys):
    assert run("--sources", "x.txt", "--output_dir", "run", *TINY) == 0
    output = capsys.readouterr().out
    assert "gpt2-tiny (gpt2): 140,288 parameters, vocabulary 500, 2 layers" in output
    assert (
        "10,240 tokens in 20 steps of 512: 0.07 a parameter; 20 a parameter (Hoffmann et al. 2022) would be" in output
    )
    assert re.search(r"x +≈ 864 .* 100\.0% +10,240 +≈ 11\.85", output)
    assert "time: the speed of this hardware is not known" in output
    lines = output.splitlines()
    assert re.fullmatch(
        r"fits: \d+ MiB of [\d.]+ GiB on CPU, micro-batch 8 × 1, accelerate_configs/cpu.yaml", lines[-2]
    )
    assert lines[-1] == (
        "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/pretrain_scratch.py --config CONFIG.yaml "
        "--sources x.txt --output_dir run --model gpt2-tiny --vocab_size 500 --sequence_length 64 --tokens 10_000"
    )
    assert [file.name for file in here.iterdir()] == ["x.txt"]


def test_the_large_model_on_a_gpu_of_12_gb(here, capsys):
    """One process is too much; with the optimizer in the host a smaller micro-batch fits."""
    (here / "c.yaml").write_text(
        "sources: [x.txt]\noutput_dir: run\ngradient_accumulation_steps: 16\n", encoding="utf-8"
    )
    assert run("--config", "c.yaml", *NEOX, "--gpu", "rtx3060", "--host_memory_gib", "32") == 1
    output = capsys.readouterr().out
    assert "778,263,552 parameters" in output
    assert "15,565,324,288 tokens in 118,754 steps of 131,072: 20.00 a parameter" in output
    verdict, command = output.splitlines()[-2:]
    assert re.fullmatch(r"does not fit: it needs \d\d\.\d\d GiB on rtx3060, and there are 12\.00 GiB", verdict)
    assert command == (
        "accelerate launch --config_file accelerate_configs/zero2_offload.yaml --num_processes 1 "
        "recipes/pretrain_scratch.py --config c.yaml --model neox-1b --vocab_size 32000 --tokens 15_565_271_040 "
        "--per_device_train_batch_size 4 --gradient_accumulation_steps 32"
    )


def test_a_full_disk_does_not_fit(here, capsys, monkeypatch):
    monkeypatch.setattr(machine, "free_disk_bytes", lambda folder: 1000)
    assert run("--sources", "x.txt", "--output_dir", "run", *TINY) == 1
    assert "does not fit: it needs 0.0 GB of disk for token shards and checkpoints and model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gpu", "rtx9"], "--gpu: unknown GPU 'rtx9'"),
        (["--tokenizer", "gone/tok/x"], "plan with --vocab_size N"),
        ([], "tokenizer: required, but not set; before there is one, plan with --vocab_size N"),
        (["--vocab_size", "500", "--sequence_length", "4096"], "4,096 tokens are more than the model's 512 positions"),
        (["--model", "llama-tin", "--vocab_size", "5"], "no preset; did you mean 'llama-tiny'?"),
        (["--model", "own/model", "--num_layers", "2"], "own/model is no preset and has its own shape; remove it"),
        (["--vocab_size", "5", "--sequence_length", "9", "--gpu", "t4", "--calibrate"], "calibrate: runs on this"),
        (
            ["--recipe", "evaluate"],
            "write one of pretrain_scratch, cpt, sft, classify or null, not 'evaluate'",
        ),
        (["--answered_rows", "8"], "--answered_rows: unknown key; a key of recipes/sft.py; give --recipe sft"),
        (["--train_file", "t.tsv"], "--train_file: unknown key; a key of recipes/classify.py; give --recipe classify"),
        (["--recipe", "sft", *TAUGHT, "--lora_dropout", "0.1"], "lora_rank: is 0"),
        (["--recipe", "sft"], "--model: required, but not set"),
        (["--model", "runs/gone/model"], "plan with --vocab_size N and --model SHAPE, one of --help"),
        (["--recipe", "sft", *TAUGHT, "--lora_rank", "2", "--optimizer", "muon"], "muon does not work with LoRA"),
    ],
)
@pytest.mark.usefixtures("here")
def test_bad_input(argv, message, capsys):
    assert run("--sources", "x.txt", "--output_dir", "run", "--tokens", "1000", *argv) == 2
    assert message in capsys.readouterr().err


def test_a_trained_model_has_its_own_shape(here, capsys):
    """As recipes/cpt.py takes it, with its own keys."""
    from transformers import GPT2Config

    GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=128).save_pretrained("model")
    argv = ["--sources", "x.txt", "--output_dir", "run", "--model", "model", "--sequence_length", "64", "--epochs", "2"]
    argv += ["--replay", "0.25", "--replay_sources", "{path: x.txt, name: old}", "--vocab_size", "300"]
    assert run(*argv) == 0
    output = capsys.readouterr().out
    assert "model (gpt2): 39,168 parameters" in output
    assert re.search(r"old .* 25\.0%", output)
    assert output.splitlines()[-1].endswith(
        "recipes/cpt.py --config CONFIG.yaml --sources x.txt --output_dir run --model model --sequence_length 64 "
        "--epochs 2 --replay 0.25 --replay_sources '{path: x.txt, name: old}'"
    )


@pytest.mark.usefixtures("here")
def test_an_encoder(capsys):
    argv = ["--sources", "x.txt", "--output_dir", "run", *TINY, "--model", "bert-tiny", "--objective", "mlm"]
    argv.remove("gpt2-tiny")
    argv.remove("--model")
    assert run(*argv) == 0
    assert "bert-tiny (bert)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def model_dir(tokenizer_dir, tmp_path_factory):
    """A small model beside its tokenizer."""
    from jpllm.models.build import build_from_scratch
    from jpllm.models.presets import ModelConfig
    from jpllm.tokenizer.load import load, save

    folder, tokenizer = tmp_path_factory.mktemp("models"), load(tokenizer_dir)
    shape = ModelConfig(model="gpt2-tiny", hidden_size=64, num_layers=3, num_heads=2, intermediate_size=128)
    build_from_scratch(shape, tokenizer, seed=0).save_pretrained(folder / "model")
    save(tokenizer, tokenizer_dir, folder / "model")
    return folder / "model"


def test_lora_as_the_recipe_takes_it(here, model_dir, capsys):
    """The rows are encoded as for training; with the matrices of each layer: (in + out) × rank."""
    rows = [{"instruction": f"{n}+1は?", "output": str(n + 1)} for n in range(100)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    argv = ["--recipe", "sft", "--model", str(model_dir), "--sources", "rows.jsonl", "--output_dir", "run"]
    argv += ["--epochs", "2", "--sequence_length", "128", "--precision", "fp32"]
    assert run(*argv, "--lora_rank", "4") == 0
    output = capsys.readouterr().out
    matrices = 3 * 4 * ((64 + 192) + (64 + 64) + (64 + 128) + (128 + 64))
    assert f"trained: {matrices:,} beside them (LoRA)" in output
    assert re.search(r"rows +[\d,]+ +encoded rows +100\.0% +[\d,]+ +2\.\d\d", output)
    assert "Hoffmann" not in output
    assert output.splitlines()[-1].endswith(
        f"recipes/sft.py --config CONFIG.yaml --model {model_dir} --sources rows.jsonl --output_dir run --epochs 2 "
        "--sequence_length 128 --precision fp32 --lora_rank 4"
    )
    assert run(*argv) == 0
    assert "(LoRA)" not in capsys.readouterr().out


def test_a_classifier_as_the_recipe_takes_it(here, model_dir, capsys):
    rows = [{"text": f"{n}番", "label": "ab"[n % 2]} for n in range(100)]
    (here / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    argv = ["--recipe", "classify", "--model", str(model_dir), "--train_file", "t.jsonl", "--output_dir", "run"]
    assert run(*argv, "--epochs", "3") == 0
    output = capsys.readouterr().out
    layer = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 128 + 128 + 64 + 4 * 64
    assert f"trained: {layer + 2 * 64 + 2 * 64:,} of them" in output  # and the final norm and the head
    assert re.search(r"kept output +0\.00 GB", output)
    assert re.search(r"in 27 steps of [\d,]+$", output, re.MULTILINE)  # of 70 rows, 8 a step
    assert output.splitlines()[-1].endswith(
        f"recipes/classify.py --config CONFIG.yaml --model {model_dir} --train_file t.jsonl --output_dir run --epochs 3"
    )
    assert run(*argv, "--trainable", "all") == 0
    output = capsys.readouterr().out
    assert "trained: " not in output
    assert "kept output" not in output


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        (["--recipe", "sft", "--sources", "no.jsonl", "--epochs", "1", "--lora_rank", "2"], ["(LoRA)", "sft.py"]),
        (["--recipe", "classify", "--train_file", "no.tsv", "--max_row_tokens", "64"], ["kept output", "classify.py"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_rows_that_are_not_there_yet(argv, lines, capsys):
    """Memory is known all the same."""
    words = ["--model", "gpt2-tiny", "--vocab_size", "500", "--output_dir", "run", "--gpu", "rtx3060"]
    if "sft" in argv:
        words += ["--sequence_length", "128"]
    assert run(*argv, *words) == 0
    output = capsys.readouterr().out
    for line in ["not there yet", "is known when the rows are there", "fits: ", *lines]:
        assert line in output
    command = output.splitlines()[-1]  # a shape stood in for the model that is to be taught
    assert "--model MODEL --output_dir run" in command
    assert not {"--vocab_size", "--gpu", "--recipe"} & set(command.split())


@pytest.mark.usefixtures("here")
def test_replayed_texts_of_rows_that_are_not_there_yet(capsys):
    argv = ["--recipe", "sft", "--sources", "no.jsonl", "--epochs", "1", "--output_dir", "run", *TAUGHT]
    assert run(*argv, "--replay", "0.2", "--replay_sources", "x.txt") == 0
    output = capsys.readouterr().out
    assert re.search(r"no +\? +not there yet +\? ", output)
    assert re.search(r"replayed texts +\? +not counted here +\? ", output)
    assert "token shards" in output
    assert run(*argv, "--old_texts", "x.txt") == 0
    assert "token shards" not in capsys.readouterr().out  # they are only read


@pytest.mark.usefixtures("here")
def test_an_encoder_without_a_causal_model_is_classified_with(capsys):
    from transformers import DebertaV2Config, T5Config

    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    DebertaV2Config(**shape, intermediate_size=64).save_pretrained("deberta")
    T5Config(vocab_size=300, d_model=32, d_kv=16, num_layers=2, num_heads=2, d_ff=64).save_pretrained("t5")
    argv = ["--recipe", "classify", "--train_file", "no.tsv", "--output_dir", "r", "--vocab_size", "300"]
    argv += ["--max_row_tokens", "32"]
    assert run(*argv, "--model", "deberta") == 0
    output = capsys.readouterr().out
    assert "deberta (deberta-v2): " in output
    assert "trained: " not in output  # all of an encoder learns
    assert run(*argv, "--model", "t5") == 2
    assert "model: t5 has an encoder and a decoder; take one or the other" in capsys.readouterr().err


@pytest.mark.parametrize("classifier", [None, "all"])
def test_calibration_trains_float32_weights_whatever_the_checkpoint_has(classifier, monkeypatch):
    from transformers import LlamaConfig

    from jpllm.models.trained_parts import TrainedParts
    from jpllm.planning import calibrate
    from jpllm.planning.setup import TrainingSetup
    from jpllm.training.config import TrainingConfig

    class Stop(Exception):
        pass

    def stop(model, trained_parts):
        raise Stop({p.dtype for p in model.parameters()})

    monkeypatch.setattr(calibrate, "freeze", stop)
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaConfig(**shape, intermediate_size=64, pad_token_id=0, dtype="bfloat16")
    setup = TrainingSetup(1, 8, on_gpu=False, trained_parts=TrainedParts(classifier))
    with pytest.raises(Stop, match=r"^{torch.float32}$"):
        calibrate._train(model, TrainingConfig(output_dir=Path("x"), tokens=1), setup, lambda: None)


@pytest.mark.parametrize(
    "trained",
    [
        {},
        {"masked_share": 0.15},
        {"trained_parts": {"lora_rank": 2}},
        {"trained_parts": {"classifier": "all"}},
        {"trained_parts": {"classifier": "head"}, "sequences_per_row": 2},
    ],
    ids=["causal", "masked", "lora", "classifier", "choices"],
)
def test_calibration_takes_its_steps_with_every_kind_of_trainer(trained):
    from transformers import BertConfig, LlamaConfig

    from jpllm.models.trained_parts import TrainedParts
    from jpllm.planning import calibrate
    from jpllm.planning.setup import TrainingSetup
    from jpllm.training.config import TrainingConfig

    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    kind = BertConfig if "masked_share" in trained else LlamaConfig
    model = kind(**shape, intermediate_size=64, pad_token_id=0)
    parts = TrainedParts(**trained.pop("trained_parts", {}))
    setup = TrainingSetup(2, 8, on_gpu=False, trained_parts=parts, **trained)
    training = TrainingConfig(
        output_dir=Path("x"), tokens=1, precision="fp32", per_device_train_batch_size=2, gradient_accumulation_steps=1
    )
    steps = []
    calibrate._train(model, training, setup, lambda: steps.append(1))
    assert len(steps) == calibrate.NUM_STEPS


@pytest.mark.usefixtures("here")
def test_rows_longer_than_the_model_can_read(capsys):
    argv = ["--recipe", "classify", "--train_file", "no.tsv", "--output_dir", "run", "--max_row_tokens", "4096"]
    assert run(*argv, "--model", "gpt2-tiny", "--vocab_size", "500") == 2
    assert "max_row_tokens: 4,096 are more than the 128 that the model can read" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_fsdp2_says_where_its_numbers_are_from(capsys):
    argv = ["--sources", "x.txt", "--output_dir", "run", *TINY, "--gpu", "rtx3060", "--num_gpus", "2"]
    assert run(*argv, "--engine", "fsdp2") == 0
    output = capsys.readouterr().out
    assert "memory with FSDP2: by the published arithmetic of its shares" in output
    assert "accelerate_configs/fsdp2.yaml --num_processes 2" in output.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "argv",
    [
        ["--recipe", "sft", "--sources", "no.jsonl", "--epochs", "1", "--lora_rank", "8", "--sequence_length", "128"],
        ["--recipe", "classify", "--train_file", "no.tsv", "--max_row_tokens", "128", "--trainable", "all"],
    ],
    ids=["lora", "classifier"],
)
def test_calibrate_agrees_with_what_learns(argv, capsys):
    words = ["--model", "gpt2-small", "--num_layers", "2", "--vocab_size", "4000", "--output_dir", "run"]
    assert run(*argv, *words, "--precision", "fp32", "--calibrate") == 0
    assert 0.85 < float(re.search(r"predicted / measured +([\d.]+)", capsys.readouterr().out)[1]) < 1.1


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_calibrate_agrees_with_the_plan(capsys):
    argv = ["--model", "gpt2-small", "--num_layers", "2", "--vocab_size", "4000", "--sequence_length", "128"]
    assert (
        run("--sources", "x.txt", "--output_dir", "run", "--tokens", "9", "--precision", "fp32", *argv, "--calibrate")
        == 0
    )
    output = capsys.readouterr().out
    assert 0.9 < float(re.search(r"predicted / measured +([\d.]+)", output)[1]) < 1.1
    assert "tokens/s measured in 5 steps" in output
