"""PartiPrompts: does the model retrieve where people prefer what is retrieved? (paper, section 4.2)

python -m evaluation_gill.partiprompts --model org/gill --annotations PartiPromptsAllDecisions_Alignment.tsv --out OUT
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .bootstrap import interval_of
from .command_line import data_protocol, load_system, new_parser, run_command
from .decisions import (
    DECISIONS,
    f1_scores,
    held_out_annotations,
    macro_f1,
    read_annotations,
    read_split_record,
)
from .metric_loading import load_metric
from .results import RESULTS_FILE, Figure, Results
from .systems import Prompt

# A plain generator always generates, CLIP always retrieves: what deciding has to beat.
_ALWAYS = {"generator": "generate", "clip": "retrieve"}


def main(arguments: Sequence[str] | None = None) -> Results:
    """Evaluate; see `--help`."""
    options = _parser().parse_args(arguments)
    every = read_annotations(options.annotations)
    has_head = options.baseline is None and options.model is not None and options.part != "all"
    record = read_split_record(options.model, options.revision) if has_head else None
    train, validation = held_out_annotations(every, options.annotations, record, options.train)
    chosen = {"validation": validation, "train": train, "all": [*train, *validation]}[options.part][: options.limit]
    if not chosen:
        raise ValueError(
            f"{options.annotations} leaves no prompt for `--part {options.part}`: {len(train) + len(validation)} of "
            f"{len(every)} prompts are agreed on, {len(train)} of them are for training."
        )
    preferred = [one.label for one in chosen]
    if options.baseline:
        described = {"kind": options.baseline, "name": f"always {_ALWAYS[options.baseline]}", "revision": None}
        decided = [_ALWAYS[options.baseline]] * len(chosen)
    elif options.model is None:
        raise ValueError("`--model` is missing; name GILL's repository or folder, or a `--baseline`.")
    else:
        system = load_system(options, "decide")
        described = system.describe()
        prompts = [Prompt((one.prompt,)) for one in chosen]
        decided = []
        for begin in tqdm(range(0, len(prompts), options.batch_size), desc="partiprompts", unit="batch", disable=None):
            likely = system.decide(prompts[begin : begin + options.batch_size]).tolist()
            decided += ["retrieve" if one > options.threshold else "generate" for one in likely]
    figures = _figures(decided, preferred)
    protocol = {
        **data_protocol("PartiPrompts", options.annotations),
        "part": options.part,
        "train_prompts": len(train),
        "split": "first prompts train" if record is None else "as recorded when the head was trained",
        "threshold": options.threshold,
        "limit": options.limit,
        "examples": len(chosen),
        "not_agreed_on": len(every) - len(train) - len(validation),
        "agreement": "4 equal votes, or 3 with at most 1 against",
        "retrieve": preferred.count("retrieve"),
    }
    results = Results("partiprompts decisions", described, protocol, figures)
    results.write(options.out / RESULTS_FILE)
    return results


def _figures(decided: list[str], preferred: list[str]) -> list[Figure]:
    found = load_metric("decision_f1").compute(predictions=decided, references=preferred)
    predicted, true = (np.array([DECISIONS.index(word) for word in words]) for words in (decided, preferred))
    # The metric loads its file each time, too slow for a thousand bootstrap samples.
    statistics = {
        "decision_f1": lambda rows: macro_f1(predicted[rows], true[rows]),
        "f1_generate": lambda rows: f1_scores(predicted[rows], true[rows])[0],
        "f1_retrieve": lambda rows: f1_scores(predicted[rows], true[rows])[1],
        "accuracy": lambda rows: float((predicted[rows] == true[rows]).mean()),
    }
    return [Figure(name, found[name], len(true), interval_of(len(true), statistics[name])) for name in statistics]


def _parser() -> argparse.ArgumentParser:
    about = "PartiPrompts: how well the model decides. Baselines need no --model: generator always generates, clip "
    parser = new_parser("partiprompts", f"{about}always retrieves.", needs_model=False)
    parser.add_argument("--annotations", type=Path, required=True, help="the authors' TSV of votes or of labels")
    parser.add_argument("--part", choices=["validation", "train", "all"], default="validation")
    parser.add_argument(
        "--train", type=int, help="agreed prompts that trained the head; by default what the model records, else 600"
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="probability above which it retrieves; 0.5")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
