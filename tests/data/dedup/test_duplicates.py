import gzip
import json
import random
import re
import tracemalloc
import unicodedata
from itertools import islice

import numpy as np
import pytest

from jpllm.data.dedup import duplicates
from jpllm.data.dedup.drop_list import Duplicate, SourceDuplicates, read_drop_list, write_drop_list
from jpllm.data.dedup.duplicates import DedupConfig, find_duplicates
from jpllm.data.dedup.minhash import choose_bands, comparable, minhash_signatures, ngram_hashes
from jpllm.runtime import InputError, map_in_order

ONE = DedupConfig(processes=1)


def kanji(count: int, seed: int) -> str:
    """`count` different kanji, so that n-grams occur once."""
    return "".join(map(chr, random.Random(seed).sample(range(0x4E00, 0x9F00), count)))


def jaccard(a: str, b: str, n: int = 5) -> float:
    """The exact similarity, independent of the module."""
    grams = [{text[i : i + n] for i in range(len(text) - n + 1)} for text in (a, b)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def pair(similarity: float, seed: int, length: int = 1000) -> tuple[str, str]:
    """Two texts with a common beginning, whose Jaccard similarity is as given to 0.005."""
    text = kanji(2 * length, seed)
    num_common = round(2 * similarity / (1 + similarity) * (length - 4)) + 4
    a, b = text[:length], text[:num_common] + text[length : 2 * length - num_common]
    assert jaccard(a, b) == pytest.approx(similarity, abs=0.005)
    return a, b


def dropped(*sources: list[str], config: DedupConfig = ONE, evaluation: tuple[list[str], ...] = ()) -> list:
    """(document, kind, source, document of the original) for each duplicate, by source; sources are A, B, …"""
    found = find_duplicates(
        [(chr(65 + i), iter(texts)) for i, texts in enumerate(sources)],
        config,
        [(f"eval{i}", iter(texts)) for i, texts in enumerate(evaluation)],
    )
    return [[(d.document, d.kind, d.of_source, d.of_document) for d in source.duplicates] for source in found]


def similarity_of(a: str, b: str) -> float | None:
    (source,) = find_duplicates([("A", [a, b])], ONE)
    return source.duplicates[0].similarity if source.duplicates else None


def test_exact_duplicates_within_and_across_sources():
    a, b = kanji(100, 1), kanji(100, 2)
    assert dropped([a, b, a, "はい", "はい", a], [b, kanji(100, 3), b]) == [
        [(2, "exact", "A", 0), (4, "exact", "A", 3), (5, "exact", "A", 0)],
        [(0, "exact", "A", 1), (2, "exact", "A", 1)],
    ]


def test_blank_documents_count_as_positions_only():
    a = kanji(100, 1)
    assert dropped(["", a, "", " \n", "　", a], ["", a]) == [[(5, "exact", "A", 1)], [(1, "exact", "A", 1)]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("similarity", "is_found"), [(0.95, True), (0.9, True), (0.65, False), (0.3, False)])
def test_near_duplicates_by_their_exact_jaccard_similarity(similarity, is_found, seed):
    a, b = pair(similarity, seed)
    assert dropped([a, b]) == [[(1, "near", "A", 0)] if is_found else []]


def test_threshold_and_ngram_length_are_obeyed():
    a, b = pair(0.7, seed=1)
    assert dropped([a, b], config=DedupConfig(near_threshold=0.6, processes=1)) == [[(1, "near", "A", 0)]]
    every_tenth = "".join("々" if i % 10 == 0 else character for i, character in enumerate(a))
    assert (jaccard(a, every_tenth, 2), jaccard(a, every_tenth, 10)) == (pytest.approx(0.67, abs=0.01), 0)
    config = DedupConfig(near_threshold=0.5, ngram_characters=2, processes=1)
    assert dropped([a, every_tenth], config=config) == [[(1, "near", "A", 0)]]
    assert dropped([a, every_tenth], config=DedupConfig(near_threshold=0.5, processes=1)) == [[]]
    assert dropped([a, b, a], config=DedupConfig(duplicates="exact", processes=1)) == [[(2, "exact", "A", 0)]]


def test_estimate_is_near_the_exact_similarity():
    pairs = [pair(0.2 + 0.8 * seed / 200, seed, length=(300, 1000, 3000)[seed % 3]) for seed in range(200)]
    signatures = minhash_signatures([ngram_hashes(text, 5) for texts in pairs for text in texts], 128)
    estimates = np.mean(signatures[::2] == signatures[1::2], axis=1)
    exact = np.array([jaccard(*texts) for texts in pairs])
    assert abs(np.mean(estimates - exact)) < 0.01
    assert (np.abs(estimates - exact) < 4 * np.sqrt(exact * (1 - exact) / 128) + 1e-9).all()
    reported = [similarity_of(*texts) for texts in pairs]
    assert reported == [round(estimate, 4) if estimate >= 0.8 else None for estimate in estimates]


def test_white_space_punctuation_and_width_do_not_matter():
    a = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。ガラス玉をＡＢＣ順に１０個数えた。"
    b = "　吾輩は猫である\n\n名前は、まだ無い…… どこで生れたか とんと見当がつかぬ！ｶﾞﾗｽ玉を「ABC順」に\t10個数えた"
    assert dropped([a, b]) == [[(1, "near", "A", 0)]]
    assert similarity_of(a, b) == 1.0
    assert comparable(b) == "吾輩は猫である名前はまだ無いどこで生れたかとんと見当がつかぬガラス玉をABC順に10個数えた"


@pytest.mark.parametrize(
    "text", ["", "か\u3099　\u3099、\u3099カﾞ", "㈱ﾊﾟ½…①（ｱ）", "e\u0301\u0327\u2028é", "가각\u11a8", "𠮷🍺﷽ﬁ_―_", "ｶ ﾞ"]
)
def test_comparable_is_nfkc_without_noise(text):
    assert comparable(text) == re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", text))


def test_texts_without_an_ngram_are_compared_exactly_only():
    assert dropped(["はい。", "はい！", "…", "。", "はい。", "そうですね", "そうですね。", "そうです"]) == [
        [(4, "exact", "A", 0), (6, "near", "A", 5)]
    ]


def test_order_of_sources_decides():
    a, b = pair(0.95, seed=1)
    assert dropped([a], [b]) == [[], [(0, "near", "A", 0)]]
    assert dropped([b], [], [a]) == [[], [], [(0, "near", "A", 0)]]


def test_evaluation_texts_come_before_all_sources():
    a, b = pair(0.95, seed=1)
    c = kanji(100, 2)
    found = list(find_duplicates([("A", [b, c]), ("B", [a, c])], ONE, evaluation=[("E", [kanji(9, 3)]), ("A", [a, a])]))
    assert found == [
        SourceDuplicates("A", 2, ["E", "A"], [Duplicate(0, "near", "A", 0, True, found[0].duplicates[0].similarity)]),
        SourceDuplicates(
            "B",
            2,
            ["E", "A", "A"],
            [Duplicate(0, "exact", "A", 0, True, 1.0), Duplicate(1, "exact", "A", 1, False, 1.0)],
        ),
    ]
    assert found[0].duplicates[0].similarity == pytest.approx(0.95, abs=0.06)


def test_a_document_like_a_dropped_one_only_stays():
    text = kanji(1200, 1)
    a, b, c = text[:1000], text[50:1050], text[100:1100]
    assert (jaccard(a, b), jaccard(a, c)) == (pytest.approx(0.9, abs=0.01), pytest.approx(0.82, abs=0.01))
    config = DedupConfig(near_threshold=0.87, num_permutations=1024, processes=1)
    assert dropped([a, b, c], config=config) == [[(1, "near", "A", 0)]]
    assert dropped([b, a, c], config=config) == [[(1, "near", "A", 0), (2, "near", "A", 0)]]


def test_the_most_similar_one_that_stays_is_named():
    a, b = pair(0.95, seed=1)
    x, y = pair(0.9, seed=2)
    assert dropped([a, b, b, x]) == [[(1, "near", "A", 0), (2, "near", "A", 0)]]  # not "exact": 1 goes, too
    variant = x[:500] + "。" + x[500:]
    strict = DedupConfig(near_threshold=0.95, processes=1)
    assert dropped([y, x, variant], config=strict) == [[(2, "near", "A", 1)]]
    loose = DedupConfig(near_threshold=0.85, num_permutations=512, processes=1)
    assert dropped([y, x, variant], config=loose) == [[(1, "near", "A", 0), (2, "near", "A", 0)]]


def test_result_does_not_depend_on_processes_and_batches(monkeypatch):
    texts = [text for seed in range(40) for text in (*pair(0.9, seed, 200), kanji(30, seed), "短い")]
    results = []
    for processes, batch_documents in ((1, 1000), (1, 7), (2, 7), (3, 50)):
        monkeypatch.setattr(duplicates, "BATCH_DOCUMENTS", batch_documents)
        results.append(list(find_duplicates([("A", texts[:90]), ("B", texts[90:])], DedupConfig(processes=processes))))
    assert results[1:] == results[:1] * 3
    assert sum(len(source.duplicates) for source in results[0]) == 40 + 39


def test_only_a_few_batches_are_read_ahead():
    num_read = 0

    def batches():
        nonlocal num_read
        for number in range(100):
            num_read += 1
            yield ["x"] * number

    results = map_in_order(len, batches(), processes=2)
    assert list(islice(results, 10)) == list(range(10))
    assert num_read <= 10 + 2 * 2
    assert list(results) == list(range(10, 100))


def test_signatures_are_the_same_everywhere():
    hashes = ngram_hashes("吾輩は猫である名前はまだ無い", 5)
    assert hashes[:2].tolist() == [7531378237859749089, 16730084657001465547]
    assert minhash_signatures([hashes], 128)[0, :8].tolist() == [26217, 56797, 18427, 28235, 61504, 46865, 32591, 32080]
    repeated = np.concatenate([hashes[::-1], hashes])
    many = minhash_signatures([repeated, hashes[:0], hashes], 128)
    assert many.shape == (2, 128)
    assert (many[0] == many[1]).all()


def test_ngram_hashes_tell_ngrams_apart():
    text = "".join(random.Random(1).choices("ab猫犬", k=5000))
    hashes = ngram_hashes(text, 5)
    assert len(hashes) == 4996
    assert len(np.unique(hashes)) == len({text[i : i + 5] for i in range(4996)})
    assert len(ngram_hashes("猫犬鳥魚", 5)) == 0


@pytest.mark.parametrize(
    ("threshold", "num_permutations", "bands"),
    [(0.8, 128, (18, 7)), (0.8, 256, (28, 9)), (0.5, 128, (42, 3)), (0.95, 128, (8, 16)), (1.0, 128, (1, 128))],
)
def test_bands_are_the_longest_that_miss_two_percent(threshold, num_permutations, bands):
    def miss(rows: int) -> float:
        return (1 - threshold**rows) ** (num_permutations // rows)

    assert choose_bands(threshold, num_permutations) == bands
    assert miss(bands[1]) <= 0.02
    assert all(miss(rows) > 0.02 for rows in range(bands[1] + 1, num_permutations + 1))


def fingerprints(num_documents: int, share_of_equal: float) -> duplicates._Fingerprints:
    """Random signatures; every other one repeats a share of the values of the one before."""
    generator = np.random.default_rng(1)
    signatures = generator.integers(0, 1 << 16, (num_documents, 128), dtype=np.uint16)
    is_equal = generator.random((num_documents // 2, 128)) < share_of_equal
    signatures[1::2] = np.where(is_equal, signatures[::2], signatures[1::2])
    keys = np.arange(1, num_documents + 1, dtype=np.uint64)
    return duplicates._Fingerprints(keys, np.arange(num_documents), signatures)


@pytest.mark.parametrize(
    ("share_of_equal", "max_bytes", "least_dropped", "most_dropped"),
    [(0, 430, 0, 0), (0.7, 570, 0, 0.02), (0.75, 570, 0.05, 0.13), (0.85, 570, 0.91, 0.96), (1, 570, 1, 1)],
)
def test_memory_per_document_and_rates(share_of_equal, max_bytes, least_dropped, most_dropped):
    prints = fingerprints(5000, share_of_equal)
    tracemalloc.start()
    originals = duplicates._exact_originals(prints.keys)
    similarities = np.full(5000, np.nan, dtype=np.float32)
    duplicates._find_near(prints, 0, 0.8, originals, similarities)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept_bytes = prints.keys.nbytes + prints.signed.nbytes + prints.signatures.nbytes
    assert (peak_bytes + kept_bytes) / 5000 < max_bytes  # 1.4 million documents: 0.6 GB, or 0.8 at worst
    assert least_dropped <= np.mean(originals[1::2] >= 0) <= most_dropped
    assert (originals[::2] == -1).all()


def test_drop_list_round_trip(tmp_path):
    a, b = pair(0.95, seed=1)
    (source,) = find_duplicates([("A", ["", a, b, a])], ONE, evaluation=[("E", ["x"])])
    file = tmp_path / "lists" / "A.jsonl"
    write_drop_list(file, source, "id1", ONE.settings())
    header, near, exact = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert header.pop("settings").items() >= {"duplicates": "near", "near_threshold": 0.8, "bands": 18}.items()
    assert header == {
        "source": "A",
        "identity": "id1",
        "num_documents": 4,
        "num_exact": 1,
        "num_near": 1,
        "compared_with": ["E"],
    }
    of = {"source": "A", "document": 1, "evaluation": False}
    assert near == {"document": 2, "kind": "near", "of": of, "similarity": source.duplicates[0].similarity}
    assert exact == {"document": 3, "kind": "exact", "of": of, "similarity": 1.0}
    documents = read_drop_list(file, "A", "id1")
    assert (documents.dtype, documents.tolist()) == (np.int64, [2, 3])


def test_empty_drop_list(tmp_path):
    config = DedupConfig(duplicates="exact")
    (source,) = find_duplicates([("A", [])], config)
    write_drop_list(tmp_path / "A.jsonl", source, "id1", config.settings())
    assert json.loads((tmp_path / "A.jsonl").read_text())["settings"] == {"duplicates": "exact"}
    assert read_drop_list(tmp_path / "A.jsonl", "A", "id1").tolist() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the drop list (No such file or directory); find the duplicates of A again"),
        ("", "not a drop list (IndexError"),
        ('{"text": "a"}\n', "not a drop list (KeyError: 'num_exact')"),
        ('{"source": "A", "identity": "id1", "num_exact": 1, "num_near"', "not a drop list (JSONDecodeError"),
        ("[1]\n", "not a drop list (TypeError"),
        ('{"source": "B", "identity": "id1", "num_exact": 0, "num_near": 0}\n', "the drop list of 'B', not of 'A'"),
        ('{"source": "A", "identity": "id2", "num_exact": 0, "num_near": 0}\n', "(identity id2, now id1)"),
        (
            '{"source": "A", "identity": "id1", "num_exact": 1, "num_near": 1}\n{"document": 3}\n',
            "1 documents, and 2 in its first line",
        ),
    ],
)
def test_drop_list_that_cannot_be_used(tmp_path, content, message):
    file = tmp_path / "A.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=re.escape(f"{file}: ") + ".*" + re.escape(message)):
        read_drop_list(file, "A", "id1")


def test_sources_with_one_name_are_refused():
    with pytest.raises(InputError, match="2 sources are called 'A'; give each a name of its own"):
        list(find_duplicates([("A", []), ("A", [])], ONE))


def test_settings_without_effect_are_refused():
    problems = dict(DedupConfig(duplicates="exact", near_threshold=0.9, num_permutations=64).check())
    assert problems["near_threshold"] == "0.9 has no effect with duplicates: exact; remove it"
    assert list(problems) == ["near_threshold", "num_permutations"]
    assert not list(DedupConfig(duplicates="exact").check())
    assert not list(DedupConfig(near_threshold=0.9).check())


def test_real_works(real_data):
    with gzip.open(real_data / "aozora.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in islice(lines, 300, 330)]
    spaced = texts[5].replace("。", "。\n　")
    (source,) = find_duplicates([("aozora", [*texts, texts[3], spaced])], ONE)
    near, exact, variant = source.duplicates
    assert (near.document, near.kind, near.of_document) == (13, "near", 12)  # two editions of one novel
    assert near.similarity == pytest.approx(jaccard(*map(comparable, texts[12:14])), abs=0.04)
    assert exact == Duplicate(30, "exact", "aozora", 3, False, 1.0)
    assert variant == Duplicate(31, "near", "aozora", 5, False, 1.0)
