"""Text and images in turn: whatever the way, an answer is what one pass over its tokens gives."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from modeling_gill import GillForConditionalGeneration
from tests.modeling_gill.test_language_model_families import FAMILIES, SIZES
from tests.small_dream import small_dream_model, small_dream_processor
from tests.small_model import LANGUAGE_MODELS, small_model, small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
OTHER = Image.radial_gradient("L").resize((30, 20)).convert("RGB")
PROMPTS = ["the dog runs", [PHOTO, "a cat on a mat"], ["Q: what is", PHOTO, OTHER, "this ? A:"], "a red house"]
LANGUAGE_MODELS.setdefault(
    "mistral",
    {**LANGUAGE_MODELS["llama"], "num_key_value_heads": 4, "sliding_window": 6},
)


@pytest.fixture(scope="module")
def systems():
    """A model of each kind with its processor, made when it is first asked for."""
    made: dict[tuple[str, str], tuple] = {}

    def system(kind: str, language_model: str):
        if (kind, language_model) not in made:
            is_dream = kind == "dream"
            processor = small_dream_processor() if is_dream else small_processor()
            build = small_dream_model if is_dream else small_model
            options = {} if is_dream else {"spare_rows": 2}
            model = build(processor, language_model, **options)
            model.generation_config.pad_token_id = 1
            model.generation_config.eos_token_id = None
            if language_model != "opt":  # rotary positions
                model.config.text_config.max_position_embeddings = 400
            made[kind, language_model] = (model, processor)
        return made[kind, language_model]

    return system


def read_back(model):
    """Image features that follow from the image written, so that a wrong one would show."""

    def callback(images):
        features = images.img_hidden_states.flatten(1)
        shape = model.config.image_feature_shape
        size = torch.Size(shape).numel()
        return features.repeat(1, size // features.shape[1] + 1)[:, :size].reshape(-1, *shape)

    return callback


def generate(model, processor, prompts, read=False, **options):
    batch = processor(prompts)
    options = {"do_sample": False, "max_new_tokens": 14, "min_text_tokens": 1, "image_token_scale": 3.0, **options}
    if read:
        options.setdefault("image_callback", read_back(model))
    output = model.generate(**batch, return_dict_in_generate=True, **options)
    return batch, output


def answers(batch, output):
    return output.sequences[:, batch["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("read", (False, True), ids=("drawn", "read back"))
@pytest.mark.parametrize(("kind", "language_model"), (("gill", "opt"), ("dream", "llama")))
def test_a_batch_is_written_as_its_prompts_alone_and_as_one_pass_reads_it(systems, kind, language_model, read):
    model, processor = systems(kind, language_model)
    batch, together = generate(model, processor, PROMPTS, read, output_logits=True)
    counts = []
    for row, prompt in enumerate(PROMPTS):
        single, alone = generate(model, processor, [prompt], read, output_logits=True)
        (expected,) = answers(single, alone)
        assert answers(batch, together)[row][: len(expected)] == expected
        own = together.img_hidden_states[together.img_batch_indices == row]
        torch.testing.assert_close(own, alone.img_hidden_states, atol=1e-4, rtol=1e-4)
        counts.append(len(own))
        if alone.forced_token_mask is None:
            continue
        # One pass forward over the same tokens, with the images that were read back.
        images = [model.get_image_features(single["pixel_values"]).pooler_output] if "pixel_values" in single else []
        if read and len(own):
            images.append(read_back(model)(alone))
        whole = model(
            input_ids=alone.sequences,
            image_features=torch.cat(images) if images else None,
            image_token_scale=3.0,
            output_images=True,
        )
        torch.testing.assert_close(whole.img_hidden_states, own, atol=1e-4, rtol=1e-4)
        begin = single["input_ids"].shape[1]
        chosen = (~alone.forced_token_mask[0, begin:]).nonzero()[:, 0] + begin - 1
        logits = torch.cat(alone.logits)
        torch.testing.assert_close(whole.logits[0, chosen], logits, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            torch.stack([step[row] for step in together.logits[: len(logits)]]), logits, atol=1e-3, rtol=1e-3
        )
    assert sum(counts) >= 3 and len(set(counts)) > 1


WAYS = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "language_model"), (("gill", "opt"), ("dream", "llama"), ("dream", "mistral")))
def test_every_way_of_greedy_decoding_goes_on_alike_after_an_image(systems, kind, language_model, way):
    model, processor = systems(kind, language_model)
    _, expected = generate(model, processor, PROMPTS[:1], True)
    _, found = generate(model, processor, PROMPTS[:1], True, **WAYS[way])
    assert len(expected.img_start_positions)
    assert found.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(found.img_hidden_states, expected.img_hidden_states, atol=1e-4, rtol=1e-4)


def test_a_sliding_window_is_read_anew_where_a_batch_has_moved(systems):
    model, processor = systems("dream", "mistral")
    batch, together = generate(model, processor, PROMPTS, True)
    for row, prompt in enumerate(PROMPTS):
        single, alone = generate(model, processor, [prompt], True)
        (expected,) = answers(single, alone)
        assert answers(batch, together)[row][: len(expected)] == expected


@pytest.mark.parametrize("kind", ("gill", "dream"))
def test_beams_of_a_batch_are_those_of_its_prompts_alone(systems, kind):
    model, processor = systems(kind, "llama")
    batch, together = generate(model, processor, PROMPTS[:3], True, num_beams=2)
    for row, prompt in enumerate(PROMPTS[:3]):
        single, alone = generate(model, processor, [prompt], True, num_beams=2)
        (expected,) = answers(single, alone)
        assert answers(batch, together)[row][: len(expected)] == expected
    _, several = generate(model, processor, PROMPTS[:2], True, num_beams=3, num_return_sequences=2)
    assert len(several.sequences) == 4


def test_several_answers_are_sampled_in_turn_and_the_same_with_the_same_seed(systems):
    model, processor = systems("dream", "llama")
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        _, output = generate(model, processor, PROMPTS[:2], True, do_sample=True, num_return_sequences=3)
        found.append(output.sequences.tolist())
    assert len(found[0]) == 6 and found[0] == found[1]


@pytest.mark.parametrize("read", (False, True), ids=("drawn", "read back"))
@pytest.mark.parametrize(("kind", "language_model"), (("gill", "opt"), ("dream", "llama")))
def test_an_assistant_changes_no_token_and_no_state(systems, kind, language_model, read):
    model, processor = systems(kind, language_model)
    assistant = copy.deepcopy(model)
    with torch.no_grad():  # which proposes other tokens now and then
        for weight in assistant.language_model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    _, expected = generate(model, processor, PROMPTS[:1], read)
    _, found = generate(model, processor, PROMPTS[:1], read, assistant_model=assistant)
    assert len(expected.img_start_positions)
    assert found.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(found.img_hidden_states, expected.img_hidden_states, atol=1e-4, rtol=1e-4)


RECURRENT = ("mamba", "mamba2", "rwkv", "recurrent_gemma", "jamba", "lfm2", "qwen3_next", "falcon_h1")


@pytest.mark.parametrize("kind", ("gill", "dream"))
@pytest.mark.parametrize(
    "family", [name if name == "mamba" else pytest.param(name, marks=pytest.mark.slow) for name in RECURRENT]
)
@torch.no_grad()
def test_recurrent_language_models_go_on_after_an_image_as_one_pass_reads_it(systems, family, kind):
    LANGUAGE_MODELS[family] = {**SIZES, **FAMILIES[family]}
    model, processor = systems(kind, family)
    options = {"image_token_scale": 1e4, "max_new_tokens": 8}
    found = []
    for prompt in PROMPTS[:2]:
        single, alone = generate(model, processor, [prompt], True, **options)
        images = [model.get_image_features(single["pixel_values"]).pooler_output] if "pixel_values" in single else []
        features = torch.cat([*images, read_back(model)(alone)])
        whole = model(alone.sequences, image_features=features, image_token_scale=1e4, output_images=True)
        assert len(alone.img_hidden_states)
        torch.testing.assert_close(whole.img_hidden_states, alone.img_hidden_states, atol=1e-4, rtol=1e-4)
        found.append(answers(single, alone)[0])
    if not model.language_model_traits.decoder.masks_padding:
        with pytest.raises(ValueError, match="reads padding on the left as if it were text"):
            generate(model, processor, PROMPTS[:2], True, **options)
        return
    batch, together = generate(model, processor, PROMPTS[:2], True, **options)
    for row, expected in zip(answers(batch, together), found, strict=True):
        assert row[: len(expected)] == expected


def test_the_tokens_of_an_image_are_read_in_one_pass(monkeypatch):
    processor = small_processor(num_image_output_tokens=30)
    model = small_model(processor)
    lengths = []
    original = GillForConditionalGeneration.run_language_model

    def count(self, inputs_embeds, *args, **kwargs):
        lengths.append(inputs_embeds.shape[1])
        return original(self, inputs_embeds, *args, **kwargs)

    monkeypatch.setattr(GillForConditionalGeneration, "run_language_model", count)
    options = {"image_token_scale": 1e5, "min_text_tokens": 3, "max_new_tokens": 38}
    _, output = generate(model, processor, PROMPTS[:1], **options)
    assert len(output.img_start_positions) and lengths.count(30) >= 1
    assert len(lengths) < 20
    monkeypatch.undo()
    _, one_by_one = generate(model, processor, PROMPTS[:1], use_cache=False, **options)
    assert one_by_one.sequences.tolist() == output.sequences.tolist()
    torch.testing.assert_close(one_by_one.conditioning, output.conditioning, atol=1e-4, rtol=1e-4)


def test_tokens_that_nobody_chose_do_not_count_as_new_ones(systems):
    model, processor = systems("dream", "llama")
    _, output = generate(model, processor, PROMPTS[:1], True, image_token_scale=1e5, max_new_tokens=4)
    mask = output.forced_token_mask[0]
    prompt = processor(PROMPTS[:1])["input_ids"].shape[1]
    assert int((~mask[prompt:]).sum()) == 4
    forced = len(model.config.image_output_run_ids) - 1 + len(model.config.image_input_run_ids)
    assert int(mask.sum()) == len(output.img_start_positions) * forced


class Collected(BaseStreamer):
    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []
        self.ends = 0

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value)

    def end(self) -> None:
        self.ends += 1


def test_a_streamer_hears_every_token_once_and_in_order(systems):
    model, processor = systems("dream", "llama")
    streamer = Collected()
    batch, output = generate(model, processor, PROMPTS[:1], True, streamer=streamer)
    heard = [int(value) for value in streamer.values[1:]]
    assert [heard] == answers(batch, output) and streamer.ends == 1
    streamer = Collected()
    batch, output = generate(model, processor, PROMPTS, True, streamer=streamer)
    for row, ids in enumerate(answers(batch, output)):
        own = [int(value[row]) for value in streamer.values[1:]]
        assert [i for i in own if i != 1] == [i for i in ids if i != 1]


class EndAfter(StoppingCriteria):
    """Sees all rows of a call in their order, each with its own length."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids, scores, **kwargs):
        assert len(input_ids) == len(self.lengths)
        return input_ids.shape[1] >= self.lengths


def test_criteria_see_the_rows_of_the_call(systems):
    model, processor = systems("dream", "llama")
    batch = processor(PROMPTS)
    begin = batch["input_ids"].shape[1]
    lengths = [begin + count for count in (3, 40, 5, 60)]
    criteria = StoppingCriteriaList([EndAfter(lengths)])
    _, output = generate(model, processor, PROMPTS, True, max_new_tokens=30, stopping_criteria=criteria)
    _, free = generate(model, processor, PROMPTS, True, max_new_tokens=30)
    for found, expected, length in zip(answers(batch, output), answers(batch, free), lengths, strict=True):
        assert found[: length - begin] == expected[: length - begin]


def test_a_prompt_that_ends_with_an_image_is_read_back_first(systems):
    model, processor = systems("dream", "llama")
    batch = processor(PROMPTS[:2], add_img_tokens=True)
    options = {"do_sample": False, "max_new_tokens": 5, "image_callback": read_back(model)}
    output = model.generate(**batch, return_dict_in_generate=True, **options)
    begin, run = batch["input_ids"].shape[1], model.config.image_input_run_ids
    assert all(row[: len(run)] == run for row in answers(batch, output))
    first = begin - len(model.config.image_output_run_ids) + 1
    assert output.img_start_positions.tolist().count(first) == 2


def test_what_cannot_be_is_refused(systems, monkeypatch):
    model, processor = systems("dream", "llama")
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 96)
    with pytest.raises(ValueError, match=r"`image_callback` must return image features of shape .* got 2"):
        generate(model, processor, PROMPTS[:1], image_token_scale=1e5, image_callback=lambda images: [None] * 2)
    with pytest.raises(ValueError, match="`guidance_scale` of `generate` does not go with"):
        generate(model, processor, PROMPTS[:1], guidance_scale=2.0)
    for shared in (model, systems("gill", "opt")[0]):
        with pytest.raises(ValueError, match=r"share the weights out among them \(FSDP, DeepSpeed ZeRO-3\)"):
            shared.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, synced_gpus=True)
    with pytest.raises(ValueError, match=r"have \d+ tokens, and an image of \d+ more does not fit into the \d+"):
        generate(model, processor, PROMPTS[:1], True, image_token_scale=1e5, max_new_tokens=40)


def test_images_that_are_not_read_leave_the_text_as_it_is(systems):
    model, processor = systems("dream", "llama")
    seen = []
    _, expected = generate(model, processor, PROMPTS)
    _, found = generate(model, processor, PROMPTS, image_callback=lambda images: seen.append(images))
    assert found.sequences.tolist() == expected.sequences.tolist()
    rows = [row for images in seen for row in images.img_batch_indices.tolist()]
    assert sorted(rows) == sorted(expected.img_batch_indices.tolist())


def test_eight_threads_write_what_one_does(systems):
    model, processor = systems("dream", "llama")
    expected = [generate(model, processor, [prompt], True)[1].sequences.tolist() for prompt in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: generate(model, processor, [PROMPTS[n % 4]], True)[1].sequences, range(8)))
    assert [ids.tolist() for ids in found] == expected * 2
