"""Scenes by their keys."""

from picturebook.world.scene import Scene, SceneError, SceneObject


def scene_of_key(key: str) -> Scene:
    """The scene whose [`Scene.key`] this is.

    Raises:
        SceneError: it is no scene's key.
    """
    background, *objects = key.split("/")
    parts = [obj.split("-") for obj in objects]
    if any(len(part) != 3 for part in parts):
        raise SceneError(f"{key!r} is no scene's key.")
    return Scene(tuple(SceneObject(kind, colour, place) for place, colour, kind in parts), background)
