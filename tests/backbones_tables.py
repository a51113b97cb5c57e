"""The tables of docs/backbones.md, made from the tests that try each family: `python -m tests.backbones_tables`."""

from collections.abc import Sequence
from pathlib import Path

from modeling_gill.conditioning_gill import ConditioningTensor
from tests.modeling_gill.test_image_encoder_gill import FAMILIES as IMAGE_ENCODERS
from tests.modeling_gill.test_language_model_families import FAMILIES as LANGUAGE_MODELS
from tests.modeling_gill.test_language_model_families import NO_PADDING, REFUSED
from tests.other_generators import OTHERS, Other
from tests.pipeline_gill.test_conditioning_capture_gill import TENSORS
from tests.small_generators import GENERATORS, small_generator

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
GENERATOR_NAMES = {
    "stable-diffusion-1.5": "Stable Diffusion 1.5",
    "stable-diffusion-2.1": "Stable Diffusion 2.1",
    "lcm": "Latent Consistency Models",
    "sdxl": "Stable Diffusion XL",
    "sdxl-turbo": "SDXL Turbo",
    "stable-diffusion-3": "Stable Diffusion 3, 3.5",
    "pixart-alpha": "PixArt alpha",
    "pixart-sigma": "PixArt Sigma",
    "sana": "Sana",
    "sana-sprint": "Sana Sprint",
    "flux": "Flux",
    "chroma": "Chroma",
    "lumina2": "Lumina 2",
    "qwen-image": "Qwen-Image",
    "z-image": "Z-Image",
    "stable-cascade-prior": "Stable Cascade, prior alone",
    "stable-cascade": "Stable Cascade",
    "auraflow": "AuraFlow",
    "controlnet": "Stable Diffusion 1.5 with a ControlNet",
    "controlnet-sdxl": "Stable Diffusion XL with a ControlNet",
    "inpainting": "Stable Diffusion 1.5, inpainting",
    "image-to-image": "Stable Diffusion 1.5, image to image",
}


def language_models() -> str:
    """A row for each outcome of trying a family of language models, with the families."""
    outcomes = {
        "exact": [family for family in LANGUAGE_MODELS if family not in (*REFUSED, *NO_PADDING)],
        "exact, prompts of one length in a batch": list(NO_PADDING),
        "refused by name": list(REFUSED),
    }
    rows = [f"| {outcome} | {', '.join(f'`{name}`' for name in names)} |" for outcome, names in outcomes.items()]
    return "\n".join(["| between the adapters | families, by their `model_type` |", "|---|---|", *rows])


def image_encoders() -> str:
    """A row for each family of image encoders that is tried: its class and the values of `vision_pooling`."""
    rows = [
        f"| {name} | `{family.model}` | {', '.join(f'`{kind}`' for kind in family.features)} |"
        for name, family in IMAGE_ENCODERS.items()
    ]
    return "\n".join(["| family | class of transformers | `vision_pooling` |", "|---|---|---|", *rows])


def generators() -> str:
    """A row for each kind of generator that is tried: its class, and the tensors that the mapper makes for it."""
    rows = [
        f"| {GENERATOR_NAMES[kind]} | `{type(small_generator(kind)).__name__}` | {_tensors(TENSORS[kind])} |"
        for kind in GENERATORS
    ]
    return "\n".join(["| generator | class of diffusers | conditioning |", "|---|---|---|", *rows])


def other_generators() -> str:
    """A row for each generator that is tried once, with the outcome."""
    rows = [f"| {kind} | {_outcome(other)} |" for kind, other in OTHERS.items()]
    return "\n".join(["| generator | conditioning |", "|---|---|", *rows])


def _outcome(other: Other) -> str:
    return f"refused: {other.outcome}" if isinstance(other.outcome, str) else _tensors(other.outcome)


def _tensors(tensors: Sequence[ConditioningTensor]) -> str:
    described = []
    for tensor in tensors:
        length = {None: "one vector", 1: "1 position"}.get(tensor.length, f"{tensor.length} positions")
        ragged = "" if tensor.mask_key is None else ", of different lengths"
        described.append(f"`{tensor.name}` ({length}{ragged})")
    return ", ".join(described)


TABLES = {
    "language models": language_models,
    "image encoders": image_encoders,
    "generators": generators,
    "other generators": other_generators,
}


def with_tables(page: str) -> str:
    """The page with every table between its two comments made anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: made by python -m tests.backbones_tables -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"the page has no place for the table of {name}"
        page = f"{before}{begin}\n{make()}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
