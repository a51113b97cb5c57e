"""Learnt queries that attend over the patches of an image, in place of their average."""

from pathlib import Path

import pytest
import torch
import transformers

from modeling_gill import GillConfig, GillForConditionalGeneration
from pipeline_gill import RetrievalSet
from tests.modeling_gill.test_image_encoder_gill import FAMILIES, IMAGES, VIT, joined
from tests.small_model import small_config, small_model, small_processor
from training_gill.collator import CaptionedImageCollator
from training_gill.precomputation import ImageEncoder
from training_gill.record_step import RecordTrainingStep
from training_gill.step_losses import LossWeights
from training_gill.training_step import AdapterTrainingStep

RESAMPLED = {"vision_pooling": "patches", "visual_resampler_layers": 2, "visual_resampler_num_heads": 4}
PATCHES = 4  # of the images of small models


@pytest.fixture(scope="module")
def processor():
    return small_processor(num_visual_tokens=3)


@pytest.fixture(scope="module")
def model(processor):
    return small_model(processor, **RESAMPLED)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    torch.manual_seed(0)
    text_config = small_config(small_processor()).text_config
    transformers.AutoModelForCausalLM.from_config(text_config).save_pretrained(folder)
    return folder


def by_hand(model: GillForConditionalGeneration, patches: torch.Tensor) -> torch.Tensor:
    """What the resampler yields for the patches `(num_patches, width)` of one image, written out."""
    resampler = model.visual_resampler
    queries = resampler.queries
    for layer in resampler.layers:
        normed = layer.query_norm(queries)
        read = torch.cat([layer.patch_norm(patches), normed])
        weights, biases = layer.attention.in_proj_weight.chunk(3), layer.attention.in_proj_bias.chunk(3)
        inputs = (normed, read, read)
        q, k, v = (
            (states @ weight.T + bias).unflatten(-1, (4, -1)).transpose(0, 1)
            for states, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        attended = (q @ k.transpose(1, 2) * k.shape[-1] ** -0.5).softmax(-1) @ v
        queries = queries + layer.attention.out_proj(attended.transpose(0, 1).flatten(1))
        queries = queries + layer.ffn(layer.ffn_norm(queries))
    return resampler.norm(queries)


@torch.no_grad()
def test_each_query_attends_over_all_patches_and_becomes_an_embedding(model):
    images = torch.rand(2, 3, 16, 16)
    features = model.get_image_features(images).pooler_output
    torch.testing.assert_close(features, model.vision_model(images).last_hidden_state[:, 1:])
    assert tuple(features.shape[1:]) == model.config.image_feature_shape == (PATCHES, 20)
    embeds = model.embed_images(features)
    assert embeds.shape == (2, 3, model.config.embedding_dim)
    for image, embed in zip(features, embeds, strict=True):
        torch.testing.assert_close(embed, model.visual_projection(by_hand(model, image)), rtol=1e-4, atol=1e-5)
    changed = features.clone()
    changed[:, -1] += torch.rand_like(changed[:, -1])
    assert ((model.embed_images(changed) - embeds).abs().amax(-1) > 1e-4).all()


@torch.no_grad()
def test_prompts_in_a_batch_are_read_as_alone(model, processor):
    prompts = [[IMAGES[0], "a cat"], [IMAGES[0], "and", IMAGES[1], "two dogs in the snow"]]
    ids = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    batch = processor(prompts, add_img_tokens=True)
    assert (batch["input_ids"] == ids).sum(1).tolist() == [3, 6]
    together = model(**batch)
    for number, prompt in enumerate(prompts):
        alone = model(**processor([prompt], add_img_tokens=True))
        length = alone.logits.shape[1]
        torch.testing.assert_close(together.logits[number, -length:], alone.logits[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.retrieval_embeds[number], alone.retrieval_embeds[0], rtol=1e-4, atol=1e-4)
    options = {"max_new_tokens": 5, "do_sample": False}
    answers = model.generate(**processor(prompts), **options)
    assert torch.equal(answers[0, -5:], model.generate(**processor(prompts[:1]), **options)[0, -5:])


@torch.no_grad()
def test_a_saved_model_reads_images_the_same(model, processor, tmp_path: Path):
    model.save_pretrained(tmp_path)
    again = GillForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.visual_resampler_num_patches == PATCHES
    batch = processor([[IMAGES[1], "a cat"]])
    assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_new_queries_are_small_random_numbers_however_a_model_is_made(processor):
    queries = small_model(processor, **RESAMPLED).visual_resampler.queries
    assert 0.01 < float(queries.detach().std()) < 0.03


def test_a_model_that_averages_has_no_resampler_and_writes_no_field_of_it(processor):
    model = small_model(processor, vision_pooling="patches")
    assert model.visual_resampler is None
    assert not [name for name in model.state_dict() if "resampler" in name]
    assert not [name for name in model.config.to_dict() if "resampler" in name]


@torch.no_grad()
def test_there_may_be_more_queries_than_patches_and_fewer_patches_than_the_image_has():
    more = small_model(small_processor(num_visual_tokens=9), **RESAMPLED)
    assert more.embed_images(more.get_image_features(torch.rand(1, 3, 16, 16)).pooler_output).shape[1] == 9
    fewer = small_model(small_processor(), visual_resampler_num_patches=2, **RESAMPLED)
    assert fewer.get_image_features(torch.rand(1, 3, 16, 16)).pooler_output.shape == (1, 2, 20)
    with pytest.raises(ValueError, match=r"`visual_resampler_num_patches`\), but .*4 patches"):
        small_config(small_processor(), visual_resampler_num_patches=5, **RESAMPLED)


@pytest.mark.parametrize("shape", [(1, 3, 20), (1, 20)])
def test_features_of_another_number_of_patches_are_refused(shape, model):
    with pytest.raises(ValueError, match=r"expected \(num_images, 4, 20\), the patches that the resampler reads"):
        model.embed_images(torch.rand(shape))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"visual_resampler_layers": 1}, "`visual_resampler_layers` is 1, but `vision_pooling` 'pooler'"),
        ({"visual_resampler_layers": 1, "vision_pooling": "mean"}, "but `vision_pooling` 'mean'"),
        ({"visual_resampler_layers": -1}, "`visual_resampler_layers` must be 0 or a positive integer, got -1"),
        ({"visual_resampler_layers": True}, "`visual_resampler_layers` must be 0 or a positive integer, got True"),
        ({"visual_resampler_num_patches": 4}, "is 4, but `visual_resampler_layers` is 0"),
        ({**RESAMPLED, "visual_resampler_num_patches": 0}, "`visual_resampler_num_patches` must be a positive integer"),
        ({**RESAMPLED, "visual_resampler_num_heads": 0}, "`visual_resampler_num_heads` must be a positive integer"),
        ({**RESAMPLED, "visual_resampler_num_heads": 7}, "768, is no multiple of `visual_resampler_num_heads` 7"),
        ({**RESAMPLED, "num_visual_tokens": None}, "expected an integer, the number of queries"),
    ],
)
def test_a_resampler_that_cannot_be_is_refused_naming_the_field(fields, message):
    with pytest.raises(ValueError, match=message):
        GillConfig(**fields)


@pytest.mark.parametrize("family", ["CLIP", pytest.param("SigLIP 2 NaFlex", marks=pytest.mark.slow)])
def test_it_trains_from_images_as_from_stored_features(family, language_model, tmp_path):
    published = tmp_path / "published"
    FAMILIES[family].publish(published)
    number = 8 if "NaFlex" in family else VIT["image_size"] ** 2 // VIT["patch_size"] ** 2
    fields = {**RESAMPLED, "visual_resampler_num_patches": number}
    model, processor = joined(published, language_model, tmp_path / "gill", mapper_type=None, **fields)
    examples = [
        {"index": number, "name": "", "key": "", "image": image, "caption": "a cat"}
        for number, image in enumerate(IMAGES)
    ]
    step = AdapterTrainingStep(model, LossWeights(conditioning=0.0))
    from_images = step(**CaptionedImageCollator(processor, packing=0.0)(examples))
    encoder = ImageEncoder(str(published), None, "cpu", model.config.image_pooling)
    assert encoder.shape == model.config.image_feature_shape == (number, 32)
    assert encoder.pooling == model.config.image_pooling
    for example, feature in zip(examples, encoder(IMAGES), strict=True):
        example["image_features"] = feature
    from_features = step(**CaptionedImageCollator(processor, packing=0.0)(examples))
    torch.testing.assert_close(from_images["loss"], from_features["loss"])
    from_images["loss"].backward()
    for name, weight in model.visual_resampler.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    found = RetrievalSet.build(model, processor, [(image, None) for image in IMAGES], progress=False)
    embeds = torch.nn.functional.normalize(from_images["image_embeds"], dim=-1)
    assert [found.retrieve(embed).index for embed in embeds] == [0, 1]


def test_it_learns_with_the_projection_and_not_without(processor):
    model = small_model(processor, **RESAMPLED)
    is_trained = lambda: {weight.requires_grad for weight in model.visual_resampler.parameters()}  # noqa: E731
    AdapterTrainingStep(model, LossWeights(captioning=0.0))
    assert is_trained() == {False}
    step = AdapterTrainingStep(model, LossWeights())
    assert is_trained() == {True}
    empty = step(**CaptionedImageCollator(processor)([]), target_conditioning={"prompt_embeds": torch.zeros(0, 7, 12)})
    empty["loss"].backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.visual_resampler.parameters())
    RecordTrainingStep(model, LossWeights(0, 1, 0, 0), ("img_embeddings",))
    assert is_trained() == {False}
    RecordTrainingStep(model, LossWeights(0, 1, 0, 0), ("visual_projection",))
    assert is_trained() == {True}
