"""What the output of `GillPipeline` promises, without a pipeline."""

import pickle

import numpy as np
import pytest
import torch
from diffusers.utils import make_image_grid
from PIL import Image

from pipeline_gill import GillImage, GillPipelineOutput


def generated(image, **fields) -> GillImage:
    return GillImage(image, "generated", "generate", **fields)


def red(size=(8, 8)) -> Image.Image:
    return Image.new("RGB", size, "red")


def test_images_are_one_flat_list_of_all_candidates():
    candidates = [generated(red(), score=float(-number)) for number in range(4)]
    candidates[0].candidates = candidates
    out = GillPipelineOutput.from_answers([["a cat", candidates[0]], [generated(red())], ["no image"]])
    assert len(out.images) == 5 and out.images[0] is candidates[0].image
    assert make_image_grid(out.images[:4], 2, 2).size == (16, 16)
    assert out.texts == ["a cat", "", "no image"] and out.decisions == [["generate"], ["generate"], []]
    assert [len(pieces) for pieces in out.image_pieces] == [1, 1, 0]


def test_it_reads_like_an_output_of_diffusers():
    out = GillPipelineOutput.from_answers([[generated(red())]])
    assert out[0] is out.images and out["answers"] is out.answers and out.to_tuple() == (out.images, out.answers)
    assert pickle.loads(pickle.dumps(out)).answers[0][0].image.size == (8, 8)


@pytest.mark.parametrize(("make", "stacked"), ((np.zeros, np.ndarray), (torch.zeros, torch.Tensor)))
def test_arrays_of_one_shape_are_stacked_and_others_listed(make, stacked):
    same = GillPipelineOutput.from_answers([[generated(make((3, 8, 8)))], [generated(make((3, 8, 8)))]]).images
    assert isinstance(same, stacked) and same.shape == (2, 3, 8, 8)
    assert isinstance(
        GillPipelineOutput.from_answers([[generated(make((3, 8, 8)))], [generated(make((3, 4, 4)))]]).images, list
    )


def test_an_image_that_could_not_be_retrieved_is_left_out_of_the_images():
    out = GillPipelineOutput.from_answers([[GillImage(None, "retrieved", "retrieve"), generated(red())]])
    assert len(out.images) == 1 and len(out.image_pieces[0]) == 2


def test_several_answers_of_a_prompt_stay_with_it():
    out = GillPipelineOutput.from_answers([[["a"], ["b", generated(red())]], [["c"], []]])
    assert out.texts == [["a", "b"], ["c", ""]] and out.decisions == [[[], ["generate"]], [[], []]]
    assert len(out.images) == 1


def test_an_image_of_an_answer_shows_itself_in_a_notebook():
    piece = generated(red(), caption="<b>a cat</b>", decision_probabilities={"generate": 0.75, "retrieve": 0.25})
    assert piece._repr_png_().startswith(b"\x89PNG")
    shown = piece._repr_html_()
    assert "data:image/png;base64," in shown and "P(generate) = 0.75" in shown
    assert "&lt;b&gt;a cat" in shown and "<b>" not in shown
    for image in (np.ones((8, 8, 3), np.float32), torch.ones(3, 8, 8)):
        assert generated(image)._repr_png_().startswith(b"\x89PNG")
    for image in (None, torch.ones(4, 8, 8)):
        assert generated(image)._repr_png_() is None and generated(image)._repr_html_() is None
