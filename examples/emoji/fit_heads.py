"""Fit the retrieval heads of a recipe in closed form, and write the gallery.

    python examples/emoji/fit_heads.py examples/emoji/gallery.yaml

The text head keeps the principal components of the language model's states after all names, less their mean; the image
head is the ridge regression of these from the features of the images. So the text side is not bent to tell the names
apart, as by the contrastive loss of `gill train` over few names, and texts that are no names are found more often.

States and features are those that `gill precompute` has written.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.nn import functional

from pipeline_gill.repository_writer_gill import write_repository
from training_gill import read_recipe
from training_gill.caches import ImageFeatureCache, LanguageStatesCache
from training_gill.model_building import build_model
from training_gill.training_data import open_data

# Of the ridge regression, relative to the mean square of a feature.
_RIDGE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="Recipe with `cache` and `output_dir`.")
    arguments = parser.parse_args()
    try:
        print(f"wrote {fit_heads(arguments.recipe)}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


@torch.no_grad()
def fit_heads(recipe: Path) -> Path:
    """
    Write the repository of a recipe with retrieval heads that are fitted to all images and their captions.

    Returns:
        Its folder.

    Raises:
        ValueError: a cache that is missing or was made for other data.
    """
    entries = read_recipe(recipe, use_cpu=True)
    cache, data = Path(str(entries.data.cache)), str(entries.data.train_data)
    examples = open_data(data, image_folder=entries.data.train_image_folder)
    captions = list(examples.captions())
    states, features = LanguageStatesCache(cache), ImageFeatureCache(cache)
    names = {caption: states[caption].flatten() for caption in dict.fromkeys(captions)}
    rows = [number for number in range(len(examples)) if examples[number]["key"] not in features.unreadable]
    images = torch.stack([features[examples[number]["key"]] for number in rows])
    model, processor = build_model(entries.model, torch.float32, entries.training.seed)
    if entries.model.truncate_text is not None:
        processor.truncate_text = entries.model.truncate_text
    text_head, image_head = model.text_retrieval_head, model.image_retrieval_head
    every = torch.stack(list(names.values()))
    mean = every.mean(0)
    rank = min(text_head.out_features, *every.shape)
    _, _, components = torch.linalg.svd(every - mean, full_matrices=False)
    text_head.weight.zero_()
    text_head.weight[:rank] = components[:rank]
    text_head.bias.copy_(-text_head.weight @ mean)
    targets = functional.normalize(torch.stack([text_head(names[captions[number]]) for number in rows]), dim=1)
    center, offset = images.mean(0), targets.mean(0)
    images, targets = (images - center).double(), (targets - offset).double()
    gram = images.T @ images
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    fitted = torch.linalg.solve(gram, images.T @ targets).float()
    image_head.weight.copy_(fitted.T)
    image_head.bias.copy_(offset - center @ fitted)
    # The row of `[IMG0]` is that of this token, and of two equal logits the model would write the first.
    opening = processor.tokenizer(entries.model.initializer_text or "", add_special_tokens=False).input_ids
    model.generation_config.suppress_tokens = opening[:1] or None
    folder = Path(str(entries.training.output_dir))
    write_repository(folder, model, processor)
    return folder


if __name__ == "__main__":
    main()
