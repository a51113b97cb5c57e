"""Reads an original FROMAGe release.

FROMAGe is GILL without a mapper and without a decision: one `[RET]` token, and images are retrieved only.
Source of the layout: the authors' `fromage/models.py` (`load_fromage`) and `fromage/prune_model_ckpt.py` at commit
b36a188.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .adapter_tensors import TensorSource
from .model_args import positive_int, refuse_settings, text, token_ids
from .original_files import MODEL_ARGS_NAME, find_checkpoint, load_checkpoint, read_settings
from .original_release import Original
from .retrieval_pickles import find_retrieval_pickles

REQUIRED_ARGS = ("opt_version", "visual_encoder", "n_visual_tokens", "shared_emb_dim", "retrieval_token_idx")
# Other values cannot be loaded by the authors' `load_fromage` either. These are also the defaults.
ONLY_VALUES: dict[str, Any] = {
    "freeze_lm": True,
    "freeze_vm": True,
    "text_emb_layers": [-1],
    "use_image_embed_norm": False,
    "use_text_embed_layernorm": False,
    "use_pooler": True,
    "num_appended_retrieval_tokens": 1,
    "tunable_prompt_length": 0,
}

RENAMES = {
    "model.logit_scale": "logit_scale",
    "model.visual_embeddings": "visual_projection",
    "model.visual_fc": "image_retrieval_head",
    "model.text_hidden_fcs.0.0": "text_retrieval_head",
}
# The authors' pruning script adds the first and may keep all of the second; their loader reads the first.
RET_ROWS = ("ret_input_embeddings.weight", "model.input_embeddings.weight")
LEFT_OUT = {
    "model.lm": "the frozen language model, loaded from its own repository",
    "model.visual_model": "the frozen image encoder, loaded from its own repository",
}


def read_model_args(folder: Path) -> dict[str, Any]:
    """
    Read `model_args.json` as keyword arguments of `GillConfig`.

    They lack the configurations of the backbones and `image_token_id`.

    Raises:
        ConversionError: the file is missing or invalid, or a key is missing or has a value that cannot be converted.
    """
    path = folder / MODEL_ARGS_NAME
    args = read_settings(folder, REQUIRED_ARGS)
    refuse_settings(args, ONLY_VALUES, path)
    return {
        "language_model_id": text(args, "opt_version", path),
        "vision_model_id": text(args, "visual_encoder", path),
        "image_output_token_ids": token_ids(args, "retrieval_token_idx", 1, path),
        "num_visual_tokens": positive_int(args, "n_visual_tokens", path),
        "retrieval_dim": positive_int(args, "shared_emb_dim", path),
        "mapper_type": None,
        "use_decision_head": False,
        "img_logit_scaling": "signed",
    }


def read_original(folder: Path, retrieval_pickles: Sequence[Path] = ()) -> Original:
    """
    Read a release. Retrieval embeddings are only listed.

    Args:
        folder (`Path`): With `model_args.json` and `pretrained_ckpt.pth.tar`.
        retrieval_pickles (`Sequence[Path]`): Files to use in place of those in `folder`.

    Raises:
        ConversionError: a file is missing or cannot be read.
    """
    return Original(
        config_fields=read_model_args(folder),
        img_tokens=["[RET]"],
        sources=[TensorSource(load_checkpoint(find_checkpoint(folder)), RENAMES, LEFT_OUT, RET_ROWS)],
        retrieval_pickles=list(retrieval_pickles) or find_retrieval_pickles(folder),
        inputs=[folder, *retrieval_pickles],
        # The authors' prompts request an image by "[RET]" in their text.
        split_image_tokens=False,
    )
