"""Write the card of a repository's folder, or write it anew over one that was edited.

python -m hub_card.make OUT --repo-id org/gill --license apache-2.0 --results RUN/results.json --prompt "a dog"
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation_gill.results import write_text
from pipeline_gill import GillPipeline
from pipeline_gill.pipeline_repository_gill import CARD_FILE

from .card import TEMPLATE, make_card
from .edits import merge
from .facts import Facts
from .gathering import ROLES, gather
from .samples import GRID_FILE, LIST_FILE, SAMPLES_FOLDER, answer_prompts, read_samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the card; what a user did wrong ends in one line on stderr and the exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        kept = write_card(options.folder, facts_of(options), options.template)
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote {options.folder / CARD_FILE}")
    for what in kept:
        print(f"  kept as you have it: {what}")
    return 0


def facts_of(options: argparse.Namespace) -> Facts:
    """What options and folder say.

    Raises:
        OSError, ValueError: as [`gather`] and [`read_samples`].
    """
    facts = gather(
        options.folder,
        repo_id=options.repo_id,
        license=options.license,
        license_name=options.license_name,
        license_link=options.license_link,
        base_licenses=dict(options.base_license),
        results=options.results,
        languages=options.language,
        datasets=options.dataset,
    )
    place = options.folder / SAMPLES_FOLDER
    if options.samples is not None and options.samples.resolve() != place.resolve():
        read_samples(options.samples)
        shutil.copytree(options.samples, place, dirs_exist_ok=True)
    if options.prompt:
        pipeline = GillPipeline.from_pretrained(options.folder)
        size = {} if options.size is None else {"height": options.size, "width": options.size}
        answer_prompts(pipeline, options.prompt, place, num_inference_steps=options.steps, **size)
    return with_samples(facts, options.folder)


def with_samples(facts: Facts, folder: Path) -> Facts:
    """Facts with the samples that lie in a repository's folder, if any do."""
    place = folder / SAMPLES_FOLDER
    if not (place / LIST_FILE).is_file():
        return facts
    grid = f"{SAMPLES_FOLDER}/{GRID_FILE}" if (place / GRID_FILE).is_file() else None
    return replace(facts, samples=read_samples(place), sample_grid=grid)


def write_card(folder: Path, facts: Facts, template: Path = TEMPLATE) -> list[str]:
    """Write the card into a folder, keeping what was edited; returns what was kept, in words."""
    place = folder / CARD_FILE
    existing = place.read_text(encoding="utf-8") if place.is_file() else None
    text, kept = merge(existing, make_card(facts, template))
    write_text(place, text)
    return kept


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hub_card.make", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the repository")
    parser.add_argument("--repo-id", help="where it will be on the Hub, for the examples")
    parser.add_argument("--results", type=Path, nargs="+", default=[], help="results.json of evaluations")
    parser.add_argument("--license", help="of the adapters: the Hub's short name, or other")
    parser.add_argument("--license-name", help="with --license other")
    parser.add_argument("--license-link", help="with --license other")
    parser.add_argument(
        "--base-license",
        type=_pair,
        action="append",
        default=[],
        metavar="ROLE=LICENSE",
        help=f"license of a base model, whose ROLE is one of {', '.join(ROLES)}",
    )
    parser.add_argument("--language", nargs="+", default=[], help="codes of the languages that it reads, such as en")
    parser.add_argument("--dataset", nargs="+", default=[], help="Hub ids of what it was trained on")
    parser.add_argument("--samples", type=Path, help="folder with samples.json and its images")
    parser.add_argument("--prompt", action="append", default=[], help="have it answered as a sample; may be repeated")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps of the samples; 50")
    parser.add_argument("--size", type=int, help="pixels of the samples generated, both ways")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="a jinja template in place of our own")
    return parser


def _pair(text: str) -> tuple[str, str]:
    role, separator, license = text.partition("=")
    if not separator or not license:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROLE=LICENSE")
    return role, license


if __name__ == "__main__":
    sys.exit(main())
