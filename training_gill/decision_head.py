"""Train the decision head of a model, on prompts with people's votes for a retrieved or a generated image."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from evaluation_gill.bootstrap import interval_of
from evaluation_gill.decisions import (
    DECISION_FILE,
    DECISIONS,
    AnnotationError,
    human_agreement,
    macro_f1,
    read_annotations,
    split_annotations,
    split_record,
)
from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill.repository_writer_gill import repository_folder

from .arguments import DecisionCommand, DecisionHeadOptions
from .callbacks import hide_loading_bars

_DTYPES = ("float32", "bfloat16", "float16")


def train_decision_head(
    model: str | os.PathLike[str], annotations: str | os.PathLike[str], options: DecisionHeadOptions | None = None
) -> dict[str, Any]:
    """
    Train the decision head and write it into the model's folder (paper, section 4.2).

    Args:
        model: Folder of a GILL repository.
        annotations: TSV of votes or of labels, see [`~evaluation_gill.decisions.read_annotations`].
        options ([`DecisionHeadOptions`], *optional*): The paper's by default.

    Returns:
        `dict`: What is in `results/decision.json` afterwards: metrics on the prompts that did not train the head, and
        which ones did.

    Raises:
        ValueError: annotations or options that cannot be used. OSError: a model that cannot be read or written.

    Example:

        >>> from training_gill import DecisionHeadOptions, train_decision_head
        >>> result = train_decision_head("gill", "votes.tsv", DecisionHeadOptions(steps=500))  # doctest: +SKIP
        >>> result["macro_f1"]  # doctest: +SKIP
        0.71
    """
    options, folder = options or DecisionHeadOptions(), Path(model)
    if options.dtype not in _DTYPES:
        raise ValueError(f"`dtype` must be one of {_DTYPES}, got {options.dtype!r}.")
    all_annotations = read_annotations(annotations)
    train, validation = split_annotations(all_annotations, options.train_prompts, options.split_seed)
    if not folder.is_dir():
        raise AnnotationError(f"The model {str(model)!r} is no folder; expected a GILL repository to write to.")
    gill = GillForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, options.dtype)).eval()
    gill.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    processor = GillProcessor.from_pretrained(folder)
    agreed = [*train, *validation]
    features = prompt_features(gill, processor, [annotation.prompt for annotation in agreed], options.batch_size)
    labels = np.array([DECISIONS.index(annotation.label) for annotation in agreed])
    count = len(train)
    head = fit_head(features[:count], torch.from_numpy(labels[:count]), options, gill.config.decision_dropout)
    with torch.no_grad():
        # With two classes, the more probable one is the one above 0.5.
        predicted, true = head(features[count:]).argmax(-1).numpy(), labels[count:]
    score = macro_f1(predicted, true)
    interval = interval_of(len(true), lambda drawn: macro_f1(predicted[drawn], true[drawn])) or (score, score)
    result = {
        **split_record(annotations, train, options.split_seed),
        "prompts": len(all_annotations),
        "prompts_agreed_on": len(agreed),
        "validation_prompts": len(validation),
        "macro_f1": score,
        "macro_f1_interval_95": list(interval),
        "accuracy": float((predicted == true).mean()),
        "human_agreement_macro_f1": human_agreement(agreed),
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    _write_head(gill, head, folder, result)
    return result


def run_decision(command: DecisionCommand) -> None:
    """Run `gill decision`."""
    hide_loading_bars()
    result = train_decision_head(command.model, command.annotations, command)
    low, high = result["macro_f1_interval_95"]
    people = result["human_agreement_macro_f1"]
    print(
        f"macro F1 {result['macro_f1']:.3f} (95 % interval {low:.3f} to {high:.3f}) on {result['validation_prompts']} "
        f"prompts; annotators among each other {'unknown, no votes' if people is None else f'{people:.3f}'}"
    )
    print(f"wrote the head into {command.model} and {Path(command.model) / DECISION_FILE}")


def fit_head(features: torch.Tensor, labels: torch.Tensor, options: DecisionHeadOptions, dropout: float) -> nn.Linear:
    """
    Train a linear classifier on all examples at once.

    Args:
        features (`torch.FloatTensor` of shape `(num_prompts, hidden_size)`): Hidden states at `[IMG0]`.
        labels (`torch.LongTensor` of shape `(num_prompts,)`): 0 generate, 1 retrieve.
        options ([`DecisionHeadOptions`]): Steps, learning rate and seed.
        dropout (`float`): Probability that a feature is left out in training.

    Returns:
        `nn.Linear`: From `hidden_size` to 2, float32 on the CPU.
    """
    torch.manual_seed(options.seed)
    head = nn.Linear(features.shape[1], len(DECISIONS))
    drop = nn.Dropout(dropout)
    optimizer = torch.optim.AdamW(head.parameters(), lr=options.learning_rate, weight_decay=0.0)
    for _ in tqdm(range(options.steps), desc="decision head", mininterval=1, disable=None):
        loss = nn.functional.cross_entropy(head(drop(features)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


@torch.no_grad()
def prompt_features(
    model: GillForConditionalGeneration, processor: GillProcessor, prompts: Sequence[str], batch_size: int = 16
) -> torch.Tensor:
    """What the head reads right after each prompt, float32 of shape `(num_prompts, decision_dim)` on the CPU."""
    # Prompts of about the same length together, so that little is padded.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    features = torch.zeros(len(prompts), model.config.decision_dim)
    for start in tqdm(range(0, len(order), batch_size), desc="prompts", mininterval=1, disable=None):
        numbers = order[start : start + batch_size]
        batch = processor([prompts[i] for i in numbers], add_img_tokens=True).to(model.device)
        # Not the whole `forward`: the mapper would cost as much as the language model, and nothing here reads it.
        embeds = model.embed_prompt(batch["input_ids"])
        _, states = model.read_img_states(embeds, batch["attention_mask"], use_cache=False)
        # Prompts are padded on the left, so all of them end with the `[IMG]` tokens.
        states = model.combine_img_states(states[:, -model.config.num_image_output_tokens :])
        features[numbers] = model.decision_states(states.to(model.text_retrieval_head.weight)).float().cpu()
    return features


def _write_head(model: GillForConditionalGeneration, head: nn.Linear, folder: Path, result: dict[str, Any]) -> None:
    """Put the head into the model and write both into the model's folder, in one step."""
    weight = model.text_retrieval_head.weight
    model.decision_head = head.to(weight.device, weight.dtype)
    model.config.use_decision_head = True
    with repository_folder(folder, parts=("model",)) as new:
        model.save_pretrained(new)
        path = new / DECISION_FILE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


__all__ = ["fit_head", "prompt_features", "run_decision", "train_decision_head"]
