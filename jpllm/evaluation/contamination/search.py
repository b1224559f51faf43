"""Search for benchmark items in training documents.

Each document is read once and compared with all items (`NgramIndex`). Hits are reported for each of these parts of a
benchmark:

- each column of an item: a question, a sentence;
- the columns of an item together, where it has several;
- the columns together with a right answer near them, since an answer alone is a word that occurs in any corpus;
- the context, such as the paragraph of a reading task, which may come from a source that is trained on.

A text shorter than an n-gram is looked for as a whole, and counts where all choices of its item are near it. Without
choices it cannot be told from ordinary language, and is counted as too short.

Why 7-grams and 0.9: in 23 million letters of Aozora Bunko, older than JGLUE, none of the 10,473 questions and sentences
of its validation files is found, with 5-grams 10 are; of 8,939 training questions of JCommonsenseQA 18 are, phrases of
7 or 8 letters that anyone may write. Of that task's questions 9 % are shorter than 7 letters, 20 % than 9. Questions
about one paragraph share words: at 0.8, 8 % of JSQuAD's would be found in another one, at 0.9 3 %. A text of fewer than
ten n-grams needs all of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise, product

from jpllm.config.settings import option
from jpllm.data.dedup.minhash import comparable
from jpllm.evaluation.contamination.benchmarks import Benchmark, Item
from jpllm.evaluation.contamination.index import NgramIndex, Stretch

BATCH_CHARACTERS = 1 << 19


@dataclass
class ContaminationConfig:
    """Search"""

    ngram_characters: int = option(
        7,
        "Letters and digits in an n-gram; a shorter text counts only with all choices of its item near it.",
        minimum=2,
        maximum=50,
    )
    min_share: float = option(
        0.9, "Share of a text's n-grams that a document must have close together.", minimum=0.5, maximum=1
    )
    near_characters: int = option(
        200, "Letters and digits around a text in which the rest of its item is looked for.", minimum=1
    )


@dataclass
class Hit:
    """The first place of a part of an item.

    Attributes:
        document: position of the document in its source, as in drop lists.
        share: share of the n-grams that were found; of several texts the lowest.
        excerpt: the letters and digits that stand there.
        num_documents: in how many documents it is.
    """

    source: str
    document: int
    share: float
    excerpt: str
    num_documents: int = 1


@dataclass
class Part:
    """A part of the items of a benchmark, and the hits by position of the item in the file.

    Attributes:
        num_too_short: number of items whose part is too short to be looked for.
        num_only_with_choices: number of items whose part counts only with all choices near it.
    """

    name: str
    num_too_short: int = 0
    num_only_with_choices: int = 0
    hits: dict[int, Hit] = field(default_factory=dict)


@dataclass
class Findings:
    """The hits of a benchmark.

    Attributes:
        parts: each column, the columns together, the columns with an answer, and the context, where they exist.
        whole: position in `parts` of the whole item: its only column, or its columns together.
    """

    benchmark: Benchmark
    parts: list[Part]
    whole: int


class ContaminationSearch:
    """A search for the items of benchmarks in one source after another.

    Attributes:
        findings: the hits so far, for each benchmark.
    """

    def __init__(self, benchmarks: Sequence[Benchmark], config: ContaminationConfig) -> None:
        self._near_characters, length = config.near_characters, config.ngram_characters
        self._items = [list(map(_comparable_item, benchmark.items)) for benchmark in benchmarks]
        self.findings = [_no_hits(*pair, length) for pair in zip(benchmarks, self._items, strict=True)]
        long: dict[str, list[_Use]] = defaultdict(list)
        self._short: list[tuple[str, tuple[str, ...], _Use]] = []  # each with its choices
        for number, (findings, items) in enumerate(zip(self.findings, self._items, strict=True)):
            context_part = len(findings.parts) - 1
            for position, item in enumerate(items):
                for part, text in chain(enumerate(item.texts), [(context_part, item.context)]):
                    if len(text) >= length:
                        long[text].append(_Use(number, position, part))
                    elif text and item.choices:
                        self._short.append((text, item.choices, _Use(number, position, part)))
        self._index = NgramIndex(list(long), length, config.min_share)
        self._uses = list(long.values())

    def look_in(self, source: str, documents: Iterable[tuple[int, str]]) -> Iterator[dict[str, int]]:
        """Search the documents of a source, given with their positions; yield the counts of each batch."""
        for batch in _batches(documents):
            texts = [comparable(text) for _, text in batch]
            found: dict[tuple[int, int, int], dict[int, list[Stretch]]] = defaultdict(lambda: defaultdict(list))
            for use, stretch in chain(self._long_texts(texts), self._short_texts(texts)):
                found[stretch.document, use.benchmark, use.item][use.part].append(stretch)
            for (document, benchmark, item), stretches in found.items():
                for part, hit in self._hits(benchmark, item, stretches, texts[document]):
                    first = (
                        self.findings[benchmark]
                        .parts[part]
                        .hits.setdefault(item, Hit(source, batch[document][0], *hit, num_documents=0))
                    )
                    first.num_documents += 1
            yield {"documents": len(batch), "characters": sum(len(text) for _, text in batch)}

    def _long_texts(self, documents: Sequence[str]) -> Iterator[tuple[_Use, Stretch]]:
        for stretch in self._index.find(documents):
            for use in self._uses[stretch.text]:
                yield use, stretch

    def _short_texts(self, documents: Sequence[str]) -> Iterator[tuple[_Use, Stretch]]:
        """Yield the first place in each document where a text too short for the index has all its choices near it."""
        for number, document in enumerate(documents):
            for text, choices, use in self._short:
                # The first choice is the longest and the rarest; most documents lack it.
                if choices[0] not in document or text not in document:
                    continue
                for match in re.finditer(re.escape(text), document):
                    if self._are_near(choices, match.start(), match.end(), document):
                        yield use, Stretch(-1, number, match.start(), match.end(), 1.0)
                        break

    def _hits(
        self, benchmark: int, item: int, stretches: dict[int, list[Stretch]], document: str
    ) -> Iterator[tuple[int, tuple[float, str]]]:
        """Yield the parts of an item that a document holds, each with share and excerpt; `stretches` are by part."""
        for part, found in stretches.items():
            yield part, _share_and_excerpt([max(found, key=lambda stretch: stretch.share)], document)
        findings, answers = self.findings[benchmark], self._items[benchmark][item].answers
        columns = range(len(findings.benchmark.columns))
        if not all(column in stretches for column in columns):
            return
        whole: list[Stretch] = []
        for one_of_each in product(*(stretches[column] for column in columns)):
            together = sorted(one_of_each, key=lambda stretch: stretch.start)
            if any(after.start - before.stop > self._near_characters for before, after in pairwise(together)):
                continue
            whole = whole or together
            if not answers:
                break
            start, stop = together[0].start, together[-1].stop
            if any(self._are_near([answer], start, stop, document) for answer in answers):
                yield findings.whole + 1, _share_and_excerpt(together, document)
                break
        if whole and len(columns) > 1:
            yield findings.whole, _share_and_excerpt(whole, document)

    def _are_near(self, texts: Sequence[str], start: int, stop: int, document: str) -> bool:
        """Return whether all texts stand just before or behind the letters `start` to `stop` − 1."""
        before = document[max(0, start - self._near_characters) : start]
        behind = document[stop : stop + self._near_characters]
        return all(text in before or text in behind for text in texts)


@dataclass(frozen=True)
class _Use:
    """The benchmark, item and part that a text belongs to, as positions."""

    benchmark: int
    item: int
    part: int


def _comparable_item(item: Item) -> Item:
    """Return the item in the form that is compared; the longest choices come first."""
    texts, answers, choices = (tuple(map(comparable, of)) for of in (item.texts, item.answers, item.choices))
    choices = tuple(sorted(filter(None, choices), key=len, reverse=True))
    return Item(item.id, texts, tuple(filter(None, answers)), choices, comparable(item.context))


def _no_hits(benchmark: Benchmark, items: Sequence[Item], ngram_characters: int) -> Findings:
    """Return findings without hits, for a benchmark with its items in the form that is compared."""
    whole = " + ".join(benchmark.columns)
    texts: dict[str, list[tuple[str, ...]]] = {
        name: [(item.texts[column],) for item in items] for column, name in enumerate(benchmark.columns)
    }
    texts[whole] = [item.texts for item in items]  # the column itself where there is one
    position = len(texts) - 1
    if benchmark.answer:
        texts[f"{whole} + {benchmark.answer}"] = [item.texts if item.answers else ("",) for item in items]
    if benchmark.context:
        texts[benchmark.context] = [(item.context,) for item in items]
    parts = [Part(name) for name in texts]
    for part in parts:
        for item, of_item in zip(items, texts[part.name], strict=True):
            short = [text for text in of_item if len(text) < ngram_characters]
            can_be_found = all(short) and item.choices
            part.num_only_with_choices += bool(short and can_be_found)
            part.num_too_short += bool(short and not can_be_found)
    return Findings(benchmark, parts, position)


def _share_and_excerpt(stretches: Sequence[Stretch], document: str) -> tuple[float, str]:
    excerpt = " … ".join(document[stretch.start : stretch.stop] for stretch in stretches)
    return min(stretch.share for stretch in stretches), excerpt


def _batches(documents: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Yield lists of documents with about BATCH_CHARACTERS characters."""
    batch: list[tuple[int, str]] = []
    num_characters = 0
    for position, text in documents:
        batch.append((position, text))
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch
