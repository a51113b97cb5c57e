"""Reads an original GILL release.

Source of the layout: the authors' `gill/models.py` (`load_gill`), `gill/layers.py` and `main.py` at commit 4600b71.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .adapter_tensors import TensorSource
from .model_args import positive_int, refuse_settings, text, token_ids
from .original_files import (
    DECISION_HEAD_NAME,
    MODEL_ARGS_NAME,
    ConversionError,
    find_checkpoint,
    load_checkpoint,
    read_settings,
)
from .original_release import Original
from .retrieval_pickles import find_retrieval_pickles

# The original hard-codes runwayml/stable-diffusion-v1-5, which was removed from the Hub; this is a copy.
IMAGE_GENERATOR = "stable-diffusion-v1-5/stable-diffusion-v1-5"

REQUIRED_ARGS = (
    "opt_version",
    "visual_encoder",
    "n_visual_tokens",
    "ret_emb_dim",
    "gen_emb_dim",
    "text_fc_mode",
    "num_tokens",
    "num_clip_tokens",
    "retrieval_token_idx",
)
# Other values cannot be loaded by the authors' `load_gill` either. These are also the defaults.
ONLY_VALUES: dict[str, Any] = {
    "freeze_lm": True,
    "freeze_vm": True,
    "text_emb_layers": [-1],
    "ret_text_fc_mode": "linear",
    "share_ret_gen": True,
    "norm_image_embed": "none",
}

RENAMES = {
    "model.logit_scale": "logit_scale",
    "model.visual_embeddings": "visual_projection",
    "model.visual_fc": "image_retrieval_head",
    "model.ret_text_hidden_fcs.0.model": "text_retrieval_head",
    "model.gen_text_hidden_fcs.0.fc": "mapper.input_projection",
    "model.gen_text_hidden_fcs.0.query_embs": "mapper.queries",
    "model.gen_text_hidden_fcs.0.tfm": "mapper.transformer",
    "model.gen_text_hidden_fcs.0.model": "mapper.output_projection",
}
IMG_ROWS = ("model.input_embeddings.weight",)
LEFT_OUT = {
    "model.lm": "the frozen language model, loaded from its own repository",
    "model.visual_model": "the frozen image encoder, loaded from its own repository",
}
# The head is `nn.Sequential(Dropout, Linear)`; 1 is the index of the linear layer.
DECISION_HEAD_RENAMES = {"1": "decision_head"}


def read_model_args(folder: Path) -> dict[str, Any]:
    """
    Read `model_args.json` as keyword arguments of `GillConfig`.

    They lack the configurations of the backbones and `image_token_id`. The conditioning is that of the checkpoint; that
    of a linear mapper may be shorter than the generator's.

    Raises:
        ConversionError: the file is missing or invalid, or a key is missing or has a value that cannot be converted.
    """
    path = folder / MODEL_ARGS_NAME
    args = read_settings(folder, REQUIRED_ARGS)
    refuse_settings(args, ONLY_VALUES, path)
    count, length = positive_int(args, "num_tokens", path), positive_int(args, "num_clip_tokens", path)
    width, mode = positive_int(args, "gen_emb_dim", path), args["text_fc_mode"]
    ids = token_ids(args, "retrieval_token_idx", count, path)
    if "gen_token_idx" in args and token_ids(args, "gen_token_idx", count, path) != ids:
        raise ConversionError(
            f"{path}: retrieval_token_idx {ids} and gen_token_idx {args['gen_token_idx']} differ; GILL has one kind "
            "of [IMG] tokens"
        )
    fields: dict[str, Any] = {
        "language_model_id": text(args, "opt_version", path),
        "vision_model_id": text(args, "visual_encoder", path),
        "image_generator_id": IMAGE_GENERATOR,
        "image_output_token_ids": ids,
        "num_visual_tokens": positive_int(args, "n_visual_tokens", path),
        "retrieval_dim": positive_int(args, "ret_emb_dim", path),
        "mapper_type": mode,
        "conditioning_length": length,
        "conditioning_dim": width,
        "use_decision_head": (folder / DECISION_HEAD_NAME).is_file(),
        "img_logit_scaling": "absolute",
    }
    if mode == "linear":
        # The outputs for all [IMG] tokens, `width` each, are concatenated and split into the positions.
        if length % count or width % (length // count):
            raise ConversionError(
                f"{path}: {count} [IMG] tokens of gen_emb_dim {width} cannot be divided into num_clip_tokens "
                f"{length} positions, which text_fc_mode linear needs"
            )
        fields |= {"mapper_tokens_per_img_token": length // count, "conditioning_dim": width * count // length}
    elif mode != "gill_mapper":
        raise ConversionError(f"{path}: text_fc_mode is {mode!r}, expected 'gill_mapper' or 'linear'")
    return fields


def read_original(folder: Path, retrieval_pickles: Sequence[Path] = (), decision_head: Path | None = None) -> Original:
    """
    Read a release. Retrieval embeddings are only listed.

    Args:
        folder (`Path`): With `model_args.json`, `pretrained_ckpt.pth.tar` and, optionally, `decision_model.pth.tar`.
        retrieval_pickles (`Sequence[Path]`): Files to use in place of those in `folder`.
        decision_head (`Path`, *optional*): File to use in place of that in `folder`.

    Raises:
        ConversionError: a file is missing or cannot be read.
    """
    fields = read_model_args(folder)
    if decision_head is not None:
        fields["use_decision_head"] = True
    sources = [TensorSource(load_checkpoint(find_checkpoint(folder)), RENAMES, LEFT_OUT, IMG_ROWS)]
    if fields["use_decision_head"]:
        sources.append(
            TensorSource(load_checkpoint(decision_head or folder / DECISION_HEAD_NAME), DECISION_HEAD_RENAMES, {})
        )
    return Original(
        config_fields=fields,
        img_tokens=[f"[IMG{i}]" for i in range(len(fields["image_output_token_ids"]))],
        sources=sources,
        retrieval_pickles=list(retrieval_pickles) or find_retrieval_pickles(folder),
        inputs=[folder, *retrieval_pickles],
    )
