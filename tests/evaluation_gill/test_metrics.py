"""The metrics, each against a computation of its own on small inputs."""

import hashlib
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from evaluation_gill.metric_loading import FOLDER, NAMES, load_metric
from tests.evaluation_gill.small_networks import write_alexnet, write_clip, write_inception
from tests.hub_fixtures import run_python


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def noise() -> list[Image.Image]:
    """Eight images of noise, 20 x 24 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 24, 20, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


def compute(name: str, predictions: object, references: object, **options: object) -> dict:
    metric = load_metric(name)
    return metric.compute(predictions=predictions, references=references, **options)


def test_every_metric_loads_by_its_path_alone() -> None:
    assert set(NAMES) == {
        "clip_image_similarity",
        "clip_text_similarity",
        "decision_f1",
        "fid",
        "lpips",
        "retrieval_ranking",
    }
    for name in NAMES:
        assert load_metric(name).inputs_description.strip().startswith("Args:")


def test_metrics_need_nothing_of_ours_to_be_loaded(tmp_path: Path) -> None:
    code = f"""
    import evaluate
    for name in {NAMES!r}:
        metric = evaluate.load({str(FOLDER)!r} + "/" + name)
    print(evaluate.load({str(FOLDER / "decision_f1")!r}).compute(
        predictions=["generate", "retrieve"], references=["generate", "retrieve"])["decision_f1"])
    """
    assert run_python(code, {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}).stdout == "1.0\n"


@torch.no_grad()
def test_clip_image_similarity_is_the_cosine_of_image_embeddings(clip: Path, noise: list[Image.Image]) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    found = compute("clip_image_similarity", noise[:3], noise[3:6], model=str(clip), batch_size=2)
    model, prepare = CLIPModel.from_pretrained(clip), CLIPImageProcessorPil.from_pretrained(clip)
    pixels = prepare(images=noise[:6], return_tensors="pt")["pixel_values"]
    embeds = model.visual_projection(model.vision_model(pixels).pooler_output).numpy()
    wanted = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(embeds[:3], embeds[3:], strict=True)]
    assert found["scores"] == pytest.approx(wanted, abs=1e-6)
    assert found["clip_image_similarity"] == pytest.approx(np.mean(wanted), abs=1e-6)
    same = compute("clip_image_similarity", noise[:2], noise[:2], model=str(clip))
    assert same["clip_image_similarity"] == pytest.approx(1)


@torch.no_grad()
def test_clip_text_similarity_is_the_cosine_of_image_and_text_embeddings(clip: Path, noise: list[Image.Image]) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    texts = ["a dog", "a long text about a cat " * 40, "two birds on a wire"]
    found = compute("clip_text_similarity", noise[:3], texts, model=str(clip), batch_size=2)
    model, prepare = CLIPModel.from_pretrained(clip), CLIPImageProcessorPil.from_pretrained(clip)
    tokenizer = AutoTokenizer.from_pretrained(clip)
    pixels = prepare(images=noise[:3], return_tensors="pt")["pixel_values"]
    images = model.visual_projection(model.vision_model(pixels).pooler_output).numpy()
    for number, text in enumerate(texts):
        ids = tokenizer(text).input_ids
        ids = [*ids[:76], ids[-1]] if len(ids) > 77 else ids
        read = model.text_model(input_ids=torch.tensor([ids])).pooler_output
        one, other = model.text_projection(read)[0].numpy(), images[number]
        wanted = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert found["scores"][number] == pytest.approx(wanted, abs=1e-5)


@torch.no_grad()
def test_lpips_agrees_with_that_of_torchmetrics(
    tmp_path: Path, noise: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchmetrics.functional.image import lpips as theirs

    weights, layers = write_alexnet(tmp_path)
    found = compute("lpips", noise[:3], noise[3:6], weights=str(weights), size=64, batch_size=2)
    # Theirs takes AlexNet from torchvision alone; it gets ours.
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: layers)
    network = theirs._LPIPS(pretrained=False, net="alex")
    heads = Path(theirs.__file__).parent / "lpips_models/alex.pth"
    network.load_state_dict(torch.load(heads, map_location="cpu"), strict=False)
    resized = [image.resize((64, 64), Image.Resampling.BILINEAR) for image in noise[:6]]
    pixels = torch.from_numpy(np.stack([np.asarray(one) for one in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1
    wanted = network.eval()(pixels[:3], pixels[3:]).flatten().tolist()
    assert found["scores"] == pytest.approx(wanted, rel=1e-4) and min(wanted) > 0
    assert found["lpips"] == pytest.approx(np.mean(wanted), rel=1e-4)
    assert compute("lpips", noise[:1], noise[:1], weights=str(weights))["lpips"] == 0


def test_fid_is_the_frechet_distance_of_the_features(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    made = generator.integers(0, 200, (40, 8, 8, 3), dtype=np.uint8)
    real = generator.integers(50, 256, (40, 8, 8, 3), dtype=np.uint8)
    images = [[Image.fromarray(one) for one in some] for some in (made, real)]
    network = write_inception(tmp_path)
    sha256 = hashlib.sha256(network.read_bytes()).hexdigest()
    found = compute("fid", *images, weights=str(network), sha256=sha256, resamples=20, batch_size=16)
    features = [some.reshape(40, 8, 8, 3).astype(np.float64).mean((1, 2)) / 255 for some in (made, real)]
    one, other = (np.cov(some, rowvar=False) for some in features)
    gap = np.square(features[0].mean(0) - features[1].mean(0)).sum()
    wanted = gap + np.trace(one + other - 2 * scipy.linalg.sqrtm(one @ other).real)
    assert found["fid"] == pytest.approx(wanted, rel=1e-4) and found["features"] == 3
    assert found["interval"][0] < found["fid"] < found["interval"][1] * 1.2


@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_fid_does_not_load_a_network_whose_checksum_nobody_named(
    tmp_path: Path, noise: list[Image.Image], monkeypatch: pytest.MonkeyPatch, sha256: str | None
) -> None:
    def load(*_: object, **__: object) -> None:
        pytest.fail("the network was loaded")

    monkeypatch.setattr(torch.jit, "load", load)
    # Neither the name nor the suffix of the published files makes a file trusted.
    for name in ("features.pt", "inception-2015-12-05.pt", "weights-inception-2015-12-05-6726825d.pth"):
        network = write_inception(tmp_path).rename(tmp_path / name)
        with pytest.raises(ValueError, match=r"its SHA-256 is [0-9a-f]{64}, (expected|not that of)"):
            compute("fid", noise[:2], noise[2:4], weights=str(network), sha256=sha256)


def brute_force(scores: list[float], relevances: list[float], k: int) -> tuple[float, float, float]:
    """Recall@k, reciprocal rank and NDCG, each the mean over every order that the scores allow."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    target, top = relevances.index(max(relevances)), sum(one > 0 for one in relevances)
    places = [order.index(target) + 1 for order in orders]
    ideal = sum(one / math.log2(n + 2) for n, one in enumerate(sorted(relevances, reverse=True)[:top]))
    gains = [sum(relevances[one] / math.log2(n + 2) for n, one in enumerate(order[:top])) for order in orders]
    mean_gain = sum(gains) / len(gains)
    return (
        sum(place <= k for place in places) / len(places),
        sum(1 / place for place in places) / len(places),
        mean_gain / ideal,
    )


def test_ranking_agrees_with_a_case_computed_by_hand_ties_included() -> None:
    # The right answer shares places 2 and 3 with another; two more are half relevant, at places 1 and 4.
    found = compute("retrieval_ranking", [[3.0, 2.0, 2.0, 1.0]], [[0.5, 1.0, 0.0, 0.5]], ks=(1, 2, 3))
    assert (found["recall@1"], found["recall@2"], found["recall@3"]) == (0, 0.5, 1)
    assert found["mrr"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    ideal = 1 + 0.5 / math.log2(3) + 0.5 / 2
    gain = 0.5 + 0.5 * (1 / math.log2(3) + 1 / 2)  # 1.0 at place 2 or at place 3
    assert found["ndcg"] == pytest.approx(gain / ideal)


def test_ranking_takes_ties_for_every_order_that_they_allow() -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        scores = generator.integers(0, 3, 5).astype(float).tolist()
        relevances = (generator.permutation(5) / 4 * generator.integers(0, 2, 5)).tolist()
        relevances[0] += 1.5
        found = compute("retrieval_ranking", [scores], [relevances], ks=(2,))
        wanted = brute_force(scores, relevances, 2)
        assert (found["recall@2"], found["mrr"], found["ndcg"]) == pytest.approx(wanted, abs=1e-6)


def test_what_is_no_candidate_is_found_at_no_place() -> None:
    found = compute("retrieval_ranking", [[1.0, -math.inf, 0.0]], [[0.0, 1.0, 0.0]])
    assert (found["recall@10"], found["mrr"], found["ndcg"]) == (0, 0, 0)
    without = compute("retrieval_ranking", [[-math.inf, 1.0, 0.0]], [[0.0, 1.0, 0.0]])
    assert (without["recall@1"], without["mrr"], without["ndcg"]) == (1, 1, pytest.approx(1))


def test_decision_f1_is_the_mean_of_both_classes() -> None:
    decided = ["generate"] * 3 + ["retrieve"] * 2
    preferred = ["generate", "generate", "retrieve", "retrieve", "generate"]
    found = compute("decision_f1", decided, preferred)
    generate, retrieve = 2 * 2 / (2 * 2 + 1 + 1), 2 * 1 / (2 * 1 + 1 + 1)
    assert found["f1_generate"] == pytest.approx(generate) and found["f1_retrieve"] == pytest.approx(retrieve)
    assert found["decision_f1"] == pytest.approx((generate + retrieve) / 2) and found["accuracy"] == pytest.approx(0.6)
    # Nobody retrieves and nobody should: that class has the F1 score 0, and the mean says so.
    assert compute("decision_f1", ["generate"], ["generate"])["decision_f1"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "references", "options", "said"),
    [
        ("clip_image_similarity", "images", {"model": "/nowhere"}, "needs the CLIP model '/nowhere'"),
        ("clip_text_similarity", "texts", {"model": "/nowhere"}, "needs the CLIP model '/nowhere'"),
        ("lpips", "images", {}, "needs the file alexnet-owt-7be5be79.pth"),
        ("lpips", "images", {"weights": "/nowhere.pth"}, "there is no file '/nowhere.pth'"),
        ("fid", "images", {}, "needs the Inception network: the file inception-2015-12-05.pt"),
        ("fid", "images", {"weights": "/nowhere.pt"}, "there is no file '/nowhere.pt'"),
    ],
)
def test_a_metric_without_its_network_says_which_file_it_needs(
    noise: list[Image.Image], name: str, references: str, options: dict, said: str
) -> None:
    with pytest.raises(OSError, match=said):
        compute(name, noise[:2], noise[2:4] if references == "images" else ["a", "b"], **options)


@pytest.mark.parametrize(
    ("name", "predictions", "references", "said"),
    [
        ("retrieval_ranking", [[1.0, 2.0]], [[0.0, 0.0]], "Query 0 has nothing that is relevant"),
        ("retrieval_ranking", [[1.0, 2.0]], [[0.0]], "Query 0 has 2 scores for 1 relevances"),
        ("retrieval_ranking", [[1.0, math.nan]], [[1.0, 0.0]], "Query 0 has a score that is not a number"),
        ("decision_f1", ["maybe"], ["generate"], r"\['maybe'\]"),
    ],
)
def test_a_metric_refuses_what_it_cannot_judge(name: str, predictions: list, references: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compute(name, predictions, references)
