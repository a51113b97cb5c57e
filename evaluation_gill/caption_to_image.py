"""Captions of COCO or CC3M: draw the image of each (FID, CLIP similarity), or find it among all.

    python -m evaluation_gill.caption_to_image generation --model org/gill --annotations captions_val2014.json \
        --images val2014 --inception inception-2015-12-05.pt --out OUT
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from .captions import Caption, read_captions
from .command_line import add_drawing, data_protocol, drawing_of, load_system, measures_of, new_parser, run_command
from .generation_task import Example, generate_and_measure
from .image_files import ImageFolder, leave_out_or_refuse
from .results import LeftOut, Results
from .retrieval_task import Query, retrieve_and_measure
from .systems import Prompt


def main(arguments: Sequence[str] | None = None) -> Results:
    """Evaluate; see `--help`."""
    options = _parser().parse_args(arguments)
    every = read_captions(options.annotations)
    folder = ImageFolder(options.images)
    files = {one.image: path for one in every if (path := folder.find(one.image)) is not None}
    captions = _sample(every, options)
    incomplete = [
        LeftOut(f"caption {one.name}", f"its image {one.image} is not in the folder")
        for one in captions
        if one.image not in files
    ]
    left_out = leave_out_or_refuse(incomplete, options.leave_out_incomplete, len(captions))
    captions = [one for one in captions if one.image in files]
    protocol = {
        **data_protocol("captions", options.annotations),
        "sample": "all, in the file's order" if options.sample is None else f"{options.sample}, seed {options.seed}",
        "context": "caption alone",
        "limit": options.limit,
        "captions_per_image": "one" if options.one_per_image else "all",
    }
    if options.what == "generation":
        examples = [Example(one.name, Prompt((one.text,)), files[one.image], one.text) for one in captions]
        return generate_and_measure(
            "captions generation",
            load_system(options, "draw"),
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
    queries = [Query(one.name, Prompt((one.text,)), one.image) for one in captions]
    return retrieve_and_measure(
        "captions retrieval",
        load_system(options, "embed_prompts"),
        queries,
        files,
        {**protocol, "masking": "none"},
        folder=options.out,
        batch_size=options.batch_size,
        left_out=left_out,
    )


def _sample(captions: list[Caption], options: argparse.Namespace) -> list[Caption]:
    if options.one_per_image:
        captions = list({one.image: one for one in reversed(captions)}.values())[::-1]
    if options.sample is not None:
        if options.sample > len(captions):
            raise ValueError(f"`--sample {options.sample}` is more than the {len(captions)} captions there are.")
        captions = random.Random(options.seed).sample(captions, options.sample)
    return captions[: options.limit]


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("caption_to_image", "Draw or find the images of captions.")
    parser.add_argument("what", choices=["generation", "retrieval"])
    parser.add_argument(
        "--annotations", type=Path, required=True, help="COCO's captions JSON, or a TSV of captions and files"
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--sample", type=int, help="so many captions, chosen by the seed; all by default")
    parser.add_argument("--one-per-image", action="store_true", help="only the first caption of each image")
    add_drawing(parser, ["fid", "clip_text_similarity"])
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
