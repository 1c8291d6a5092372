"""Settings that every method on Wan has, checked before anything is loaded; no heavy import."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ffbench.contract import Runtime
from ffbench.embedded import folder_of
from ffbench.errors import UserError
from ffbench.records import Scalar

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a video is sampled; fields as in the cards. `guidance` is left to the methods, which differ in it."""

    width: int
    height: int
    num_frames: int
    """k * stride + 1: the autoencoder packs `stride` frames into one after the first."""
    fps: float
    steps: int
    shift: float
    """Of the noise schedule: sigma -> shift * sigma / (1 + (shift - 1) * sigma)."""
    negative_prompt: str
    dtype: str
    """Of transformer and text encoder; the autoencoder and the transformer's norms stay in float32."""

    @classmethod
    def of(cls, settings: Mapping[str, Scalar]) -> Self:
        """Take the fields out of a card's settings.

        Raises:
            UserError: naming the setting that is out of range.
        """
        sampling = cls(**{name: settings[name] for name in cls.__dataclass_fields__})  # type: ignore[arg-type]
        choice(settings, "dtype", DTYPES)
        if sampling.steps < 1:
            raise UserError(f"steps = {sampling.steps} is below 1", "--set steps=N, such as 50")
        if not 0 < sampling.shift < math.inf:
            raise UserError(f"shift = {sampling.shift} is not above 0", "--set shift=S, such as 5.0")
        return sampling

    def fit(self, spatial: int = 16, temporal: int = 4) -> Self:
        """The same settings, if a network with these strides can make their size.

        Args:
            spatial: pixels to a side of a token: the autoencoder's stride times the transformer's patch.
            temporal: frames to a latent frame.

        Raises:
            UserError: naming the setting that does not fit.
        """
        for name in ("width", "height"):
            side = getattr(self, name)
            if side < spatial or side % spatial:
                wanted = max(round(side / spatial), 1) * spatial
                raise UserError(f"{name} = {side} is no multiple of {spatial}", f"--set {name}={wanted}")
        if self.num_frames < 1 or (self.num_frames - 1) % temporal:
            wanted = max(self.num_frames - 1, 0) // temporal * temporal + 1
            raise UserError(
                f"num_frames = {self.num_frames} is not {temporal} k + 1", f"--set num_frames={wanted} or another"
            )
        return self

    def latent_shape(self, channels: int = 16, stride: int = 8, temporal: int = 4) -> tuple[int, int, int, int]:
        """[C, F', h, w] of the video's latents, F' = (F - 1) / temporal + 1."""
        frames = (self.num_frames - 1) // temporal + 1
        return channels, frames, self.height // stride, self.width // stride


def choice(settings: Mapping[str, Scalar], name: str, choices: Collection[str]) -> str:
    """The value of a setting that has to be one of a few.

    Raises:
        UserError: naming the setting and its choices.
    """
    if settings[name] not in choices:
        raise UserError(f"there is no {name} {settings[name]!r}", f"--set {name}=one of: {', '.join(choices)}")
    return str(settings[name])


def place(settings: Mapping[str, Scalar], name: str, runtime: Runtime) -> Path:
    """The folder or file that a setting names: as it is, below the weights folder, or `mini` for the embedded one.

    The cards name repositories (`Wan-AI/Wan2.1-VACE-14B-diffusers`), so that the key of a video names no machine.

    Raises:
        UserError: it is at neither place.
    """
    given = str(settings[name])
    if not given:
        raise UserError(f"the setting {name} is empty", f"--set {name}=PATH")
    for path in (Path(folder_of(given, name)).expanduser(), Path(runtime.weights_dir, given)):
        if path.exists():
            return path
    below = Path(runtime.weights_dir, given)
    raise UserError(f"the {name} {given} is not on this machine", f"download it to {below}, or --set {name}=PATH")


def dropped(settings: Mapping[str, Scalar]) -> int:
    """How many frames are cut off the start of a video: those that hold references.

    Raises:
        UserError: nothing would be left, or the number is below 0.
    """
    drop, frames = int(settings["drop"] or 0), int(settings["num_frames"] or 0)
    if not 0 <= drop < frames:
        raise UserError(f"drop = {drop} is not in 0..{frames - 1}", "--set drop=N, such as 4")
    return drop
