"""FID, the Fréchet distance of two sets of images on Inception features."""

import hashlib
import importlib
import io
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
Fréchet Inception Distance (Heusel et al. 2017, https://arxiv.org/abs/1706.08500) between the features of generated and
of real images, both taken as Gaussian; 0 is best. It decreases with the number of images, so values compare only at the
same number. The distance is computed by torchmetrics.
"""
_INPUTS = """
Args:
    predictions: generated images.
    references: real images. Of two sets of different sizes, the smaller one is filled up with None.
    weights (str): the network whose 2048 features are compared, one of
        - `inception-2015-12-05.pt`, the TorchScript file published with StyleGAN2-ADA,
        - `weights-inception-2015-12-05-6726825d.pth`, for which torch-fidelity and torchvision must be installed,
        - any TorchScript that takes uint8 images `(n, 3, h, w)` and gives features `(n, d)`, with its `sha256`,
        - "org/name:file", such a file in a repository of the Hub.
    sha256 (str, optional): SHA-256 of the file, if it is not one of the two published ones. TorchScript is a program,
        so that a file is only loaded if it is known.
    size (int, optional): height and width that images are resized to before the network; not resized by default.
    batch_size (int): images that go through the network at once.
    device (str): where it runs.
    resamples (int): bootstrap samples for the interval; none by default, as each costs as much as the distance.
    seed (int): of the bootstrap samples.
Returns:
    fid (float), features (int): their number, and where `resamples` is given `interval`: the middle 95 % of distances
    between resampled sets.
Raises:
    OSError: the network's file is not there. ValueError: fewer than two images, or a file whose SHA-256 is not known.
"""
_CITATION = "@inproceedings{heusel2017gans, title={GANs Trained by a Two Time-Scale Update Rule}, year={2017}}"
_SCRIPT, _STATE = "inception-2015-12-05.pt", "weights-inception-2015-12-05-6726825d.pth"
# SHA-256 of the published files.
_SCRIPT_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
_STATE_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


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
        sha256: str | None = None,
        size: int | None = None,
        batch_size: int = 32,
        device: str = "cpu",
        resamples: int = 0,
        seed: int = 0,
    ) -> dict[str, Any]:
        predictions = [image for image in predictions if image is not None]
        references = [image for image in references if image is not None]
        least = min(len(predictions), len(references))
        if least < 2:
            raise ValueError(f"fid needs two images of each kind at least, got {least}.")
        network = _network(weights, sha256, device)
        created = _features(network, predictions, size, batch_size, device)
        real = _features(network, references, size, batch_size, device)
        answer: dict[str, Any] = {"fid": _distance(created, real), "features": created.shape[1]}
        if resamples:
            generator = torch.Generator().manual_seed(seed)
            distances = []
            for _ in range(resamples):
                sets = [of[torch.randint(len(of), (len(of),), generator=generator)] for of in (created, real)]
                distances.append(_distance(*sets))
            answer["interval"] = np.quantile(distances, [0.025, 0.975]).tolist()
        return answer


class _IdentityFeatures(torch.nn.Identity):
    """Lets torchmetrics take features in place of images, so that each image goes through the network once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _distance(created: torch.Tensor, real: torch.Tensor) -> float:
    distance = FrechetInceptionDistance(feature=_IdentityFeatures(created.shape[1]))
    distance.set_dtype(torch.float64)
    distance.update(real, real=True)
    distance.update(created, real=False)
    return float(distance.compute())


def _features(network: Any, images: Any, size: int | None, batch_size: int, device: str) -> torch.Tensor:
    found = []
    for begin in range(0, len(images), batch_size):
        rgb = [image.convert("RGB") for image in images[begin : begin + batch_size]]
        if size is not None:
            rgb = [image.resize((size, size), Image.Resampling.BICUBIC) for image in rgb]
        # One by one if sizes differ: the network resizes each to its own input size.
        batches = [rgb] if len({image.size for image in rgb}) == 1 else [[image] for image in rgb]
        for batch in batches:
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in batch])).permute(0, 3, 1, 2)
            features = network(pixels.contiguous().to(device))
            features = features[0] if isinstance(features, tuple) else features
            found.append(features.reshape(len(batch), -1).double().cpu())
    return torch.cat(found)


def _network(weights: str | None, sha256: str | None, device: str) -> Any:
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
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in (_SCRIPT_SHA256, _STATE_SHA256) and digest != (sha256 or "").strip().lower():
        raise ValueError(
            f"fid does not load {path.name}: its SHA-256 is {digest}, "
            + (f"expected {sha256}." if sha256 else f"not that of {_SCRIPT} or {_STATE} as published.")
            + " A network file can hold a program; if you trust this one, give its SHA-256 as `sha256=`"
            " (`--inception-sha256`)."
        )
    if path.suffix == ".pth":
        try:
            fidelity = importlib.import_module("torch_fidelity")
        except ImportError as error:
            raise OSError(
                f"{path.name} needs torch-fidelity, which is not installed ({error}): pip install torch-fidelity "
                f"torchvision, or give {_SCRIPT}, which needs neither."
            ) from error
        network = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
        return network.to(device)
    try:
        # From the bytes whose checksum was taken, not from the file, which may have changed since.
        network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from error
    if digest == _SCRIPT_SHA256:
        return lambda pixels: network(pixels, return_features=True)
    return network
