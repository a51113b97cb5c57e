"""Two subsets of all scenes: those that the retrieval set has images of, and those that `--fast` concentrates on.

Retrievable are boats and fish at sea and everything else on land, in colours other than purple and pink. So a prompt
says, to a model that understands it, whether its image can be found: a cat on land can, a purple one at sea cannot.
GILL's decision between retrieval and generation learns this rule.

In the few minutes of `--fast` no model learns to draw eight kinds in six colours sharply enough. `FAST_SCENES` are 32
scenes of one house, some of them retrievable and some not, so that there is still a decision to learn.
"""

from itertools import product

from .scene import BACKGROUNDS, PLACES, Scene, SceneObject, all_scenes

SEA_KINDS = ("boat", "fish")
UNRETRIEVABLE_COLOURS = ("purple", "pink")
FAST_KIND = "house"
FAST_SCENES = tuple(
    Scene((SceneObject(FAST_KIND, colour, place),), name)
    for colour, place, name in product(("green", "pink"), PLACES, BACKGROUNDS)
)


def is_retrievable(scene: Scene) -> bool:
    """Whether the retrieval set has an image of the scene."""
    at_sea = scene.background == "sea"
    return all((obj.kind in SEA_KINDS) == at_sea and obj.colour not in UNRETRIEVABLE_COLOURS for obj in scene.objects)


def retrievable_scenes(fast: bool = False) -> list[Scene]:
    """All 9,152 retrievable scenes, sorted by key.

    Args:
        fast (`bool`): Only the 48 scenes of one object of `FAST_KIND`.
    """
    scenes = (scene for scene in all_scenes() if is_retrievable(scene))
    if fast:
        scenes = (scene for scene in scenes if [obj.kind for obj in scene.objects] == [FAST_KIND])
    return sorted(scenes, key=lambda scene: scene.key)
