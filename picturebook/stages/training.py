"""Everything from nothing: `python -m picturebook.train --out DIR [--fast]`.

Stage by stage, each with its figures (`DIR/figures`) and a contact sheet (`DIR/sheets`). The same command again goes on
where it was stopped. What comes out, `DIR/gill`, is a GILL repository with everything in it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import diffusers
import transformers

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
    autoencoder.STAGE: lambda run, settings, seed: autoencoder.train_autoencoder(
        run, settings.autoencoder, settings.autoencoder_widths, seed
    ),
    clip.STAGE: lambda run, settings, seed: clip.train_clip(
        run, settings.clip, settings.clip_width, settings.clip_layers, seed
    ),
    generator.STAGE: lambda run, settings, seed: generator.train_generator(
        run, settings.generator, settings.generator_widths, settings.measured, seed
    ),
    language_model.STAGE: lambda run, settings, seed: language_model.train_language_model(
        run,
        settings.language_model,
        settings.language_model_width,
        settings.language_model_layers,
        settings.measured,
        seed,
    ),
    adapters.STAGE: adapters.train_adapters,
    repository.STAGE: repository.write_repository,
    decision.STAGE: decision.train_decision,
}


def train(run: RunFolder, settings: Settings, seed: int = 0, until: str | None = None) -> None:
    """Run all stages that are not done, in their order; `until` names the last."""
    for name, stage in STAGES.items():
        if run.is_done(name):
            print(f"{name}: done before", flush=True)
        else:
            begun = time.monotonic()
            stage(run, settings, seed)
            print(f"{name}: {(time.monotonic() - begun) / 60:.1f} min", flush=True)
        if name == until:
            return


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a disc that is full or a file in the way ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser("picturebook.train", description="Train the picture book's world from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, and to go on in")
    parser.add_argument("--fast", action="store_true", help="a few minutes, to see that all of it works")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    parser.add_argument("--until", choices=list(STAGES), help="stop after this stage")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    run = RunFolder(options.out)
    try:
        train(run, FAST if options.fast else FULL, options.seed, options.until)
    except OSError as error:
        sys.exit(f"train: {error}")
    if options.until is None:
        print(f"The repository: {run.folder(repository.STAGE)}")


if __name__ == "__main__":
    main()
