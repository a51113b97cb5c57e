"""Train the decision head of a model: `python -m training_gill.decision --model OUT --annotations FILE.tsv`.

The head is written into the model's folder, what it reaches into `results/decision.json` beside it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from tqdm import tqdm

from evaluation_gill.bootstrap import interval_of
from evaluation_gill.decisions import (
    DECISION_FILE,
    DECISIONS,
    TRAIN_PROMPTS,
    AnnotationError,
    human_agreement,
    macro_f1,
    read_annotations,
    split_annotations,
    split_record,
)
from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill.repository_writer_gill import repository_folder

from .recipe import fail


@dataclass(frozen=True)
class HeadTraining:
    """How the head is trained; the paper's numbers by default."""

    steps: int = 2000
    learning_rate: float = 1e-3
    dropout: float = 0.5
    seed: int = 0


def train_head(features: torch.Tensor, labels: torch.Tensor, how: HeadTraining) -> nn.Linear:
    """
    Train a linear classifier on all examples at once.

    Args:
        features (`torch.FloatTensor` of shape `(prompts, d)`): States at `[IMG0]`.
        labels (`torch.LongTensor` of shape `(prompts,)`): 0 generate, 1 retrieve.
        how (`HeadTraining`): Steps and the like.

    Returns:
        `nn.Linear`: From d to 2, float32 on the CPU.
    """
    torch.manual_seed(how.seed)
    head = nn.Linear(features.shape[1], len(DECISIONS))
    dropout = nn.Dropout(how.dropout)
    optimizer = torch.optim.AdamW(head.parameters(), lr=how.learning_rate, weight_decay=0.0)
    for _ in tqdm(range(how.steps), desc="decision head", mininterval=1):
        loss = nn.functional.cross_entropy(head(dropout(features)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


@torch.no_grad()
def prompt_features(
    model: GillForConditionalGeneration, processor: GillProcessor, prompts: Sequence[str], batch_size: int = 16
) -> torch.Tensor:
    """States at `[IMG0]` right after each prompt, float32 `(prompts, d)` on the CPU."""
    # Prompts of a length together, so that little is padded.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    features = torch.zeros(len(prompts), model.config.embedding_dim)
    for start in tqdm(range(0, len(order), batch_size), desc="prompts", mininterval=1):
        some = order[start : start + batch_size]
        batch = processor([prompts[i] for i in some], add_img_tokens=True).to(model.device)
        read = model(**batch, logits_to_keep=1, use_cache=False, output_images=True)
        features[some] = read.img_hidden_states[:, 0].float().cpu()
    return features


def write_head(model: GillForConditionalGeneration, head: nn.Linear, folder: Path, result: dict[str, Any]) -> None:
    """Put the head into the model and write both into the model's folder; complete or not at all."""
    weight = model.text_retrieval_head.weight
    model.decision_head = head.to(weight.device, weight.dtype)
    model.config.use_decision_head = True
    with repository_folder(folder, parts=("model",)) as beside:
        model.save_pretrained(beside)
        place = beside / DECISION_FILE
        place.parent.mkdir()
        place.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """
    Do what the command line says.

    Returns:
        `dict`: What is in `results/decision.json`.

    Raises:
        AnnotationError, OSError: annotations or a model that cannot be used.
    """
    everything = read_annotations(args.annotations)
    train, validation = split_annotations(everything, args.train_prompts, args.split_seed)
    annotations = [*train, *validation]
    if not args.model.is_dir():
        raise AnnotationError(f"--model {str(args.model)!r} is no folder; expected a GILL repository to write to.")
    model = GillForConditionalGeneration.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
    model.to(args.device)
    processor = GillProcessor.from_pretrained(args.model)
    features = prompt_features(model, processor, [one.prompt for one in annotations], args.batch_size)
    labels = np.array([DECISIONS.index(one.label) for one in annotations])
    how = HeadTraining(args.steps, args.learning_rate, model.config.decision_dropout, args.seed)
    count = len(train)
    head = train_head(features[:count], torch.from_numpy(labels[:count]), how)
    with torch.no_grad():
        # With two classes, the more probable one is the one above 0.5.
        predicted = head(features[count:]).argmax(-1).numpy()
    true = labels[count:]
    score = macro_f1(predicted, true)
    low, high = interval_of(len(true), lambda drawn: macro_f1(predicted[drawn], true[drawn])) or (score, score)
    result = {
        **split_record(args.annotations, train, args.split_seed),
        "prompts": len(everything),
        "prompts_agreed_on": len(annotations),
        "validation_prompts": len(validation),
        "macro_f1": score,
        "macro_f1_interval_95": [low, high],
        "accuracy": float((predicted == true).mean()),
        "human_agreement_macro_f1": human_agreement(annotations),
        "steps": args.steps,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
    }
    write_head(model, head, args.model, result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that cannot be used."""
    args = _parser().parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        result = run(args)
    except (AnnotationError, OSError) as error:
        return fail(error)
    low, high = result["macro_f1_interval_95"]
    people = result["human_agreement_macro_f1"]
    print(
        f"macro F1 {result['macro_f1']:.3f} (95 % interval {low:.3f} to {high:.3f}) on {result['validation_prompts']} "
        f"prompts; annotators among each other {'unknown, no votes' if people is None else f'{people:.3f}'}"
    )
    print(f"wrote the head into {args.model} and {args.model / DECISION_FILE}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training_gill.decision", description=__doc__)
    parser.add_argument("--model", required=True, type=Path, metavar="OUT", help="folder of a GILL repository")
    parser.add_argument("--annotations", required=True, type=Path, metavar="FILE", help=".tsv of votes or of labels")
    parser.add_argument(
        "--train-prompts",
        type=int,
        default=TRAIN_PROMPTS,
        metavar="N",
        help="prompts that train, of those agreed on (default: %(default)s, the paper's)",
    )
    parser.add_argument("--split-seed", type=int, metavar="SEED", help="draw them, rather than take the first")
    parser.add_argument("--steps", type=int, default=HeadTraining.steps)
    parser.add_argument("--learning-rate", type=float, default=HeadTraining.learning_rate)
    parser.add_argument("--seed", type=int, default=0, help="of the head's weights and dropout")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts read at once")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
