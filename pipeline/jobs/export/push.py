"""Upload of an export to the Hugging Face Hub, always private.

Tested with a stand-in for the client only: it has not met the real Hub.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.core.errors import ConfigError, StorageError
from pipeline.core.safety import redact

TOKEN = "HF_TOKEN"


def token_for(push: str) -> str:
    """The Hub's token, from the environment only: the config is stored with the run.

    Raises:
        ConfigError: it is not set.
    """
    token = os.environ.get(TOKEN)
    if not token:
        raise ConfigError(f"export.push: set the environment variable {TOKEN} to upload to {push}")
    return token


def upload(folder: Path, push: str) -> str:
    """Upload the folder as a private dataset; returns its address.

    ``upload_folder`` sends large folders in several commits; ``upload_large_folder`` is gone from the client's 2.x.
    Data files of an earlier upload that the folder no longer has are removed.

    Args:
        folder: a finished export.
        push: ``OWNER/NAME``.

    Raises:
        ConfigError: no token, or a public dataset of that name exists: this data may not become public by accident.
        StorageError: the Hub refused, or could not be reached; the export stays on this machine.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token_for(push))
    try:
        address = api.create_repo(push, repo_type="dataset", private=True, exist_ok=True)
        public = not api.dataset_info(push).private
        if not public:
            api.upload_folder(
                repo_id=push,
                folder_path=str(folder),
                repo_type="dataset",
                delete_patterns="data/*",
                ignore_patterns=".cache/*",
                commit_message="Lemonpress export",
            )
    except Exception as error:  # the client raises its own, httpx's and the operating system's
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StorageError(redact(f"export.push: {push}: {line}; the export itself is in {folder}")) from error
    if public:
        raise ConfigError(f"export.push: {push} exists and is public; make it private or choose another name")
    return str(address)
