"""Make a small image encoder from nothing in seconds, for machines that do not reach the Hub.

    python examples/emoji/fit_image_encoder.py examples/emoji/gallery.yaml

It tells the images of the recipe apart, and knows no others. Its layers are a projection of the pixels on their
principal components and a random one, which are not trained; only the last matrix is fitted, by ridge regression (as in
extreme learning machines, Huang et al., 2006), to what the language model's state after each image's name is (as in
DeViSE, Frome et al., 2013). The states are those that `gill train` reads later, and are kept in the recipe's cache.

With the Hub, name a pretrained encoder in the recipe, such as SigLIP2, and leave this out.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from training_gill import PrecomputeArguments, precompute, read_recipe
from training_gill.caches import LanguageStatesCache
from training_gill.training_data import open_data

# Side in pixels that images are scaled to, and number of random features.
_SIDE, _FEATURES = 32, 4096
# Of the ridge regression, relative to the mean square of a feature.
_RIDGE = 1e-3
_BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="Recipe with `train_data`, `language_model` and `vision_model`.")
    parser.add_argument("--features", type=int, default=_FEATURES, help="Number of random features.")
    arguments = parser.parse_args()
    try:
        fit_image_encoder(arguments.recipe, arguments.features)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def fit_image_encoder(recipe: Path, num_features: int = _FEATURES) -> float:
    """
    Fit the encoder of a recipe and write it to the folder that `vision_model` names.

    Returns:
        The share of images whose output is nearest to the state of their own name, among all names.

    Raises:
        ValueError: a recipe without a cache, or of several sets of images.
    """
    entries = read_recipe(recipe, use_cpu=True)
    folder, cache, data = Path(entries.model.vision_model), entries.data.cache, entries.data.train_data
    if cache is None or not isinstance(data, str):
        raise ValueError(f"{recipe}: expected `cache`, and `train_data` that is one set of images with captions.")
    torch.manual_seed(entries.training.seed)
    processor = CLIPImageProcessor(
        size={"shortest_edge": _SIDE},
        crop_size={"height": _SIDE, "width": _SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor.save_pretrained(folder)
    if not (folder / "config.json").is_file():
        # What computes the states asks for all models of the recipe; images are not read for it.
        new_encoder(64, 64).save_pretrained(folder)
    start = time.monotonic()
    precompute(PrecomputeArguments(dataset=[data], out=cache, language_states=str(recipe)), say=print)
    print(f"states of the language model: {time.monotonic() - start:.0f} s", flush=True)
    start = time.monotonic()
    examples = open_data(data, image_folder=entries.data.train_image_folder)
    captions = list(examples.captions())
    names = list(dict.fromkeys(captions))
    states = LanguageStatesCache(Path(cache))
    targets = torch.stack([states[name].flatten() for name in names])
    targets = functional.normalize(targets - targets.mean(0), dim=1) * targets.shape[1] ** 0.5
    numbers = {name: number for number, name in enumerate(names)}
    labels = torch.tensor([numbers[caption] for caption in captions])
    images = pixels([example["image"] for example in examples], processor)
    model = new_encoder(targets.shape[1], num_features)
    fit(model, images, targets[labels])
    read = torch.cat([pooled(model, some) for some in images.split(_BATCH)])
    scores = functional.normalize(read, dim=1) @ functional.normalize(targets, dim=1).T
    reached = float((scores.argmax(1) == labels).float().mean())
    model.save_pretrained(folder)
    seconds = time.monotonic() - start
    print(f"{folder}: {reached:.1%} of {len(images):,} images are nearest to their own name, {seconds:.0f} s")
    return reached


def new_encoder(width: int, num_features: int) -> CLIPVisionModel:
    """A vision transformer as CLIP has it: one layer, and one patch that is the whole image."""
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=num_features,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=_SIDE,
        patch_size=_SIDE,
        hidden_act="gelu",
    )
    return CLIPVisionModel(config).eval()


def pixels(paths: list[str], processor: CLIPImageProcessor) -> torch.Tensor:
    """Images as the encoder takes them, float32 of shape `(num_images, 3, side, side)`."""
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"])
    return torch.cat(found)


@torch.no_grad()
def fit(model: CLIPVisionModel, images: torch.Tensor, targets: torch.Tensor) -> None:
    """
    Set the weights of an encoder.

    The class token takes over what the patch holds, the principal components of the pixels; random functions of these
    are the features, and the last matrix makes the target of them.

    Args:
        images: `torch.FloatTensor` of shape `(num_images, 3, side, side)`.
        targets: `torch.FloatTensor` of shape `(num_images, hidden_size)`.
    """
    modules = dict(model.named_modules())

    def one(end: str) -> Any:
        return next(module for name, module in modules.items() if name.endswith(end))

    embeddings, attention, mlp = one("embeddings"), one("self_attn"), one("mlp")
    width = targets.shape[1]
    flat = images.flatten(1)
    mean = flat.mean(0)
    rank = min(width, *flat.shape)
    _, sizes, directions = torch.pca_lowrank(flat - mean, q=rank, center=False)
    # Every component is as large as the others, but those that are noise.
    scales = len(flat) ** 0.5 / (sizes + 1e-2 * sizes[0])
    projection = torch.zeros(width, flat.shape[1])
    projection[:rank] = (directions * scales).T
    embeddings.patch_embedding.weight.copy_(projection.view_as(embeddings.patch_embedding.weight))
    embeddings.class_embedding.zero_()
    embeddings.position_embedding.weight.copy_(torch.stack([torch.zeros(width), -projection @ mean]))
    for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        part.weight.zero_()
        part.bias.zero_()
    # Without queries and keys, half of what is read is the patch, and half the class token, which is empty.
    attention.v_proj.weight.copy_(torch.eye(width))
    attention.out_proj.weight.copy_(2 * torch.eye(width))
    mlp.fc1.weight.normal_(std=width**-0.5)
    mlp.fc1.bias.normal_()
    kept: dict[str, list[torch.Tensor]] = {"features": [], "before": []}
    hooks = [
        mlp.fc2.register_forward_pre_hook(lambda _, inputs: kept["features"].append(inputs[0][:, 0])),
        one("layer_norm2").register_forward_pre_hook(lambda _, inputs: kept["before"].append(inputs[0][:, 0])),
    ]
    for some in images.split(_BATCH):
        model(pixel_values=some)
    for hook in hooks:
        hook.remove()
    features = torch.cat(kept["features"])
    wanted = targets - torch.cat(kept["before"])
    center, offset = features.mean(0), wanted.mean(0)
    features, wanted = features - center, wanted - offset
    gram = (features.T @ features).double()
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    fitted = torch.linalg.solve(gram, (features.T @ wanted).double()).float()
    mlp.fc2.weight.copy_(fitted.T)
    mlp.fc2.bias.copy_(offset - center @ fitted)


@torch.no_grad()
def pooled(model: CLIPVisionModel, images: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=images).pooler_output


if __name__ == "__main__":
    main()
