"""The Hugging Face Hub: what it asks of names and of a model card, and the upload of an exported folder.

The Hub checks a card when it is uploaded; here its rules are checked before, without the network. Of these rules the
package `huggingface_hub` has the form of `model-index`; the identifiers are listed here. Sources:
https://huggingface.co/docs/hub/repositories-licenses, https://huggingface.co/docs/hub/model-cards, ISO 639-1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jpllm.config.types import suggest
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

_LICENCES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense
    zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 gemma unknown other
"""
_LANGUAGES = """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
    es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg
    ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn
    no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta
    te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu code multilingual
"""
LICENCES, LANGUAGES = frozenset(_LICENCES.split()), frozenset(_LANGUAGES.split())
_THREE_LETTERS = re.compile(r"[a-z]{3}")  # ISO 639-3 has thousands, which the Hub takes too


def licence_problem(licence: str) -> str | None:
    """Return what is wrong with the identifier of a licence; None where the Hub knows it."""
    if licence in LICENCES:
        return None
    return (
        f"{licence!r} is no identifier that the Hub knows{suggest(licence.lower(), LICENCES)}; for a licence that it "
        "does not list write other, and give license_name and license_link"
    )


def language_problem(language: str) -> str | None:
    """Return what is wrong with the code of a language; None where it can be one that the Hub knows."""
    if language in LANGUAGES or _THREE_LETTERS.fullmatch(language):
        return None
    return f"{language!r} is no code of ISO 639, such as ja or en"


def card_problems(card: str) -> Iterator[str]:
    """Yield a sentence for each thing in the metadata of a card that the Hub would refuse or not show."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = cast("ModelCardData", ModelCard(card).data)
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        yield f"the metadata cannot be read: {error}"
        return
    if not data.to_dict():
        yield "there is no metadata: the card does not begin with a block between lines of ---"
        return
    yield from _licence_problems(data)
    for language in _listed(data.language):
        if found := language_problem(language):
            yield f"language: {found}"
    if data.pipeline_tag is not None:
        from transformers.pipelines import get_supported_tasks

        if data.pipeline_tag not in get_supported_tasks():
            yield f"pipeline_tag: {data.pipeline_tag!r} is no task{suggest(data.pipeline_tag, get_supported_tasks())}"
    for key in ("datasets", "base_model"):
        for name in _listed(getattr(data, key)):
            if not is_repository(name):
                yield f"{key}: {name!r} is no name of a repository on the Hub"
    for result in data.eval_results or ():
        if not isinstance(result.metric_value, int | float | str):
            yield f"model-index: the value of {result.metric_type} is {result.metric_value!r}"


def is_repository(name: str) -> bool:
    """Return whether a repository of the Hub can have that name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def refuse_without_login() -> None:
    """Raise InputError where nobody is logged in to the Hub; the token itself is not read."""
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise InputError("push: log in to the Hugging Face Hub first: hf auth login, or set HF_TOKEN")


def push(folder: Path, repository: str, is_public: bool) -> str:
    """Upload the folder to the repository OWNER/NAME, which is made where there is none, and return its address.

    Raises:
        InputError: the repository is public and `is_public` is not set, or the Hub refuses; nothing of an error's own
            text is shown, for it may hold what was sent.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=not is_public, exist_ok=True)
        is_private = bool(api.model_info(repository).private)
        if is_private or is_public:
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by jpllm export")
    except Exception as error:  # the network's, the Hub's and the file system's
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"{type(error).__name__}{f' {status}' if status else ''}"
        raise InputError(
            f"push: {repository}: the upload failed ({reason}); the folder {folder} is whole, and "
            f"hf upload {repository} {folder} tries again"
        ) from None
    if not (is_private or is_public):
        raise InputError(f"push: {repository} is there and public; --public pushes to it, or name another one")
    return f"https://huggingface.co/{repository}"


def _licence_problems(data: ModelCardData) -> Iterator[str]:
    if data.license is None:
        yield "license: there is none"
    elif found := licence_problem(str(data.license)):
        yield f"license: {found}"
    elif data.license == "other" and not (data.license_name and data.license_link):
        yield "license: other needs license_name and license_link"


def _listed(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [] if value is None else [str(value)]
