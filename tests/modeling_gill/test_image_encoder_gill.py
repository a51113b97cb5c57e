"""Any image encoder: the feature that a GILL model reads is the one that transformers computes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForCausalLM

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from modeling_gill.backbones_gill import load_backbones
from modeling_gill.image_encoder_gill import feature_shape, feature_shape_of
from modeling_gill.image_pooling_gill import ImagePooling
from modeling_gill.image_preprocessing_gill import load_image_processor, preprocess_images
from pipeline_gill import RetrievalSet
from tests.small_model import small_config, small_processor
from training_gill.collator import CaptionedImageCollator
from training_gill.precomputation import ImageEncoder
from training_gill.step_losses import LossWeights
from training_gill.training_step import AdapterTrainingStep

VIT = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 32, "patch_size": 4}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
ALIGN = {
    "image_size": 32,
    "kernel_sizes": [3, 3],
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "depthwise_padding": [],
    "strides": [1, 1],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 2],
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "hidden_dim": 24,
}
IMAGES = [Image.linear_gradient("L").convert("RGB").resize((48, 32)), Image.radial_gradient("L").convert("RGB")]


def token(out: Any) -> torch.Tensor:
    return out.last_hidden_state[:, 0]


def mean(prefix: int) -> Callable[[Any], torch.Tensor]:
    return lambda out: out.last_hidden_state[:, prefix:].mean(1)


def map_mean(out: Any) -> torch.Tensor:
    return out.last_hidden_state.mean((2, 3))


def pooler(out: Any) -> torch.Tensor:
    return out.pooler_output.flatten(1)


def patches(prefix: int) -> Callable[[Any], torch.Tensor]:
    return lambda out: out.hidden_states[-2][:, prefix:]


@dataclass(frozen=True)
class Family:
    """A kind of image encoder in transformers.

    Attributes:
        model: Name of its class.
        fields: Of its configuration.
        features: By `vision_pooling`, the feature as one computes it from the output of transformers' own model.
        text: The configuration of the other tower, for encoders that are published as a part of a whole model.
        whole: Name of the class of the whole model.
        processor: Name of the class of its image processor.
    """

    model: str
    fields: dict[str, Any]
    features: dict[str, Callable[[Any], torch.Tensor]]
    whole: str | None = None
    text: dict[str, Any] = field(default_factory=lambda: TEXT)
    processor: str = "CLIPImageProcessorPil"

    def publish(self, folder: Path) -> Any:
        """Write a repository of random weights, and return transformers' own encoder with them."""
        torch.manual_seed(0)
        if self.whole is None:
            model_class = getattr(transformers, self.model)
            model = model_class(model_class.config_class(**self.fields))
        else:
            whole_class = getattr(transformers, self.whole)
            model = whole_class(whole_class.config_class(text_config=self.text, vision_config=self.fields))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        options = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        if self.processor.startswith("Siglip2"):
            options = {"patch_size": 8, "max_num_patches": 16}
        getattr(transformers, self.processor)(**options).save_pretrained(folder)
        if self.whole is None or self.model.endswith("Projection"):
            return getattr(transformers, self.model).from_pretrained(folder).eval()
        return model.vision_model.eval()


VIT_POOLED = {"pooler": pooler, "cls": token, "mean": mean(1), "patches": patches(1)}
NO_TOKEN = {"pooler": pooler, "mean": mean(0), "patches": patches(0)}
MAPS = {"pooler": pooler, "mean": map_mean}
FAMILIES = {
    "CLIP": Family(
        "CLIPVisionModel",
        {**VIT, "projection_dim": 12},
        VIT_POOLED,
        whole="CLIPModel",
    ),
    "CLIP with projection": Family(
        "CLIPVisionModelWithProjection",
        {**VIT, "projection_dim": 512},
        {"image_embeds": lambda out: out.image_embeds},
        whole="CLIPModel",
    ),
    "Chinese-CLIP": Family("ChineseCLIPVisionModel", VIT, VIT_POOLED),
    "MetaCLIP 2": Family("MetaClip2VisionModel", VIT, VIT_POOLED),
    "SigLIP": Family("SiglipVisionModel", VIT, NO_TOKEN, whole="SiglipModel"),
    "SigLIP without head": Family(
        "SiglipVisionModel", {**VIT, "vision_use_head": False}, {"mean": mean(0), "patches": patches(0)}
    ),
    "SigLIP 2 NaFlex": Family(
        "Siglip2VisionModel",
        {**VIT, "num_patches": 16},
        {"pooler": pooler},
        whole="Siglip2Model",
        processor="Siglip2ImageProcessorPil",
    ),
    "DINOv2": Family("Dinov2Model", VIT, VIT_POOLED),
    "DINOv2 with registers": Family(
        "Dinov2WithRegistersModel",
        VIT,
        {"pooler": pooler, "cls": token, "mean": mean(5), "patches": patches(5)},
    ),
    "DINOv3 ViT": Family(
        "DINOv3ViTModel",
        {**VIT, "num_register_tokens": 4},
        {"pooler": pooler, "cls": token, "mean": mean(5), "patches": patches(5)},
    ),
    "DINOv3 ConvNeXt": Family("DINOv3ConvNextModel", STAGES, {"pooler": pooler, "cls": token, "mean": mean(1)}),
    "ViT": Family("ViTModel", VIT, VIT_POOLED),
    "DeiT": Family("DeiTModel", VIT, {"pooler": pooler, "cls": token, "mean": mean(2), "patches": patches(2)}),
    "BEiT": Family("BeitModel", VIT, VIT_POOLED),
    "ViT-MSN": Family("ViTMSNModel", VIT, {"cls": token, "mean": mean(1), "patches": patches(1)}),
    "I-JEPA": Family("IJepaModel", VIT, {"mean": mean(0), "patches": patches(0)}),
    "AIMv2": Family("Aimv2VisionModel", {**VIT, "use_head": True}, NO_TOKEN),
    "Swin": Family("SwinModel", SWIN, {"pooler": pooler, "mean": mean(0)}),
    "Swin v2": Family("Swinv2Model", SWIN, {"pooler": pooler, "mean": mean(0)}),
    "ConvNeXt": Family("ConvNextModel", STAGES, MAPS),
    "ConvNeXt V2": Family("ConvNextV2Model", STAGES, MAPS),
    "ResNet": Family("ResNetModel", {"embedding_size": 8, "layer_type": "basic", **STAGES}, MAPS),
    "RegNet": Family("RegNetModel", {"embedding_size": 8, "groups_width": 4, **STAGES}, MAPS),
    "ALIGN": Family("AlignVisionModel", ALIGN, MAPS, whole="AlignModel"),
    "AltCLIP": Family("AltCLIPVisionModel", VIT, VIT_POOLED, whole="AltCLIPModel", text={**TEXT, "project_dim": 16}),
    "BLIP": Family("BlipVisionModel", VIT, VIT_POOLED, whole="BlipModel", text={**TEXT, "encoder_hidden_size": 32}),
    "CLIPSeg": Family("CLIPSegVisionModel", VIT, VIT_POOLED, whole="CLIPSegModel"),
    "InternViT": Family(
        "InternVLVisionModel",
        {**VIT, "image_size": [32, 32], "patch_size": [8, 8]},
        {"cls": token, "mean": mean(1), "patches": patches(1)},
    ),
}
# Towers that read images of any size beside each other.
PACKED = {
    name: transformers.AutoConfig.for_model(name).vision_config for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
}
QUICK = {("CLIP", "patches"), ("SigLIP 2 NaFlex", "pooler"), ("ResNet", "pooler")}
CASES = [
    pytest.param(family, kind, marks=() if (family, kind) in QUICK else pytest.mark.slow, id=f"{family}-{kind}")
    for family in FAMILIES
    for kind in FAMILIES[family].features
]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(small_config(small_processor()).text_config).save_pretrained(folder)
    return folder


def joined(vision: Path, language: Path, out: Path, **fields: Any) -> tuple[Any, GillProcessor]:
    """New adapters between two published models, saved and as training leaves them."""
    processor = small_processor()
    vision_config = transformers.AutoConfig.from_pretrained(vision)
    vision_config = getattr(vision_config, "vision_config", vision_config)
    config = small_config(
        processor, vision_config=vision_config, language_model_id=str(language), vision_model_id=str(vision), **fields
    )
    processor = GillProcessor(
        load_image_processor(vision), processor.tokenizer, config.num_visual_tokens, processor.img_tokens
    )
    torch.manual_seed(1)
    model = GillForConditionalGeneration(config, defer_backbones=True)
    model.attach_backbones(*load_backbones(config, torch.float32))
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return model, processor


@pytest.mark.parametrize(("family", "kind"), CASES)
@torch.no_grad()
def test_an_encoder_gives_the_feature_that_transformers_computes(family, kind, language_model, tmp_path):
    published = tmp_path / "published"
    plain = FAMILIES[family].publish(published)
    fields = {"vision_pooling": kind}
    if kind == "patches":
        fields |= {"vision_feature_layer": -2, "num_visual_tokens": None}
    model, processor = joined(published, language_model, tmp_path / "gill", **fields)

    inputs = preprocess_images(processor.image_processor, IMAGES)
    expected = FAMILIES[family].features[kind](plain(**inputs, output_hidden_states=True))
    features = model.get_image_features(**inputs).pooler_output
    torch.testing.assert_close(features, expected, rtol=1e-6, atol=1e-6)
    assert tuple(features.shape[1:]) == model.config.image_feature_shape
    assert not torch.allclose(features[0], features[1])

    # Alone as in a batch.
    for number, image in enumerate(IMAGES):
        alone = model.get_image_features(**processor(images=image)).pooler_output
        torch.testing.assert_close(alone[0], features[number], rtol=1e-5, atol=1e-5)

    # After saving: by reference, and with all weights inside.
    prompt = processor([["look :", IMAGES[0], "and", IMAGES[1], "what ?"]])
    answer = model.generate(**prompt, max_new_tokens=4)
    embeds = model.get_image_retrieval_embeddings(**inputs)
    model.save_pretrained(tmp_path / "whole", self_contained=True)
    processor.save_pretrained(tmp_path / "whole")
    for folder in (tmp_path / "gill", tmp_path / "whole"):
        again = GillForConditionalGeneration.from_pretrained(folder)
        inputs = preprocess_images(GillProcessor.from_pretrained(folder).image_processor, IMAGES)
        assert torch.equal(again.get_image_features(**inputs).pooler_output, features)
        assert torch.equal(again.get_image_retrieval_embeddings(**inputs), embeds)
        assert torch.equal(again.generate(**prompt, max_new_tokens=4), answer)
        assert again.retrieval_fingerprint() == model.retrieval_fingerprint()
    read = model(**prompt).logits
    torch.testing.assert_close(read, model(**prompt | {"pixel_values": None}, image_features=features).logits)


def test_mae_reads_all_patches_in_their_places(language_model, tmp_path):
    plain = Family("ViTMAEModel", {**VIT, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2}, {})
    encoder = plain.publish(tmp_path / "published")
    model, processor = joined(tmp_path / "published", language_model, tmp_path / "gill", vision_pooling="cls")
    inputs = preprocess_images(processor.image_processor, IMAGES)
    encoder.config.mask_ratio = 0.0
    expected = encoder(**inputs, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state[:, 0]
    for _ in range(2):
        torch.testing.assert_close(model.get_image_features(**inputs).pooler_output, expected)


@pytest.mark.parametrize("kind", ["pooler", "cls"])
def test_a_pooler_that_the_repository_lacks_is_refused_and_the_class_token_is_the_way_out(
    kind, language_model, tmp_path
):
    torch.manual_seed(0)
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path / "classifier")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "classifier")
    if kind == "pooler":
        with pytest.raises(ValueError, match=r"pooler\.dense.*random.*`vision_pooling`"):
            joined(tmp_path / "classifier", language_model, tmp_path / "gill")
        return
    joined(tmp_path / "classifier", language_model, tmp_path / "gill", vision_pooling=kind)
    one, other = (GillForConditionalGeneration.from_pretrained(tmp_path / "gill") for _ in range(2))
    inputs = preprocess_images(GillProcessor.from_pretrained(tmp_path / "gill").image_processor, IMAGES)
    assert torch.equal(one.get_image_features(**inputs).pooler_output, other.get_image_features(**inputs).pooler_output)


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        (transformers.IJepaConfig(**VIT), "pooler", "IJepaModel has no pooled output"),
        (transformers.SiglipVisionConfig(**VIT, vision_use_head=False), "pooler", "SiglipVisionModel has no pooled"),
        (transformers.SiglipVisionConfig(**VIT), "cls", "SiglipVisionModel has no class token"),
        (transformers.ConvNextConfig(**STAGES), "cls", "ConvNextModel has no class token"),
        (transformers.ViTConfig(**VIT), "image_embeds", "ViTConfig"),
        (transformers.VideoMAEConfig(**VIT), "mean", "VideoMAEModel cannot be run on images alone"),
        (transformers.PixtralVisionConfig(**VIT), "mean", "PixtralVisionModel reads the patches of all images as one"),
        (PACKED["qwen2_vl"], "mean", "Qwen2VisionTransformerPretrainedModel reads the patches of all images as one"),
        (PACKED["qwen2_5_vl"], "mean", "Qwen2_5_VisionTransformerPretrainedModel reads the patches of all images"),
        (PACKED["qwen3_vl"], "patches", "Qwen3VLVisionModel reads the patches of all images as one sequence"),
        (transformers.CLIPConfig(), "pooler", "CLIPModel cannot be run on images alone"),
    ],
)
def test_a_feature_that_an_encoder_does_not_have_is_refused_when_the_model_is_built(config, kind, message):
    with pytest.raises(ValueError, match=message):
        GillForConditionalGeneration(small_config(small_processor(), vision_config=config, vision_pooling=kind))


@pytest.mark.parametrize("number", [4, 6])
def test_patches_are_averaged_to_any_number_of_visual_tokens(number):
    config = small_config(
        small_processor(),
        vision_config=transformers.CLIPVisionConfig(**VIT),
        vision_pooling="patches",
        vision_feature_layer=-2,
        num_visual_tokens=number,
    )
    model = GillForConditionalGeneration(config).eval()
    images = torch.rand(2, 3, 32, 32)
    features = model.get_image_features(images).pooler_output
    states = model.vision_model(images, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert features.shape == (2, number, 32)
    torch.testing.assert_close(features.mean(1), states.mean(1), atol=0.3 if number == 6 else 1e-5, rtol=1e-4)
    if number == 4:  # the four quarters of the picture
        quarters = states.reshape(2, 2, 2, 2, 2, 32).mean((2, 4)).flatten(1, 2)
        torch.testing.assert_close(features, quarters)
    assert model.embed_images(features).shape == (2, number, config.embedding_dim)
    assert model.visual_projection.weight.shape == (config.embedding_dim, 32)


def test_more_visual_tokens_than_patches_are_refused():
    config = small_config(
        small_processor(),
        vision_config=transformers.CLIPVisionConfig(**VIT),
        vision_pooling="patches",
        num_visual_tokens=17,
    )
    with pytest.raises(ValueError, match=r"`num_visual_tokens` is 17.*16 patches"):
        GillForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision_pooling": "max"}, "`vision_pooling` must be one of"),
        ({"vision_feature_layer": -2}, "`vision_feature_layer` is -2"),
        ({"vision_feature_layer": "last", "vision_pooling": "cls"}, "`vision_feature_layer` must be an integer"),
        ({"num_visual_tokens": None}, "`num_visual_tokens` must be an integer"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        GillConfig(**fields)


def test_a_processor_that_cuts_an_image_is_switched_to_one_view_or_refused(tmp_path):
    transformers.Idefics3ImageProcessorPil(do_image_splitting=True).save_pretrained(tmp_path)
    assert load_image_processor(tmp_path).do_image_splitting is False
    cutting = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 64], [64, 32]]
    )
    with pytest.raises(ValueError, match=r"LlavaNextImageProcessorPil cuts 1 images into \d"):
        preprocess_images(cutting, IMAGES[:1])


def test_an_image_is_prepared_with_pillow_before_and_after_saving(monkeypatch, tmp_path):
    processor = small_processor()

    class CLIPImageProcessor(transformers.CLIPImageProcessorPil):
        """What transformers makes of a repository where torchvision is installed."""

        backend = "torchvision"

    with_torchvision = CLIPImageProcessor(**processor.image_processor.to_dict())
    trained = GillProcessor(with_torchvision, processor.tokenizer, 2, processor.img_tokens)
    trained.save_pretrained(tmp_path)
    for one in (trained, GillProcessor.from_pretrained(tmp_path)):
        assert type(one.image_processor) is transformers.CLIPImageProcessorPil
        assert one.image_processor.size == processor.image_processor.size


def test_the_width_of_a_feature_is_found_from_the_encoder_itself():
    assert feature_shape(transformers.ConvNextConfig(**STAGES), ImagePooling()) == (20,)
    assert feature_shape(transformers.CLIPVisionConfig(**VIT), ImagePooling("patches", -2)) == (16, 32)


def test_an_encoder_is_run_for_the_shape_of_its_feature_once_and_one_of_other_parts_again():
    class Narrower(torch.nn.Module):
        def __init__(self, norm: torch.nn.Module) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.norm(states)[..., :20]

    runs = []
    for number in range(3):
        encoder = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VIT)).eval()
        encoder.register_forward_pre_hook(lambda *_: runs.append(1))
        if number == 2:
            encoder.post_layernorm = Narrower(encoder.post_layernorm)
        assert feature_shape_of(encoder, ImagePooling()) == ((20,) if number == 2 else (32,))
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("SigLIP 2 NaFlex", {}),
        ("CLIP", {"vision_pooling": "patches", "vision_feature_layer": -2, "num_visual_tokens": 4}),
    ],
)
def test_images_are_read_alike_in_training_from_features_and_in_a_retrieval_set(
    family, fields, language_model, tmp_path
):
    published = tmp_path / "published"
    FAMILIES[family].publish(published)
    model, processor = joined(published, language_model, tmp_path / "gill", mapper_type=None, **fields)
    examples = [
        {"index": number, "name": "", "key": "", "image": image, "caption": "a cat"}
        for number, image in enumerate(IMAGES)
    ]
    step = AdapterTrainingStep(model, LossWeights(conditioning=0.0))
    from_images = step(**CaptionedImageCollator(processor, packing=0.0)(examples))
    encoder = ImageEncoder(str(published), None, "cpu", model.config.image_pooling)
    assert encoder.shape == model.config.image_feature_shape
    for example, feature in zip(examples, encoder(IMAGES), strict=True):
        example["image_features"] = feature
    from_features = step(**CaptionedImageCollator(processor, packing=0.0)(examples))
    torch.testing.assert_close(from_images["loss"], from_features["loss"])
    from_images["loss"].backward()
    assert model.visual_projection.weight.grad.abs().sum() > 0

    found = RetrievalSet.build(model, processor, [(image, None) for image in IMAGES], progress=False)
    embeds = torch.nn.functional.normalize(from_images["image_embeds"], dim=-1)
    for number, embed in enumerate(embeds):
        assert found.retrieve(embed).index == number and found.retrieve(embed).cosine == pytest.approx(1, abs=1e-5)
