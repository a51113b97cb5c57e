"""A recipe whose images are read by a resampler: from images, from a cache, and its sizes."""

import shutil
from dataclasses import replace

import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from training_gill import PrecomputeArguments, precompute, recipe_sizes, train
from training_gill.caches import CacheError
from training_gill.model_building import build_model
from training_gill.recipe import RecipeError

RESAMPLED = {
    "vision_pooling": "patches",
    "vision_feature_layer": -2,
    "num_visual_tokens": 3,
    "visual_resampler_layers": 1,
    "visual_resampler_num_heads": 2,
}


def test_a_recipe_builds_a_resampler_over_all_patches_and_states_its_size(recipe_with):
    recipe = recipe_with(**RESAMPLED)
    model, processor = build_model(recipe.model, torch.float32, 0)
    number = model.config.image_feature_shape[0]
    assert processor.num_visual_tokens == model.config.num_visual_tokens == 3 < number
    assert model.config.visual_resampler_num_patches == number
    assert len(model.visual_resampler.layers) == 1
    weights = sum(weight.numel() for weight in model.visual_resampler.parameters())
    sizes, averaged = recipe_sizes(recipe), recipe_sizes(recipe_with(**{**RESAMPLED, "visual_resampler_layers": 0}))
    assert sizes.trained == {**averaged.trained, "visual_resampler": weights}
    assert sizes.state_bytes > averaged.state_bytes


def test_a_recipe_that_has_no_number_of_queries_is_refused(recipe_with):
    arguments = replace(recipe_with(**RESAMPLED).model, num_visual_tokens=None)
    with pytest.raises(RecipeError, match="expected an integer, the number of queries"):
        build_model(arguments, torch.float32, 0)


def test_a_training_takes_all_patches_from_its_cache_and_moves_the_resampler(small_world, recipe_with, tmp_path):
    cache, vision = tmp_path / "cache", str(small_world / "models" / "vision_model")
    shutil.copytree(small_world / "cache" / "text_targets", cache / "text_targets")
    options = {**RESAMPLED, "cache": str(cache), "save_strategy": "no"}
    data = [str(small_world / name) for name in ("train.tsv", "validation.tsv")]
    fields = {"image_features": True, "vision_model": vision, "vision_pooling": "patches", "device": "cpu"}
    precompute(PrecomputeArguments(data, str(cache), vision_feature_layer=-2, **fields))
    before = build_model(recipe_with(**options).model, torch.float32, 0)[0]
    with pytest.raises(CacheError, match="num_visual_tokens"):
        train(recipe_with(**{**options, "visual_resampler_layers": 0}))
    train(recipe_with(**options))
    after = GillForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert not torch.equal(after.visual_resampler.queries, before.visual_resampler.queries)
