import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from offbeat.errors import ConfigError, ImageError
from offbeat.files.pictures import clean_png, read_folder, read_picture, read_whole
from offbeat.files.png import read_recipe

RED = (255, 0, 0)


@pytest.fixture
def save(tmp_path):
    def write(picture, name="picture.png", **options):
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def corner(images, y, x):
    return [round(value, 2) for value in images[:, y, x].tolist()]


def test_every_picture_is_a_square_of_one_size(save):
    for shape in ((1, 1), (300, 40), (3, 700)):
        images = read_picture(save(Image.new("RGB", shape, RED)), size=64)
        assert images.shape == (3, 64, 64)
        assert images.dtype == torch.float32
        assert corner(images, 32, 32) == [1, 0, 0]


def test_padding_has_the_border_colour_and_nothing_is_cut_off(save):
    picture = Image.new("RGB", (40, 20), (128, 128, 128))
    picture.paste(RED, (16, 6, 24, 14))
    images = read_picture(save(picture), size=40)
    assert corner(images, 0, 0) == corner(images, 39, 39) == [0.5, 0.5, 0.5]
    assert corner(images, 20, 20) == [1, 0, 0]


def test_rotation_of_the_camera_is_applied(save):
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    images = read_picture(save(picture, exif=exif), size=32)
    assert corner(images, 2, 2) == [1, 1, 1]
    assert corner(images, 29, 29) == [1, 0, 0]


@pytest.mark.parametrize("side", [8, 200])
def test_transparent_parts_are_laid_over_white(save, side):
    clear = save(Image.new("RGBA", (side, side), (255, 0, 0, 0)))
    half = save(Image.new("RGBA", (side, side), (0, 0, 0, 128)), "half.png")
    assert corner(read_picture(clear, size=8), 4, 4) == [1, 1, 1]
    assert corner(read_picture(half, size=8), 4, 4) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16", "F"])
def test_other_modes_become_rgb(save, mode):
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16))
    elif mode == "F":
        picture = Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32))
    else:
        picture = Image.new("RGB", (8, 8), (128, 128, 128)).convert(mode)
    images = read_picture(save(picture, "picture.tif"), size=8)
    mean = float(images.mean())
    assert mean == pytest.approx(0.5, abs=0.02)


def test_sixteen_bit_png_keeps_its_range(save):
    black = save(Image.fromarray(np.ones((8, 8), dtype=np.uint16)))
    assert float(read_picture(black).max()) < 0.001


def test_animation_gives_its_first_frame(save):
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))]
    path = save(frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert corner(read_picture(path, size=8), 4, 4) == [1, 0, 0]


def test_large_pictures_are_refused_before_they_are_decoded(save, tmp_path):
    with pytest.raises(ImageError, match=r"at most 0\.0001 megapixels, got 20 x 20"):
        read_picture(save(Image.new("RGB", (20, 20))), max_megapixels=0.0001)
    bomb = save(Image.new("1", (30000, 30000)), "bomb.png")
    assert bomb.stat().st_size < 200_000
    with pytest.raises(ImageError, match="megapixels"):
        read_picture(bomb)
    wide = save(Image.new("1", (10000, 10000)), "wide.png")
    with pytest.raises(ImageError, match="got 10000 x 10000"):
        read_picture(wide)


def test_what_is_no_picture_is_refused_by_name(save, tmp_path):
    text = tmp_path / "words.png"
    text.write_text("not a picture")
    cut = save(Image.effect_noise((64, 64), 50), "cut.png")
    cut.write_bytes(cut.read_bytes()[:400])
    empty = tmp_path / "empty.jpg"
    empty.touch()
    script = tmp_path / "script.png"
    script.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for file in (text, cut, empty, script):
        with pytest.raises(ImageError, match=rf"{file.name}.*cannot be decoded"):
            read_picture(file)
    with pytest.raises(ImageError, match="found no file"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(ConfigError):
        read_picture(text, size=0)


def test_folder_is_read_by_name_and_other_files_passed_over(save, tmp_path):
    save(Image.new("RGB", (8, 8), "white"), "b.PNG", format="PNG")
    save(Image.new("RGB", (8, 8), "black"), "a.png")
    save(Image.new("RGB", (8, 8)), ".hidden.png")
    (tmp_path / "notes.txt").write_text("mine")
    first, second = read_folder(tmp_path, size=8)
    assert (float(first.mean()), float(second.mean())) == (0, 1)
    (tmp_path / "c.jpg").write_text("broken")
    with pytest.raises(ImageError, match=r"c\.jpg"):
        read_folder(tmp_path)


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ImageError, match="got none among 0 files"):
        read_folder(tmp_path)
    with pytest.raises(ImageError, match="cannot be listed"):
        read_folder(tmp_path / "absent")


CASES = Path(__file__).parent.parent / "fixtures" / "images"


def upload(file):
    """Return what the studio keeps of an upload, as ``read_whole`` gives a file."""
    data, width, height = clean_png(file)
    picture = Image.open(io.BytesIO(data))
    assert (picture.mode, picture.size) == ("RGB", (width, height))
    assert "icc_profile" not in picture.info
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def reading(file):
    """Return a picture as the commands read it; the studio's upload must be the same."""
    images = read_whole(file)
    torch.testing.assert_close(upload(file), images, atol=0.5 / 255, rtol=0)
    return images


def test_16_bits_of_grey_are_no_white():
    images = reading(CASES / "gray16.png")
    plain = np.asarray(Image.open(CASES / "gray16.png"), dtype=np.float32) / 65535
    assert 0.2 < plain.mean() < 0.8
    torch.testing.assert_close(images[1], torch.from_numpy(plain))


def test_every_reader_applies_rotation_and_transparency(save):
    assert reading(CASES / "exif6.jpg").shape[1:] == (40, 24)
    half = save(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert reading(half)[0, 0, 0].item() == pytest.approx(0.5, abs=0.01)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([200, 0, 0])
    clear = save(palette, "palette.png", transparency=0)
    assert reading(clear).min().item() == 1.0
    assert reading(CASES / "rgb16.png").shape[1:] == (24, 40)
    assert reading(CASES / "cmyk.jpg").shape[1:] == (24, 40)
    assert reading(CASES / "float.tif").isfinite().all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_colour_profile_is_applied(save, mode):
    """In a profile whose red and blue are swapped, what is stored red is shown blue."""
    picture = Image.new("RGB", (4, 4), RED)
    if mode == "L":  # a grey picture with a profile for colours: it says nothing
        file = save(Image.new("L", (4, 4), 90), icc_profile=swapped_profile())
        assert corner(reading(file), 1, 1) == [0.35] * 3
        return
    file = save(picture.convert(mode), icc_profile=swapped_profile())
    red, _, blue = corner(reading(file), 1, 1)
    assert blue > 0.9
    assert red < 0.1
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert corner(reading(save(picture.convert(mode), icc_profile=own)), 1, 1) == [1, 0, 0]
    assert corner(reading(save(picture.convert(mode), icc_profile=b"no profile")), 1, 1) == [
        1,
        0,
        0,
    ]


def swapped_profile():
    """Return sRGB's profile with the places of its red and blue exchanged, and another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for place in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        sign = bytes(data[place : place + 4])
        data[place : place + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(sign, sign)
    return bytes(data.replace(b"s\0R\0G\0B", b"o\0t\0h\0r"))


@pytest.mark.parametrize(
    "name", ["truncated.jpg", "zero.png", "x.svg", "fake.heic", "bad-ancillary-crc.png"]
)
def test_what_is_no_picture_is_one_sentence_for_every_reader(name):
    for read in (read_whole, read_picture, clean_png):
        with pytest.raises(ImageError, match=rf"{name}: expected a picture"):
            read(CASES / name)


def test_a_png_whose_pixels_are_all_there_is_read():
    images = reading(CASES / "truncated.png")  # cut behind its last row, which is grey
    assert images.shape[1:] == (24, 40)
    assert 0.3 < images[:, -1].min() == images[:, -1].max() < 0.4


def test_a_recipe_behind_the_pixels_is_read():
    assert read_recipe(CASES / "own-text-after-idat.png")["prompt"] == "a red castle"
