"""The drawn world: scenes, their language, images and splits. Needs numpy and Pillow alone."""
