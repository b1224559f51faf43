"""The files of a benchmark in the user's folder: which version they are, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from jpllm.config import option
from jpllm.evaluation.jglue import data
from jpllm.runtime import InputError

Task = Literal["jcommonsenseqa", "jnli", "jsquad", "jsts", "marc_ja", "jcola", "jaqket"]
Style = Literal["base", "alpaca"]
TASKS: tuple[Task, ...] = get_args(Task)

VERSIONS = {"jcommonsenseqa": "1.3", "jnli": "1.3", "jsquad": "1.3", "jsts": "1.3", "jcola": "1.0"}  # of the others any
KNOWN_SHA256 = {  # of the official files; of jnli/train and jcola as others published them, who agree on the rest
    "jcommonsenseqa/train": "9b55fae5ecb3aedd6f8ce5bc09196c3b629864668ec6c18eee4d65c0aa48229e",
    "jcommonsenseqa/valid": "0d8d76f3bfa0d174866939882faccdd01fbc2bcd5a76c43748ba0c40a7b3b8d4",
    "jnli/train": "c506354d1310807f7300cfa8ad49482c6359a84fe85eea8d5e667d90d338d1c4",
    "jnli/valid": "ca0353efc7c2eebfb6de4e13f16295053c8b1ee65e7b0849190c90426fbc495f",
    "jsquad/valid": "fb0a57a35281ff03bbe7f0e878cff5b577985fbe6fcb242e7e8ddb63d1c0ab11",
    "jsts/train": "db6bd653270ac9786759920413a48973164d322998f34dd4ae32202af5e66969",
    "jsts/valid": "7c0bdcb381179f01096c635d058853d96da1e1248d23fe3f5c2beed5dc2d9b1a",
    "jcola/train": "c665f8a8b371b34c3c8947cde3670637cf0403ac7529ba8bb62370d07f008396",
    "jcola/valid": "677fb021886b6829d6a84e8ca9f62808f6bd479fa829439f49eac4f94f23658c",
}
KNOWN_SIZES = {"jsquad/train": 62_697}  # of files whose sum is not known here
KNOWN_ITEMS_SHA256 = {  # `items_sha256` of the same items, by which a copy in another form is known
    "jcommonsenseqa/train": "94bd0e7a5a5a7154715a802b787c4466532181bec6ee3935b3a50dc2716771fc",
    "jcommonsenseqa/valid": "a85de5358543b40bc6c93d351923255dee25f4760f4975b617952500ebd71697",
    "jsquad/valid": "394610060c7c1c255255df9da16d956c05fb6f1ce12f779244a499f1842387c1",
}


@dataclass
class JglueConfig:
    """JGLUE, for the part jglue; jglue_dir and any_jglue_content also for jglue_finetuned"""

    jglue_dir: Path | None = option(None, "Folder with the official files: datasets/ of yahoojapan/JGLUE, or alike.")
    tasks: list[Task] | None = option(None, "Tasks of the part jglue; by default those whose files are in jglue_dir.")
    style: Style = option("base", "Wording of the questions: base, or alpaca for instruction-tuned models.")
    num_fewshot: int | None = option(None, "Examples before each question; by default as on the boards.", minimum=0)
    limit: int | None = option(None, "Score only the first items of each task.", minimum=1)
    any_jglue_content: bool = option(False, "Also take files of jglue_dir that are not as they were published.")
    contamination: Path | None = option(
        None, "Report of jpllm data contamination: score also without the items that it found in training texts."
    )


@dataclass(frozen=True)
class TaskData:
    """Checked files of a task.

    Args:
        folder: what lm-evaluation-harness is given as `jglue_dir`.
        version: from the name of the folder of the task, such as `1.3`; of Parquet files `1.3 as Parquet` where the
            items to score are those of that version, else `? as Parquet`.
        sha256: of the files `valid` and, where there is one, `train`.
    """

    task: Task
    folder: Path
    version: str
    sha256: dict[str, str]

    @property
    def shots_from(self) -> str:
        """The file with the few-shot examples: `train`, or `valid`, whose last items are then not scored."""
        return "train" if "train" in self.sha256 else "valid"

    @property
    def max_shots(self) -> int:
        return data.NUM_SHOTS if self.shots_from == "train" else data.NUM_SHOTS_HELD_OUT


def find_all(folder: Path, tasks: Sequence[Task] | None = None, any_content: bool = False) -> list[TaskData]:
    """The files of `tasks`, or of all tasks that are in `folder`: JGLUE's repository, its `datasets`, or one like it.

    Raises:
        InputError: there is no such folder, a task is not in it, or `check` refuses one.
    """
    if not folder.is_dir():
        raise InputError(f"jglue_dir: {folder}: no such folder")
    present = [task for task in TASKS if data.find_files(task, folder)]
    if not present:
        names = ", ".join(name for name, *_ in data.FILES.values())
        mirrors = ", ".join(name.partition("/")[2] for name in data.MIRRORS.values())
        raise InputError(
            f"jglue_dir: {folder} has no folder of a task ({names}, or as Parquet {mirrors}); see docs/evaluation.md"
        )
    if absent := [task for task in tasks or () if task not in present]:
        names = ", ".join(data.FILES[task][0] for task in absent)
        raise InputError(f"jglue_dir: {folder} has no {names}; of the tasks it holds {', '.join(present)}")
    return [check(task, folder, any_content) for task in tasks or present]


def check(task: Task, folder: Path, any_content: bool = False) -> TaskData:
    """The files of a task, read once; with `any_content` they need not be those that were published.

    Raises:
        InputError: the validation file is missing, a version is not the supported one, or a file is broken, cut, or
            not as it was published.
    """
    files = data.find_files(task, folder)
    if "valid" not in files:
        raise InputError(f"jglue_dir: {folder} has no {'/'.join(data.FILES[task][::2])}")
    is_mirror = files["valid"].suffix == ".parquet"
    version = "" if is_mirror else _folder_version(task, files["valid"].parent)
    sums = {name: verified(task, name, files[name], any_content) for name in sorted(files, reverse=True)}
    return TaskData(task, folder, _mirror_version(task, files["valid"]) if is_mirror else version, sums)


def verified(task: Task, name: str, file: Path, any_content: bool = False) -> str:
    """SHA-256 of the file `name` (`train`, `valid`) of a task, once it is read whole and compared with what is known.

    Raises:
        InputError: broken, or with other content than was published, unless `any_content`.
    """
    try:
        items = list(data.read_items(task, file))
    except ValueError as error:
        raise InputError(str(error)) from error
    found, key = hashlib.sha256(file.read_bytes()).hexdigest(), f"{task}/{name}"
    if any_content:
        return found
    if file.suffix == ".parquet":
        known = KNOWN_ITEMS_SHA256.get(key)
        is_same = known is None or items_sha256(items) == known
        published = "the items of version 1.3"
    else:
        is_same = found == KNOWN_SHA256.get(key, found) and len(items) == KNOWN_SIZES.get(key, len(items))
        published = "the file that was published"
    if not is_same:
        raise InputError(
            f"{file}: {len(items):,} items, not {published} (sha256 {found[:12]}…): it is cut or "
            "changed; fetch it again, or score it as it is with any_jglue_content: true"
        )
    return found


def items_sha256(items: Iterable[dict]) -> str:
    """A sum of items as `data.read_items` gives them, the same for each form of a file."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _folder_version(task: Task, folder: Path) -> str:
    """The version in the name of a folder.

    Raises:
        InputError: not the supported one.
    """
    version = re.search(r"-v([\d.]+)$", folder.name)
    found = version[1] if version else "?"
    if found != VERSIONS.get(task, found):
        raise InputError(
            f"{folder}: version {found} of {task}; scores are those of version {VERSIONS[task]}, whose "
            "labels are others: take that one"
        )
    return found


def _mirror_version(task: Task, valid: Path) -> str:
    """Parquet files do not say it; the items to score do."""
    is_known = items_sha256(data.read_items(task, valid)) == KNOWN_ITEMS_SHA256[f"{task}/valid"]
    return f"{VERSIONS[task] if is_known else '?'} as Parquet"
