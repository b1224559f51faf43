import json
import multiprocessing

import numpy as np
import pytest

from jpllm.data import shards
from jpllm.data.pack import is_held_out, pack, text_rank
from jpllm.data.shards import ShardWriter, TokenShards, token_dtype
from jpllm.data.sources import SourceConfig, write_jsonl
from jpllm.runtime import InputError

TEXTS = [f"文書{n}。" for n in range(200)]


@pytest.fixture
def source(tmp_path):
    write_jsonl(({"text": text} for text in [*TEXTS, "", " \n"]), tmp_path / "docs.jsonl")
    return SourceConfig(str(tmp_path / "docs.jsonl"))


def ids(text):
    return [byte + 1 for byte in text.encode()] + [0]


def test_documents_follow_one_another_each_with_one_eos(source, encoder, tmp_path):
    packed = TokenShards(pack(source, encoder, tmp_path / "shards", held_out_fraction=0.0))
    expected = [token for text in TEXTS for token in ids(text)]
    assert packed.tokens(0, packed.size.num_tokens).tolist() == expected
    assert packed.size.num_documents == 200
    assert packed.size.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert packed.size.num_characters == sum(map(len, TEXTS))
    assert packed.documents[3].tolist() == [len(ids(TEXTS[3])), len(TEXTS[3].encode()), len(TEXTS[3])]


def test_held_out_documents_are_chosen_by_their_text(source, encoder, tmp_path):
    directory = pack(source, encoder, tmp_path / "shards", held_out_fraction=0.1)
    held_out = [json.loads(line)["text"] for line in (directory / "held_out.jsonl").open(encoding="utf-8")]
    assert held_out == [text for text in TEXTS if text_rank(text) < 0.1]
    assert len(held_out) == 16  # of 200, near the 20 expected
    packed = TokenShards(directory)
    kept = [text for text in TEXTS if not is_held_out(text, 0.1)]
    assert packed.tokens(0, packed.size.num_tokens).tolist() == [token for text in kept for token in ids(text)]
    meta = shards.read_meta(directory)
    assert (meta["num_held_out_documents"], meta["num_blank_documents"]) == (16, 2)


def test_found_again_by_fingerprint(source, encoder, tmp_path):
    first = pack(source, encoder, tmp_path / "shards")
    calls = encoder.num_calls
    assert pack(source, encoder, tmp_path / "shards") == first
    assert encoder.num_calls == calls
    encoder.fingerprint = "another tokenizer"
    assert pack(source, encoder, tmp_path / "shards") != first
    with (tmp_path / "docs.jsonl").open("a") as stream:
        stream.write('{"text": "new"}\n')
    assert pack(source, encoder, tmp_path / "shards") != first


def test_failed_build_leaves_nothing(tmp_path, encoder):
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"bad.jsonl:2: invalid UTF-8"):
        pack(SourceConfig(str(tmp_path / "bad.jsonl")), encoder, tmp_path / "shards")
    assert [path for path in (tmp_path / "shards").iterdir() if path.is_dir()] == []


def test_killed_build_is_not_taken_for_a_finished_one(source, encoder, tmp_path):
    finished = pack(source, encoder, tmp_path / "shards")
    partial = finished.with_name(finished.name + ".partial")
    finished.rename(partial)
    (partial / "meta.json").unlink()
    assert pack(source, encoder, tmp_path / "shards") == finished
    assert not partial.exists()


@pytest.mark.parametrize("content", ["", '{"text": " "}\n\n{"text": ""}\n'])
def test_empty_corpus(tmp_path, encoder, content):
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(InputError, match="the source holds no text"):
        pack(SourceConfig(str(tmp_path / "empty.jsonl")), encoder, tmp_path / "shards")


def _pack_and_count(source, encoder, shards_dir, queue):
    queue.put((str(pack(source, encoder, shards_dir)), encoder.num_calls))


def test_one_process_builds_and_the_others_wait(source, encoder, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    arguments = (source, encoder, tmp_path / "shards", queue)
    processes = [context.Process(target=_pack_and_count, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert len({path for path, _ in results}) == 1
    assert sorted(calls > 0 for _, calls in results) == [False, False, False, True]


def test_type_follows_the_vocabulary(tmp_path):
    assert [token_dtype(size).str for size in (65_535, 65_536, 65_537)] == ["<u2", "<u2", "<u4"]
    for size in (65_536, 65_537):
        folder = tmp_path / str(size)
        folder.mkdir()
        writer = ShardWriter(folder, token_dtype(size))
        writer.append(np.array([size - 1, 0]), "a")
        writer.close_file()
        shards.write_meta(folder, writer.size, dtype=token_dtype(size).str)
        assert TokenShards(folder).tokens(0, 2).tolist() == [size - 1, 0]


def test_reading_across_files_equals_one_file(source, encoder, tmp_path):
    writer = ShardWriter(tmp_path, np.dtype("<u2"), max_file_tokens=7)
    expected = []
    for text in TEXTS[:20]:
        writer.append(np.array(ids(text)), text)
        expected += ids(text)
    writer.close_file()
    shards.write_meta(tmp_path, writer.size, dtype="<u2")
    packed = TokenShards(tmp_path)
    assert packed.size.num_files == 20
    for start, stop in ((0, 0), (0, 1), (5, 40), (12, 13), (0, len(expected)), (len(expected), len(expected))):
        assert packed.tokens(start, stop).tolist() == expected[start:stop]
    with pytest.raises(IndexError):
        packed.tokens(0, len(expected) + 1)


def test_cut_or_foreign_files_are_refused(source, encoder, tmp_path):
    directory = pack(source, encoder, tmp_path / "shards")
    tokens = directory / "tokens-00000.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(InputError, match="files were cut or mixed"):
        TokenShards(directory)
    with pytest.raises(InputError, match="no finished token shards"):
        TokenShards(tmp_path)
