"""Frames as a moving picture: a GIF always, an MP4 where ffmpeg is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from offbeat.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

FRAMES_A_SECOND = 8
MIN_SIDE = 256
"""Smaller frames are enlarged by a whole factor: players blur what they enlarge."""


def there_and_back(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Return frames to the end and back again, each end once, so that they loop."""
    return [*frames, *frames[-2:0:-1]]


def gif(frames: Sequence[Image.Image]) -> bytes:
    """Return an endless GIF of ``frames``, one palette a frame.

    Raises:
        ConfigError: If there is none.
    """
    first, *rest = _enlarged(frames)
    file = io.BytesIO()
    first.save(
        file,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=round(1000 / FRAMES_A_SECOND),
        loop=0,
    )
    return file.getvalue()


def mp4(frames: Sequence[Image.Image]) -> bytes | None:
    """Return an MP4 (H.264) of ``frames``; None where there is no ffmpeg, or it cannot write one.

    Raises:
        ConfigError: If there is none.
    """
    large = _enlarged(frames)
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for index, frame in enumerate(large):
            frame.save(Path(folder) / f"{index:04d}.png")
        # the format's colours are shared by two pixels each way: sides must be even
        even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"
        command = [program, "-loglevel", "error", "-framerate", str(FRAMES_A_SECOND)]
        command += ["-i", "%04d.png", "-vf", even, "-c:v", "libx264", "-pix_fmt", "yuv420p"]
        command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-threads", "1", "path.mp4"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        file = Path(folder) / "path.mp4"
        return file.read_bytes() if done.returncode == 0 and file.is_file() else None


def _enlarged(frames: Sequence[Image.Image]) -> list[Image.Image]:
    from PIL import Image

    if not frames:
        raise ConfigError("frames: expected at least one, got none")
    factor = max(1, -(-MIN_SIDE // max(frames[0].size)))
    size = frames[0].width * factor, frames[0].height * factor
    return [frame.convert("RGB").resize(size, Image.Resampling.LANCZOS) for frame in frames]
