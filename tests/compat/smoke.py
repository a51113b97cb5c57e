"""Every door of the installed package, on the picture book's checkpoint: run by `environments.py`, needs no pytest."""

import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gill
from gill import GillForConditionalGeneration, GillImage, GillPipeline, GillProcessor
from gill.cli import COMMANDS
from gill_picturebook import CHECKPOINT

PROMPT = "day , a red car on the left ."
STEPS = 2


def main() -> int:
    """Run all checks; returns the exit code."""
    for module in (gill, sys.modules["modeling_gill"]):
        assert "site-packages" in str(module.__file__), f"{module} is not the installed package"
    pipe = GillPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    failed = []
    checks: list[Callable[[GillPipeline], None]] = [
        text,
        retrieve,
        generate,
        beams,
        batch,
        chat,
        chat_page,
        model_alone,
        auto_classes,
        save_and_reload,
        train,
        modules,
        commands,
    ]
    for check in checks:
        began = time.monotonic()
        try:
            check(pipe)
        except Exception:
            traceback.print_exc()
            failed.append(check.__name__)
        word = "FAILED" if check.__name__ in failed else "ok"
        print(f"  {check.__name__:<16} {word} ({time.monotonic() - began:.1f} s)", flush=True)
    return len(failed) > 0


def text(pipe: GillPipeline) -> None:
    """Text answers."""
    [answer] = pipe(f"{PROMPT} what is there ?", max_images=1, max_new_tokens=8, num_inference_steps=STEPS).answers
    assert answer, answer


def retrieve(pipe: GillPipeline) -> None:
    """An image of the retrieval set."""
    [[piece]] = pipe(PROMPT, decision="retrieve", force_image=True).answers
    assert isinstance(piece, GillImage) and piece.source == "retrieved" and piece.image.size == (32, 32)


def generate(pipe: GillPipeline) -> None:
    """A generated image."""
    out = pipe(PROMPT, decision="generate", force_image=True, num_inference_steps=STEPS, num_images_per_prompt=2)
    assert len(out.images) == 2 and out.images[0].size == (32, 32)


def beams(pipe: GillPipeline) -> None:
    """Beam search over a batch, with an image in it."""
    [image] = pipe(PROMPT, decision="retrieve", force_image=True).images
    prompts = [[image, "what is there ?"], PROMPT]
    assert len(pipe(prompts, num_beams=3, max_new_tokens=6, num_inference_steps=STEPS).answers) == 2


def batch(pipe: GillPipeline) -> None:
    """A batch of prompts of different kinds answers as its parts do."""
    [image] = pipe(PROMPT, decision="retrieve", force_image=True).images
    prompts = [PROMPT, [image, "what is there ?"], "night ,"]
    options = {"max_new_tokens": 6, "decision": "retrieve"}
    together = pipe(prompts, **options).answers
    apart = [pipe([prompt], **options).answers[0] for prompt in prompts]
    assert [_texts(answer) for answer in together] == [_texts(answer) for answer in apart]


def chat(pipe: GillPipeline) -> None:
    """Messages of a chat."""
    [image] = pipe(PROMPT, decision="retrieve", force_image=True).images
    content = [{"type": "image", "image": image}, {"type": "text", "text": "what is there ?"}]
    [answer] = pipe([{"role": "user", "content": content}], max_new_tokens=8, num_inference_steps=STEPS).answers
    assert answer


def chat_page(pipe: GillPipeline) -> None:
    """The page of `gill chat` is served, and its engine answers."""
    from urllib.request import urlopen

    from chat_gill import AnswerEngine, AnswerSettings, ChatArguments
    from chat_gill.serving import open_page

    engine = AnswerEngine(lambda: pipe)
    page = open_page(engine, str(CHECKPOINT), ChatArguments(host="127.0.0.1"))
    try:
        with urlopen(page.local_url, timeout=60) as response:
            assert b"picture book" in response.read()
        answer = engine.answer(
            [{"role": "user", "content": "Show me a red car."}], AnswerSettings(num_inference_steps=STEPS)
        )
        assert answer.pieces
    finally:
        page.close()
        engine.close()


def model_alone(pipe: GillPipeline) -> None:
    """`generate` of the model: greedy, sampled, and without a cache."""
    inputs = pipe.processor([PROMPT, "night ,"], padding=True, return_tensors="pt")
    greedy = pipe.model.generate(**inputs, max_new_tokens=5)
    assert (pipe.model.generate(**inputs, max_new_tokens=5, use_cache=False) == greedy).all()
    assert pipe.model.generate(**inputs, max_new_tokens=5, do_sample=True).shape[0] == 2
    out = pipe.model.generate(**inputs, max_new_tokens=5, return_dict_in_generate=True)
    assert (out.sequences == greedy).all()


def auto_classes(pipe: GillPipeline) -> None:
    """The Auto classes load what is registered."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    assert AutoConfig.from_pretrained(CHECKPOINT).model_type == "gill"
    assert isinstance(AutoModel.from_pretrained(CHECKPOINT), GillForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(CHECKPOINT), GillProcessor)


def save_and_reload(pipe: GillPipeline) -> None:
    """A saved pipeline answers as before, also by its own code, without this package."""
    folder = Path("saved").resolve()
    pipe.save_pretrained(folder, self_contained=True)
    options = {"decision": "retrieve", "force_image": True}
    [expected] = pipe(PROMPT, **options).images
    [found] = GillPipeline.from_pretrained(folder)(PROMPT, **options).images
    assert found.tobytes() == expected.tobytes()
    code = f"""
import sys
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({str(folder)!r}, trust_remote_code=True)
print(model.generate(**processor([{PROMPT!r}], return_tensors="pt"), max_new_tokens=4).tolist())
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(folder)!r}, trust_remote_code=True)
pipe({PROMPT!r}, decision="generate", force_image=True, num_inference_steps=2)
assert "modeling_gill" not in sys.modules and "pipeline_gill" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def train(pipe: GillPipeline) -> None:
    """A few steps of the captioning loss by transformers' Trainer."""
    from transformers import Trainer, TrainingArguments

    model = GillForConditionalGeneration.from_pretrained(CHECKPOINT)
    [image] = pipe(PROMPT, decision="retrieve", force_image=True).images
    inputs = pipe.processor([[image, PROMPT]], return_tensors="pt")
    example = {name: value[0] for name, value in inputs.items()}
    example["labels"] = example["input_ids"].clone()
    arguments = TrainingArguments(
        "trained", max_steps=3, report_to=[], logging_steps=1, save_strategy="no", use_cpu=True
    )
    result = Trainer(model, arguments, train_dataset=[example] * 6).train()
    assert result.global_step == 3


def modules(pipe: GillPipeline) -> None:
    """Everything in the wheel imports."""
    import importlib
    import pkgutil

    rooms = ["gill", "modeling_gill", "pipeline_gill", "conversion", "training_gill", "evaluation_gill", "hub_card"]
    for room in [*rooms, "picturebook"]:
        package: ModuleType = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def commands(pipe: GillPipeline) -> None:
    """`gill`, and the help of each of its commands."""
    gill_command = str(Path(sys.executable).with_name("gill"))
    for arguments in [["--version"], ["--help"], *([*name.split(), "--help"] for name in COMMANDS)]:
        result = subprocess.run([gill_command, *arguments], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, ""), (arguments, result.stderr)


def _texts(answer: object) -> list[str]:
    pieces = answer if isinstance(answer, list) else [answer]
    return [piece if isinstance(piece, str) else "<image>" for piece in pieces]


if __name__ == "__main__":
    sys.exit(main())
