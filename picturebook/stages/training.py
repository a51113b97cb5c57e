"""Training of everything from scratch, stage by stage, each with its metrics and a contact sheet.

The result, `DIR/gill`, is a self-contained GILL repository.
"""

import time
from collections.abc import Callable
from pathlib import Path

import datasets
import diffusers
import transformers

from ..arguments import PicturebookTrainArguments
from . import assemble_repository as repository
from . import train_adapters as adapters
from . import train_autoencoder as autoencoder
from . import train_clip as clip
from . import train_decision as decision
from . import train_generator as generator
from . import train_language_model as language_model
from .run_folder import RunFolder
from .settings import FAST, FULL, Settings

Stage = Callable[[RunFolder, Settings, int], None]

STAGES: dict[str, Stage] = {
    autoencoder.STAGE: autoencoder.train_autoencoder,
    clip.STAGE: clip.train_clip,
    generator.STAGE: generator.train_generator,
    language_model.STAGE: language_model.train_language_model,
    adapters.STAGE: adapters.train_adapters,
    repository.STAGE: repository.assemble_repository,
    decision.STAGE: decision.train_decision,
}


def train(arguments: PicturebookTrainArguments) -> Path:
    """
    Train everything from scratch, stage by stage; stages that are done are skipped, so a run resumes where it stopped.

    Returns:
        `Path`: The GILL repository with the backbones, the adapters and the retrieval set.

    Example:

        >>> from picturebook import PicturebookTrainArguments, train
        >>> train(PicturebookTrainArguments(out=Path("runs/picturebook"), fast=True))  # doctest: +SKIP
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    run = RunFolder(Path(arguments.out))
    run_stages(run, FAST if arguments.fast else FULL, arguments.seed, arguments.until)
    if arguments.until is None:
        print(f"The repository: {run.folder(repository.STAGE)}")
    return run.folder(repository.STAGE)


def run_stages(run: RunFolder, settings: Settings, seed: int = 0, until: str | None = None) -> None:
    """Run all stages that are not done, in their order; `until` names the last one."""
    for name, stage in STAGES.items():
        if run.is_done(name):
            print(f"{name}: done before", flush=True)
        else:
            start = time.monotonic()
            stage(run, settings, seed)
            print(f"{name}: {(time.monotonic() - start) / 60:.1f} min", flush=True)
        if name == until:
            return
