"""Macro F1 of the decision to retrieve or to generate."""

from typing import Any

import datasets
import evaluate
import torch
from torchmetrics.functional.classification import multiclass_f1_score

_DESCRIPTION = """
Mean of the F1 scores of the classes `generate` and `retrieve`, as GILL reports for its decision head (Koh et al. 2023,
https://arxiv.org/abs/2305.17216, section 4.2).
"""
_INPUTS = """
Args:
    predictions: what was decided, "generate" or "retrieve".
    references: what people preferred, the same words.
Returns:
    decision_f1 (float): macro F1. f1_generate, f1_retrieve, accuracy (float).
Raises:
    ValueError: no decisions, or another word, naming it.
"""
_CITATION = "@inproceedings{koh2023gill, title={Generating Images with Multimodal Language Models}, year={2023}}"
_CLASSES = ("generate", "retrieve")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class DecisionF1(evaluate.Metric):
    """Macro F1 over two decisions."""

    def _info(self) -> evaluate.MetricInfo:
        word = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": word, "references": word}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        if not len(predictions):
            raise ValueError("decision_f1 was given no decisions.")
        unknown = sorted({*predictions, *references} - {*_CLASSES})
        if unknown:
            raise ValueError(f"decision_f1 knows the decisions {_CLASSES}, got {unknown}.")
        decided = torch.tensor([_CLASSES.index(word) for word in predictions])
        preferred = torch.tensor([_CLASSES.index(word) for word in references])
        each = multiclass_f1_score(decided, preferred, num_classes=2, average="none")
        # Not torchmetrics' own macro mean: that leaves out a class that nobody decided or preferred.
        return {
            "decision_f1": float(each.double().mean()),
            "f1_generate": float(each[0]),
            "f1_retrieve": float(each[1]),
            "accuracy": float((decided == preferred).double().mean()),
        }
