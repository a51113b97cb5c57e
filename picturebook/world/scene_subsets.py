"""The images that exist: of ordinary scenes. All others are fantasy, which no one has an image of.

Ordinary are boats and fish at sea and everything else on land, in colours that things come in. So a prompt says, to one
who understands it, whether its image can be found, as people's prompts do: a cat on a mat can, a purple one at sea
cannot. That is what GILL's decision is about.
"""

from .familiar import FAMILIAR_KIND
from .scene import Scene, all_scenes

OF_THE_SEA = ("boat", "fish")
FANCIFUL_COLOURS = ("purple", "pink")


def is_ordinary(scene: Scene) -> bool:
    """Whether there is an image of the scene in the library."""
    at_sea = scene.background == "sea"
    return all((thing.kind in OF_THE_SEA) == at_sea and thing.colour not in FANCIFUL_COLOURS for thing in scene.things)


def library_scenes(familiar: bool = False) -> list[Scene]:
    """Every ordinary scene once, sorted by key, so that their order says nothing; 9,152.

    Args:
        familiar (`bool`): Only those of one thing, of the kind that is familiar to weak models; 48.
    """
    scenes = (scene for scene in all_scenes() if is_ordinary(scene))
    if familiar:
        scenes = (scene for scene in scenes if [thing.kind for thing in scene.things] == [FAMILIAR_KIND])
    return sorted(scenes, key=lambda scene: scene.key)
