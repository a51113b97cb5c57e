"""FID, the Fréchet distance of two sets of images in the eyes of Inception."""

import importlib
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance

_DESCRIPTION = """
Fréchet Inception Distance (Heusel et al. 2017, https://arxiv.org/abs/1706.08500): how far the features of images made
lie from those of real images, both taken for Gaussian; 0 is best. It falls with the number of images, so figures
compare only at the same number. The distance is computed by torchmetrics.
"""
_INPUTS = """
Args:
    predictions: images that were made.
    references: as many real images.
    weights (str): the network whose 2048 features are compared, one of
        - `inception-2015-12-05.pt`, the TorchScript file published with StyleGAN2-ADA (or any TorchScript that takes
          uint8 images `(n, 3, h, w)` and gives features `(n, d)`),
        - `weights-inception-2015-12-05-6726825d.pth`, for which torch-fidelity and torchvision must be installed,
        - "org/name:file", such a file in a repository of the Hub.
    size (int, optional): pixels that images are squeezed to before the network, both ways; not at all by default,
        if all are of one size.
    batch_size (int): images that go through the network at once.
    device (str): where it runs.
    resamples (int): bootstrap samples for the interval; none by default, as each costs as much as the distance.
    seed (int): of these.
Returns:
    fid (float), features (int): their number, and where `resamples` is given `interval`: the middle 95 % of distances
    between resampled sets.
Raises:
    OSError: the network's file is not there. ValueError: fewer than two images, or images of several sizes.
"""
_CITATION = "@inproceedings{heusel2017gans, title={GANs Trained by a Two Time-Scale Update Rule}, year={2017}}"
_SCRIPT, _STATE = "inception-2015-12-05.pt", "weights-inception-2015-12-05-6726825d.pth"


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Fid(evaluate.Metric):
    """Fréchet Inception Distance."""

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
        size: int | None = None,
        batch_size: int = 32,
        device: str = "cpu",
        resamples: int = 0,
        seed: int = 0,
    ) -> dict[str, Any]:
        if len(predictions) < 2:
            raise ValueError(f"fid needs two images of each kind at least, got {len(predictions)}.")
        network = _network(weights, device)
        made = _features(network, predictions, size, batch_size, device)
        real = _features(network, references, size, batch_size, device)
        answer: dict[str, Any] = {"fid": _distance(made, real), "features": made.shape[1]}
        if resamples:
            generator = torch.Generator().manual_seed(seed)
            distances = []
            for _ in range(resamples):
                chosen = torch.randint(len(made), (2, len(made)), generator=generator)
                distances.append(_distance(made[chosen[0]], real[chosen[1]]))
            answer["interval"] = np.quantile(distances, [0.025, 0.975]).tolist()
        return answer


class _AsTheyAre(torch.nn.Identity):
    """Lets torchmetrics take features for images, so that each image is seen once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _distance(made: torch.Tensor, real: torch.Tensor) -> float:
    distance = FrechetInceptionDistance(feature=_AsTheyAre(made.shape[1]))
    distance.set_dtype(torch.float64)
    distance.update(real, real=True)
    distance.update(made, real=False)
    return float(distance.compute())


def _features(network: Any, images: Any, size: int | None, batch_size: int, device: str) -> torch.Tensor:
    found = []
    for begin in range(0, len(images), batch_size):
        rgb = [image.convert("RGB") for image in images[begin : begin + batch_size]]
        if size is not None:
            rgb = [image.resize((size, size), Image.Resampling.BICUBIC) for image in rgb]
        # Alone where sizes differ: the network squeezes each to its own input size.
        batches = [rgb] if len({image.size for image in rgb}) == 1 else [[image] for image in rgb]
        for batch in batches:
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in batch])).permute(0, 3, 1, 2)
            features = network(pixels.contiguous().to(device))
            features = features[0] if isinstance(features, tuple) else features
            found.append(features.reshape(len(batch), -1).double().cpu())
    return torch.cat(found)


def _network(weights: str | None, device: str) -> Any:
    if weights is None:
        raise OSError(
            f"fid needs the Inception network: the file {_SCRIPT} (TorchScript, published with StyleGAN2-ADA) or "
            f"{_STATE} (published with torch-fidelity). Give its path, or 'org/name:file' for one on the Hub, as "
            "`weights=`."
        )
    path = Path(weights)
    if not path.is_file() and str(weights).count(":") == 1 and "/" in str(weights).split(":")[0]:
        repository, name = str(weights).split(":")
        path = Path(hf_hub_download(repository, name))
    if not path.is_file():
        raise OSError(f"fid needs the Inception network ({_SCRIPT} or {_STATE}); there is no file {str(weights)!r}.")
    if path.suffix == ".pth":
        try:
            fidelity = importlib.import_module("torch_fidelity")
        except ImportError as error:
            raise OSError(
                f"{path.name} is read by torch-fidelity, which is not there ({error}): pip install torch-fidelity "
                f"torchvision, or give {_SCRIPT}, which needs neither."
            ) from error
        network = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
        return network.to(device)
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from error
    if path.name == _SCRIPT:
        return lambda pixels: network(pixels, return_features=True)
    return network
