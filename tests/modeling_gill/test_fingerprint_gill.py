"""A fingerprint tells weights apart, not the form they are kept in."""

import json

import pytest
import torch

from modeling_gill.fingerprint_gill import differing_parts, fingerprint_name, fingerprint_weights, fingerprints_match


def weights(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(64, 100, generator=generator) * 0.03, torch.randn(64, generator=generator)]


def taken(head: list[torch.Tensor], encoder: list[torch.Tensor]) -> dict:
    # As a file keeps it.
    return json.loads(json.dumps(fingerprint_weights({"head": head, "encoder": encoder})))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
def test_weights_loaded_in_another_dtype_are_the_same_weights(dtype):
    rounded = [weight.to(dtype) for weight in weights()]
    assert fingerprints_match(taken(weights(), weights(1)), taken(rounded, weights(1)))


def test_other_weights_are_named_by_the_part_that_differs():
    assert differing_parts(taken(weights(), weights(1)), taken(weights(), weights(2))) == ["encoder"]


@pytest.mark.parametrize("change", (0.02, 0.1))
def test_a_few_steps_of_training_make_other_weights(change):
    trained = [weight + change * weight.std() * torch.randn_like(weight) for weight in weights()]
    before, after = taken(weights(), weights(1)), taken(trained, weights(1))
    assert differing_parts(before, after) == ["head"]
    assert fingerprint_name(before) != fingerprint_name(after)


def test_a_file_that_holds_no_fingerprint_matches_nothing():
    assert not fingerprints_match({}, taken(weights(), weights(1)))
    assert not fingerprints_match({"digest": "a"}, {"digest": "a"})
