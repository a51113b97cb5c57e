"""Visual Storytelling: draw or find the last image of a story (paper, section 4.1, tables 1 and 2).

    python -m evaluation_gill.vist generation --model org/gill --annotations val.story-in-sequence.json \
        --images DIR --context images --out OUT
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .command_line import add_drawing, data_protocol, drawing_of, load_system, measures_of, new_parser, run_command
from .generation_task import Example, generate_and_measure
from .image_files import ImageFolder, leave_out_or_refuse
from .results import LeftOut, Results
from .retrieval_task import Query, retrieve_and_measure
from .stories import Story, read_stories
from .systems import Prompt

CONTEXTS = {
    "caption": "last caption",
    "captions": "all captions",
    "images": "all captions and all images but the last",
}


def prompt_of(story: Story, context: str, files: dict[str, Path]) -> Prompt:
    """What is shown of a story; `context` is one of [`CONTEXTS`]."""
    if context == "caption":
        return Prompt((story.captions[-1],))
    if context == "captions":
        return Prompt((" ".join(story.captions),))
    pieces: list[str | Path] = []
    for caption, image in zip(story.captions[:-1], story.images[:-1], strict=True):
        pieces += [caption, files[image]]
    return Prompt((*pieces, story.captions[-1]))


def main(arguments: Sequence[str] | None = None) -> Results:
    """Evaluate; see `--help`."""
    options = _parser().parse_args(arguments)
    every = read_stories(options.annotations)
    folder = ImageFolder(options.images)
    # All images of the file, whatever is left out below: they are the candidates.
    files = {name: path for story in every for name in story.images if (path := folder.find(name)) is not None}
    stories = every[: options.limit]
    # Also where images are not shown: then all contexts are measured on the same stories.
    incomplete = [LeftOut(f"story {story.name}", missing) for story in stories if (missing := _missing(story, files))]
    left_out = leave_out_or_refuse(incomplete, options.leave_out_incomplete, len(stories))
    gone = {one.example for one in left_out}
    stories = [story for story in stories if f"story {story.name}" not in gone]
    protocol = {
        **data_protocol("VIST", options.annotations),
        "limit": options.limit,
        "context": CONTEXTS[options.context],
        "target": "last image of each story",
        "texts_joined_by": " " if options.context == "captions" else None,
    }
    if options.what == "generation":
        system = load_system(options, "draw")
        _refuse_images(options, system)
        examples = [
            Example(story.name, prompt_of(story, options.context, files), files[story.images[-1]], story.captions[-1])
            for story in stories
        ]
        return generate_and_measure(
            "vist generation",
            system,
            examples,
            protocol,
            folder=options.out,
            drawing=drawing_of(options),
            measures=measures_of(options),
            seed=options.seed,
            seeding=options.seeding,
            batch_size=options.batch_size,
            left_out=left_out,
        )
    system = load_system(options, "embed_prompts")
    _refuse_images(options, system)
    queries = [
        Query(
            story.name,
            prompt_of(story, options.context, files),
            story.images[-1],
            story.images[:-1] if options.mask else (),
        )
        for story in stories
    ]
    masking = "images that the story has shown are no candidates" if options.mask else "none"
    return retrieve_and_measure(
        "vist retrieval",
        system,
        queries,
        files,
        {**protocol, "masking": masking},
        folder=options.out,
        batch_size=options.batch_size,
        left_out=left_out,
    )


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("vist", "Visual Storytelling: draw or find the last image of each story.")
    parser.add_argument("what", choices=["generation", "retrieval"])
    parser.add_argument("--annotations", type=Path, required=True, help="VIST's val.story-in-sequence.json")
    parser.add_argument("--images", type=Path, required=True, help="folder of images, named by their Flickr ids")
    parser.add_argument("--context", choices=list(CONTEXTS), default="images", help="what is shown of a story")
    parser.add_argument(
        "--no-mask", dest="mask", action="store_false", help="let images that the story has shown be candidates"
    )
    add_drawing(parser, ["clip_image_similarity", "lpips"])
    return parser


def _missing(story: Story, files: dict[str, Path]) -> str:
    missing = [name for name in story.images if name not in files]
    return f"its images {', '.join(missing)} are not in the folder" if missing else ""


def _refuse_images(options: argparse.Namespace, system: object) -> None:
    if options.context == "images" and not getattr(system, "reads_images", True):
        raise ValueError(
            f"`--baseline {options.baseline}` reads no images; choose `--context caption` or `--context captions`."
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
