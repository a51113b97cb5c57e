"""Small releases in the authors' layout, of a language model 16 wide, to bend in many ways."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

REFERENCE = Path(__file__).parents[1] / "reference"
# In the golden world the tokenizer knows 379 tokens, and the language model has 386 rows.
IMAGE_TOKEN_ID, FIRST_IMG_ID, ROWS = 379, 380, 386
D, V, K, P, R, C = 16, 32, 2, 4, 8, 12


@pytest.fixture(scope="session")
def reference() -> Path:
    """The files of the original releases that are small enough to keep."""
    return REFERENCE


@dataclass
class SmallRelease:
    """An original release in memory: change it, then `save` it."""

    folder: Path
    flags: list[str]
    args: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    decision_head: dict[str, torch.Tensor] | None = None
    beside: dict[str, Any] = field(default_factory=dict)

    def save(self, name: str = "pretrained_ckpt.pth.tar") -> Path:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "model_args.json").write_text(json.dumps(self.args))
        torch.save({"state_dict": self.tensors, **self.beside}, self.folder / name)
        if self.decision_head is not None:
            torch.save({"state_dict": self.decision_head}, self.folder / "decision_model.pth.tar")
        return self.folder

    def argv(self, out: Path, *more: str) -> list[str]:
        return [str(self.folder), str(out), *self.flags, *more]


@pytest.fixture(scope="session")
def small_backbones(golden_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frozen models without weights: configurations are all that a conversion reads of them."""
    folder = tmp_path_factory.mktemp("small-backbones")
    shutil.copytree(golden_world / "facebook/opt-golden", folder / "lm", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "lm/config.json").read_text())
    (folder / "lm/config.json").write_text(json.dumps(config | {"word_embed_proj_dim": D}))
    shutil.copytree(golden_world / "clip-golden", folder / "clip", ignore=shutil.ignore_patterns("*.safetensors"))
    for part, settings in (("unet", {"cross_attention_dim": C}), ("text_encoder", {"max_position_embeddings": 10})):
        (folder / "sd" / part).mkdir(parents=True)
        (folder / "sd" / part / "config.json").write_text(json.dumps(settings))
    (folder / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


@pytest.fixture
def small_gill(small_backbones: Path, tmp_path: Path) -> SmallRelease:
    ids = list(range(FIRST_IMG_ID, FIRST_IMG_ID + R))
    args = {
        "opt_version": "facebook/opt-small",
        "freeze_lm": True,
        "visual_encoder": "clip-small",
        "freeze_vm": True,
        "n_visual_tokens": K,
        "ret_emb_dim": P,
        "gen_emb_dim": C,
        "text_emb_layers": [-1],
        "text_fc_mode": "linear",
        "ret_text_fc_mode": "linear",
        "num_tokens": R,
        "num_clip_tokens": R,
        "share_ret_gen": True,
        "norm_image_embed": "none",
        "retrieval_token_idx": ids,
        "gen_token_idx": ids,
    }
    tensors = _tensors(
        {
            "model.logit_scale": (),
            "model.input_embeddings.weight": (R, D),
            "model.visual_embeddings.weight": (K * D, V),
            "model.visual_embeddings.bias": (K * D,),
            "model.visual_fc.weight": (P, V),
            "model.visual_fc.bias": (P,),
            "model.ret_text_hidden_fcs.0.model.weight": (P, D),
            "model.ret_text_hidden_fcs.0.model.bias": (P,),
            "model.gen_text_hidden_fcs.0.model.weight": (C, D),
            "model.gen_text_hidden_fcs.0.model.bias": (C,),
        }
    )
    flags = [*_flags(small_backbones), "--image-generator", str(small_backbones / "sd")]
    return SmallRelease(tmp_path / "original", flags, args, tensors, _tensors({"1.weight": (2, D), "1.bias": (2,)}))


@pytest.fixture
def small_fromage(small_backbones: Path, tmp_path: Path) -> SmallRelease:
    args = {
        "opt_version": "facebook/opt-small",
        "freeze_lm": True,
        "visual_encoder": "clip-small",
        "freeze_vm": True,
        "n_visual_tokens": K,
        "shared_emb_dim": P,
        "text_emb_layers": [-1],
        "retrieval_token_idx": FIRST_IMG_ID,
    }
    tensors = _tensors(
        {
            "model.logit_scale": (),
            "ret_input_embeddings.weight": (1, D),
            "model.visual_embeddings.weight": (K * D, V),
            "model.visual_embeddings.bias": (K * D,),
            "model.visual_fc.weight": (P, V),
            "model.visual_fc.bias": (P,),
            "model.text_hidden_fcs.0.0.weight": (P, D),
            "model.text_hidden_fcs.0.0.bias": (P,),
        }
    )
    return SmallRelease(tmp_path / "original", _flags(small_backbones), args, tensors)


def _flags(backbones: Path) -> list[str]:
    return ["--language-model", str(backbones / "lm"), "--vision-model", str(backbones / "clip")]


def _tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
