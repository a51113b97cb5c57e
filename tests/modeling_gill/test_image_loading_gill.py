"""Whatever a user hands over as an image is opened whole and upright, or refused with a reason."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile

from modeling_gill.image_loading_gill import ImageError, ImageLimits, ImageReader, load_image, load_image_and_file
from modeling_gill.image_sources_gill import IMAGE_SOURCES, looks_like_image_reference

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


RED_PNG = encoded(Image.new("RGB", (3, 2), RED))


# --- images in memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "I", "F"])
def test_a_pil_image_of_any_mode_becomes_rgb_of_the_same_colours(mode: str) -> None:
    grey = Image.new("L", (4, 3), 255)
    loaded = load_image(
        grey.convert("RGB").convert(mode) if mode in ("RGBX", "HSV", "PA", "CMYK") else grey.convert(mode)
    )
    assert (loaded.mode, loaded.size) == ("RGB", (4, 3))
    assert np.asarray(loaded).min() >= 250


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_transparency_is_undone(mode: str) -> None:
    half = Image.new(mode[:-1] + "A", (1, 1), (0, 128) if mode == "La" else (0, 0, 0, 128))
    assert load_image(half.convert(mode)).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_greys_keep_their_brightness(mode: str) -> None:
    image = Image.new(mode, (2, 1), 65535)
    image.putpixel((1, 0), 32896)
    assert np.asarray(load_image(image))[0, :, 0].tolist() == [255, 128]


def test_lab_colours_are_converted() -> None:
    assert load_image(Image.new("LAB", (1, 1), (255, 128, 128))).getpixel((0, 0)) == pytest.approx(WHITE, abs=3)


def test_transparency_is_laid_on_white() -> None:
    assert load_image(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == WHITE
    assert load_image(Image.new("RGBA", (1, 1), (255, 0, 0, 255))).getpixel((0, 0)) == RED
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([255, 0, 0])
    assert load_image(encoded(palette, transparency=0)).getpixel((0, 0)) == WHITE
    assert load_image(encoded(Image.new("RGB", (1, 1), RED), transparency=RED)).getpixel((0, 0)) == WHITE


def test_a_transparent_grey_of_sixteen_bits_is_laid_on_white() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[1000, 32768]], np.uint16)).save(file, "PNG", transparency=1000)
    image = load_image(file)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (128, 128, 128)]


def test_the_image_handed_over_is_left_as_it_was() -> None:
    mine = Image.new("RGB", (2, 2), RED)
    load_image(mine).putpixel((0, 0), WHITE)
    assert mine.getpixel((0, 0)) == RED


def test_an_image_of_one_pixel_is_an_image() -> None:
    assert load_image(Image.new("RGB", (1, 1), RED)).getpixel((0, 0)) == RED
    assert load_image(np.full((1, 1, 3), 255, np.uint8)).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 5, 7), (5, 7, 3), (3, 5, 7), (5, 7, 4), (4, 5, 7)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_arrays_with_channels_first_or_last_or_none(shape: tuple[int, ...], kind: str) -> None:
    array = np.full(shape, 255, np.uint8)
    loaded = load_image(array if kind == "numpy" else torch.from_numpy(array))
    assert (loaded.mode, loaded.size, loaded.getpixel((6, 4))) == ("RGB", (7, 5), WHITE)


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (1, 5, 7, 3), (1, 1, 5, 7)])
def test_a_batch_of_one_image_is_that_image(shape: tuple[int, ...]) -> None:
    assert load_image(np.zeros(shape, np.uint8)).size == load_image(torch.zeros(shape)).size == (7, 5)


def test_where_both_readings_fit_numpy_means_channels_last_and_torch_channels_first() -> None:
    assert load_image(np.zeros((3, 9, 3), np.uint8)).size == (9, 3)
    assert load_image(torch.zeros(3, 9, 3)).size == (3, 9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_tensors_are_read_as_zero_to_one(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 2, 2, dtype=dtype, requires_grad=True)
    assert load_image(tensor).getpixel((0, 0)) == WHITE
    assert load_image(tensor.detach() * 0.5).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 4), np.uint8), "image by image"),
        (np.zeros((5, 7, 2), np.uint8), r"\(5, 7, 2\)"),
        (np.zeros(5, np.uint8), r"\(5,\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least 1 x 1"),
        (np.zeros((4, 4, 3), np.int64), "int64.*uint8 or float"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (torch.full((3, 4, 4), float("inf")), "infinity"),
        (np.full((4, 4, 3), 200.0), "200.*0..1"),
        (torch.full((3, 4, 4), -1.0), "-1.*0..1"),
        (torch.ones(3, 4, 4, device="meta"), "expected a dense tensor that holds data"),
        (torch.eye(4).to_sparse(), "expected a dense tensor that holds data"),
    ],
)
def test_a_wrong_array_is_refused_with_what_was_found_and_expected(array: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message) as error:
        load_image(array)
    assert "expected" in str(error.value) and str(tuple(array.shape)) in str(error.value)


# --- files -----------------------------------------------------------------------------------------------------------


def test_an_image_is_found_by_path_string_bytes_data_uri_and_row_of_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(RED_PNG)
    uri = "data:image/png;base64," + base64.b64encode(RED_PNG).decode()
    row = {"bytes": RED_PNG, "path": "anything.png"}
    bare = uri.translate(str.maketrans("+/", "-_")).rstrip("=")
    written = io.BytesIO()
    written.write(RED_PNG)
    strings = (str(file), file.as_uri(), uri, bare)
    for source in (file, *strings, RED_PNG, bytearray(RED_PNG), written, row, {"bytes": None, "path": str(file)}):
        assert load_image(source).getpixel((2, 1)) == RED
    assert load_image_and_file(file)[1] == load_image_and_file(uri)[1] == RED_PNG
    assert load_image_and_file(Image.new("RGB", (1, 1)))[1] is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif))
    assert loaded.size == ((30, 20) if orientation < 5 else (20, 30))
    assert load_image(loaded).size == loaded.size


def test_a_broken_exif_block_does_not_make_an_image_unreadable() -> None:
    assert load_image(encoded(noise(), "JPEG", exif=b"Exif\0\0nonsense")).size == (60, 40)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, WHITE)]
    for format in ("GIF", "PNG", "WEBP"):
        content = encoded(
            frames[0],
            format,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if format == "WEBP" else {}),
        )
        assert load_image(content).getpixel((0, 0)) == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
@pytest.mark.parametrize("tolerated_by_the_program", [False, True])
def test_a_truncated_file_is_never_silently_grey(
    format: str, tolerated_by_the_program: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerated_by_the_program)
    content = encoded(noise(), format)
    for part in (0.02, 0.3, 0.6, 0.95):
        with pytest.raises(ImageError):
            load_image(content[: int(len(content) * part)])
    assert tolerated_by_the_program == ImageFile.LOAD_TRUNCATED_IMAGES


def test_what_is_no_image_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    for source, message in (
        (tmp_path / "missing.jpg", "missing.jpg.*no such file"),
        (tmp_path, "directory"),
        (tmp_path / "empty.jpg", "empty.jpg.*0 bytes"),
        (tmp_path / "page.jpg", "page.jpg.*not a whole image"),
        (b"", "0 bytes"),
        ("a photograph of a cat " * 500, "could not be opened"),
        ("nul\0byte.png", "no such file"),
        ("", "empty string"),
        ("ftp://host/cat.png", "'ftp'"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png", "comma"),
        ({"bytes": None, "path": None}, "neither"),
        (None, "NoneType.*expected a PIL image"),
        (7, "int.*expected a PIL image"),
    ):
        with pytest.raises(ImageError, match=message) as error:
            load_image(source)
        assert str(error.value).startswith("Image could not be read: ") and len(str(error.value)) < 500
        assert "html" not in str(error.value)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageError, match="pixels"):
        load_image(encoded(Image.new("1", (20_000, 20_000))))
    with pytest.raises(ImageError, match=r"9000 x 9000.*64,000,000"):
        load_image(encoded(Image.new("1", (9000, 9000))))
    for held in (Image.new("L", (50, 50)), np.zeros((50, 50), np.uint8), torch.zeros(1, 50, 50)):
        with pytest.raises(ImageError, match=r"50 x 50.*2,499"):
            load_image(held, max_pixels=2499)


def test_a_line_that_would_grow_huge_when_scaled_up_is_refused() -> None:
    with pytest.raises(ImageError, match="1000 : 1"):
        load_image(Image.new("L", (100_000, 1)))


@pytest.mark.parametrize("format", ["EPS", "TGA", "ICO", "DDS", "PCX", "SGI", "IM", "JPEG2000"])
def test_a_format_that_is_not_on_the_list_is_refused(format: str) -> None:
    with pytest.raises(ImageError, match="expected one of AVIF"):
        load_image(encoded(Image.new("RGB", (4, 4)), format))


def iptc(content: bytes, size: tuple[int, int]) -> bytes:
    """An IPTC file, which Pillow unwraps and then opens whatever format is inside."""

    def field(dataset: tuple[int, int], value: bytes) -> bytes:
        return bytes([0x1C, *dataset]) + len(value).to_bytes(2, "big") + value

    width, height = (number.to_bytes(2, "big") for number in size)
    fields = [((3, 60), b"\1\0"), ((3, 65), b"\0"), ((3, 20), width), ((3, 30), height), ((3, 120), b"\1")]
    return b"".join(field(*one) for one in fields) + field((8, 10), content)


def test_a_wrapper_of_other_formats_is_not_unwrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    postscript = encoded(Image.new("RGB", (4, 4)), "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    for inside in (postscript, encoded(Image.new("1", (20_000, 20_000)))):
        with pytest.raises(ImageError, match="expected one of AVIF"):
            load_image(iptc(inside, (4, 4)))
    with pytest.raises(ImageError, match="format is EPS"):
        load_image(Image.open(io.BytesIO(postscript)))


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan, of no change, is repeated."""
    content = encoded(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xc4")
    return content[:start] + content[start:-2] * scans + content[-2:]


def test_a_jpeg_that_takes_minutes_to_decode_is_refused_and_a_video_behind_a_photograph_is_not() -> None:
    assert load_image(many_scans(10)).size == (64, 64)
    with pytest.raises(ImageError, match="more than 100 scans"):
        load_image(many_scans(1000))
    motion_photo = encoded(noise(), "JPEG") + b"\xff\xda\0\2" * 1000
    assert load_image(motion_photo).size == (60, 40)


def test_decoding_ends_when_the_time_is_up() -> None:
    with pytest.raises(ImageError, match="in time"):
        load_image(encoded(noise()), timeout=0)


def test_half_of_an_image_is_not_taken_for_the_whole_at_the_second_attempt() -> None:
    content = encoded(noise(200, 200), "PNG")
    damaged = content[:20_000] + bytes(1000) + content[21_000:]
    for _ in range(2):
        with pytest.raises(ImageError):
            load_image(damaged)
    held = Image.open(io.BytesIO(damaged))
    for _ in range(3):
        with pytest.raises(ImageError):
            load_image(held)


# --- where an image may come from ------------------------------------------------------------------------------------


def sources(tmp_path: Path) -> dict[str, list[Any]]:
    """By kind, every way to name the same red image."""
    file = tmp_path / "red.png"
    file.write_bytes(RED_PNG)
    red = Image.open(io.BytesIO(RED_PNG)).convert("RGB")
    encoded = base64.b64encode(RED_PNG).decode()
    return {
        "memory": [RED_PNG, bytearray(RED_PNG), io.BytesIO(RED_PNG), red, np.asarray(red), {"bytes": RED_PNG}],
        "data": [f"data:image/png;base64,{encoded}", f" DATA:image/png;base64,{encoded}"],
        "file": [
            *(file, str(file), f"{tmp_path}/../{tmp_path.name}/red.png"),
            *(file.as_uri(), f"file://localhost{file}", f"FILE://{file}"),
            *({"path": str(file)}, {"bytes": None, "path": file}),
        ],
    }


@pytest.mark.parametrize("kind", ["memory", "data", "file"])
def test_an_image_comes_from_the_allowed_sources_alone(tmp_path: Path, kind: str) -> None:
    for source in sources(tmp_path)[kind]:
        assert load_image(source, allowed_sources=[kind]).getpixel((0, 0)) == RED
        with pytest.raises(ImageError, match="allowed image sources are"):
            load_image(source, allowed_sources=[other for other in IMAGE_SOURCES if other != kind])
        with pytest.raises(ImageError, match="allowed image sources are: none"):
            load_image(source, allowed_sources=())


def test_what_a_dict_calls_bytes_opens_neither_a_file_nor_a_url(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(RED_PNG)
    for named in (str(file), file, file.as_uri(), "http://127.0.0.1:9/red.png", {"path": str(file)}, [1, 2]):
        for allowed in (("memory",), IMAGE_SOURCES):
            with pytest.raises(ImageError, match=r"its 'bytes' are of type .*expected bytes"):
                load_image({"bytes": named}, allowed_sources=allowed)


def test_a_dict_in_a_dict_is_refused_and_not_followed() -> None:
    endless: dict[str, Any] = {}
    endless["path"] = endless
    with pytest.raises(ImageError, match="its 'path' is of type dict, expected a string"):
        load_image(endless)


def test_a_path_below_an_unknown_home_directory_is_text_or_named() -> None:
    assert not looks_like_image_reference("~nobody-of-this-name/red.png")
    with pytest.raises(ImageError, match="home directory is not known"):
        load_image("~nobody-of-this-name/red.png")


def test_an_unknown_kind_of_source_is_named() -> None:
    with pytest.raises(ValueError, match=r"\['web'\]; expected some of memory, data"):
        load_image(RED_PNG, allowed_sources=["web"])
    assert load_image(RED_PNG, allowed_sources="memory").getpixel((0, 0)) == RED


def test_where_files_are_not_allowed_nobody_learns_which_exist(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED_PNG)
    allowed = ("memory", "data", "public_url")
    for name in ("red.png", "missing.png"):
        assert not looks_like_image_reference(str(tmp_path / name), allowed)
    messages = []
    for name in ("red.png", "missing.png"):
        with pytest.raises(ImageError) as error:
            load_image(str(tmp_path / name), allowed_sources=allowed)
        messages.append(str(error.value).replace(name, ""))
    assert messages[0] == messages[1]


# --- the limits of a call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ImageLimits(max_images=3), "4 images, more than the limit of 3 of a call"),
        (ImageLimits(max_total_pixels=3 * 6), "24 pixels, more than the limit of 18 of a call"),
        (ImageLimits(max_total_bytes=3 * len(RED_PNG)), "bytes of images, more than the limit of"),
    ],
)
def test_the_images_of_a_call_share_its_limits(limits: ImageLimits, message: str) -> None:
    reader = ImageReader(limits)
    for _ in range(3):
        reader.read(RED_PNG)
    with pytest.raises(ImageError, match=message):
        reader.read(RED_PNG)
    assert ImageReader(limits).read(RED_PNG).size == (3, 2)


def test_the_images_of_a_call_share_its_time() -> None:
    reader = ImageReader(ImageLimits(max_total_seconds=1e-9))
    reader.read(Image.new("RGB", (3, 2)))
    with pytest.raises(ImageError, match="the limit of a call"):
        reader.read(RED_PNG)


def test_what_looks_like_a_reference_to_an_image_and_what_like_words(tmp_path: Path) -> None:
    (tmp_path / "cat.JPG").touch()
    (tmp_path / "notes.txt").touch()
    uris = ("https://a.b/c", "HTTP://a.b/cat.jpg?x=1", "data:image/png;base64,AAAA", "file:///x/cat.jpg")
    for text in (*uris, str(tmp_path / "cat.JPG")):
        assert looks_like_image_reference(text), text
    paths = [str(tmp_path / "notes.txt"), str(tmp_path / "dog.jpg"), str(tmp_path), "cat.jpg " * 1000, "a\0.jpg"]
    urls = ["look at https://a.b/c.jpg", "https://a.b/c.jpg please", "http://", "http://[", "data:text/plain,x"]
    words = ["a cat", "", *paths, *urls]
    for text in words:
        assert not looks_like_image_reference(text), text
