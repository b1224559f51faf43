"""The tasks of JGLUE, JCoLA and JAQKET: one table, in which all that differs between tasks has its only home.

To add a task of a known kind, add a row to `TASKS` and the two files with its prompts, `NAME_base.yaml` and
`NAME_alpaca.yaml`. A new kind of item also needs a function in `items.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = ("train", "valid")
Kind = Literal["choice", "label", "similarity", "reading", "retrieval"]


class Published(NamedTuple):
    """A score that somebody published: a share or a correlation, and its standard error where one was given."""

    value: float
    standard_error: float | None = None


PublishedScores = Mapping[str, Mapping[str, Published]]  # model → metric → score


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        title: its name in tables and on model cards.
        kind: what an item is. "choice": a question with choices of its own, whose label is the place of the right one.
            "label": one or two texts with one of `labels`. "similarity": two sentences with a number from 0 to 5.
            "reading": a question on a paragraph, in files nested as those of SQuAD. "retrieval": a question with texts
            that a search engine found for it.
        folder, files: patterns of the official names, of files by split; a `*` directly after `v` is the version.
        id_column, text_columns, choice_columns: columns of the official files; of "reading" those of a question.
        labels: in the order of the choices in the prompt files.
        version: the version of the files whose scores compare; None where any is taken.
        repository: repository on GitHub, commit and folder of the official files, where they may be fetched.
        mirror: repository of Parquet files on the Hugging Face Hub that are read as well.
        sha256: checksums of the official files.
        num_items: number of items of official files whose checksum is not known here.
        items_sha256: `files.items_sha256` of the items of the official files, by which a Parquet copy is recognised.
        finetuning_metrics: what a fine-tuned model is scored by; the first one chooses the learning rate. Empty where
            recipes/classify.py cannot learn the task.
        published: scores of language models that were not trained on the task (see `PUBLISHED_SOURCE`).
        published_finetuned: scores of fine-tuned models and of humans (see `FINETUNED_SOURCE`).
    """

    title: str
    kind: Kind
    folder: str
    id_column: str
    text_columns: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=lambda: {"train": "train-v*.json", "valid": "valid-v*.json"})
    choice_columns: tuple[str, ...] = ()
    labels: tuple[str | int, ...] = ()
    version: str | None = None
    repository: str | None = None
    mirror: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    num_items: Mapping[str, int] = field(default_factory=dict)
    items_sha256: Mapping[str, str] = field(default_factory=dict)
    finetuning_metrics: tuple[str, ...] = ()
    published: PublishedScores = field(default_factory=dict)
    published_finetuned: PublishedScores = field(default_factory=dict)

    @property
    def num_choices(self) -> int:
        """Number of answers that an item offers; 0 where the answer is written freely."""
        return len(self.choice_columns or self.labels)

    def official_path(self, split: Split) -> str:
        """Return `FOLDER/FILE` of the supported version, as it is in the official repository."""
        return f"{self.folder}/{self.files[split]}".replace("v*", f"v{self.version}").rstrip("*")


NEOX_SMALL = "rinna/japanese-gpt-neox-small (0.1B)"
OPEN_CALM_MEDIUM = "cyberagent/open-calm-medium (0.4B)"
GPT_1B = "rinna/japanese-gpt-1b (1.3B)"
LARGE_LM = "line-corporation/japanese-large-lm-1.7b"
BERT_BASE, ROBERTA_BASE, HUMAN = "Tohoku BERT base", "Waseda RoBERTa base", "human"
JGLUE_REPOSITORY = "yahoojapan/JGLUE/6f071c09316baae89c3d083a90985b4b1cb9968c/datasets"

# Checksums are those of the official files; of JNLI's training file and of JCoLA those that others published, whose
# checksums of the other files are the official ones.
TASKS: dict[str, Task] = {
    "jcommonsenseqa": Task(
        title="JCommonsenseQA",
        kind="choice",
        folder="jcommonsenseqa-v*",
        id_column="q_id",
        text_columns=("question",),
        choice_columns=("choice0", "choice1", "choice2", "choice3", "choice4"),
        version="1.3",
        repository=JGLUE_REPOSITORY,
        mirror="sbintuitions/JCommonsenseQA",
        sha256={
            "train": "9b55fae5ecb3aedd6f8ce5bc09196c3b629864668ec6c18eee4d65c0aa48229e",
            "valid": "0d8d76f3bfa0d174866939882faccdd01fbc2bcd5a76c43748ba0c40a7b3b8d4",
        },
        items_sha256={
            "train": "94bd0e7a5a5a7154715a802b787c4466532181bec6ee3935b3a50dc2716771fc",
            "valid": "a85de5358543b40bc6c93d351923255dee25f4760f4975b617952500ebd71697",
        },
        finetuning_metrics=("acc",),
        published={
            NEOX_SMALL: {"acc": Published(0.34227, 0.01419)},
            OPEN_CALM_MEDIUM: {"acc": Published(0.39500, 0.01462)},
            GPT_1B: {"acc": Published(0.34763, 0.01424)},
            LARGE_LM: {"acc": Published(0.30831, 0.01381)},
        },
        published_finetuned={
            BERT_BASE: {"acc": Published(0.808)},
            ROBERTA_BASE: {"acc": Published(0.840)},
            HUMAN: {"acc": Published(0.986)},
        },
    ),
    "jnli": Task(
        title="JNLI",
        kind="label",
        folder="jnli-v*",
        id_column="sentence_pair_id",
        text_columns=("sentence1", "sentence2"),
        labels=("entailment", "contradiction", "neutral"),
        version="1.3",
        repository=JGLUE_REPOSITORY,
        sha256={
            "train": "c506354d1310807f7300cfa8ad49482c6359a84fe85eea8d5e667d90d338d1c4",
            "valid": "ca0353efc7c2eebfb6de4e13f16295053c8b1ee65e7b0849190c90426fbc495f",
        },
        finetuning_metrics=("acc",),
        published={
            NEOX_SMALL: {"acc": Published(0.30115, 0.00930)},
            OPEN_CALM_MEDIUM: {"acc": Published(0.42317, 0.01002)},
            GPT_1B: {"acc": Published(0.37675, 0.00982)},
            LARGE_LM: {"acc": Published(0.35949, 0.00973)},
        },
        published_finetuned={
            BERT_BASE: {"acc": Published(0.906)},
            ROBERTA_BASE: {"acc": Published(0.900)},
            HUMAN: {"acc": Published(0.925)},
        },
    ),
    "jsquad": Task(
        title="JSQuAD",
        kind="reading",
        folder="jsquad-v*",
        id_column="id",
        text_columns=("question",),
        version="1.3",
        repository=JGLUE_REPOSITORY,
        mirror="sbintuitions/JSQuAD",
        sha256={"valid": "fb0a57a35281ff03bbe7f0e878cff5b577985fbe6fcb242e7e8ddb63d1c0ab11"},
        num_items={"train": 62_697},
        items_sha256={"valid": "394610060c7c1c255255df9da16d956c05fb6f1ce12f779244a499f1842387c1"},
        published={
            NEOX_SMALL: {"exact_match": Published(0.05808), "f1": Published(0.19590)},
            OPEN_CALM_MEDIUM: {"exact_match": Published(0.28726), "f1": Published(0.39803)},
            GPT_1B: {"exact_match": Published(0.26182), "f1": Published(0.44675)},
            LARGE_LM: {"exact_match": Published(0.56551), "f1": Published(0.69470)},
        },
    ),
    "jsts": Task(
        title="JSTS",
        kind="similarity",
        folder="jsts-v*",
        id_column="sentence_pair_id",
        text_columns=("sentence1", "sentence2"),
        version="1.3",
        repository=JGLUE_REPOSITORY,
        sha256={
            "train": "db6bd653270ac9786759920413a48973164d322998f34dd4ae32202af5e66969",
            "valid": "7c0bdcb381179f01096c635d058853d96da1e1248d23fe3f5c2beed5dc2d9b1a",
        },
        finetuning_metrics=("pearson", "spearman"),
        published_finetuned={
            BERT_BASE: {"pearson": Published(0.909), "spearman": Published(0.868)},
            ROBERTA_BASE: {"pearson": Published(0.913), "spearman": Published(0.873)},
            HUMAN: {"pearson": Published(0.899), "spearman": Published(0.861)},
        },
    ),
    "marc_ja": Task(
        title="MARC-ja",
        kind="label",
        folder="marc_ja-v*",
        id_column="review_id",
        text_columns=("sentence",),
        labels=("positive", "negative"),
        finetuning_metrics=("acc",),
        published_finetuned={
            BERT_BASE: {"acc": Published(0.958)},
            ROBERTA_BASE: {"acc": Published(0.962)},
            HUMAN: {"acc": Published(0.989)},
        },
    ),
    "jcola": Task(
        title="JCoLA",
        kind="label",
        folder="jcola-v*",
        files={"train": "in_domain_train-v*.json*", "valid": "in_domain_valid-v*.json*"},
        id_column="uid",
        text_columns=("sentence",),
        labels=(0, 1),
        version="1.0",
        repository="osekilab/JCoLA/736d9eef3af04bb17e4cf59adf01325973234ff9/data",
        sha256={
            "train": "c665f8a8b371b34c3c8947cde3670637cf0403ac7529ba8bb62370d07f008396",
            "valid": "677fb021886b6829d6a84e8ca9f62808f6bd479fa829439f49eac4f94f23658c",
        },
        finetuning_metrics=("acc", "mcc"),
    ),
    "jaqket": Task(
        title="JAQKET",
        kind="retrieval",
        folder="jaqket-v2*",
        files={"train": "train_jaqket*.json", "valid": "dev_jaqket*.json"},
        id_column="qid",
        text_columns=("question",),
        published={
            NEOX_SMALL: {"exact_match": Published(0.03179), "f1": Published(0.15319)},
            GPT_1B: {"exact_match": Published(0.37027), "f1": Published(0.57991)},
            LARGE_LM: {"exact_match": Published(0.52062), "f1": Published(0.60433)},
        },
    ),
}

PUBLISHED_SOURCE = "Stability-AI/lm-evaluation-harness, branch jp-stable, models/**/result.json"
PUBLISHED_SETTINGS = (
    "Prompt version 0.2, in which JCommonsenseQA is answered by the number of a choice; versions 1.1 of the data, of "
    "whose JNLI 29 labels were corrected later; 3 (JCommonsenseQA, JNLI), 2 (JSQuAD) and 1 (JAQKET) examples drawn by "
    "lot; F1 of MeCab words."
)
FINETUNED_SOURCE = "yahoojapan/JGLUE, README.md (commit 7bbbe02), development set"
FINETUNED_SETTINGS = (
    "Trained on the whole training file; learning rate (2e-5, 3e-5, 5e-5) and epochs (3, 4) chosen on the very rows "
    "that are scored; no deviation is given. JNLI with the labels that version 1.2 corrected, the others as of 1.1."
)


def published_by_model(*, finetuned: bool) -> dict[str, dict[tuple[str, str], Published]]:
    """Return model → (task, metric) → published score, of models fine-tuned on the tasks or of those that were not."""
    found: dict[str, dict[tuple[str, str], Published]] = {}
    for name, task in TASKS.items():
        for model, scores in (task.published_finetuned if finetuned else task.published).items():
            found.setdefault(model, {}).update({(name, metric): score for metric, score in scores.items()})
    return found
