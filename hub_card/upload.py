"""Push a repository's folder to the Hub: weights, code, card and samples in one commit.

The retrieval set goes to a dataset repository of its own, in a commit of its own, before the model: the card names the
revision that belongs to these weights, so the newest revision of the model is complete, whichever commit fails.
"""

import contextlib
import fnmatch
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError

from modeling_gill.atomic_write_gill import replace_file
from pipeline_gill.hub_layout_gill import MODEL_INDEX, index_with_retrieval_set
from pipeline_gill.hub_push_gill import OneCommit, clear_hub_errors, files_of, full_repo_id
from pipeline_gill.pipeline_repository_gill import RETRIEVAL_SET_FOLDER
from pipeline_gill.repository_writer_gill import REPOSITORY_FILES
from pipeline_gill.retrieval_storage_gill import DATA_FOLDER, INDEX_FILE, read_folder

from .arguments import PushOptions
from .card import make_card
from .edits import merge, parse, reconcile
from .facts import Facts
from .gathering import check_repository, check_travels, gather
from .writing import CARD_FILE, with_samples

# Files of training runs and of this machine, which no one loads from a repository.
NOT_SENT = (
    ".*",
    "*/.*",
    "*__pycache__/*",
    "*.pyc",
    "checkpoint-*/*",
    "runs/*",
    "*.pt",
    "*.pth",
    "*.bin",
    "*.tmp",
    "*.log",
)


def push(folder: str | os.PathLike[str], repo_id: str, *, api: HfApi | None = None, **options: Any) -> str | None:
    """Push a repository with its card to the Hub, in one commit.

    Args:
        folder: Folder of the repository.
        repo_id (`str`): Such as `"org/gill"`; created if it does not exist.
        api (`HfApi`, *optional*): With a token or endpoint of its own.
        options: Fields of [`~hub_card.arguments.PushOptions`], such as `private`, `retrieval_set` and `message`.

    Returns:
        `str`: URL of the commit, or `None` with `dry_run=True`.

    Raises:
        OSError, ValueError: the folder cannot be pushed, its card was edited here and on the Hub, or the Hub refuses
            the push.

    Example:

    ```python
    >>> import gill
    >>> gill.push("my-model", "org/my-model", private=True)  # doctest: +SKIP
    ```
    """
    return _push(PushOptions(folder=Path(folder), repo_id=repo_id, **{"yes": True, **options}), api or HfApi())


def push_and_print(options: PushOptions) -> int:
    """The command `gill push`: 0 if it was pushed or listed, 1 if the user did not agree."""
    return 0 if _push(options, HfApi()) is not None or options.dry_run else 1


def _push(options: PushOptions, api: HfApi) -> str | None:
    check_repository(options.folder)
    if not options.dry_run:
        options.repo_id = full_repo_id(options.repo_id, api)
    paths = check_travels(options.folder)
    set_id = options.retrieval_set_id or f"{options.repo_id}-retrieval-set"
    set_folder = options.retrieval_set
    sends_set = set_folder is not None
    if set_folder is not None:
        read_folder(set_folder)
    files, not_sent = files_to_send(options.folder, without_set=sends_set)
    facts = with_samples(
        gather(
            options.folder,
            repo_id=options.repo_id,
            retrieval_set=options.retrieval_set,
            retrieval_set_id=set_id if sends_set else None,
        ),
        options.folder,
    )
    print(listing(options.repo_id, files, not_sent))
    if CARD_FILE not in files:
        print(f"  {CARD_FILE:<44} generated from the folder; `gill card` can add more")
    if set_folder is not None:
        print(listing(f"datasets/{set_id}", files_of(set_folder), []))
    for path in paths:
        print(f"  note: {path}, a path of this machine")
    if options.space is not None:
        print(f"to spaces/{options.space}: the chat page of {options.repo_id}, on {options.space_hardware}")
    if options.dry_run:
        return None
    if not options.yes and not _agreed():
        print("Nothing was sent.", file=sys.stderr)
        return None

    private = options.private or None
    with contextlib.ExitStack() as stack:
        # Large files are uploaded first, which is not visible; then two short commits follow each other.
        model = stack.enter_context(
            OneCommit(without_card(files), options.repo_id, api, outdated=REPOSITORY_FILES, private=private)
        )
        model.upload()
        if set_folder is not None:
            retrieval_set = stack.enter_context(
                OneCommit(
                    without_card(files_of(set_folder)),
                    set_id,
                    api,
                    repo_type="dataset",
                    outdated=(f"{DATA_FOLDER}/*", INDEX_FILE),
                    private=private,
                )
            )
            retrieval_set.upload()
        on_hub = _card_on_hub(api, options.repo_id)
        card, kept = card_to_send(options, facts, on_hub, set_id if sends_set else None)
        changed: dict[str, bytes] = {}
        if set_folder is not None:
            linked = {CARD_FILE: _linked_to(set_folder, options.repo_id).encode()}
            sent = retrieval_set.commit(f"Retrieval set for {options.repo_id}", linked)
            print(f"pushed {sent.commit_url}")
            card, kept = card_to_send(options, facts, on_hub, set_id, sent.oid)
            # The pipeline finds its retrieval set by this.
            changed[MODEL_INDEX] = index_with_retrieval_set(options.folder, set_id, sent.oid).encode()
        commit = model.commit(options.message, {CARD_FILE: card.encode(), **changed})
    if changed:
        with replace_file(options.folder / MODEL_INDEX) as new:
            new.write_bytes(changed[MODEL_INDEX])
    for what in kept:
        print(f"  kept in the card as it was: {what}")
    print(f"pushed {commit.commit_url}")
    if options.space is not None:
        print(f"pushed {push_space(options.space, options.repo_id, options.space_hardware, api, private)}")
    return str(commit.commit_url)


def push_space(space: str, model: str, hardware: str, api: HfApi, private: bool | None = None) -> str:
    """Push a Space that shows a model, in one commit; the URL of the commit.

    Args:
        space (`str`), model (`str`): Repositories of the Hub.
        hardware (`str`): The machine that the Space suggests.
    """
    from chat_gill.space import write_space

    with tempfile.TemporaryDirectory() as folder:
        write_space(folder, model, hardware)
        outdated = ("gill/*", "modeling_gill/*", "pipeline_gill/*", "chat_gill/*")
        with OneCommit(files_of(folder), space, api, repo_type="space", outdated=outdated, private=private) as push:
            return str(push.commit(f"Chat page of {model}").commit_url)


def files_to_send(folder: Path, without_set: bool = False) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder to push, and the names of the others."""
    sent: dict[str, Path] = {}
    not_sent: list[str] = []
    for name, path in files_of(folder).items():
        inside_set = name.startswith(f"{RETRIEVAL_SET_FOLDER}/")
        # The files of a retrieval set may have any name.
        unwanted = without_set if inside_set else any(fnmatch.fnmatch(name, pattern) for pattern in NOT_SENT)
        if unwanted:
            not_sent.append(name)
        else:
            sent[name] = path
    return sent, not_sent


def listing(repo_id: str, files: dict[str, Path], not_sent: list[str]) -> str:
    """The files that a push sends, with their sizes, and those that it does not."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    lines = [f"to {repo_id}: {len(files)} files, {_size(sum(sizes.values()))}"]
    lines += [f"  {name:<44} {_size(size):>10}" for name, size in sizes.items()]
    return "\n".join([*lines, *(f"  {name:<44}   not sent" for name in not_sent)])


def card_to_send(
    options: PushOptions, facts: Facts, on_hub: str | None, set_id: str | None, revision: str | None = None
) -> tuple[str, list[str]]:
    """The folder's card, or a generated one, with edits from the Hub and the revision of the retrieval set.

    Raises:
        CardConflict: the card was edited both here and on the Hub.
    """
    place = options.folder / CARD_FILE
    if set_id is not None and facts.retrieval_set is not None:
        facts = replace(facts, retrieval_set=replace(facts.retrieval_set, name=set_id, revision=revision))
    card = place.read_text(encoding="utf-8") if place.is_file() else make_card(facts)
    if set_id is not None and place.is_file():
        card = _with_set(card, facts)
    return reconcile(card, on_hub, options.card)


def _with_set(card: str, facts: Facts) -> str:
    """The folder's card, in which the parts about the retrieval set are generated again."""
    # Everything else stays: `gill card` may have had more to state than this push.
    named = parse(card).metadata.get("datasets") or []
    datasets = [named] if isinstance(named, str) else [str(name) for name in named]
    set_name = facts.retrieval_set.name if facts.retrieval_set is not None else None
    new = make_card(replace(facts, datasets=[name for name in datasets if name != set_name]))
    return merge(card, new, sections={"loading", "retrieval_set"}, fields={"datasets"})[0]


def without_card(files: dict[str, Path]) -> dict[str, Path]:
    """All files but the card, which is merged with the one on the Hub."""
    return {name: path for name, path in files.items() if name != CARD_FILE}


def _linked_to(folder: Path, repo_id: str) -> str:
    """The card of a retrieval set, with a link to the model that it is for."""
    path = folder / CARD_FILE
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    link = f"For the model [{repo_id}](https://huggingface.co/{repo_id})."
    return card if link in card else f"{card.rstrip()}\n\n{link}\n"


def _card_on_hub(api: HfApi, repo_id: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder, clear_hub_errors(repo_id):
        try:
            return Path(api.hf_hub_download(repo_id, CARD_FILE, local_dir=folder)).read_text(encoding="utf-8")
        except EntryNotFoundError:
            return None


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise ValueError(
            "There is no terminal to ask for confirmation. `--yes` pushes without asking, `--dry-run` only lists."
        )
    return input("Send this? [y/N] ").strip().lower() in ("y", "yes")


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
