import json
from dataclasses import replace

import pytest

from jpllm.data.clean.pipeline import CleanRule
from jpllm.data.corpus import DataConfig
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.available import BYTES_PER_TOKEN, SourceTokens, available_tokens, shards_of
from jpllm.data.shards.pack import pack


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"{number:03}"}) + "\n" for number in range(100)), encoding="utf-8")
    return SourceConfig(str(file))


def data(source, tmp_path, **settings):
    return DataConfig([source], shards_dir=tmp_path / "shards", **{"held_out_fraction": 0.1, **settings})


def test_shards_that_are_there_are_counted(source, tmp_path, encoder):
    directory = pack(source, encoder, tmp_path / "shards", held_out_fraction=0.1)
    num_documents = json.loads((directory / "meta.json").read_text())["size"]["num_documents"]
    (found,) = available_tokens(data(source, tmp_path), encoder.fingerprint)
    assert found == SourceTokens("texts", 4 * num_documents, True, str(directory))


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "another tokenizer"},
        {"held_out_fraction": 0.2},
        {"clean": [CleanRule("whitespace")]},
        {"max_rows": 50},
    ],
)
def test_shards_of_other_settings_are_not_taken(source, tmp_path, encoder, change):
    pack(source, encoder, tmp_path / "shards", held_out_fraction=0.1)
    fingerprint = change.pop("fingerprint", encoder.fingerprint)
    share = change.pop("held_out_fraction", 0.1)
    changed = replace(source, **change)
    assert shards_of(changed, data(changed, tmp_path, held_out_fraction=share), fingerprint) is None


def test_estimate_by_size(source, tmp_path):
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    (found,) = available_tokens(data(source, tmp_path), None)
    assert (found.num_tokens, found.is_exact) == (int(size * 0.9 / BYTES_PER_TOKEN), False)
    assert "estimate" in found.origin
    limited = replace(source, max_bytes=550)
    assert available_tokens(data(limited, tmp_path), None)[0].num_tokens == int(550 * 0.9 / 5.5)


def test_what_cannot_be_known(tmp_path):
    hub = SourceConfig("hf://owner/name")
    assert available_tokens(data(hub, tmp_path), None)[0].num_tokens is None
    assert available_tokens(data(replace(hub, max_bytes=5500), tmp_path), None)[0].num_tokens == 900
    gone = SourceConfig(str(tmp_path / "gone.jsonl"))
    assert available_tokens(data(gone, tmp_path), None)[0].num_tokens is None
    assert not (tmp_path / "shards").exists()
