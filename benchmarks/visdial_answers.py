"""Time of ranking the answers of Visual Dialog, against one forward pass over image, dialogue and answer for each.

python -m benchmarks.visdial_answers --model picturebook/checkpoint
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from evaluation_gill.systems import GillSystem, Prompt


@torch.no_grad()
def plain_scores(system: GillSystem, prompt: Prompt, answers: Sequence[str], batch_size: int) -> list[float]:
    """The same log-likelihoods without any reuse: each batch reads image and dialogue again, once for each answer."""
    processor, model = system.pipeline.processor, system.pipeline.model
    path, text = prompt.pieces

    def load() -> Image.Image:
        return Image.open(path).convert("RGB").resize((224, 224))

    known = processor([[load(), text]])["input_ids"].shape[1]
    scores: list[float] = []
    for begin in range(0, len(answers), batch_size):
        batch = processor([[load(), text, answer] for answer in answers[begin : begin + batch_size]])
        batch = batch.to(system.pipeline.device)
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        logits = model(**batch, use_cache=False).logits.float().log_softmax(-1)
        each = logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        answered = (mask & (mask.long().cumsum(-1) > known))[:, 1:]
        scores += each.where(answered, 0).sum(-1).tolist()
    return scores


def main() -> None:
    """Print seconds for a dialogue, their ratio, and the largest difference of a score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="picturebook/checkpoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--options", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    system = GillSystem.load(options.model, None, torch.float32, options.device)
    words = ["red", "blue", "house", "tree", "night", "day", "left", "right", "yes", "no"]
    answers = [
        " ".join(words[(number * step) % 10] for step in range(1, 2 + number % 4)) for number in range(options.options)
    ]
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        Image.effect_noise((640, 480), 80).convert("RGB").save(image)
        prompts, lines = [], ""
        for number in range(options.rounds):
            prompts.append(Prompt((image, f"{lines}Q: is it {words[number % 10]}?\nA: ")))
            lines += f"Q: is it {words[number % 10]}?\nA: {words[-1 - number % 10]}\n"
        system.answer_scores(prompts[:1], [answers[:2]], options.batch_size)  # warm up
        begin = time.perf_counter()
        plain = [plain_scores(system, prompt, answers, options.batch_size) for prompt in prompts]
        middle = time.perf_counter()
        cached = system.answer_scores(prompts, [answers] * len(prompts), options.batch_size)
        end = time.perf_counter()
    difference = (torch.tensor(plain) - torch.tensor(cached)).abs().max().item()
    print(f"{options.rounds} rounds of {options.options} answers: plain {middle - begin:.2f} s, ", end="")
    print(f"cached {end - middle:.2f} s, {(middle - begin) / (end - middle):.1f} times faster; ", end="")
    print(f"largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
