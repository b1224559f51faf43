"""An exported folder on the Hugging Face Hub: only when asked for, and private unless asked otherwise."""

from __future__ import annotations

from pathlib import Path

from jpllm.runtime import InputError


def refuse_without_login() -> None:
    """Raise InputError where nobody is logged in; the token itself is never touched here."""
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise InputError("push: log in to the Hugging Face Hub first: hf auth login, or set HF_TOKEN")


def push(folder: Path, repository: str, is_public: bool) -> str:
    """Upload the folder to OWNER/NAME, a new repository or one that is there; returns its address.

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
