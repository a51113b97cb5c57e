"""Sets of records are read from the files that people have, and bad input is named or left out, whatever is in it."""

import io
import json
import os
import struct
import tarfile
import zlib

import pytest
from PIL import Image

from modeling_gill.image_loading_gill import ImageError
from tests.training_gill.record_files import chat, image_bytes, pair_shard, write_json, write_tar
from training_gill.arguments import RecordSetArguments
from training_gill.json_lists import JsonList, JsonListError
from training_gill.record_collator import RecordCollator, open_record_image
from training_gill.record_mixture import expand_files, open_mixture, open_record_set
from training_gill.tar_shards import TarMember, index_tar
from training_gill.training_data import DataError


def examples_of(kind, files, count=None, **fields):
    """Examples of a pass in the order of the files."""
    records = open_record_set(RecordSetArguments(kind, files, **fields), None, "set 0")
    return [records.example(ordinal) for ordinal in range(len(records) if count is None else count)]


def size_of(image):
    return open_record_image(image).size


# --- pairs in shards -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ("jpg", "png", "jpeg", "JPG"))
def test_a_pair_is_an_image_and_a_text_or_json_with_one_key(suffix, tmp_path):
    shard = write_tar(
        tmp_path / "0.tar",
        {
            f"a/1.{suffix}": image_bytes(size=(7, 5), format="PNG" if suffix == "png" else "JPEG"),
            "a/1.txt": " a red car\r\n",
            "2.json": json.dumps({"caption": "a cat", "url": "x"}),
            f"2.{suffix}": image_bytes(size=(9, 5)),
        },
    )
    first, second = (example["record"] for example in examples_of("pairs", str(shard)))
    assert (first.caption, second.caption) == (" a red car", "a cat")
    assert (size_of(first.image), size_of(second.image)) == ((7, 5), (9, 5))


def test_the_files_of_a_pair_need_not_follow_each_other(tmp_path):
    files = {f"{i}.jpg": image_bytes(i) for i in range(3)} | {f"{i}.txt": f"number {i}" for i in range(3)}
    captions = [e["record"].caption for e in examples_of("pairs", str(write_tar(tmp_path / "0.tar", files)))]
    assert captions == ["number 0", "number 1", "number 2"]


def test_a_caption_may_be_in_another_field(tmp_path):
    fields = json.dumps({"caption": "wrong", "text": "a cat"})
    shard = write_tar(tmp_path / "0.tar", {"1.jpg": image_bytes(), "1.txt": "wrong", "1.json": fields})
    assert examples_of("pairs", str(shard), caption_column="text")[0]["record"].caption == "a cat"


@pytest.mark.parametrize("format", (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
def test_all_forms_of_tar_with_long_names_are_read(format, tmp_path):
    name = "/".join(["folder" * 9] * 3) + "/été" if format != tarfile.USTAR_FORMAT else "folder/1"
    shard = write_tar(tmp_path / "0.tar", {f"{name}.png": image_bytes(), f"{name}.txt": "a cat"}, format)
    (example,) = examples_of("pairs", str(shard))
    assert size_of(example["record"].image) == (12, 10)


@pytest.mark.parametrize(
    ("files", "message"),
    (
        ({"1.txt": "a cat"}, "no image"),
        ({"1.jpg": b"..."}, "no caption"),
        ({"1.jpg": b"...", "1.json": "{"}, "'1.json' is no JSON"),
        ({"1.jpg": b"...", "1.json": "[" * 100_000}, "'1.json' is no JSON"),
        ({"1.jpg": b"...", "1.json": "[]"}, "`caption` of '1.json' is None; expected text"),
        ({"1.jpg": b"...", "1.json": '{"caption": ["a"]}'}, r"is \['a'\]; expected text"),
        ({"1.jpg": b"...", "1.txt": b"\xff\xfea"}, "'1.txt' is no UTF-8"),
    ),
)
def test_a_sample_that_is_no_pair_is_named_and_the_others_are_read(files, message, tmp_path):
    shard = write_tar(tmp_path / "0.tar", {**files, "2.jpg": image_bytes(), "2.txt": "a dog"})
    broken, whole = examples_of("pairs", str(shard))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(broken["problem"])
    assert broken["name"] == f"{shard}, 1"
    assert whole["record"].caption == "a dog"


def test_a_name_that_comes_twice_is_named(tmp_path):
    shard = tmp_path / "0.tar"
    with tarfile.open(shard, "w") as tar:
        for content in (b"a cat", b"a dog"):
            info = tarfile.TarInfo("1.txt")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (example,) = examples_of("pairs", str(shard))
    assert "several times" in example["problem"]


def test_hidden_files_and_those_of_other_systems_are_no_records(tmp_path):
    files = {"._1.jpg": b"", "__MACOSX/1.jpg": b"", ".DS_Store": b"", "1.jpg": image_bytes(), "1.txt": "a cat"}
    assert len(examples_of("pairs", str(write_tar(tmp_path / "0.tar", files)))) == 1


# --- hostile archives ------------------------------------------------------------------------------------------------


def member(name, type, target="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type, target, size
    return info


@pytest.mark.parametrize("type", (tarfile.SYMTYPE, tarfile.LNKTYPE))
@pytest.mark.parametrize("target", ("/etc/hostname", "../secret.png", "2.png"))
def test_links_are_not_followed(type, target, tmp_path):
    (tmp_path / "secret.png").write_bytes(image_bytes())
    folder = tmp_path / "shards"
    folder.mkdir()
    files = {"1.png": member("1.png", type, target), "1.txt": "a cat", "2.png": image_bytes(), "2.txt": "a dog"}
    linked, whole = examples_of("pairs", str(write_tar(folder / "0.tar", files)))
    with pytest.raises(ImageError, match=r"'1.png' in .*0.tar is a link; expected a file"):
        open_record_image(linked["record"].image)
    assert size_of(whole["record"].image) == (12, 10)


@pytest.mark.parametrize("type", (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE))
def test_devices_and_pipes_are_not_opened(type, tmp_path):
    files = {"1.png": member("1.png", type), "1.txt": member("1.txt", type), "2.png": member("2.png", type)}
    first, second = examples_of("pairs", str(write_tar(tmp_path / "0.tar", files)))
    assert "no regular file" in first["problem"] and "no caption" in second["problem"]


@pytest.mark.parametrize("name", ("../../escaped", "/tmp/escaped", "a/../../escaped"))
def test_names_that_leave_the_archive_write_and_open_nothing(name, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    shard = write_tar(tmp_path / "0.tar", {f"{name}.png": image_bytes(), f"{name}.txt": "a cat"})
    (example,) = examples_of("pairs", str(shard))
    assert size_of(example["record"].image) == (12, 10)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, shard])


def test_an_image_that_is_too_large_is_not_read(tmp_path):
    shard = tmp_path / "0.tar"
    size = 40 * 1024 * 1024
    with tarfile.open(shard, "w") as tar:
        tar.addfile(member("1.txt", tarfile.REGTYPE, size=5), io.BytesIO(b"a cat"))
        header = member("1.png", tarfile.REGTYPE, size=size).tobuf()
        tar.fileobj.write(header)
        tar.fileobj.seek(size, os.SEEK_CUR)  # a hole of the file system
        tar.fileobj.write(b"\0" * 1024)
    (example,) = examples_of("pairs", str(shard))
    with pytest.raises(ImageError, match="holds 41943040 bytes, more than the limit"):
        open_record_image(example["record"].image)


def test_a_size_beyond_the_end_of_the_archive_is_named(tmp_path):
    shard = write_tar(tmp_path / "0.tar", {"0.png": image_bytes(), "0.txt": "a dog"})
    content = shard.read_bytes()[: 512 * 4]  # both files, without the end of the archive
    shard.write_bytes(content + member("1.txt", tarfile.REGTYPE, size=2**40).tobuf() + b"a cat")
    examples = examples_of("pairs", str(shard))
    assert examples[0]["record"].caption == "a dog"
    assert "cut off or damaged after '1'" in examples[1]["notes"][0]


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    shard = write_tar(tmp_path / "0.tar", {"0.png": image_bytes(), "0.txt": "a dog"})
    content = shard.read_bytes()[: 512 * 4]
    for type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        shard.write_bytes(content + member("1", type, size=3 * 2**30).tobuf() + b"\0" * 2048)
        (example,) = examples_of("pairs", str(shard))
        assert "more than the limit" in example["notes"][0]


@pytest.mark.parametrize("type", (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.DIRTYPE, b"Z"))
def test_a_negative_size_does_not_lead_back(type, tmp_path):
    shard = write_tar(tmp_path / "0.tar", {"0.png": image_bytes(), "0.txt": "a dog"})
    content = shard.read_bytes()[: 512 * 4]
    header = bytearray(member("1", type).tobuf())
    header[124:136] = b"\xff" * 10 + (2**16 - 1024).to_bytes(2, "big")  # two blocks back
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    shard.write_bytes(content + bytes(header) + b"\0" * 2048)
    (example,) = examples_of("pairs", str(shard))
    assert example["record"].caption == "a dog"
    assert "damaged after '0'" in example["notes"][0]


def test_headers_within_headers_come_to_an_end(tmp_path):
    shard = write_tar(tmp_path / "0.tar", {"0.png": image_bytes(), "0.txt": "a dog"})
    longname = member("1", tarfile.GNUTYPE_LONGNAME, size=1).tobuf() + b"x" + b"\0" * 511
    shard.write_bytes(shard.read_bytes()[: 512 * 4] + longname * 3000)
    (example,) = examples_of("pairs", str(shard))
    assert "damaged after '0'" in example["notes"][0]


def test_a_sparse_file_is_not_blown_up(tmp_path):
    info = tarfile.TarInfo("1.png")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(2**40)}
    info.pax_headers |= {"GNU.sparse.map": "0,10", "GNU.sparse.name": "1.png"}
    info.size = 10
    shard = tmp_path / "0.tar"
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"0123456789"))
        text = tarfile.TarInfo("1.txt")
        text.size = 5
        tar.addfile(text, io.BytesIO(b"a cat"))
    (example,) = examples_of("pairs", str(shard))
    with pytest.raises(ImageError, match="sparse"):
        open_record_image(example["record"].image)


def test_a_bomb_of_pixels_is_left_out(tmp_path, dream_processor):
    content = bytearray(image_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)  # what its header says of its size
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    shard = write_tar(tmp_path / "0.tar", {"1.png": bytes(content), "1.txt": "a cat"})
    batch = RecordCollator(dream_processor, 16)([{"index": 0, **examples_of("pairs", str(shard))[0]}])
    assert len(batch["skipped"]) == 1 and "pixels" in batch["skipped"][0]


@pytest.mark.parametrize("content", (b"", b"no archive at all" * 99, b"\x1f\x8b" + b"\0" * 2000, b"[1, 2]"))
def test_a_file_that_is_no_archive_is_refused_before_anything_is_read(content, tmp_path):
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"0\.tar cannot be read as an uncompressed tar archive"):
        examples_of("pairs", str(tmp_path / "0.tar"))


def test_a_compressed_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.txt"), io.BytesIO())
    with pytest.raises(DataError, match="expected one, as `tar -cf` writes it"):
        examples_of("pairs", str(tmp_path / "0.tar"))


def test_an_archive_that_is_cut_off_gives_what_is_whole_and_says_so_once(tmp_path):
    shard = pair_shard(tmp_path / "0.tar", range(6))
    begin = index_tar(shard).samples["0004"].members["png"].offset
    shard.write_bytes(shard.read_bytes()[: begin + 10])
    examples = examples_of("pairs", str(shard), count=10)
    names = [example["name"].split(", ")[1] for example in examples]
    assert names[:5] == ["0000", "0001", "0002", "0003", "0004"] and names[5:] == names[:5]
    notes = [len(example.get("notes", ())) for example in examples]
    assert sum(notes[:5]) <= 1
    assert "no caption" in examples[4]["problem"] or notes[4]


def test_an_archive_that_shrinks_is_named(tmp_path):
    shard = pair_shard(tmp_path / "0.tar", range(2))
    examples = examples_of("pairs", str(shard))
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"cut off: \d+ of its"):
        open_record_image(examples[1]["record"].image)


def test_shards_without_records_are_refused_and_empty_ones_passed_over(tmp_path):
    write_tar(tmp_path / "0.tar", {})
    write_tar(tmp_path / "1.tar", {"readme.md": "nothing"})
    with pytest.raises(DataError, match=r"holds no pairs; expected KEY.jpg with KEY.txt"):
        examples_of("pairs", str(tmp_path / "*.tar"), count=1)
    pair_shard(tmp_path / "2.tar", range(3))
    assert len(examples_of("pairs", str(tmp_path / "*.tar"), count=7)) == 7


# --- documents in shards ---------------------------------------------------------------------------------------------

DOCUMENT = {
    "text_list": ["first .", "second ."],
    "image_info": [
        {"image_name": "aa.png", "matched_text_index": 0, "matched_sim": 0.01},
        {"image_name": "bb.webp", "matched_text_index": 1},
    ],
}


@pytest.mark.parametrize("place", ("doc.{}.jpg", "{}.jpg", "doc/{}.jpg", "doc.{}.png"))
def test_images_of_a_document_stand_beside_it_by_their_stem(place, tmp_path):
    files = {place.format("aa"): image_bytes(size=(7, 5)), "doc.json": json.dumps(DOCUMENT)}
    files |= {place.format("bb"): image_bytes(size=(9, 5))}
    (example,) = examples_of("documents", str(write_tar(tmp_path / "0.tar", files)))
    assert [size_of(image.image) for image in example["record"].images] == [(7, 5), (9, 5)]


def test_documents_of_several_folders_have_their_own_images(tmp_path):
    files = {}
    for number, folder in enumerate(("x", "y")):
        files |= {f"{folder}/{stem}.jpg": image_bytes(size=(7 + number, 5)) for stem in ("aa", "bb")}
        files[f"{folder}/doc.json"] = json.dumps(DOCUMENT)
    examples = examples_of("documents", str(write_tar(tmp_path / "0.tar", files)))
    assert [size_of(e["record"].images[0].image) for e in examples] == [(7, 5), (8, 5)]


def test_a_document_of_a_shard_opens_nothing_outside_of_it(tmp_path, dream_processor):
    (tmp_path / "secret.jpg").write_bytes(image_bytes())
    names = [str(tmp_path / "secret.jpg"), "../secret.jpg", "secret.jpg", "http://127.0.0.1/secret.jpg"]
    info = [{"image_name": name, "matched_text_index": 0} for name in names]
    fields = json.dumps({"text_list": ["first ."], "image_info": info})
    (example,) = examples_of("documents", str(write_tar(tmp_path / "0.tar", {"doc.json": fields})))
    batch = RecordCollator(dream_processor, 16)([{"index": 0, **example}])
    assert len(batch["skipped"]) == 4 and "pixel_values" not in batch
    assert all("is not there; expected it beside its document" in message for message in batch["skipped"])


@pytest.mark.parametrize(
    ("content", "message"),
    (("{", "is no JSON"), ("[]", "expected a JSON object"), ('{"text_list": []}', "no `image_info`; expected a list")),
)
def test_a_document_that_is_none_is_named(content, message, tmp_path):
    (example,) = examples_of("documents", str(write_tar(tmp_path / "0.tar", {"doc.json": content})))
    assert message in example["problem"] and example["name"].endswith("0.tar, doc")


# --- JSON lists ------------------------------------------------------------------------------------------------------


def test_conversations_and_documents_of_a_list_find_their_images_in_a_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (7, 5)).save(folder / "a b.png")
    talk = {**chat(0), "image": "a%20b.png"}
    talk["conversations"][0]["value"] += " <image>"
    story = {"instruction": "go on", "text_list": ["so ."]}
    story["image_info"] = [{"image_name": "a b.png", "matched_text_index": 0}]
    (talked,) = examples_of("conversations", str(write_json(tmp_path / "talk.json", [talk])), image_folder=str(folder))
    (told,) = examples_of(
        "instructed_documents", str(write_json(tmp_path / "stories.json", [story])), image_folder=str(folder)
    )
    assert size_of(talked["record"].images[0]) == size_of(told["record"].images[0].image) == (7, 5)


def test_a_record_of_the_kind_that_contradicts_itself_is_left_out_of_its_list(tmp_path):
    odd = [
        {"conversations": [{"from": "human", "value": "what is <image> in HTML ?"}, {"from": "gpt", "value": "a tag"}]},
        {"conversations": []},
        {**chat(0), "image": "1.png"},
    ]
    examples = examples_of("conversations", str(write_json(tmp_path / "talk.json", [chat(0), *odd, chat(1)])))
    assert ["problem" in example for example in examples] == [False, True, True, True, False]
    assert examples[1]["name"].endswith("talk.json, record 1")
    document = {"text_list": ["a"], "image_info": [{"image_name": "1.png", "matched_text_index": 1}]}
    (example,) = examples_of("documents", str(write_json(tmp_path / "documents.json", [document])))
    assert "is 1; expected the index of one of the 1 texts" in example["problem"]


def test_pairs_may_be_a_list_too(tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    (example,) = examples_of("pairs", str(write_json(tmp_path / "pairs.json", [{"image": "a.png", "caption": "cat"}])))
    assert size_of(example["record"].image) == (7, 5) and example["record"].caption == "cat"


def test_pairs_may_be_a_tsv(tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    (tmp_path / "pairs.tsv").write_text("a cat\ta.png\n")
    (example,) = examples_of("pairs", str(tmp_path / "pairs.tsv"))
    assert size_of(example["record"].image) == (7, 5) and example["record"].caption == "a cat"


def test_several_lists_are_laid_end_to_end(tmp_path):
    files = [str(write_json(tmp_path / f"{n}.json", [chat(n * 2), chat(n * 2 + 1)])) for n in range(3)]
    texts = [e["record"].turns[0].text for e in examples_of("conversations", files)]
    assert texts == [f"question {n}" for n in range(6)]


def test_a_record_of_another_kind_is_refused_with_its_file_and_number(tmp_path):
    path = write_json(tmp_path / "talk.json", [chat(0), chat(1), {"conversations": [{"from": "ghost", "value": "hé"}]}])
    with pytest.raises(DataError, match=r"talk.json, record 2: `conversations\[0\].from` is 'ghost'; expected one of"):
        examples_of("conversations", str(path))


@pytest.mark.parametrize("name", ("../x.png", "/etc/x.png", "http://host/x.png"))
def test_an_image_outside_of_the_folder_is_refused_when_the_list_is_opened(name, tmp_path):
    record = {"image": name, "caption": "a cat"}
    with pytest.raises(DataError, match=r"record 0: the image is .* expected a relative path inside"):
        examples_of("pairs", str(write_json(tmp_path / "pairs.json", [record])))


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b"", "is empty; expected a JSON list"),
        (b"  ", "begins with ''; expected a JSON list"),
        (b'{"a": 1}', "expected a JSON list"),
        (b"[]", "is an empty list"),
        (b"[1, 2", "record 1: '' follows it; expected a comma"),
        (b"[1 2]", "record 0: '2]' follows it"),
        (b"[1,]", "record 1: no JSON"),
        (b"[1, nul]", "record 1: no JSON"),
        (b"[1] 2", "'2' follows the list"),
        (b'[1, "\xff"]', "is no UTF-8"),
        (b"[1, " + b"[" * 200_000, "record 1: no JSON"),
        (b"\xff\xfe[\0", "is no UTF-8"),
    ),
)
def test_a_file_that_is_no_list_is_named_with_the_record(content, message, tmp_path):
    (tmp_path / "list.json").write_bytes(content)
    with pytest.raises(JsonListError, match=rf"list.json.*{message.replace('[', '[[]')}"):
        JsonList(tmp_path / "list.json", lambda record: None)


def test_records_of_a_list_are_those_that_json_reads(tmp_path):
    records = [{"a": 'é\u2028 "[,]" \\'}, [1, {"b": []}], None, 3.5, "𝄞", {}]
    for content in (
        json.dumps(records),
        json.dumps(records, indent=2, ensure_ascii=False),
        "\ufeff" + json.dumps(records),
    ):
        (tmp_path / "list.json").write_text(content, encoding="utf-8")
        found = JsonList(tmp_path / "list.json", lambda record: None)
        assert [found[number] for number in range(len(found))] == records


def test_a_list_that_was_changed_is_named_and_the_run_goes_on(tmp_path):
    path = write_json(tmp_path / "talk.json", [chat(0), chat(1)])
    records = open_record_set(RecordSetArguments("conversations", str(path)), None, "set 0")
    path.write_text("[]")
    assert "cannot be read any more" in records.example(1)["problem"]


# --- names of files --------------------------------------------------------------------------------------------------


def test_shards_may_be_listed_in_json_relative_to_it(tmp_path):
    (tmp_path / "shards").mkdir()
    for number in range(2):
        pair_shard(tmp_path / "shards" / f"{number}.tar", range(number * 2, number * 2 + 2))
    path = write_json(tmp_path / "list.json", ["shards/1.tar", str(tmp_path / "shards" / "0.tar")])
    captions = [e["record"].caption for e in examples_of("pairs", str(path))]
    assert captions == ["number 2", "number 3", "number 0", "number 1"]


@pytest.mark.parametrize("entry", (3, "http://host/0.tar", "0.zip", None))
def test_a_list_of_shards_with_something_else_in_it_is_refused(entry, tmp_path):
    pair_shard(tmp_path / "0.tar", range(1))
    path = write_json(tmp_path / "list.json", ["0.tar", entry])
    with pytest.raises(DataError, match=r"list.json, record 1: .* expected the path of a .tar shard"):
        examples_of("pairs", str(path))


def test_names_may_have_ranges_and_patterns(tmp_path):
    for number in (8, 9, 10):
        pair_shard(tmp_path / f"{number:03d}.tar", range(number, number + 1))
    assert expand_files(f"{tmp_path}/{{008..010}}.tar") == expand_files(f"{tmp_path}/*.tar")
    assert expand_files("a{1..2}/{03..04}.tar") == ["a1/03.tar", "a1/04.tar", "a2/03.tar", "a2/04.tar"]


@pytest.mark.parametrize(
    ("files", "message"),
    (
        ("missing/*.tar", "No file is named 'missing/[*].tar'"),
        ("missing/{0..2}.tar", "missing/0.tar is no file"),
        ("missing.json", "'missing.json' cannot be read: No such file"),
        ("x{5..1}.tar", "expected 1 to 1,000,000 files"),
        ("x{0..9999}{0..9999}.tar", "expected 1 to 1,000,000 files"),
        ("http://host/0.tar", "expected files of this machine"),
        ("records.parquet", "expected .tar shards, a .json list of them, or .json lists of records"),
    ),
)
def test_files_that_are_not_there_or_of_another_form_are_named(files, message):
    with pytest.raises(DataError, match=message):
        open_mixture([RecordSetArguments("documents", files, size=1)], 0)


def test_a_missing_image_folder_is_named(tmp_path):
    path = write_json(tmp_path / "talk.json", [chat(0)])
    with pytest.raises(DataError, match=r"image folder 'missing' of .*talk.json' is not there"):
        examples_of("conversations", str(path), image_folder="missing")


def test_a_member_says_where_it_is():
    with pytest.raises(ImageError, match=r"'1.png' in nowhere.tar cannot be read"):
        TarMember("nowhere.tar", "1.png", 0, 3).read()
