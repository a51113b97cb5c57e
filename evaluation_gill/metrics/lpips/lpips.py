"""LPIPS, the learned perceptual distance of pairs of images, with AlexNet."""

import importlib.util
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from PIL import Image
from torch import nn

_DESCRIPTION = """
Learned Perceptual Image Patch Similarity (Zhang et al. 2018, https://arxiv.org/abs/1801.03924), version 0.1 with
AlexNet: 0 for equal images, lower is better. GILL (table 1) reports its mean at 256 x 256 pixels.
"""
_INPUTS = """
Args:
    predictions: generated images.
    references: as many images that they should resemble.
    weights (str): torchvision's AlexNet, `alexnet-owt-7be5be79.pth`, whose convolutions give the features.
    heads (str, optional): LPIPS's own weights, `alex.pth` of version 0.1; those that torchmetrics brings by default.
    size (int): height and width that images are resized to (bilinear); 256 by default.
    batch_size (int): pairs that go through AlexNet at once.
    device (str): where it runs.
Returns:
    lpips (float): the mean. scores (list of float): one for each pair.
Raises:
    OSError: a file of weights is not there. ValueError: it is no AlexNet, or there are no images.
"""
_CITATION = "@inproceedings{zhang2018perceptual, title={The Unreasonable Effectiveness of Deep Features}, year={2018}}"
_TRUNK_FILE = "alexnet-owt-7be5be79.pth"
# After which of AlexNet's layers images are compared: its five rectifiers.
_TAPS = (1, 4, 7, 9, 11)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Lpips(evaluate.Metric):
    """Mean LPIPS distance."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()}),
        )

    @torch.no_grad()
    def _compute(
        self,
        predictions: Any,
        references: Any,
        weights: str | None = None,
        heads: str | None = None,
        size: int = 256,
        batch_size: int = 16,
        device: str = "cpu",
    ) -> dict[str, Any]:
        if not len(predictions):
            raise ValueError("lpips was given no images.")
        trunk, linear = _trunk(weights).to(device), [head.to(device) for head in _heads(heads)]
        # Normalization of the colors: ImageNet's, for values from -1 to 1.
        shift = torch.tensor([-0.030, -0.088, -0.188], device=device)[:, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450], device=device)[:, None, None]

        def see(images: Any) -> list[torch.Tensor]:
            squeezed = [image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for image in images]
            pixels = np.stack([np.asarray(image, dtype=np.float32) for image in squeezed])
            states = (torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device) / 127.5 - 1 - shift) / scale
            seen = []
            for number, layer in enumerate(trunk):
                states = layer(states)
                if number in _TAPS:
                    seen.append(states / (states.square().sum(1, keepdim=True).sqrt() + 1e-10))
            return seen

        scores: list[float] = []
        for begin in range(0, len(predictions), batch_size):
            created, wanted = see(predictions[begin : begin + batch_size]), see(references[begin : begin + batch_size])
            layers = [
                (head[None] * (ours - other).square()).sum(1).mean((1, 2))
                for head, ours, other in zip(linear, created, wanted, strict=True)
            ]
            scores += torch.stack(layers).sum(0).tolist()
        return {"lpips": sum(scores) / len(scores), "scores": scores}


def _trunk(weights: str | None) -> nn.Sequential:
    """AlexNet's convolutions, numbered as torchvision numbers `features`."""
    trunk = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )
    state = _read(weights, _TRUNK_FILE, "weights", "torchvision's AlexNet, https://download.pytorch.org/models/")
    own = {name.removeprefix("features."): tensor for name, tensor in state.items() if name.startswith("features.")}
    try:
        trunk.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"{weights} is not {_TRUNK_FILE}, torchvision's AlexNet: {error}") from error
    return trunk.eval()


def _heads(path: str | Path | None) -> list[torch.Tensor]:
    """One weight a channel for each of the five comparisons, each of shape `(channels, 1, 1)`."""
    if path is None:
        found = importlib.util.find_spec("torchmetrics")
        if found is not None and found.origin:
            path = Path(found.origin).parent / "functional/image/lpips_models/alex.pth"
    state = _read(path, "alex.pth", "heads", "LPIPS v0.1; torchmetrics and lpips bring it")
    try:
        return [state[f"lin{number}.model.1.weight"][0] for number in range(len(_TAPS))]
    except KeyError as error:
        raise ValueError(f"{path} is not the alex.pth of LPIPS v0.1: it has no {error}") from error


def _read(path: str | Path | None, name: str, argument: str, origin: str) -> dict[str, torch.Tensor]:
    if path is None or not Path(path).is_file():
        found = "no path was given" if path is None else f"there is no file {str(path)!r}"
        raise OSError(f"lpips needs the file {name} ({origin}), and {found}. Give its path as `{argument}=`.")
    return torch.load(path, map_location="cpu", weights_only=True)
