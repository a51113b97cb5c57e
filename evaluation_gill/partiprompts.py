"""PartiPrompts: does the model retrieve where people prefer the retrieved image? (paper, section 4.2)"""

import numpy as np
from tqdm.auto import tqdm

from .arguments import PartiPromptsOptions
from .bootstrap import interval_of
from .decisions import (
    DECISIONS,
    f1_scores,
    held_out_annotations,
    macro_f1,
    read_annotations,
    read_split_record,
)
from .metric_loading import load_metric
from .results import RESULTS_FILE, MetricValue, Results
from .systems import Prompt
from .tasks import data_protocol, load_system

# A plain generator always generates and CLIP always retrieves: a decision has to be better than both.
_ALWAYS = {"generator": "generate", "clip": "retrieve"}


def run(options: PartiPromptsOptions) -> Results:
    """Evaluate; see [`~evaluation_gill.evaluate`]."""
    annotations = read_annotations(options.annotations)
    has_head = options.baseline is None and options.model is not None and options.part != "all"
    record = read_split_record(str(options.model), options.revision) if has_head else None
    train, validation = held_out_annotations(annotations, options.annotations, record, options.train_prompts)
    selected = {"validation": validation, "train": train, "all": [*train, *validation]}[options.part][: options.limit]
    if not selected:
        raise ValueError(
            f"{options.annotations} leaves no prompt for the part `{options.part}`: {len(train) + len(validation)} of "
            f"{len(annotations)} prompts are agreed on, {len(train)} of them are for training."
        )
    preferred = [annotation.label for annotation in selected]
    if options.baseline:
        described = {"kind": options.baseline, "name": f"always {_ALWAYS[options.baseline]}", "revision": None}
        decided = [_ALWAYS[options.baseline]] * len(selected)
    else:
        system = load_system(options, "decide")
        described = system.describe()
        prompts = [Prompt((annotation.prompt,)) for annotation in selected]
        decided = []
        begins = range(0, len(prompts), options.batch_size)
        for begin in tqdm(begins, desc="partiprompts", unit="batch", disable=None):
            probabilities = system.decide(prompts[begin : begin + options.batch_size]).tolist()
            decided += ["retrieve" if item > options.threshold else "generate" for item in probabilities]
    protocol = {
        **data_protocol("PartiPrompts", options),
        "part": options.part,
        "train_prompts": len(train),
        "split": "first prompts train" if record is None else "as recorded when the head was trained",
        "threshold": options.threshold,
        "examples": len(selected),
        "not_agreed_on": len(annotations) - len(train) - len(validation),
        "agreement": "4 equal votes, or 3 with at most 1 against",
        "retrieve": preferred.count("retrieve"),
    }
    results = Results("partiprompts decisions", described, protocol, _metrics(decided, preferred))
    results.write(options.out / RESULTS_FILE)
    return results


def _metrics(decided: list[str], preferred: list[str]) -> list[MetricValue]:
    computed = load_metric("decision_f1").compute(predictions=decided, references=preferred)
    predicted, true = (np.array([DECISIONS.index(word) for word in words]) for words in (decided, preferred))
    # The metric loads its file each time, too slow for a thousand bootstrap samples.
    statistics = {
        "decision_f1": lambda rows: macro_f1(predicted[rows], true[rows]),
        "f1_generate": lambda rows: f1_scores(predicted[rows], true[rows])[0],
        "f1_retrieve": lambda rows: f1_scores(predicted[rows], true[rows])[1],
        "accuracy": lambda rows: float((predicted[rows] == true[rows]).mean()),
    }
    return [
        MetricValue(name, computed[name], len(true), interval_of(len(true), statistics[name])) for name in statistics
    ]


__all__ = ["run"]
