"""A small world to try training in: drawn images with captions, and small models that fit them.

`gill small-data OUT` writes `images/`, `train.tsv` and `validation.tsv` in the layout of the authors' CC3M,
`decisions.tsv` in that of their annotations, and under `models/` a language model, an image encoder and an image
generator, all tiny. The language model and the image encoder are trained for some seconds, as frozen models should know
something; the generator knows nothing.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from tqdm import tqdm
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from .arguments import SmallDataArguments
from .callbacks import hide_loading_bars

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (235, 210, 40),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "black": (15, 15, 15),
    "pink": (250, 130, 190),
}
BACKGROUNDS = {"white": (250, 250, 250), "grey": (150, 150, 150), "brown": (120, 80, 40), "cyan": (120, 220, 230)}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 7, "large": 12}  # pixels from the middle
IMAGE_SIZE = 32

Scene = tuple[str, str, str, str]


def scenes() -> list[Scene]:
    """All (size, colour, shape, background) there are, 256."""
    return list(itertools.product(SIZES, COLOURS, SHAPES, BACKGROUNDS))


def caption_of(scene: Scene) -> str:
    """What an image of a scene shows, in words."""
    size, colour, shape, background = scene
    return f"a {size} {colour} {shape} on a {background} background"


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """An image of a scene; where the shape lies is up to chance."""
    size, colour, shape, background = scene
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUNDS[background])
    pen, reach, fill = ImageDraw.Draw(image), SIZES[size], COLOURS[colour]
    x, y = (int(value) for value in rng.integers(reach + 1, IMAGE_SIZE - reach - 1, 2))
    box = (x - reach, y - reach, x + reach, y + reach)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - reach), (x - reach, y + reach), (x + reach, y + reach)], fill=fill)
    else:
        third = reach // 3 + 1
        pen.rectangle((x - reach, y - third, x + reach, y + third), fill=fill)
        pen.rectangle((x - third, y - reach, x + third, y + reach), fill=fill)
    return image


def write_images(out: Path, train: int, validation: int, seed: int = 0) -> None:
    """Write images, `train.tsv` and `validation.tsv`; no scene is validated twice."""
    rng = np.random.default_rng(seed)
    everything = scenes()
    (out / "images").mkdir(parents=True, exist_ok=True)
    # Every scene is trained on in turn; validation draws new images of scenes, each another.
    chosen = {
        "train": [everything[i % len(everything)] for i in range(train)],
        "validation": [everything[i] for i in rng.permutation(len(everything))[:validation]],
    }
    for split, some in chosen.items():
        lines = ["caption\timage"]
        for number, scene in enumerate(some):
            name = f"images/{split}-{number:05d}.png"
            draw(scene, rng).save(out / name)
            lines.append(f"{caption_of(scene)}\t{name}")
        (out / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_decisions(out: Path, seed: int = 0) -> None:
    """Write `decisions.tsv`: made-up votes, for what is large to be generated and for what is small retrieved."""
    rng = np.random.default_rng(seed)
    lines = ["Prompt\tCategory\tChallenge\tNote\tDecisions"]
    for i in rng.permutation(len(scenes())):
        scene = scenes()[i]
        own = "gen" if scene[0] == "large" else "ret"
        other = "ret" if own == "gen" else "gen"
        votes = rng.choice([own, other, "same"], size=5, p=[0.8, 0.1, 0.1])
        lines.append(f"{caption_of(scene)}\tShapes\tBasic\tMade up\t{','.join(votes)}")
    (out / "decisions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_models(out: Path, steps: int = 150, seed: int = 0) -> None:
    """Write the small frozen models under `out / "models"`, two of them trained for `steps` steps."""
    torch.manual_seed(seed)
    _write_language_model(out / "models" / "language_model", steps, seed)
    _write_image_encoder(out / "models" / "vision_model", steps, seed)
    _write_image_generator(out / "models" / "image_generator")


def _word_tokenizer(special: dict[str, str], template: str, **options: object) -> PreTrainedTokenizerFast:
    words = sorted({word for scene in scenes() for word in caption_of(scene).split()})
    words += ["Q:", "A:", "draw", "me", "show", "the", "."]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*special.values(), "\n", *words]))}
    unknown = special["unk_token"]
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    # Words, and every newline as one of its own.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    used = {token for token in special.values() if token in template}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in sorted(used)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)


def _write_language_model(folder: Path, steps: int, seed: int) -> None:
    special = {"pad_token": "<pad>", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = _word_tokenizer(special, "</s> $A")
    tokenizer.save_pretrained(folder)
    # Rows to spare, as OPT-6.7B has them.
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer) + 3,
            hidden_size=128,
            word_embed_proj_dim=128,
            num_hidden_layers=3,
            ffn_dim=256,
            num_attention_heads=4,
            max_position_embeddings=128,
            dropout=0.0,
            init_std=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rng = np.random.default_rng(seed)
    everything = scenes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(steps, 1))
    bar = tqdm(range(steps), desc="language model", mininterval=1)
    for _ in bar:
        # What follows a caption names what it is about in any order: to guess it, all of it must be kept in mind.
        texts = []
        for i in rng.integers(0, len(everything), 32):
            words = " ".join(rng.permutation(everything[i]))
            texts.append(f"{caption_of(everything[i])} {words} .")
        rows = torch.tensor(tokenizer(texts).input_ids)
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    model.eval().save_pretrained(folder)


def _write_image_encoder(folder: Path, steps: int, seed: int) -> None:
    config = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=8,
    )
    model = CLIPVisionModel(config)
    processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    processor.save_pretrained(folder)
    rng = np.random.default_rng(seed)
    everything = scenes()
    kinds = (list(SIZES), list(COLOURS), list(SHAPES), list(BACKGROUNDS))
    shown = [everything[i] for i in rng.integers(0, len(everything), 2048)]
    values = processor(images=[draw(scene, rng) for scene in shown], return_tensors="pt")["pixel_values"]
    labels = torch.tensor([[kind.index(part) for kind, part in zip(kinds, scene, strict=True)] for scene in shown])
    heads = nn.ModuleList(nn.Linear(config.hidden_size, len(kind)) for kind in kinds)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(steps, 1))
    bar = tqdm(range(steps), desc="image encoder", mininterval=1)
    for _ in bar:
        some = torch.from_numpy(rng.integers(0, len(shown), 64))
        feature = model(values[some]).pooler_output
        losses = [nn.functional.cross_entropy(head(feature), labels[some, kind]) for kind, head in enumerate(heads)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(losses=" ".join(f"{loss.item():.2f}" for loss in losses), refresh=False)
    model.eval().save_pretrained(folder)


def _write_image_generator(folder: Path) -> None:
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    tokenizer = _word_tokenizer(special, "<|startoftext|> $A <|endoftext|>", model_max_length=16)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        norm_num_groups=8,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    small_stable_diffusion(vae, text_encoder, tokenizer, unet).save_pretrained(folder)


def small_stable_diffusion(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerFast,
    unet: UNet2DConditionModel,
    prediction_type: str = "epsilon",
) -> StableDiffusionPipeline:
    """
    Small models as a pipeline, in evaluation mode, with Stable Diffusion's noise schedule and without a safety checker.

    Args:
        vae, text_encoder, tokenizer, unet: The components.
        prediction_type (`str`): What the UNet predicts, `"epsilon"` or `"v_prediction"`.
    """
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_small_world(arguments: SmallDataArguments) -> None:
    """Write images, captions, decisions and models, as `gill small-data` does."""
    hide_loading_bars()
    out = Path(arguments.out)
    write_images(out, arguments.train, arguments.validation, arguments.seed)
    write_decisions(out, arguments.seed)
    write_models(out, arguments.steps, arguments.seed)
    print(f"wrote {arguments.train} + {arguments.validation} images with captions and three small models to {out}")


__all__ = [
    "caption_of",
    "draw",
    "scenes",
    "small_stable_diffusion",
    "write_decisions",
    "write_images",
    "write_models",
    "write_small_world",
]
