"""A folder to the Hub in one commit, so that whoever loads gets the old state or the new one and nothing between."""

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

# What earlier pushes of a model may have left and a new one would contradict: other shards, other code, other parts.
OUTDATED_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*_gill.py",
    "language_model_lora/*",
    "retrieval_set/*",
    "samples/*",
    "vae/*",
    "text_encoder/*",
    "tokenizer/*",
    "unet/*",
    "scheduler/*",
)

# Which library huggingface_hub speaks HTTP with has changed more than once.
_LINE_ERRORS = tuple(one for one in HfHubHTTPError.__mro__ if one.__module__.split(".")[0] in ("httpx", "httpx2"))


class OneCommit:
    """Files on their way to a repository of the Hub.

    Not `HfApi.upload_folder`, which makes several commits where `hf_xet` is installed.

    Args:
        files (`Mapping[str, Path]`): What each file of the repository is to hold. Others stay.
        repo_id (`str`), repo_type (`str`): Where to; made if need be, `private` or not.
        revision (`str`, *optional*): Branch, made if need be.
        outdated (`Iterable[str]`): Patterns of files that go, in the same commit, where they are sent no longer.
        api (`HfApi`)
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        repo_id: str,
        api: HfApi,
        *,
        repo_type: str = "model",
        outdated: Iterable[str] = OUTDATED_FILES,
        private: bool | None = None,
        revision: str | None = None,
    ) -> None:
        self.repo_id, self.repo_type, self.api = repo_id, repo_type, api
        self.private, self.revision, self.outdated = private, revision, tuple(outdated)
        self._additions = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        self._head: Any = None

    def upload(self) -> None:
        """Send what is large. None of it can be seen before [`OneCommit.commit`].

        Raises:
            PermissionError: the token is wrong, or the repository is another's.
            HfHubHTTPError, OSError: whatever else the Hub or the line says.
        """
        with clear_hub_errors(self.repo_id):
            where = {"repo_type": self.repo_type}
            if not self.api.repo_exists(self.repo_id, **where):
                self.api.create_repo(self.repo_id, private=self.private, exist_ok=True, **where)
            name = self.repo_id
            if self.revision is not None:
                self.api.create_branch(name, branch=self.revision, exist_ok=True, **where)
            self._head = self.api.repo_info(name, revision=self.revision, **where)
            self.api.preupload_lfs_files(name, self._additions, revision=self.revision, free_memory=False, **where)

    def commit(self, message: str, more: Mapping[str, bytes] | None = None) -> Any:
        """Make all of it the repository's newest state, together with `more` files.

        Returns:
            `CommitInfo`: With `oid` and `commit_url`.

        Raises:
            As [`OneCommit.upload`]; ValueError: the Hub refuses the card. The repository holds what it held before.
        """
        if self._head is None:
            self.upload()
        more = dict(more or {})
        kept = [one for one in self._additions if one.path_in_repo not in more]
        sent = {one.path_in_repo for one in kept} | {*more}
        gone = [
            CommitOperationDelete(path_in_repo=entry.rfilename)
            for entry in self._head.siblings or []
            if entry.rfilename not in sent and any(fnmatch.fnmatch(entry.rfilename, one) for one in self.outdated)
        ]
        additions = [CommitOperationAdd(name, content) for name, content in more.items()]
        with clear_hub_errors(self.repo_id):
            # With its parent named, a commit is refused where someone else has committed since.
            return self.api.create_commit(
                self.repo_id,
                [*gone, *kept, *additions],
                commit_message=message,
                repo_type=self.repo_type,
                revision=self.revision,
                parent_commit=self._head.sha,
            )


@contextlib.contextmanager
def clear_hub_errors(repo_id: str) -> Iterator[None]:
    """Say in words what the Hub's refusals mean."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise PermissionError(
                f"The Hub does not accept the token for {repo_id!r}; log in with `hf auth login`, or set HF_TOKEN."
            ) from error
        if status == 403:
            raise PermissionError(
                f"{repo_id!r} is another's: the token may not write there. Name a repository of your own, or of an "
                "organisation that the token may write to."
            ) from error
        if status == 412:
            raise OSError(
                f"Someone else has changed {repo_id!r} meanwhile; nothing was changed. Push again."
            ) from error
        raise
    except _LINE_ERRORS as error:
        raise OSError(f"The line to the Hub broke while pushing to {repo_id!r}: {error}") from error


def files_of(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Every file under a folder, by its name in the repository."""
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}


__all__ = ["OUTDATED_FILES", "OneCommit", "clear_hub_errors", "files_of"]
