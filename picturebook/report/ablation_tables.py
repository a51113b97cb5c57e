"""The paper's ablations, and options that are off by default, by short and equal trainings."""

from collections.abc import Mapping
from pathlib import Path

import datasets
import diffusers
import numpy as np
import torch
import transformers

from modeling_gill.atomic_write_gill import replace_file
from pipeline_gill import GillPipeline

from ..arguments import AblationArguments
from ..checkpoint_folder import find_checkpoint
from ..models.clip import pooled_image_features
from ..models.gill_answers import generate_images, load_pipeline
from ..models.image_generator import plain_captions
from ..stages.ablations import AblationRun, read_ablations, train_ablations
from ..world.drawing import to_images
from ..world.pairs import draw_all
from ..world.reader import correctness, read
from ..world.splits import TEST, scene_in, stream
from .results_table import Estimate, Table, mean_of
from .story_table import COLUMNS, Drawn, table_rows

DISTANCE, AGAIN = "Fréchet distance", "the image alone, scene"
FEWER_STEPS = 10
_RESAMPLES = 200
_FIRST = "gill"
# A training of each group whose steps the notes tell.
_STEPS_OF = {"captions": _FIRST, "longer": "longer_gill"}
_MAPPERS = {"linear": "mapper_linear", "MLP": "mapper_mlp", "encoder": "mapper_encoder", "GILLMapper": _FIRST}
_LONGER = {"MLP": "longer_mlp", "GILLMapper": "longer_gill"}
_TOKENS = {
    "1": "img_tokens_1",
    "2": "img_tokens_2",
    "4": "img_tokens_4",
    "8": _FIRST,
    "16": "img_tokens_16",
    "64": "img_tokens_64",
}
_OPTIONS = {
    "none": _FIRST,
    "states of the last four layers, learnt weights": "layers_learned",
    "states of the last layer and the second before it, mean": "layers_fixed",
    "reconstruction loss": "reconstruction",
}
# Of which images are drawn after the image alone, too.
_READ_ALONE = ("none", "reconstruction loss")


def write_ablations(arguments: AblationArguments) -> list[Table]:
    """
    Train and measure the ablations, print their tables, and write `ablations.md`.

    Raises:
        FileNotFoundError: no checkpoint is installed.
        ValueError: the folder was trained for another picture book.

    Example:

        >>> from picturebook import AblationArguments, write_ablations
        >>> write_ablations(AblationArguments(out=Path("runs/ablations")))  # doctest: +SKIP
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    run = AblationRun(Path(arguments.out))
    train_ablations(run, load_pipeline(arguments.model or find_checkpoint()), read_ablations(), arguments.seed)
    tables = ablation_tables(run, arguments.items, arguments.seed)
    text = "\n".join(table.markdown() for table in tables)
    print(text, flush=True)
    with replace_file(run.root / "ablations.md") as new:
        new.write_text(text, encoding="utf-8")
    return tables


def ablation_tables(run: AblationRun, items: int, seed: int) -> list[Table]:
    """
    Tables of mappers, trained shortly and longer, of numbers of `[IMG]` tokens and of options. Images that were drawn
    before are read again.

    Raises:
        FileNotFoundError: a training is not finished.
    """
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for names in (_MAPPERS, _LONGER, _TOKENS, _OPTIONS):
        for row, name in names.items():
            if name not in drawn or (row in _READ_ALONE and AGAIN not in drawn[name]):
                drawn[name] = draw_ablation(run, name, items, seed, alone=name == _FIRST or row in _READ_ALONE)
    pipe = run.load(_FIRST)
    groups = read_ablations()
    steps, more = (groups[name].trainings[first]["max_steps"] for name, first in _STEPS_OF.items())
    trained = (
        f"Adapters trained for {steps} steps on the same pairs, with the same seed: compare these rows with each other "
        "only. "
    )
    asked = f"{items} full captions of one object, the image right after the caption, drawn in {FEWER_STEPS} steps. "
    distance = "Fréchet distance as FID, but of the features of the picture book's own image tower; lower is better."
    weights = run.load("layers_learned").model.layer_combination.weight.detach().softmax(0).tolist()
    return [
        ablation_table(pipe, "mappers", "Mappers, % right", _MAPPERS, drawn, items, seed, trained + asked + distance),
        ablation_table(
            pipe,
            "mappers_longer",
            "Mappers trained longer, % right",
            _LONGER,
            drawn,
            items,
            seed,
            f"As above, but trained for {more} steps.",
        ),
        ablation_table(
            pipe,
            "img_tokens",
            "Number of `[IMG]` tokens, % right",
            _TOKENS,
            drawn,
            items,
            seed,
            "As above. 256 tokens, the most that a model can have, train at the same cost a token and were not tried.",
        ),
        ablation_table(
            pipe,
            "options",
            "Options that are off by default, % right",
            _OPTIONS,
            drawn,
            items,
            seed,
            f"As above. The image alone: it is the whole prompt, and is to be drawn again. The learnt weights of the "
            f"layers, the last one first: {', '.join(f'{weight:.2f}' for weight in weights)}.",
        ),
    ]


def draw_ablation(run: AblationRun, name: str, items: int, seed: int, alone: bool = False) -> dict[str, np.ndarray]:
    """Images of the test captions by the model of a training, and, with `alone`, of prompts that are an image; both
    uint8 `(items, 32, 32, 3)`."""
    path = run.root / "drawn" / f"{name}-{items}-{seed}.npz"
    if path.exists():
        with np.load(path) as arrays:
            found = {key: arrays[key] for key in arrays.files}
        if AGAIN in found or not alone:
            return found
    pipe, truth = run.load(name), ablation_items(items, seed)
    found = {"captions": generate_images(pipe, plain_captions(truth.scenes), seed, True, FEWER_STEPS)[0]}
    if alone:
        prompts = [[image] for image in to_images(truth.truth)]
        found[AGAIN] = generate_images(pipe, prompts, seed, True, FEWER_STEPS)[0]
    with replace_file(path) as new, open(new, "wb") as file:
        np.savez_compressed(file, **found)
    print(f"{name}: drawn", flush=True)
    return found


def ablation_items(items: int, seed: int) -> Drawn:
    """The scenes that the ablations are measured on, and their true images."""
    generator = stream(seed, TEST, "captions of ablations")
    scenes = [scene_in(TEST, generator, 1.0) for _ in range(items)]
    return Drawn(draw_all(scenes, generator), scenes, {})


def ablation_table(
    pipe: GillPipeline,
    key: str,
    title: str,
    names: Mapping[str, str],
    drawn: Mapping[str, Mapping[str, np.ndarray]],
    items: int,
    seed: int,
    note: str,
) -> Table:
    """A table with a row for each training.

    Args:
        pipe ([`GillPipeline`]): Of the image tower.
        names: The training of each row.
        drawn: Of [`draw_ablation`], by training.
    """
    asked = ablation_items(items, seed)
    truth = pooled_image_features(pipe, asked.truth)
    images = {row: drawn[name]["captions"] for row, name in names.items()}
    rows = table_rows(pipe, Drawn(asked.truth, asked.scenes, images))
    columns: list[str] = [*COLUMNS, DISTANCE]
    for row, name in names.items():
        rows[row][DISTANCE] = frechet_distance(pooled_image_features(pipe, images[row]), truth)
        if row in _READ_ALONE:
            rows[row][AGAIN] = mean_of(correctness(read(drawn[name][AGAIN]), asked.scenes)["scene"])
            columns = [*COLUMNS, DISTANCE, AGAIN]
    return Table(key, title, columns, rows, note)


def frechet_distance(drawn: torch.Tensor, truth: torch.Tensor, resamples: int = _RESAMPLES) -> Estimate:
    """
    The Fréchet distance of two sets of features, both taken as Gaussian, as in FID (Heusel et al., 2017).

    Resampled sets are further apart than the sets themselves, so the interval is that of the bootstrap distances around
    their mean, put around the value.

    Args:
        drawn, truth (`torch.FloatTensor` of shape `(num_images, width)`): Of the same items.
    """

    def distance(chosen: torch.Tensor | slice) -> float:
        one, other = drawn[chosen].double(), truth[chosen].double()
        covariances = [torch.cov(part.T) for part in (one, other)]
        values, vectors = torch.linalg.eigh(covariances[0])
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        shared = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
        total = sum(covariance.trace() for covariance in covariances)
        return float((one.mean(0) - other.mean(0)).square().sum() + total - 2 * shared)

    value, generator = distance(slice(None)), torch.Generator().manual_seed(0)
    size = len(drawn)
    again = [distance(torch.randint(size, (size,), generator=generator)) for _ in range(resamples)]
    low, high = np.quantile(again, [0.025, 0.975]) - np.mean(again) + value
    return Estimate(value, float(low), float(high), factor=1.0)
