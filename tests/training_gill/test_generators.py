"""Any image generator: its conditioning is computed once, learnt, and draws the pictures of the captions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models import modeling_utils

from modeling_gill.conditioning_gill import conditioning_fields
from pipeline_gill import GillPipeline
from pipeline_gill.conditioning_capture_gill import capture_conditioning, generator_arguments
from pipeline_gill.conditioning_derivation import derive_conditioning
from pipeline_gill.generator_call_gill import without_negative_prompt
from tests.small_generators import CALLS, small_generator
from tests.small_model import small_model, small_processor
from training_gill import PrecomputeArguments, precompute, target_encoder, train
from training_gill.caches import CacheError, TextTargetsCache, read_negatives
from training_gill.collator import CaptionedImageCollator
from training_gill.step_losses import LossWeights
from training_gill.target_encoder import TargetEncoder
from training_gill.training_step import AdapterTrainingStep

CAPTIONS = (
    "a red house",
    "a blue tree on the left of the house",
    "the sun over the sea",
    "a cat",
    "two dogs run on the green beach in the sun",
    "what is in this photo ?",
)
KINDS = ("stable-diffusion-1.5", "sdxl", "stable-diffusion-3", "pixart-sigma", "sana", "flux", "z-image")


def write_captions(folder: Path) -> str:
    path = folder / "captions.tsv"
    path.write_text("".join(f"{caption}\t{number}.png\n" for number, caption in enumerate(CAPTIONS)))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_six_captions_are_memorised_and_drawn(kind, tmp_path):
    generator, call = small_generator(kind), CALLS.get(kind, {})
    generator.save_pretrained(tmp_path / "generator")
    arguments = PrecomputeArguments(
        [write_captions(tmp_path)],
        str(tmp_path / "cache"),
        image_generator=str(tmp_path / "generator"),
        image_generator_kwargs=call,
        dtype="float32",
        device="cpu",
    )
    assert precompute(arguments).targets == len(CAPTIONS)
    targets, negatives = TextTargetsCache(tmp_path / "cache"), read_negatives(tmp_path / "cache")

    processor = small_processor()
    sizes = {"mapper_hidden_size": 64, "mapper_ffn_dim": 64, "conditioning_length": None, "conditioning_dim": None}
    model = small_model(processor, **{**sizes, **conditioning_fields(targets.tensors)})
    model.requires_grad_(True)
    step = AdapterTrainingStep(model, LossWeights(0, 0, 0, 1))
    features = torch.zeros(model.config.vision_dim)
    batch = CaptionedImageCollator(processor, packing=0.0, text_targets=targets)(
        [
            {"index": number, "name": "", "key": "", "caption": caption, "image_features": features}
            for number, caption in enumerate(CAPTIONS)
        ]
    )
    optimizer = torch.optim.Adam([weight for weight in step.parameters() if weight.requires_grad], lr=3e-3)
    for _ in range(300):
        loss = step(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        learnt = model(**processor(list(CAPTIONS), add_img_tokens=True)).conditioning
    repeated = {name: values.expand(len(CAPTIONS), *values.shape[1:]) for name, values in negatives.items()}
    arguments = generator_arguments({**learnt, **repeated}, targets.tensors)
    options = {"num_inference_steps": 2, "output_type": "latent", **call}

    def draw(**given):
        return (
            torch.as_tensor(generator(**given, **options, generator=torch.Generator().manual_seed(0))[0])
            .float()
            .flatten(1)
        )

    of_captions = draw(prompt=list(CAPTIONS))
    of_model = draw(**arguments, **without_negative_prompt(generator))
    assert torch.cdist(of_model, of_captions).argmin(1).tolist() == list(range(len(CAPTIONS)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("sdxl", "flux"))
def test_what_is_trained_draws_without_text_encoders(kind, recipe_with, small_world, tmp_path):
    generator = small_generator(kind)
    folder, cache, out = (str(tmp_path / name) for name in ("generator", "cache", "out"))
    generator.save_pretrained(folder)
    captions = [str(small_world / "train.tsv")]
    precompute(PrecomputeArguments(captions, cache, image_generator=folder, dtype="float32", device="cpu"))
    train(recipe_with(image_generator=folder, cache=cache, output_dir=out, validation_data=None))

    pipe = GillPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    parts = pipe.image_generator.components
    assert {part for name, part in parts.items() if name.startswith(("text_encoder", "tokenizer"))} == {None}
    caption = "a small red circle"
    options = {"num_inference_steps": 2, "output_type": "np"}
    drawn = pipe(caption, decision="generate", force_image=True, generator=torch.Generator().manual_seed(3), **options)

    with torch.no_grad():
        learnt = pipe.model(**pipe.processor([caption], add_img_tokens=True), output_images=True).conditioning
    arguments = generator_arguments({**learnt, **read_negatives(Path(cache))}, pipe.model.config.conditioning_tensors)
    wanted = generator(**arguments, **options, generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(drawn.images, wanted.images, atol=1e-5)


def test_text_targets_are_computed_without_loading_the_models_that_draw(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("its weights are not needed")

    generator = small_generator("sdxl")
    generator.save_pretrained(tmp_path / "sdxl")
    wanted = capture_conditioning(generator, CAPTIONS[:2], derive_conditioning(generator))
    for model in (generator.unet, generator.vae):
        monkeypatch.setattr(type(model), "from_pretrained", refuse)
    encoder = TargetEncoder(str(tmp_path / "sdxl"), None, "cpu")
    for number, target in enumerate(encoder(CAPTIONS[:2])):
        for name, values in target.items():
            assert np.abs(values - wanted[name][number].numpy()).max() < 1e-5


def test_models_that_stand_in_have_the_dtype_that_was_asked_for_and_nothing_is_warned_of(tmp_path, monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(modeling_utils.logger, "warning", lambda message, *_: warned.append(message))
    generator = small_generator("stable-diffusion-1.5")
    generator.save_pretrained(tmp_path / "generator")
    encoder = TargetEncoder(str(tmp_path / "generator"), None, "cpu", torch.bfloat16)
    assert {weight.dtype for weight in encoder._generator.unet.parameters()} == {torch.bfloat16}
    assert not [message for message in warned if "float32" in message]

    # Layers that a class of diffusers keeps in float32 when it is loaded stay so here too.
    monkeypatch.setattr(type(generator.unet), "_keep_in_fp32_modules", ["time_embedding"])
    target_encoder._cast(generator.unet, torch.bfloat16)
    kept = {name for name, weight in generator.unet.named_parameters() if weight.dtype == torch.float32}
    assert {name.split(".")[0] for name in kept} == {"time_embedding"} and len(kept) == 4


@pytest.mark.parametrize("known", (True, False), ids=("known generator", "other generator"))
def test_a_recipe_whose_cache_does_not_exist_is_refused(known, recipe_with, small_world, tmp_path):
    folder = tmp_path / "generator"
    shutil.copytree(small_world / "models" / "image_generator", folder)
    if not known:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "AuraFlowPipeline"}))
    recipe = recipe_with(image_generator=str(folder), cache=str(tmp_path / "nowhere"), output_dir=str(tmp_path / "out"))
    with pytest.raises(CacheError, match=r"nowhere.*gill precompute"):
        train(recipe)
