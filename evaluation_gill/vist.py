"""Visual Storytelling: generate or retrieve the last image of a story (paper, section 4.1, tables 1 and 2)."""

from .arguments import VistOptions
from .results import Results
from .stories import Story, read_stories
from .tasks import ImageName, Item, data_protocol, find_images, generate_or_retrieve

CONTEXTS = {
    "caption": "last caption",
    "captions": "all captions",
    "images": "all captions and all images but the last",
}


def prompt_pieces(story: Story, context: str) -> tuple[str | ImageName, ...]:
    """What the system sees of a story; `context` is one of [`CONTEXTS`]."""
    if context == "caption":
        return (story.captions[-1],)
    if context == "captions":
        return (" ".join(story.captions),)
    pieces: list[str | ImageName] = []
    for caption, image in zip(story.captions[:-1], story.images[:-1], strict=True):
        pieces += [caption, ImageName(image)]
    return (*pieces, story.captions[-1])


def run(options: VistOptions) -> Results:
    """Evaluate; see [`~evaluation_gill.evaluate`]."""
    stories = read_stories(options.annotations)
    items = [
        Item(
            label=f"story {story.name}",
            name=story.name,
            pieces=prompt_pieces(story, options.context),
            target=(story.images[-1],),
            text=story.captions[-1],
            # Also where images are not shown: all contexts are then measured on the same stories.
            context=story.images[:-1],
            excluded=story.images[:-1] if options.mask else (),
        )
        for story in stories[: options.limit]
    ]
    protocol = {
        **data_protocol("VIST", options),
        "context": CONTEXTS[options.context],
        "target": "last image of each story",
        "texts_joined_by": " " if options.context == "captions" else None,
    }
    found = find_images(options, items, [(image,) for story in stories for image in story.images])
    masking = "images that the story has shown are no candidates" if options.mask else "none"
    return generate_or_retrieve(options, "vist", found, protocol, masking)


__all__ = ["CONTEXTS", "prompt_pieces", "run"]
