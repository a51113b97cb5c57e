"""Images and scenes as CLIP is trained on them."""

from PIL import Image

from picturebook.models.autoencoder import to_tensor
from picturebook.models.clip import NAMES, image_processor, names_of
from picturebook.world.caption_grammar import layout
from picturebook.world.drawing import to_images
from picturebook.world.pairs import draw_all
from picturebook.world.scene import Scene, SceneObject
from picturebook.world.splits import TRAIN, stream

TWO = Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night")


def test_the_image_processor_restores_enlarged_images() -> None:
    images = draw_all([TWO], stream(0, TRAIN, "one"))
    values = image_processor()(
        images=[to_images(images)[0].resize((256, 256), Image.Resampling.NEAREST)], return_tensors="pt"
    )["pixel_values"]
    assert (values - to_tensor(images)).abs().max() < 1e-6


def test_names_of_a_scene_are_its_layout() -> None:
    (numbers,) = names_of([TWO]).tolist()
    assert " ".join(NAMES[number] for number in numbers) == layout(TWO)
