"""The world's CLIP: its picture tower is GILL's image encoder, its text tower the generator's.

It is trained before the generator and then frozen, as the real one is: trained with the generator, a text tower that
hardly tells two captions apart serves the generator well, and teaches GILL's mapper, which learns distances, nothing.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from .backgrounds import PICTURE_SIZE
from .captions import describe
from .data import PairMixture, caption_for, draw_all
from .knowledge import all_of
from .pixels import to_tensor
from .scene import Scene, edits_of
from .splits import TRAIN, VALIDATION, scene_in, split_of, story_in, stream
from .stage import Place
from .training_loop import Schedule, remove_checkpoints, run_training
from .word_tokenizer import clip_tokenizer

STAGE = "clip"
# Long enough for five sentences: a generator that is asked for a story's last picture has read all of it.
POSITIONS = 52
_STORIES, _MEASURED, _AMONG = 0.1, 512, 64
MIXTURE = PairMixture(left_out=0.1)


def train_clip(place: Place, schedule: Schedule, width: int, layers: int, seed: int = 0) -> None:
    """Train both towers on pictures and captions, contrastively; measure and save them with their processors.

    Half of a batch are scenes, the other half the same scenes with one thing changed: the hardest to tell apart.
    """
    tokenizer = clip_tokenizer(POSITIONS)
    tower = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": max(width // 32, 1),
    }  # fmt: skip
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            text_config=tower | {
                "vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS, "projection_dim": width,
                "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config=tower | {"image_size": PICTURE_SIZE, "patch_size": 4, "projection_dim": width},
            projection_dim=width,
        )
    )  # fmt: skip
    # Words must be told apart from the first step on.
    nn.init.normal_(model.text_model.embeddings.token_embedding.weight, std=0.5)
    wrapped = _Contrastive(model)

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        stepped = stream(seed, TRAIN, f"clip {step}")
        texts, scenes = pairs_with_edits(TRAIN, schedule.batch_size // 2, stepped)
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(model.device)
        return wrapped(tokens.input_ids, normalised(draw_all(scenes, stepped)).to(model.device))

    seconds = run_training(STAGE, wrapped, schedule, loss_of_step, place.checkpoints(STAGE), seed)

    def write(folder: object) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        image_processor().save_pretrained(folder)

    place.write_folder(STAGE, write)
    place.write_figures(
        STAGE,
        {"parameters": sum(one.numel() for one in model.parameters()), "minutes": seconds / 60}
        | measure_clip(model, tokenizer, seed),
    )
    remove_checkpoints(place.checkpoints(STAGE))


def image_processor() -> CLIPImageProcessor:
    """Pictures at the world's own size, from -1 to 1."""
    return CLIPImageProcessor(
        size={"shortest_edge": PICTURE_SIZE}, crop_size={"height": PICTURE_SIZE, "width": PICTURE_SIZE},
        # Nearest: a picture shown enlarged comes back to what it was.
        resample=0, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip


def normalised(pictures: np.ndarray) -> torch.Tensor:
    """What [`image_processor`] makes of uint8 pictures `(n, 32, 32, 3)`, without its detours."""
    return to_tensor(pictures)


def pairs_with_edits(split: str, number: int, generator: np.random.Generator) -> tuple[list[str], list[Scene]]:
    """So many texts with scenes, and after each the same with one thing changed; some texts are stories so far."""
    texts: list[str] = []
    scenes: list[Scene] = []
    while len(texts) < 2 * number:
        if generator.random() < _STORIES:
            for _ in range(2):
                text, scene = story_so_far(split, generator)
                texts.append(text)
                scenes.append(scene)
            continue
        scene = scene_in(split, generator)
        edits = [one for one in edits_of(scene) if split_of(one) in (None, split)]
        for one in (scene, edits[int(generator.integers(len(edits)))]):
            texts.append(caption_for(one, generator, MIXTURE))
            scenes.append(one)
    return texts, scenes


def story_so_far(split: str, generator: np.random.Generator) -> tuple[str, Scene]:
    """Two to five sentences of a story, and the scene after them."""
    story = story_in(split, generator)
    number = int(generator.integers(1, len(story.sentences)))
    return " ".join(f"{sentence} ." for sentence in story.sentences[: number + 1]), story.scenes[number]


@torch.no_grad()
def measure_clip(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, float]:
    """Right captions among 64 other scenes, and right ones among every edit of the scene, which is far harder."""
    generator = stream(seed, VALIDATION, STAGE)
    scenes = [scene_in(VALIDATION, generator) for _ in range(_MEASURED)]
    pictures = model.get_image_features(pixel_values=normalised(draw_all(scenes, generator))).pooler_output
    pictures = functional.normalize(pictures, dim=-1)

    def embed(some: list[Scene]) -> torch.Tensor:
        tokens = tokenizer([describe(all_of(one)) for one in some], padding="max_length", return_tensors="pt")
        return functional.normalize(model.get_text_features(input_ids=tokens.input_ids).pooler_output, dim=-1)

    scores = (pictures @ embed(scenes).T).view(_MEASURED // _AMONG, _AMONG, _MEASURED // _AMONG, _AMONG)
    own = torch.stack([scores[block, :, block] for block in range(len(scores))])
    among = (own.argmax(-1) == torch.arange(_AMONG)).float().mean()
    hard = [
        bool((picture @ embed([scene, *edits_of(scene)]).T).argmax() == 0)
        for picture, scene in zip(pictures[:200], scenes, strict=False)
    ]
    return {"right_among_64": float(among), "right_among_edits": float(np.mean(hard))}


class _Contrastive(nn.Module):
    """The towers with CLIP's own loss."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, pixel_values=pixel_values, return_loss=True).loss


__all__ = ["POSITIONS", "STAGE", "image_processor", "measure_clip", "story_so_far", "train_clip"]
