import json
import multiprocessing
from dataclasses import replace

import pytest

from jpllm.cli import main
from jpllm.data.clean.pipeline import CleanRule
from jpllm.data.documents import read_documents
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards import token_shards
from jpllm.data.shards.pack import PackConfig, Part, is_held_out, pack, text_rank
from jpllm.data.shards.token_shards import TokenShards, token_dtype
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
    assert (packed.label, packed.eos_token_id) == ("docs", 0)


def test_held_out_documents_are_chosen_by_their_text(source, encoder, tmp_path):
    directory = pack(source, encoder, tmp_path / "shards", held_out_fraction=0.1)
    held_out = [json.loads(line)["text"] for line in (directory / "held_out.jsonl").open(encoding="utf-8")]
    assert held_out == [text for text in TEXTS if text_rank(text) < 0.1]
    assert len(held_out) == 16  # of 200, near the 20 expected
    packed = TokenShards(directory)
    kept = [text for text in TEXTS if not is_held_out(text, 0.1)]
    assert packed.tokens(0, packed.size.num_tokens).tolist() == [token for text in kept for token in ids(text)]
    meta = token_shards.read_meta(directory)
    assert (packed.size.num_held_out_documents, packed.size.num_blank_documents, packed.size.num_rows) == (16, 2, 202)
    assert meta["size"]["num_documents"] == 184


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


def test_failed_build_leaves_the_quarantine_alone(tmp_path, encoder):
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"bad.jsonl:2: invalid UTF-8"):
        pack(SourceConfig(str(tmp_path / "bad.jsonl")), encoder, tmp_path / "shards")
    assert [path for path in (tmp_path / "shards").iterdir() if path.is_dir()] == []
    (row,) = (tmp_path / "shards" / "bad.quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(row) == {
        "place": f"{tmp_path / 'bad.jsonl'}:2",
        "reason": "invalid UTF-8",
        "detail": "byte 0xff at position 10 of the line; convert the file to UTF-8, or set encoding",
    }


def test_few_bad_rows_are_counted_and_kept_apart(tmp_path, encoder):
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": 1}\n{"text": "b"}\n{"text": null}\n')
    source = SourceConfig(str(tmp_path / "bad.jsonl"), max_bad_fraction=0.5)
    directory = pack(source, encoder, tmp_path / "shards", held_out_fraction=0)
    size = TokenShards(directory).size
    assert (size.num_rows, size.num_documents, size.num_bad_rows) == (4, 2, 2)
    assert token_shards.read_meta(directory)["bad_rows"] == {
        "column 'text' holds no text": 1,
        "column 'text' is null": 1,
    }
    places = [json.loads(line)["place"] for line in (directory / "quarantine.jsonl").open(encoding="utf-8")]
    assert places == [f"{source.path}:2", f"{source.path}:4"]


def files_of(directory):
    """Name and content of every file, the lock and the remembered hash left out."""
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


class KilledError(Exception):
    """Stands for a process that ends: nothing of ours handles it."""


@pytest.fixture
def many_batches(monkeypatch):
    """A batch every 50 characters: 21 batches of the source."""
    monkeypatch.setattr("jpllm.data.documents.BATCH_CHARACTERS", 50)


@pytest.mark.parametrize("num_batches_before", [0, 1, 7, 20])
def test_killed_build_goes_on_and_gives_the_same_bytes(
    source, encoder, tmp_path, many_batches, monkeypatch, num_batches_before
):
    whole = pack(source, encoder, tmp_path / "whole", held_out_fraction=0.1)
    append = token_shards.ShardWriter.append
    written = []

    def append_until_killed(self, batch):
        if len(written) == num_batches_before:
            raise KilledError
        written.append(batch.number)
        append(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(token_shards.ShardWriter, "append", append_until_killed)
        with pytest.raises(KilledError):
            pack(source, encoder, tmp_path / "killed", held_out_fraction=0.1)
    (partial,) = (tmp_path / "killed").glob("*.partial")
    for name in ("tokens.bin", "batches.jsonl"):  # the disk has half of the next batch too
        with (partial / name).open("ab") as stream:
            stream.write(b'{"half')
    calls = encoder.num_calls
    resumed = pack(source, encoder, tmp_path / "killed", held_out_fraction=0.1)
    assert files_of(resumed) == files_of(whole)
    assert encoder.num_calls - calls == 21 - num_batches_before
    assert not partial.exists()


def test_batches_that_did_not_reach_the_disk_are_made_again(source, encoder, tmp_path, many_batches, monkeypatch):
    whole = pack(source, encoder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("jpllm.data.shards.pack._Job.finish", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            pack(source, encoder, tmp_path / "lost")
    (partial,) = (tmp_path / "lost").glob("*.partial")
    tokens = partial / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:1000])
    assert files_of(pack(source, encoder, tmp_path / "lost")) == files_of(whole)


@pytest.mark.parametrize("total", [1, 2, 3, 40])
def test_parts_together_are_the_whole(source, encoder, tmp_path, many_batches, total):
    whole = pack(source, encoder, tmp_path / "whole", held_out_fraction=0.1)
    for number in reversed(range(1, total + 1)):
        if number < total:
            with pytest.raises(InputError, match=f"parts 1/{total}.* are missing or unfinished"):
                pack(source, encoder, tmp_path / "parts", held_out_fraction=0.1)
        pack(source, encoder, tmp_path / "parts", held_out_fraction=0.1, part=Part(number, total))
    calls = encoder.num_calls
    joined = pack(source, encoder, tmp_path / "parts", held_out_fraction=0.1)
    assert encoder.num_calls == calls
    assert files_of(joined) == files_of(whole)
    assert [path.name for path in (tmp_path / "parts").iterdir() if path.is_dir()] == [joined.name]


@pytest.mark.slow
def test_processes_do_not_change_the_bytes(source, encoder, tmp_path, many_batches):
    source.clean = [CleanRule("whitespace"), CleanRule("length", at_least=5)]
    one, three = (pack(source, encoder, tmp_path / str(n), 0.1, processes=n) for n in (1, 3))
    assert files_of(one) == files_of(three)
    assert token_shards.read_meta(one)["size"]["dropped"] == {"length": 10}


def test_cleaning_and_reading_settings_make_other_shards(source, encoder, tmp_path):
    first = pack(source, encoder, tmp_path / "shards", 0)
    for name, value in (("clean", [CleanRule("nfkc")]), ("max_rows", 3), ("where", {"text": "文書1。"})):
        changed = replace(source, **{name: value})
        assert pack(changed, encoder, tmp_path / "shards", 0) != first
    assert pack(replace(source, weight=3.0, licence="CC0"), encoder, tmp_path / "shards", 0) == first


@pytest.mark.parametrize("part", ["0/4", "5/4", "x", "1/0"])
def test_a_part_is_one_of_several(part):
    ((key, _),) = PackConfig(sources=[], tokenizer="t", part=part).check()
    assert key == "part"
    assert PackConfig(sources=[], tokenizer="t", part="4/4").chosen_part == Part(4, 4)


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


def test_type_follows_the_vocabulary(source, encoder, tmp_path):
    assert [token_dtype(size).str for size in (65_535, 65_536, 65_537)] == ["<u2", "<u2", "<u4"]
    for size, width in ((65_536, 2), (65_537, 4)):
        encoder.vocab_size, encoder.eos_token_id = size, size - 1
        directory = pack(source, encoder, tmp_path / str(size), 0)
        packed = TokenShards(directory)
        assert packed.tokens(len(ids(TEXTS[0])) - 2, len(ids(TEXTS[0]))).tolist() == [ids(TEXTS[0])[-2], size - 1]
        assert (directory / "tokens.bin").stat().st_size == width * packed.size.num_tokens
        with pytest.raises(IndexError):
            packed.tokens(0, packed.size.num_tokens + 1)


def test_cut_or_foreign_files_are_refused(source, encoder, tmp_path):
    directory = pack(source, encoder, tmp_path / "shards")
    tokens = directory / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(InputError, match="the file was cut or mixed"):
        TokenShards(directory)
    with pytest.raises(InputError, match="no finished token shards"):
        TokenShards(tmp_path)


def test_duplicates_are_left_out_by_a_drop_list(encoder, tmp_path):
    texts = ["一つ目の文書。", "二つ目の文書。", "一つ目の文書。", "短い"]
    write_jsonl(({"text": text} for text in texts), tmp_path / "docs.jsonl")
    write_jsonl([{"text": "二つ目の文書。"}], tmp_path / "eval.jsonl")
    entry = {"path": str(tmp_path / "docs.jsonl"), "clean": [{"rule": "length", "at_least": 3}]}
    command = ["data", "dedup", "--sources", json.dumps(entry), "--eval_sources", str(tmp_path / "eval.jsonl")]
    assert main([*command, "--output_dir", str(tmp_path / "lists"), "--processes", "1"]) == 0
    source = SourceConfig(entry["path"], clean=[CleanRule("length", at_least=3)])
    source.exclude = str(tmp_path / "lists" / "docs.duplicates.jsonl")
    size = TokenShards(pack(source, encoder, tmp_path / "shards", 0)).size
    assert (size.num_documents, size.num_duplicate_documents, size.dropped) == (1, 2, {"length": 1})
    assert list(read_documents(source)) == ["一つ目の文書。"]
    source.clean = []
    with pytest.raises(InputError, match=r"docs.duplicates.jsonl: made for other texts"):
        pack(source, encoder, tmp_path / "shards", 0)
