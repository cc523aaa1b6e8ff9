import numpy as np
import pytest
import torch
from PIL import Image

from offbeat.errors import ConfigError, ImageError
from offbeat.files.pictures import read_folder, read_picture

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
    with pytest.raises(ImageError, match="there is none"):
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
