"""Caches: what is written is found again, and what is damaged is refused with the name of the file."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_gill.conditioning_gill import ConditioningTensor
from training_gill.array_cache import ArrayCache, ArrayCacheWriter
from training_gill.array_shards import CacheError, Column
from training_gill.caches import ImageFeatureCache, TextTargetsCache, target_columns, target_info

COLUMNS = [Column((2, 3))]
INFO = {"conditioning_length": 2, "conditioning_dim": 3}


def write(folder, count=8, shard_size=3, first=0):
    with ArrayCacheWriter(folder, INFO, COLUMNS, "float16", shard_size) as writer:
        for number in range(first, first + count):
            writer.add(f"key {number}", np.full((2, 3), number))


def test_arrays_are_found_by_their_keys_across_shards(tmp_path):
    write(tmp_path)
    cache = ArrayCache(tmp_path, COLUMNS)
    assert len(cache) == 8
    assert [float(cache.read(f"key {number}")["values"][0, 0]) for number in range(8)] == list(range(8))
    assert cache.read("key 1")["values"].dtype == torch.float16
    assert "key 9" not in cache
    with ArrayCacheWriter(tmp_path, INFO, COLUMNS, "float16") as writer:
        assert list(writer.missing(["key 1", "key 9", "key 9"])) == ["key 9"]


def test_a_cache_that_is_written_to_is_incomplete_until_the_end(tmp_path):
    write(tmp_path)
    with ArrayCacheWriter(tmp_path, INFO, COLUMNS, "float16"), pytest.raises(CacheError, match="incomplete"):
        ArrayCache(tmp_path, COLUMNS)
    assert len(ArrayCache(tmp_path, COLUMNS)) == 8


def test_a_folder_made_with_something_else_is_refused(tmp_path):
    write(tmp_path)
    writer = ArrayCacheWriter(tmp_path, {**INFO, "conditioning_dim": 4}, [Column((2, 4))], "float16")
    with pytest.raises(CacheError, match="conditioning_dim 3 rather than 4; expected an empty folder"), writer:
        pass
    assert len(ArrayCache(tmp_path, COLUMNS)) == 8


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.zeros((2, 2)), "shape"), (np.full((2, 3), np.nan), "cannot hold"), (np.full((2, 3), 1e6), "store float32")],
)
def test_arrays_that_cannot_be_stored_are_refused(tmp_path, value, message):
    with (
        pytest.raises(CacheError, match=message),
        ArrayCacheWriter(tmp_path, INFO, COLUMNS, "float16") as writer,
    ):
        writer.add("key", value)
    with pytest.raises(CacheError, match="incomplete"):
        ArrayCache(tmp_path, COLUMNS)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def edit(**changes):
    def change(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def spoil(array):
    return lambda path: np.save(path, array, allow_pickle=True)


def claim(path):
    path.write_bytes(path.read_bytes().replace(b"(3,), }" + b" " * 20, b"(1152921504606846976,), }  "))


DAMAGES = {
    "values cut": ("values-00001.npy", cut),
    "keys cut": ("keys-00001.npy", cut),
    "values empty": ("values-00000.npy", lambda path: path.write_bytes(b"")),
    "keys empty": ("keys-00000.npy", lambda path: path.write_bytes(b"")),
    "values are text": ("values-00000.npy", lambda path: path.write_bytes(b"not an array")),
    "values missing": ("values-00000.npy", lambda path: path.unlink()),
    "shard missing": ("keys-00002.npy", lambda path: (path.unlink(), path.with_name("values-00002.npy").unlink())),
    "values a folder": ("values-00000.npy", lambda path: (path.unlink(), path.mkdir())),
    "another width": ("values-00000.npy", spoil(np.zeros((3, 2, 4), dtype=np.float16))),
    "fewer rows": ("values-00000.npy", spoil(np.zeros((2, 2, 3), dtype=np.float16))),
    "another dtype": ("values-00000.npy", spoil(np.zeros((3, 2, 3), dtype=np.float64))),
    "objects": ("values-00000.npy", spoil(np.array([{}, {}, {}], dtype=object))),
    "signed keys": ("keys-00000.npy", spoil(np.zeros(3, dtype=np.int64))),
    "keys twice": ("keys-00000.npy", spoil(np.zeros(3, dtype=np.uint64))),
    "a claim of 8 EiB": ("keys-00000.npy", claim),
    "nested info": ("info.json", lambda path: path.write_text("[" * 100_000)),
    "info cut": ("info.json", lambda path: path.write_bytes(path.read_bytes()[:-3])),
    "info a list": ("info.json", lambda path: path.write_text("[]")),
    "info not UTF-8": ("info.json", lambda path: path.write_bytes(b"\xff")),
    "info of another dtype": ("info.json", edit(dtype="int8")),
    "info of another width": ("info.json", edit(conditioning_dim=4)),
    "info with text for a width": ("info.json", edit(conditioning_dim="3")),
    "info of another count": ("info.json", edit(arrays=9)),
    "info missing": ("info.json", lambda path: path.unlink()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_one_clear_error(damage, tmp_path):
    folder = tmp_path / TextTargetsCache.FOLDER
    write(folder)
    name, change = DAMAGES[damage]
    change(folder / name)
    with pytest.raises(CacheError, match=str(folder)):
        TextTargetsCache(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_never_used(value, tmp_path):
    folder = tmp_path / TextTargetsCache.FOLDER
    write(folder)
    values = np.lib.format.open_memmap(folder / "values-00001.npy", mode="r+")
    values[0, 1, 2] = value
    values.flush()
    cache = TextTargetsCache(tmp_path)
    assert float(cache["key 0"]["prompt_embeds"][0, 0]) == 0
    with pytest.raises(CacheError, match=r"values-00001\.npy is damaged"):
        cache["key 3"]


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}'])
def test_a_damaged_list_of_unreadable_images_is_named(content, small_world, tmp_path):
    shutil.copytree(small_world / "cache", tmp_path / "cache")
    (tmp_path / "cache" / "image_features" / "unreadable.json").write_text(content)
    with pytest.raises(CacheError, match=r"unreadable\.json"):
        ImageFeatureCache(tmp_path / "cache")


def test_a_folder_without_a_cache_is_named(tmp_path):
    with pytest.raises(CacheError, match="no cache"):
        TextTargetsCache(tmp_path)


RAGGED = [
    ConditioningTensor("prompt_embeds", 5, 2, mask_name="prompt_attention_mask", scale=0.5),
    ConditioningTensor("pooled_prompt_embeds", None, 3, scale=2.0),
]


def write_ragged(cache, part=(0, 1), tensors=RAGGED):
    folder, info = cache / TextTargetsCache.FOLDER, target_info("org/generator", None, tensors)
    with ArrayCacheWriter(folder, info, target_columns(tensors), "float16", 2, part) as writer:
        for key in writer.missing(f"caption {number}" for number in range(7)):
            number = int(key[-1])
            writer.add(
                key, {"prompt_embeds": np.full((1 + number % 5, 2), number), "pooled_prompt_embeds": [number] * 3}
            )


@pytest.mark.parametrize("parts", (1, 3))
def test_targets_of_several_tensors_and_lengths_are_found_whoever_wrote_them(parts, tmp_path):
    for number in range(parts):
        write_ragged(tmp_path, (number, parts))
    cache = TextTargetsCache(tmp_path, target_info("org/generator", None, RAGGED))
    assert len(cache) == 7 and list(cache.tensors) == RAGGED
    for number in range(7):
        target = cache[f"caption {number}"]
        assert target["prompt_embeds"].tolist() == [[number] * 2] * (1 + number % 5)
        assert target["prompt_attention_mask"].tolist() == [True] * (1 + number % 5)
        assert target["pooled_prompt_embeds"].tolist() == [number] * 3


def test_a_cache_is_incomplete_until_every_process_has_written_its_part(tmp_path):
    write_ragged(tmp_path, (1, 3))
    with pytest.raises(CacheError, match="lacks part-00000-of-00003, part-00002-of-00003"):
        TextTargetsCache(tmp_path)
    with pytest.raises(CacheError, match="shared among 3 processes"):
        write_ragged(tmp_path)


def test_units_that_were_measured_elsewhere_do_not_make_a_cache_another(tmp_path):
    write_ragged(tmp_path)
    others = [replace(tensor, scale=3.0) for tensor in RAGGED]
    assert len(TextTargetsCache(tmp_path, target_info("org/generator", None, others))) == 7
    longer = [replace(RAGGED[0], length=6), RAGGED[1]]
    with pytest.raises(CacheError, match=r"'length': 5.* rather than .*'length': 6"):
        TextTargetsCache(tmp_path, target_info("org/generator", None, longer))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("prompt_embeds-lengths-00000", np.array([1, 9], dtype=np.uint32)),
        ("prompt_embeds-lengths-00000", np.array([1, 1], dtype=np.uint32)),
        ("prompt_embeds-00000", np.zeros((3, 3), dtype=np.float16)),
        ("pooled_prompt_embeds-00001", np.zeros((1, 3), dtype=np.float16)),
    ],
)
def test_a_damaged_ragged_cache_is_one_clear_error(name, array, tmp_path):
    write_ragged(tmp_path)
    np.save(tmp_path / TextTargetsCache.FOLDER / f"{name}.npy", array)
    with pytest.raises(CacheError, match=r"embeds.*\.npy is damaged"):
        TextTargetsCache(tmp_path)
