"""Visual Dialog: draw or find the image that a dialogue is about, or rank the answers to its questions.

    python -m evaluation_gill.visdial generation --model org/gill --annotations visdial_1.0_val.json \
        --images VisualDialog_val2018 --rounds 10 --out OUT
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .bootstrap import interval_of_mean
from .command_line import add_drawing, data_protocol, drawing_of, load_system, measures_of, new_parser, run_command
from .dialogues import Dialogue, read_dialogues
from .generation_task import Example, generate_and_measure
from .image_files import ImageFolder, leave_out_or_refuse
from .metric_loading import load_metric
from .results import RESULTS_FILE, Figure, LeftOut, Results
from .retrieval_task import Query, retrieve_and_measure
from .systems import Prompt


def main(arguments: Sequence[str] | None = None) -> Results:
    """Evaluate; see `--help`."""
    options = _parser().parse_args(arguments)
    every = read_dialogues(options.annotations, options.dense)
    folder = ImageFolder(options.images)
    files = {one.image: path for one in every if (path := _file_of(folder, one)) is not None}
    dialogues = every[: options.limit]
    incomplete = [
        LeftOut(f"dialogue on image {one.image}", reason)
        for one in dialogues
        if (reason := _incomplete(one, files, options))
    ]
    left_out = leave_out_or_refuse(incomplete, options.leave_out_incomplete, len(dialogues))
    gone = {one.example for one in left_out}
    dialogues = [one for one in dialogues if f"dialogue on image {one.image}" not in gone]
    protocol = {**data_protocol("VisDial 1.0", options.annotations), "limit": options.limit}
    if options.what == "answers":
        return _rank_answers(options, dialogues, files, protocol, left_out)
    protocol |= {"rounds": options.rounds, "context": "dialogue alone", "texts_joined_by": "\n"}
    prompts = [Prompt(("\n".join(one.lines(options.rounds)),)) for one in dialogues]
    if options.what == "generation":
        examples = [
            Example(str(one.image), prompt, files[one.image], prompt.text)
            for one, prompt in zip(dialogues, prompts, strict=True)
        ]
        return generate_and_measure(
            "visdial generation",
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
    candidates = {str(image): path for image, path in files.items()}
    queries = [Query(str(one.image), prompt, str(one.image)) for one, prompt in zip(dialogues, prompts, strict=True)]
    return retrieve_and_measure(
        "visdial retrieval",
        load_system(options, "embed_prompts"),
        queries,
        candidates,
        {**protocol, "masking": "none"},
        folder=options.out,
        batch_size=options.batch_size,
        left_out=left_out,
    )


def _rank_answers(
    options: argparse.Namespace,
    dialogues: list[Dialogue],
    files: dict[int, Path],
    protocol: dict[str, Any],
    left_out: list[LeftOut],
) -> Results:
    """Rank the options of every round by their likelihood after image and dialogue (FROMAGe, section 4.2)."""
    system = load_system(options, "answer_scores")
    scores: list[list[float]] = []
    sparse: list[list[float]] = []
    dense: dict[int, list[float]] = {}
    for one in tqdm(dialogues, desc="visdial answers", unit="dialogue", disable=None):
        for number, asked in enumerate(one.rounds):
            text = "\n".join([*one.lines(number), f"Q: {asked.question}?", "A: "])
            prompt = Prompt((files[one.image], text))
            if asked.relevance is not None:
                dense[len(scores)] = list(asked.relevance)
            scores.append(system.answer_scores(prompt, asked.options, options.batch_size))
            sparse.append([float(place == asked.right) for place in range(len(asked.options))])
    ranking = load_metric("retrieval_ranking").compute(predictions=scores, references=sparse)["scores"]
    ranking.pop("ndcg")
    if dense:
        judged = load_metric("retrieval_ranking").compute(
            predictions=[scores[place] for place in dense], references=list(dense.values())
        )
        ranking["ndcg"] = judged["scores"]["ndcg"]
    figures = [
        Figure(name, sum(values) / len(values), len(values), interval_of_mean(values))
        for name, values in ranking.items()
    ]
    full = {
        **protocol,
        "context": "image and dialogue so far",
        "texts_joined_by": "\n",
        "examples": len(scores),
        "candidates": "the options of each round",
        "score": "log-likelihood of the answer, summed over its tokens",
        "ties": "mean over all orders",
        "ndcg_over": f"{len(dense)} densely annotated rounds",
    }
    results = Results("visdial answers", system.describe(), full, figures, left_out)
    results.write(options.out / RESULTS_FILE)
    return results


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("visdial", "Visual Dialog: draw or find a dialogue's image, or rank answers.")
    parser.add_argument("what", choices=["generation", "retrieval", "answers"])
    parser.add_argument("--annotations", type=Path, required=True, help="visdial_1.0_val.json")
    parser.add_argument("--dense", type=Path, help="visdial_1.0_val_dense_annotations.json, for the NDCG of answers")
    parser.add_argument("--images", type=Path, required=True, help="folder of VisualDialog_val2018_*.jpg")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the dialogue that are shown; 10")
    add_drawing(parser, ["clip_image_similarity", "lpips"])
    return parser


def _file_of(folder: ImageFolder, dialogue: Dialogue) -> Path | None:
    number = f"{dialogue.image:012d}"
    sets = ("VisualDialog_val2018", "VisualDialog_test2018", "COCO_train2014", "COCO_val2014")
    return folder.find(number, str(dialogue.image), *(f"{name}_{number}" for name in sets))


def _incomplete(dialogue: Dialogue, files: dict[int, Path], options: argparse.Namespace) -> str:
    if dialogue.image not in files:
        return "its image is not in the folder"
    if options.what != "answers":
        found = len(dialogue.rounds)
        return "" if found >= options.rounds else f"it has {found} rounds, {options.rounds} were asked for"
    lacking = [
        number + 1
        for number, one in enumerate(dialogue.rounds)
        if one.right is None or not 0 <= one.right < len(one.options)
    ]
    return f"its rounds {lacking} have no options with a right one" if lacking else ""


if __name__ == "__main__":
    sys.exit(run_command(main))
