"""Small random networks in the files that the metrics and baselines load: CLIP, AlexNet, Inception."""

import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from tests.small_model import small_tokenizer


def write_clip(folder: Path) -> Path:
    """A whole CLIP with a tokenizer of 300 tokens, images of 16 pixels."""
    torch.manual_seed(0)
    tokenizer = small_tokenizer([])
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    # Its text part looks for the end of a text by this id.
    text = CLIPTextConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **sizes)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def write_alexnet(folder: Path) -> tuple[Path, nn.Sequential]:
    """AlexNet's file as torchvision publishes it, and its convolutions."""
    torch.manual_seed(0)
    layers = nn.Sequential(
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
        nn.MaxPool2d(3, 2),
    )
    path = folder / "alexnet-owt-7be5be79.pth"
    state = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save({**state, "classifier.1.bias": torch.zeros(4)}, path)
    return path, layers


class _MeanColour(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean(dim=(2, 3)) / 255


def write_inception(folder: Path) -> Path:
    """A TorchScript network whose features are the mean red, green and blue, from 0 to 1."""
    path = folder / "features.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_MeanColour()).save(str(path))
    return path


__all__ = ["write_alexnet", "write_clip", "write_inception"]
