"""Push files to the Hub in one commit, so that whoever loads the repository gets the old state or the new one."""

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

_NEW_REPOSITORY_FILES = {".gitattributes"}

# huggingface_hub has changed the library that it speaks HTTP with more than once.
_CONNECTION_ERRORS = tuple(
    error for error in HfHubHTTPError.__mro__ if error.__module__.split(".")[0] in ("httpx", "httpx2")
)


class OneCommit:
    """A commit of files to a repository of the Hub; large files are sent ahead, and nobody sees them before the commit.

    Not `HfApi.upload_folder`, which makes several commits where `hf_xet` is installed. As a context manager, a
    repository that was created and got no commit is deleted again.

    Args:
        files (`Mapping[str, Path]`): The files by their name in the repository. Other files there are kept.
        repo_id (`str`): The repository, created if need be; without a namespace, in that of the token's owner.
        api (`HfApi`): With the token to use.
        repo_type (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`, of Gradio.
        outdated (`Iterable[str]`, defaults to `()`):
            Patterns of files that the same commit deletes unless they are among `files`.
        private (`bool`, *optional*): Whether a new repository is private; the Hub's default if not given.
        revision (`str`, *optional*): Branch, created if need be.

    Example:

    ```python
    >>> from huggingface_hub import HfApi
    >>> from pipeline_gill.hub_push_gill import OneCommit, files_of

    >>> with OneCommit(files_of("my_gill"), "org/gill", HfApi()) as push:
    ...     print(push.commit("Upload GILL").commit_url)
    http.../org/gill/commit/...
    ```
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        repo_id: str,
        api: HfApi,
        *,
        repo_type: str = "model",
        outdated: Iterable[str] = (),
        private: bool | None = None,
        revision: str | None = None,
    ) -> None:
        self.repo_id, self.repo_type, self.api = repo_id, repo_type, api
        self.private, self.revision, self.outdated = private, revision, tuple(outdated)
        self._additions = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        self._head: Any = None
        self._created = False

    def __enter__(self) -> "OneCommit":
        return self

    def __exit__(self, *_: Any) -> None:
        if not self._created:
            return
        # Whatever went wrong is more important than an empty repository. It is not empty if only the answer was lost.
        with contextlib.suppress(HfHubHTTPError, OSError, *_CONNECTION_ERRORS):
            info = self.api.repo_info(self.repo_id, repo_type=self.repo_type)
            if {entry.rfilename for entry in info.siblings or []} <= _NEW_REPOSITORY_FILES:
                self.api.delete_repo(self.repo_id, repo_type=self.repo_type)

    def upload(self) -> None:
        """Create the repository if need be and send large files, which cannot be seen before [`OneCommit.commit`].

        Raises:
            PermissionError: the token is wrong or may not write to the repository.
            HfHubHTTPError, OSError: anything else that the Hub answers, or no answer.
        """
        with clear_hub_errors(self.repo_id):
            self.repo_id = full_repo_id(self.repo_id, self.api)
            where = {"repo_type": self.repo_type}
            if not self.api.repo_exists(self.repo_id, **where):
                space = {"space_sdk": "gradio"} if self.repo_type == "space" else {}
                self.api.create_repo(self.repo_id, private=self.private, exist_ok=True, **where, **space)
                self._created = True
            name = self.repo_id
            if self.revision is not None:
                self.api.create_branch(name, branch=self.revision, exist_ok=True, **where)
            self._head = self.api.repo_info(name, revision=self.revision, **where)
            self.api.preupload_lfs_files(name, self._additions, revision=self.revision, free_memory=False, **where)

    def commit(self, message: str, more: Mapping[str, bytes] | None = None) -> Any:
        """Make all files the newest state of the repository.

        Args:
            message (`str`): Of the commit.
            more (`Mapping[str, bytes]`, *optional*): Contents of more files by name, in place of files of that name.

        Returns:
            `CommitInfo`: With `oid` and `commit_url`.

        Raises:
            ValueError: the Hub refuses the card. Else as [`OneCommit.upload`]. The repository is what it was before.
        """
        if self._head is None:
            self.upload()
        more = dict(more or {})
        kept = [addition for addition in self._additions if addition.path_in_repo not in more]
        sent = {addition.path_in_repo for addition in kept} | {*more}
        outdated = [
            CommitOperationDelete(path_in_repo=entry.rfilename)
            for entry in self._head.siblings or []
            if entry.rfilename not in sent and any(_matches(entry.rfilename, pattern) for pattern in self.outdated)
        ]
        additions = [CommitOperationAdd(name, content) for name, content in more.items()]
        with clear_hub_errors(self.repo_id):
            # With its parent named, a commit is refused where someone else has committed since.
            info = self.api.create_commit(
                self.repo_id,
                [*outdated, *kept, *additions],
                commit_message=message,
                repo_type=self.repo_type,
                revision=self.revision,
                parent_commit=self._head.sha,
            )
        self._created = False
        return info


def _matches(name: str, pattern: str) -> bool:
    # A pattern without `/` is of a file in the root: `*.safetensors` is not `onnx/model.safetensors`.
    return fnmatch.fnmatchcase(name, pattern) and ("/" in pattern or "/" not in name)


def full_repo_id(repo_id: str, api: HfApi) -> str:
    """The id of a repository with its namespace: that of the token's owner where none is named."""
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


@contextlib.contextmanager
def clear_hub_errors(repo_id: str) -> Iterator[None]:
    """Turn refusals of the Hub and lost connections into errors that say what to do."""
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
                f"The token has no write access to {repo_id!r}. Name a repository of your own, or of an organization "
                "that the token may write to."
            ) from error
        if status == 412:
            raise OSError(f"Someone else has changed {repo_id!r} meanwhile; nothing was pushed. Push again.") from error
        raise
    except _CONNECTION_ERRORS as error:
        raise OSError(f"The connection to the Hub failed while pushing to {repo_id!r}: {error}") from error


def files_of(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Every file in a folder and below it, by its name relative to the folder."""
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}


__all__ = ["OneCommit", "clear_hub_errors", "files_of", "full_repo_id"]
