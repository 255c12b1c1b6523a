"""What is seen of a picture at its one decoding, and how it is kept."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dlkit.data.images import check_picture, image_digest, looks_of, read_image
from dlkit.data.looks import ICON_SIDE, RECORD, Album, Seen, album_writer, look_at
from tests.photos import flower, jpeg, opened


def seen(data: bytes) -> Seen:
    """Return what an import sees of a file."""
    looks = check_picture(data)
    return look_at(looks.small, image_digest(data), looks.width, looks.height)


def record_of(data: bytes) -> np.ndarray:
    """Return it as it is read again, RECORD ()."""
    return np.frombuffer(seen(data).packed(0), RECORD)[0]


@pytest.mark.parametrize(("size", "small"), [((300, 400), (100, 134)), ((128, 256), (128, 256)), ((28, 28), (28, 28))])
def test_small_copy_has_a_short_side_of_128_at_most(size, small):
    assert looks_of(Image.new("RGB", size)).small.size == small


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"])
def test_small_copy_of_every_mode_shows_what_the_picture_does(mode):
    image = Image.new("L", (300, 300), 40)
    image.paste(200, (150, 0, 300, 300))
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
    other = image if mode == "I;16" else image.convert("RGB").convert(mode) if mode == "LAB" else image.convert(mode)
    buffer = io.BytesIO()
    try:
        other.save(buffer, "TIFF")
    except (OSError, KeyError):
        other.convert("RGB").save(buffer, "PNG")
    data = buffer.getvalue()
    small, whole = check_picture(data).small, read_image(data)
    assert small.mode == "RGB"
    for x in (10, 90):
        assert np.abs(np.subtract(small.getpixel((x, 50)), whole.getpixel((3 * x, 150)))).max() <= 2


def test_small_copy_is_upright_and_carries_nothing():
    image, buffer = opened(flower(0)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, "JPEG", exif=exif, icc_profile=b"profile" * 100)
    looks = check_picture(buffer.getvalue())
    assert (looks.small.width > looks.small.height) == (looks.width > looks.height)
    assert (looks.width, looks.height) == image.size[::-1]
    assert not looks.small.info


def test_looks_tell_dark_from_bright_and_sharp_from_blurred():
    photo = opened(flower(0))
    record, thumbnail = record_of(jpeg(photo)), seen(jpeg(photo)).thumbnail
    blurred = record_of(jpeg(photo.filter(ImageFilter.GaussianBlur(5))))
    dark = record_of(jpeg(photo.point(lambda value: value // 8)))
    bright = record_of(jpeg(photo.point(lambda value: 224 + value // 8)))
    assert record["sharpness"] > 5 * blurred["sharpness"]
    assert dark["high"] < 40 < record["high"]
    assert bright["low"] > 210 > record["low"]
    assert (record["width"], record["height"]) == photo.size
    assert Image.open(io.BytesIO(thumbnail)).size == check_picture(jpeg(photo)).small.size


def test_one_colour_has_no_details():
    record = record_of(jpeg(Image.new("RGB", (200, 100), (90, 90, 90))))
    assert record["sharpness"] == 0
    assert record["low"] == record["high"] == 90


def test_very_long_picture_has_the_middle_of_it_as_thumbnail():
    thumbnail = seen(jpeg(Image.new("RGB", (100, 9000)))).thumbnail
    assert Image.open(io.BytesIO(thumbnail)).size == (100, 256)


def test_album_keeps_what_was_seen_and_finds_it_by_digest(tmp_path):
    files = [flower(number) for number in range(3)]
    with album_writer(tmp_path) as writer:
        writer.add(seen(files[0]))
    with album_writer(tmp_path) as writer:
        writer.add(seen(files[1]))
    album = Album(tmp_path)
    assert album.rows_of(map(image_digest, files)).tolist() == [0, 1, -1]
    for row, data in enumerate(files[:2]):
        expected = record_of(data)
        assert all((album.records[row][name] == expected[name]).all() for name in ("digest", "icon", "sharpness"))
        assert album.thumbnail(row).size == check_picture(data).small.size


def test_album_without_files_is_empty_and_half_a_record_is_no_record(tmp_path):
    assert len(Album(tmp_path).records) == 0
    with album_writer(tmp_path) as writer:
        writer.add(seen(flower(0)))
    with (tmp_path / "looks.bin").open("ab") as file:
        file.write(bytes(RECORD.itemsize // 2))
    assert len(Album(tmp_path).records) == 1
    with album_writer(tmp_path) as writer:
        writer.add(seen(flower(1)))
    assert Album(tmp_path).rows_of([image_digest(flower(1))]).tolist() == [1]


def test_record_whose_thumbnail_was_not_written_is_seen_anew(tmp_path):
    with album_writer(tmp_path) as writer:
        for number in range(3):
            writer.add(seen(flower(number)))
    path = tmp_path / "thumbnails.bin"
    path.write_bytes(path.read_bytes()[: -len(seen(flower(2)).thumbnail) - 5])  # all of the last, some of the second
    assert len(Album(tmp_path).records) == 1
    with album_writer(tmp_path) as writer:
        writer.add(seen(flower(1)))
    album = Album(tmp_path)
    assert album.rows_of([image_digest(flower(number)) for number in range(3)]).tolist() == [0, 1, -1]
    assert album.thumbnail(1).size == check_picture(flower(1)).small.size


def test_icon_is_the_whole_picture_in_a_square():
    image = Image.new("L", (640, 320), 0)
    image.paste(255, (320, 0, 640, 320))
    icon = record_of(jpeg(image.convert("RGB"), 100))["icon"]
    assert icon.shape == (ICON_SIDE, ICON_SIDE)
    assert icon[:, :15].max() < 10
    assert icon[:, 17:].min() > 245
