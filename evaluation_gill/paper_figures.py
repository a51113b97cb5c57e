"""What the paper reports, and under which protocol: compared with ours only where the protocol is the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .results import Results

_VIST = {
    "data": "VIST",
    "annotations": "val.story-in-sequence.json",
    "limit": None,
    "target": "last image of each story",
}
_CONTEXTS = ("last caption", "all captions", "all captions and all images but the last")
_DRAWN = {
    **_VIST,
    "seed": 42,
    "seeding": "one generator for the whole run",
    "drawing.steps": 50,
    "drawing.guidance": 7.5,
}
_METRICS: dict[str, dict[str, Any]] = {
    "clip_image_similarity": {"metrics.clip_image_similarity.model": "openai/clip-vit-large-patch14"},
    "lpips": {"metrics.lpips.network": "alexnet", "metrics.lpips.size": 256},
}
# Koh et al. 2023, table 1: a row for each system, a number for each context.
_TABLE_1 = {
    "clip_image_similarity": {
        "GLIDE": (0.582, 0.591),
        "Stable Diffusion": (0.592, 0.598),
        "GILL": (0.581, 0.612, 0.641),
    },
    "lpips": {"GLIDE": (0.753, 0.745), "Stable Diffusion": (0.703, 0.704), "GILL": (0.702, 0.696, 0.693)},
}
_MASKED = {**_VIST, "masking": "images that the story has shown are no candidates"}


@dataclass(frozen=True)
class PaperFigure:
    """A number of the paper; `protocol` holds what must be equal in the protocol of a result, by dotted names."""

    system: str
    task: str
    figure: str
    value: float
    protocol: Mapping[str, Any]

    def is_comparable(self, results: Results) -> bool:
        """Whether `results` were measured as this was."""
        return self.task == results.task and all(
            _lookup(results.protocol, name) == value for name, value in self.protocol.items()
        )


def paper_figures(results: Results, figure: str) -> list[PaperFigure]:
    """What the paper reports for the same figure under the same protocol."""
    return [item for item in PAPER_FIGURES if item.figure == figure and item.is_comparable(results)]


def _lookup(protocol: Mapping[str, Any], name: str) -> Any:
    found: Any = protocol
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


_ABSENT = object()

PAPER_FIGURES = [
    PaperFigure(system, "vist generation", figure, value, {**_DRAWN, **_METRICS[figure], "context": context})
    for figure, rows in _TABLE_1.items()
    for system, values in rows.items()
    for context, value in zip(_CONTEXTS, values, strict=False)
] + [
    # Table 2 there, recall@1.
    PaperFigure("GILL", "vist retrieval", "recall@1", 0.203, {**_MASKED, "context": _CONTEXTS[2]}),
    PaperFigure("FROMAGe", "vist retrieval", "recall@1", 0.182, {**_MASKED, "context": _CONTEXTS[2]}),
    PaperFigure("CLIP", "vist retrieval", "recall@1", 0.088, {**_MASKED, "context": _CONTEXTS[1]}),
]

__all__ = ["PAPER_FIGURES", "PaperFigure", "paper_figures"]
