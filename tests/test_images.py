"""The careful reader: right size and colour for every picture that Pillow can write, an ImageError for all else."""

import hashlib
import io
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from dlkit.data.images import (
    LARGEST_ASPECT,
    _heif,
    _to_rgb,
    check_picture,
    image_digest,
    read_image,
    read_picture,
    shown_name,
    thumbnail_jpeg,
)
from dlkit.errors import ImageError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(data: bytes, **limits: float) -> Image.Image:
    image = read_image(data, **({"max_megapixels": 50, "max_mb": 10} | limits))
    assert image.mode == "RGB"
    return image


def assert_colour(image: Image.Image, expected: tuple[int, ...], tolerance: int = 4) -> None:
    mean = np.asarray(image).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(mean, expected, atol=tolerance)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_by_hand(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_listed_format_is_read(kind):
    image = read(saved(Image.new("RGB", (40, 30), RED), kind))
    assert image.size == (40, 30)
    assert_colour(image, RED)


@pytest.mark.parametrize(
    ("mode", "kind", "colour", "expected"),
    [
        ("1", "PNG", 1, WHITE),
        ("L", "PNG", 100, (100, 100, 100)),
        ("L", "JPEG", 100, (100, 100, 100)),
        ("P", "PNG", 0, (0, 0, 0)),
        ("LA", "PNG", (0, 0), WHITE),
        ("LA", "PNG", (0, 255), (0, 0, 0)),
        ("RGBA", "PNG", (255, 0, 0, 0), WHITE),
        ("RGBA", "PNG", (255, 0, 0, 128), (255, 127, 127)),
        ("RGBA", "WEBP", (255, 0, 0, 0), WHITE),
        ("RGBA", "TIFF", (255, 0, 0, 0), WHITE),
        ("CMYK", "JPEG", (0, 255, 255, 0), RED),
        ("CMYK", "TIFF", (0, 255, 255, 0), RED),
        ("YCbCr", "JPEG", (76, 85, 255), (254, 0, 0)),
        ("I;16", "PNG", 32768, (128, 128, 128)),
        ("I;16", "TIFF", 32768, (128, 128, 128)),
        ("I;16", "PNG", 65535, WHITE),
        ("I", "TIFF", 200, (200, 200, 200)),
        ("I", "TIFF", 32768, (128, 128, 128)),
        ("F", "TIFF", 0.5, (128, 128, 128)),
        ("F", "TIFF", 100.0, (100, 100, 100)),
        ("F", "TIFF", float("nan"), (0, 0, 0)),
        ("F", "TIFF", 1e9, WHITE),
    ],
)
def test_every_mode_becomes_the_right_colour(mode, kind, colour, expected):
    image = read(saved(Image.new(mode, (16, 16), colour), kind))
    assert image.size == (16, 16)
    assert_colour(image, expected)


def test_sixteen_bit_ramp_keeps_its_steps():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    found = np.asarray(read(saved(Image.fromarray(ramp), "PNG")))[0, :, 0]
    np.testing.assert_allclose(found, np.arange(256), atol=1)


def test_negative_and_infinite_values_do_not_break_a_float_picture():
    values = np.array([[-1.0, 0.0, 1.0, np.inf]], dtype=np.float32)
    assert np.asarray(read(saved(Image.fromarray(values), "TIFF")))[0, :3, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_transparent_colour_becomes_white(mode):
    image = Image.new("RGB", (8, 8), RED).convert(mode)
    pixel = image.getpixel((0, 0))
    assert_colour(read(saved(image, "PNG", transparency=pixel)), WHITE)


def test_palette_with_alpha_becomes_white_where_it_is_transparent():
    half = Image.new("RGBA", (8, 8), RED)
    half.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image = read(saved(half.quantize(), "PNG"))
    assert image.getpixel((0, 0)) == WHITE
    assert image.getpixel((7, 0)) == RED


def test_adobe_cmyk_is_not_inverted():
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in data
    assert_colour(read(data), RED)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    picture = Image.new("RGB", (48, 32), GREEN)
    picture.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture, kind, exif=exif, **({"quality": 95} if kind != "PNG" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = read(data)
    assert image.size == expected.size == ((48, 32) if orientation < 5 else (32, 48))
    np.testing.assert_allclose(np.asarray(image), np.asarray(expected), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_checking_tells_the_size_as_it_is_read(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = saved(Image.new("RGB", (48, 32)), kind, exif=exif)
        looks, picture = check_picture(data), read_picture(data)
        assert (looks.width, looks.height) == picture.image.size
        assert looks.is_first_of_many == picture.is_first_of_many


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_does_not_hide_the_picture(exif):
    image = read(saved(Image.new("RGB", (20, 10), RED), "JPEG", exif=exif))
    assert image.size == (20, 10)


def test_unknown_orientation_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 99
    assert read(saved(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).size == (20, 10)


@pytest.mark.parametrize("profile", [b"garbage", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_colour_profile_good_or_broken_does_not_matter(kind, profile):
    assert_colour(read(saved(Image.new("RGB", (16, 16), RED), kind, icc_profile=profile)), RED)


def icc_profile(space: bytes, **tags: bytes) -> bytes:
    """Build a colour profile of version 2 by hand: ICC.1:2001-04, sections 6.1 to 6.5."""
    table, body = b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    size = 132 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s12x4s28xIII48x", size, b"", 0x02100000, b"mntr", space, b"XYZ ", b"acsp", *D50)
    return header + struct.pack(">I", len(tags)) + table + body


D50 = (63190, 65536, 54061)  # in parts of 65536
SRGB_PRIMARIES = ((28578, 14581, 912), (25240, 46982, 6362), (9376, 3973, 46792))


def xyz(values: tuple[int, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">III", *values)


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def rgb_profile(primaries: tuple[tuple[int, ...], ...], exponent: float = 2.2) -> bytes:
    names = ("rXYZ", "gXYZ", "bXYZ")
    tags = {name: xyz(values) for name, values in zip(names, primaries, strict=True)}
    return icc_profile(b"RGB ", wtpt=xyz(D50), **tags, **dict.fromkeys(("rTRC", "gTRC", "bTRC"), gamma(exponent)))


SWAPPED = rgb_profile((SRGB_PRIMARIES[1], SRGB_PRIMARIES[0], SRGB_PRIMARIES[2]))
GREY_OF_GAMMA_1 = icc_profile(b"GRAY", wtpt=xyz(D50), kTRC=gamma(1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colour_profile_is_applied(kind):
    assert_colour(read(saved(Image.new("RGB", (16, 16), RED), kind, icc_profile=SWAPPED)), GREEN, tolerance=8)


def test_colour_profile_is_applied_whatever_the_mode_and_size():
    grey = Image.new("L", (16, 16), 55)  # 0.2157 of the light, which sRGB writes as 128
    assert_colour(read(saved(grey, "PNG", icc_profile=GREY_OF_GAMMA_1)), (128, 128, 128))
    palette = Image.new("RGB", (16, 16), RED).quantize()
    assert_colour(read(saved(palette, "PNG", icc_profile=SWAPPED)), GREEN, tolerance=8)
    half = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert_colour(read(saved(half, "PNG", icc_profile=SWAPPED)), WHITE)
    large = Image.new("RGB", (1500, 1000), RED)
    assert_colour(read(saved(large, "PNG", icc_profile=SWAPPED)), GREEN, tolerance=8)


@pytest.mark.parametrize("profile", [GREY_OF_GAMMA_1, icc_profile(b"CMYK"), SWAPPED + bytes(5 << 20)])
def test_colour_profile_that_does_not_fit_the_picture_is_ignored(profile):
    assert_colour(read(saved(Image.new("RGB", (16, 16), RED), "TIFF", icc_profile=profile)), RED)


def test_pixels_of_ordinary_pictures_are_those_of_the_decoder():
    """Also with one of the many profiles of sRGB: runs and figures rest on these numbers."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({}, {"icc_profile": srgb}, {"icc_profile": rgb_profile(SRGB_PRIMARIES)}, {"progressive": True}):
        data = saved(noise, "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        is_near = options.get("icc_profile") == rgb_profile(SRGB_PRIMARIES)  # gamma 2.2 is not quite sRGB's curve
        np.testing.assert_allclose(np.asarray(read(data)), expected, atol=20 if is_near else 0)


@pytest.mark.parametrize(
    ("mode", "colour", "kind"),
    [("RGBA", (255, 0, 0, 0), "PNG"), ("LA", (0, 128), "PNG"), ("I;16", 32768, "PNG"), ("F", 0.5, "TIFF")],
)
def test_large_picture_is_converted_in_bands_without_a_seam(mode, colour, kind):
    small, large = (np.asarray(read(saved(Image.new(mode, size, colour), kind))) for size in ((9, 9), (1100, 2003)))
    assert large.shape == (2003, 1100, 3)
    assert (large == small[0, 0]).all()


def test_white_of_a_float_picture_is_that_of_all_its_bands():
    values = np.zeros((2000, 1000), dtype=np.float32)
    values[1999, 999] = 250
    values[0, 0] = 125
    found = np.asarray(read(saved(Image.fromarray(values), "TIFF")))
    assert found[0, 0, 0] == 125
    assert found[1999, 999, 0] == 250


def test_twelve_bits_are_scaled_to_eight():
    data = bytearray(saved(Image.new("I;16", (8, 8)), "TIFF"))
    (directory,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[directory : directory + 2])
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack("<H", data[entry : entry + 2]) == (258,):  # bits a sample
            data[entry + 8] = 12
    assert_colour(read(bytes(data[:-128]) + b"\xff" * 128), WHITE)


def test_premultiplied_grey_and_other_rare_modes_are_converted():
    assert_colour(_to_rgb(Image.new("La", (4, 4), (0, 0))), WHITE)
    assert_colour(_to_rgb(Image.new("PA", (4, 4))), WHITE)
    assert_colour(_to_rgb(Image.new("RGBa", (4, 4))), WHITE)
    assert_colour(_to_rgb(Image.new("HSV", (4, 4), (0, 255, 255))), RED)
    assert_colour(_to_rgb(Image.new("LAB", (4, 4), (255, 128, 128))), WHITE, tolerance=8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation_is_read_and_said(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, WHITE)]
    found = read_picture(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert_colour(found.image, RED)
    assert found.is_first_of_many
    assert not read_picture(saved(frames[0], kind)).is_first_of_many


def test_second_frame_that_is_broken_does_not_matter():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_colour(read(data[: data.rindex(b"\x2c") + 4] + b"\x3b"), RED)


def test_first_picture_of_an_mpo_is_read():
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN)]
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert_colour(read(data), RED)


def test_metadata_does_not_come_along():
    exif = Image.Exif()
    exif[0x010E] = "at home"
    image = read(saved(Image.new("RGB", (8, 8)), "JPEG", exif=exif, comment="secret"))
    assert image.info == {}
    assert not image.getexif()


@pytest.mark.parametrize("size", [(1, 1), (1, LARGEST_ASPECT), (LARGEST_ASPECT, 1)])
def test_tiny_and_long_pictures_are_read(size):
    assert read(saved(Image.new("RGB", size, RED), "PNG")).size == size


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_extremely_long_picture_is_refused(size):
    with pytest.raises(ImageError, match=r"one side may be at most 100 times the other\. Crop it"):
        read(saved(Image.new("RGB", size), "PNG"))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"hello, this is text renamed to photo.jpg", "not a picture that can be read here. Use JPEG, PNG"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG drawings cannot be read here"),
        (b"<svg onload='alert(1)'/>", "SVG drawings cannot be read here"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF pictures cannot be read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript drawings cannot be read here"),
        (b"%PDF-1.7\n", "PDF documents cannot be read here"),
        (b"SIMPLE  =                    T" + b" " * 2850, "FITS images cannot be read here"),
        (b"P6 2 2 255 " + bytes(12), "not a picture that can be read here"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut off"),
        (b"\xff\xd8\xff\xe0", "damaged or cut off"),
        (b"GIF89a", "damaged or cut off"),
    ],
)
def test_what_is_no_picture_is_refused_with_advice(data, sentence):
    with pytest.raises(ImageError, match=sentence):
        read(data)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_without_its_reader_is_refused_with_advice(brand, monkeypatch):
    monkeypatch.setattr("dlkit.data.images._heif", lambda: False)
    with pytest.raises(ImageError, match=r"HEIC photos cannot be read here: export it as JPEG\. Where pillow-heif is"):
        read(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic")


def test_heic_is_read_where_its_reader_is_installed():
    pytest.importorskip("pillow_heif", reason="pillow-heif, which reads HEIC, is not installed")
    assert _heif()
    photo = Image.new("RGB", (64, 48), RED)
    assert_colour(read(saved(photo, "HEIF", quality=95)), RED, tolerance=8)
    with pytest.raises(ImageError, match="damaged or cut off"):
        read(saved(photo, "HEIF")[:200])
    with pytest.raises(ImageError, match="megapixels"):
        read(saved(photo, "HEIF"), max_megapixels=0.001)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_cut_off_picture_is_refused(kind, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, kind)
    with pytest.raises(ImageError, match="damaged or cut off"):
        read(data[: int(len(data) * share)])


@pytest.mark.parametrize("chunk", [b"IHDR", b"IDAT"])
def test_png_with_a_wrong_checksum_is_refused(chunk):
    data = bytearray(saved(Image.new("RGB", (64, 64), RED), "PNG"))
    start = data.index(chunk)
    length = struct.unpack(">I", data[start - 4 : start])[0]
    data[start + 4 + length] ^= 1
    with pytest.raises(ImageError, match="damaged or cut off"):
        read(bytes(data))


def jpeg_with_size(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def png_with_size(width: int, height: int) -> bytes:
    return png_by_hand(width, height, png_chunk(b"IDAT", zlib.compress(bytes(1000))), png_chunk(b"IEND", b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("build", [jpeg_with_size, png_with_size])
@pytest.mark.parametrize("side", [7_100, 13_000, 60_000])
def test_too_many_pixels_are_refused_by_the_header(build, side):
    with pytest.raises(ImageError, match=r"megapixels|too many pixels"):
        read(build(side, side))


def test_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    data = saved(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    started = time.perf_counter()
    with pytest.raises(ImageError, match="more than 50 scans"):
        read(data[:-2] + 1000 * scan + data[-2:])
    assert time.perf_counter() - started < 1
    assert read(data).size == (2000, 2000)


def test_progressive_jpeg_has_a_limit_of_its_own():
    data = saved(Image.new("RGB", (1000, 800)), "JPEG", progressive=True)
    with pytest.raises(ImageError, match=r"progressive JPEG of 1 megapixels; the limit for these is 0\.5"):
        read(data, max_megapixels=1)
    assert read(data, max_megapixels=1.6).size == (1000, 800)


def test_several_files_of_one_fault_have_one_reason():
    reasons = {}
    for data in (b"", b"text", b"\x89PNG\r\n\x1a\n", b"<svg/>", png_with_size(8_000, 8_000), b"x" * 2000):
        with pytest.raises(ImageError) as caught:
            read(data, max_mb=0.0015)
        reasons[data[:4]] = caught.value.reason
    assert list(reasons.values()) == [
        "are empty",
        "hold no picture",
        "have more than 50 megapixels",
        "are in a format that cannot be read here (SVG drawings)",
        "are larger than 0.0015 MB",
    ]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "1"])
def test_checking_the_largest_picture_takes_a_bounded_time_and_memory(mode):
    """It is checked in a process of its own, which has kept nothing of others."""
    data = saved(Image.new(mode, (7000, 7000)), "PNG")
    code = (
        "import resource, sys, time\n"
        "from dlkit.data.images import check_picture\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, started, data = peak(), time.process_time(), sys.stdin.buffer.read()\n"
        "check_picture(data)\n"
        "print(peak() - before, time.process_time() - started)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, check=True, capture_output=True)
    growth, seconds = map(float, done.stdout.split())
    assert growth < 300
    assert seconds < 2


def test_limits_are_those_that_were_given():
    data = saved(Image.new("RGB", (1100, 1000)), "PNG")
    with pytest.raises(ImageError, match=r"has 1 megapixels \(1100 × 1000\); the limit is 1\. Save it smaller"):
        read(data, max_megapixels=1)
    with pytest.raises(ImageError, match=r"larger than 0\.001 MB"):
        read(data, max_mb=0.001)


def test_limits_come_from_the_settings(home, monkeypatch):
    monkeypatch.setenv("DLKIT_MAX_IMAGE_MEGAPIXELS", "0.5")
    with pytest.raises(ImageError, match=r"the limit is 0\.5"):
        read_image(saved(Image.new("RGB", (1000, 1000)), "PNG"))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_big_compressed_text_is_refused(kind):
    bomb = png_chunk(kind, b"name\0\0" + zlib.compress(bytes(100_000_000)))
    with pytest.raises(ImageError, match="damaged"):
        read(png_by_hand(8, 8, bomb, png_chunk(b"IDAT", zlib.compress(bytes(200))), png_chunk(b"IEND", b"")))


def test_long_text_that_is_not_compressed_does_no_harm():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 10_000)
    assert_colour(read(saved(Image.new("RGB", (8, 8), RED), "PNG", pnginfo=info)), RED)


def test_path_and_open_file_are_read_and_named(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(saved(Image.new("RGB", (8, 8), RED), "PNG"))
    assert_colour(read_image(path), RED)
    with path.open("rb") as file:
        assert_colour(read_image(file), RED)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"^cat\.png is empty"):
        read_image(path)


@pytest.mark.parametrize("path", [Path("nowhere.jpg"), Path("/"), Path("a\0b.jpg")])
def test_missing_file_and_folder_are_refused(path):
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(path)


def test_names_in_messages_are_short_and_harmless():
    assert shown_name("a\x1b[31m\u202eb\n.jpg") == "a[31mb.jpg"
    assert len(shown_name("x" * 500 + ".jpg")) == 60
    assert shown_name("x" * 500 + ".jpg").endswith("x.jpg")
    assert shown_name("\0") == "The picture"


def mutated(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed[: generator.randint(1, len(changed))] if generator.random() < 0.2 else changed)


def with_right_checksums(data: bytes) -> bytes:
    """Repair the checksums of a mutated PNG as far as its chunks can be followed, so that the decoder is reached."""
    out, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        length = struct.unpack(">I", data[position : position + 4])[0]
        out += png_chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length])
        position += 12 + length
    return bytes(out)


def fuzz_seeds() -> dict[str, tuple[bytes, Callable[[bytes], bytes]]]:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 24, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
        kind: (saved(noise.convert("RGB"), kind, exif=exif), bytes) for kind in ("JPEG", "WEBP", "TIFF")
    }
    seeds |= {kind: (saved(noise.convert("P"), kind), bytes) for kind in ("GIF", "BMP")}
    seeds["PNG"] = (saved(noise.quantize(), "PNG", exif=exif), bytes)
    seeds["PNG with right checksums"] = (saved(noise, "PNG", exif=exif), with_right_checksums)
    return seeds


def outcome(data: bytes) -> str:
    try:
        image = read_image(data, max_megapixels=0.1, max_mb=1)
        looks = check_picture(data)
        assert (looks.width, looks.height) == image.size
        return image.mode
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("kind", fuzz_seeds())
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_mutated_files_raise_nothing_but_image_errors(kind):
    seed, repair = fuzz_seeds()[kind]
    generator = random.Random(0)
    outcomes = [outcome(repair(mutated(seed, generator))) for _ in range(300)]
    assert all(found == "RGB" or found.startswith("The picture") for found in outcomes)
    assert len(set(outcomes)) > 1


def test_digest_is_sha256():
    assert image_digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_thumbnail_fits_and_never_grows():
    assert Image.open(io.BytesIO(thumbnail_jpeg(Image.new("RGB", (400, 100), RED), 100))).size == (100, 25)
    assert Image.open(io.BytesIO(thumbnail_jpeg(Image.new("RGB", (28, 28)), 100))).size == (28, 28)
