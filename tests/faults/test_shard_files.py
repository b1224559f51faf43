"""Shards that were damaged, cut or half written are noticed before anything is learned from them, and mended."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from jpllm.cli import main
from jpllm.data.corpus import DataConfig, training_shards
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.pack import pack
from jpllm.data.shards.token_shards import TokenShards, damage, read_meta
from jpllm.runtime import InputError
from jpllm.training.facts import Facts
from tests.conftest import ROOT

OLD = Path(__file__).parent / "fixtures" / "shards-0.1.0"  # packed by version 0.1.0, with the encoder of the tests
NAMES = ("tokens.bin", "held_out.jsonl", "quarantine.jsonl")


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)


@pytest.fixture
def sources(tmp_path):
    rows = [{"text": f"文書{n}。"} for n in range(200)] + [{"text": None}]
    write_jsonl(rows, tmp_path / "docs.jsonl")
    return [SourceConfig(str(tmp_path / "docs.jsonl"), max_bad_fraction=0.1)]


@pytest.fixture
def config(sources, tmp_path):
    return DataConfig(sources, held_out_fraction=0.1, shards_dir=tmp_path / "shards")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("harm", ["flipped", "cut", "lengthened", "gone"])
def test_a_damaged_file_is_refused_by_a_run_and_mended_by_pack(config, encoder, name, harm):
    (shards,) = training_shards(config, encoder)
    file, whole = shards.directory / name, (shards.directory / name).read_bytes()
    if harm == "gone":
        file.unlink()
    elif harm == "flipped":
        flip(file, len(whole) // 2)
    else:
        file.write_bytes(whole[:-2] if harm == "cut" else whole + whole[-2:])
    with pytest.raises(InputError, match=rf"{name}: .*`jpllm data pack` with the same sources builds the folder again"):
        training_shards(config, encoder)
    mended = pack(config.sources[0], encoder, config.shards_dir, 0.1, verify=True)
    assert mended == shards.directory
    assert file.read_bytes() == whole
    assert sorted(path.name for path in config.shards_dir.iterdir() if path.is_dir()) == [mended.name]
    training_shards(config, encoder)


def test_each_byte_of_the_tokens_counts(config, encoder):
    (shards,) = training_shards(config, encoder)
    for position in range(0, (shards.directory / "tokens.bin").stat().st_size, 97):
        flip(shards.directory / "tokens.bin", position)
        assert "tokens.bin: not the bytes that were written there" in damage(shards.directory)
        flip(shards.directory / "tokens.bin", position)
    assert damage(shards.directory) == ""


def test_verify_shards_false_believes_them(config, encoder):
    (shards,) = training_shards(config, encoder)
    flip(shards.directory / "tokens.bin", 0)
    config.verify_shards = False
    (again,) = training_shards(config, encoder)
    assert again.tokens(0, 1).tolist() != shards.tokens(1, 2).tolist()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format": "jpllm-tok', b"null", b"[]", b"\xff\xfe", b"[" * 100_000, None]
)
def test_a_torn_meta_is_rebuilt_by_the_command_that_its_message_names(config, encoder, content):
    (shards,) = training_shards(config, encoder)
    meta = shards.directory / "meta.json"
    whole = meta.read_bytes()
    meta.unlink()
    if content is not None:
        meta.write_bytes(content)
    with pytest.raises(InputError, match=r"no finished token shards .*`jpllm data pack` builds them again"):
        TokenShards(shards.directory)
    assert pack(config.sources[0], encoder, config.shards_dir, 0.1) == shards.directory
    assert meta.read_bytes() == whole


def test_no_flipped_bit_of_the_meta_is_believed(config, encoder):
    (shards,) = training_shards(config, encoder)
    meta, known = shards.directory / "meta.json", read_meta(shards.directory)
    whole = meta.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[position] ^= 1 << bit
            meta.write_bytes(content)
            with suppress(InputError):
                assert read_meta(shards.directory) == known  # white space between the facts says nothing


def test_the_facts_of_a_run_know_the_ids(config, encoder, tmp_path):
    (shards,) = training_shards(config, encoder)
    assert len(shards.content_hash) == 64
    config.sources[0].text_column, config.shards_dir = "text", tmp_path / "elsewhere"
    (again,) = training_shards(config, encoder)
    assert again.content_hash == shards.content_hash
    before = json.loads(json.dumps({"data": "d", "tokenizer": "t", "configuration": {}, "world_size": 1, "engine": ""}))
    now = Facts("d", "t", {}, shards="b")
    assert now.changes(before | {"shards": "a"}) == ["data: other token ids in the shards"]
    assert now.changes(before | {"shards": "b"}) == now.changes(before) == []  # version 0.1.0 knew no ids


@pytest.fixture
def old_folder(tmp_path, monkeypatch):
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    (directory,) = Path("shards").glob("docs-*")
    return DataConfig([SourceConfig("docs.jsonl")], held_out_fraction=0.2, shards_dir=Path("shards")), directory


def test_shards_of_0_1_0_are_read_and_get_checksums(old_folder, encoder):
    config, directory = old_folder
    (shards,) = training_shards(config, encoder)
    assert (shards.directory, encoder.num_calls) == (directory, 0)  # found, not packed anew
    assert np.fromfile(OLD / directory / "tokens.bin", dtype="<u2").tolist() == shards.tokens(0, 2611).tolist()
    assert set(read_meta(directory)["files"]) == set(NAMES)
    flip(directory / "tokens.bin", 7)
    with pytest.raises(InputError, match=r"tokens\.bin: not the bytes that were written there"):
        training_shards(config, encoder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokens.bin", lambda whole: whole[:-2] + b"\xff\xff"),  # no EOS at the end, and an id beyond the vocabulary
        ("tokens.bin", lambda whole: whole[:100] + b"\xff\xff" + whole[102:]),
        ("held_out.jsonl", lambda whole: whole[: len(whole) // 2]),
        ("quarantine.jsonl", lambda whole: b"{}\n"),
    ],
)
def test_what_can_be_counted_in_shards_of_0_1_0_is(old_folder, encoder, name, content):
    config, directory = old_folder
    (directory / name).write_bytes(content((directory / name).read_bytes()))
    with pytest.raises(InputError, match=f"{name} (holds|does not hold) .*`jpllm data pack`"):
        training_shards(config, encoder)


def test_shards_of_0_1_0_that_cannot_be_written_to_are_read(old_folder, encoder, monkeypatch):
    config, _ = old_folder

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("jpllm.data.shards.token_shards.write_whole", refuse)
    (shards,) = training_shards(config, encoder)
    assert (shards.size.num_tokens, shards.content_hash) == (2611, None)


def test_the_commands(tmp_path, tokenizer_dir, corpus_file, capfd):
    command = ["data", "pack", "--sources", str(corpus_file), "--tokenizer", str(tokenizer_dir)]
    command += ["--output_dir", str(tmp_path / "shards")]
    assert main(command) == 0
    (directory,) = (tmp_path / "shards").glob("*-*[0-9a-f]")
    whole = {name: (directory / name).read_bytes() for name in (*NAMES, "meta.json")}
    flip(directory / "tokens.bin", 1000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    recipe = [sys.executable, str(ROOT / "recipes" / "pretrain_scratch.py"), "--model", "gpt2-tiny", "--tokens", "640"]
    recipe += ["--sources", str(corpus_file), "--tokenizer", str(tokenizer_dir), "--sequence_length", "64"]
    recipe += ["--shards_dir", str(tmp_path / "shards"), "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(recipe, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: {directory}/tokens.bin: not the bytes that were written there; "
        "`jpllm data pack` with the same sources builds the folder again"
    )
    assert not (tmp_path / "run").exists()
    capfd.readouterr()
    assert main(command) == 0
    assert "tokens.bin: not the bytes that were written there" in capfd.readouterr().err
    assert {name: (directory / name).read_bytes() for name in whole} == whole
