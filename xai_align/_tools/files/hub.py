"""Uploads to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.optional_package import optional_package

#: Front matter of a model's page on the hub; the text follows.
_CARD = "---\nlibrary_name: xai-align\ntags:\n- xai-align\n- explainability\n{more}---\n\n{text}\n"


def push(
    write: Callable[[Path], Any],
    name: str,
    *,
    card: str,
    tags: tuple[str, ...] = (),
    private: bool = False,
    token: str | None = None,
    message: str = "Upload with xai-align",
) -> str:
    """Upload what ``write`` writes to an empty folder, with a page; return the address of the repository.

    An existing page of the repository is kept.

    Args:
        write: gets the folder.
        name: ``owner/model``; the repository is created if it does not exist.
        card: text of the model's page.
        tags: further tags of the page.
        private: whether a new repository is.
        token: the hub's access token; None: the one that ``hf auth login`` saved.
        message: of the commit.

    Raises:
        ValueError: the name does not have this form.
        OSError: the hub refuses, or cannot be reached.
    """
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"'{name}' is not a name on the hub; give OWNER/MODEL")
    with optional_package("hf", "huggingface-hub", "uploads to the hub"):
        from huggingface_hub import HfApi
    with TemporaryDirectory() as made:
        folder = Path(made)
        write(folder)
        more = "".join(f"- {tag}\n" for tag in tags)
        try:
            api = HfApi(token=token)
            address = str(api.create_repo(name, private=private, exist_ok=True))
            if not api.file_exists(name, "README.md"):
                write_whole(folder / "README.md", _CARD.format(more=more, text=card))
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
        except Exception as error:  # the client has many errors: no network, no access, a name in use
            raise OSError(
                f"'{name}' could not be uploaded to the hub ({type(error).__name__}: {in_one_clause(error)}); "
                "check the name and the token (hf auth login)"
            ) from error
    return address
