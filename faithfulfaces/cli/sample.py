"""`faithfulfaces sample`: one photograph of a face, one prompt, one seed; out comes a video."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffbench.errors import UserError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


class FaceChoice(enum.StrEnum):
    """How faces are read."""

    checkpoint = "checkpoint"
    paper = "paper"
    weightless = "weightless"


class Precision(enum.StrEnum):
    """Of transformer and text encoder."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def _else(value: str) -> str:
    """What a help text says in place of a default."""
    return f"the checkpoint's, else {value}"


def sample(
    checkpoint: Annotated[str, typer.Option(help="Folder of a finished run or of save_pretrained, or a Hub name.")],
    image: Annotated[Path, typer.Option(help="Photograph; its largest face counts.")],
    prompt: Annotated[str, typer.Option(help="What happens in the video.")],
    out: Annotated[Path, typer.Option(help="Where the video goes: FILE.mp4.")],
    base: Annotated[
        str, typer.Option(help="VACE folder in diffusers' layout.", show_default="the one it was trained on")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler.", show_default=_else("50"))] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.", show_default=_else("832"))] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.", show_default=_else("480"))] = None,
    num_frames: Annotated[int | None, typer.Option(help="4 k + 1, such as 49.", show_default=_else("81"))] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly the text guides; 1: not at all.", show_default=_else("5"))
    ] = None,
    flow_shift: Annotated[
        float | None, typer.Option(help="Timestep shift of the sampler.", show_default=_else("16"))
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What the video should not show.", show_default=_else("Wan's"))
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Factor on what the aligner says of the person.", show_default=_else("1"))
    ] = None,
    no_aligner: Annotated[bool, typer.Option("--no-aligner", help="Leave out what the aligner says.")] = False,
    no_euler: Annotated[bool, typer.Option("--no-euler", help="Let the aligner not know the pose.")] = False,
    euler_noise_degrees: Annotated[
        float | None, typer.Option(help="Spoil each angle of the pose by up to this.", show_default=_else("0"))
    ] = None,
    faces: Annotated[
        FaceChoice,
        typer.Option(help="Face detector and pose network; weightless: coarse ones that need no download."),
    ] = FaceChoice.checkpoint,
    fps: Annotated[float, typer.Option(min=0.01, max=1000, help="Frames a second of the file.")] = 16.0,
    dtype: Annotated[Precision, typer.Option(help="Number format of the base.")] = Precision.bfloat16,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Make one video of the person on a photograph."""
    from faithfulfaces.backbone import DTYPES, load_vace
    from faithfulfaces.config import WEIGHTLESS_FACES, Faces
    from faithfulfaces.faces import open_faces
    from faithfulfaces.model import base_of, load_model
    from faithfulfaces.pipeline import FaithfulFacesPipeline, local_folder, sampling_of
    from faithfulfaces.runs import model_folder
    from ffbench.extract.loading import torch_device
    from ffbench.video import write_mp4

    given = {
        "steps": steps, "width": width, "height": height, "num_frames": num_frames, "guidance": guidance,
        "flow_shift": flow_shift, "negative_prompt": negative_prompt, "scale": scale,
        "aligner": False if no_aligner else None, "euler": False if no_euler else None,
        "euler_noise_degrees": euler_noise_degrees,
    }  # fmt: skip
    if out.suffix != ".mp4" or not out.parent.is_dir():
        raise UserError(f"--out {out} is no .mp4 file in a folder that exists", "give --out such as video.mp4")
    torch_device(device)
    config, parts = load_model(model_folder(local_folder(checkpoint, "checkpoint")))
    trained_on = base_of(config)
    sampling = sampling_of(config, {name: value for name, value in given.items() if value is not None})
    readers = {"checkpoint": config.faces, "paper": Faces(), "weightless": WEIGHTLESS_FACES}
    reader = open_faces(readers[faces], device)
    # the face is looked for before a base of 35 GB is read
    face = reader.read(_picture(image), str(image))
    if not sys.stderr.isatty():
        _without_bars()
    vace = load_vace(local_folder(base or trained_on, "base"), DTYPES[dtype])
    pipe = FaithfulFacesPipeline(vace, config, parts, reader).to(device)
    vace.set_progress_bar_config(disable=None)
    try:
        frames = pipe.generate(face, prompt, seed, sampling)
    except FloatingPointError as error:
        raise UserError("the base made values that are not finite", "try --dtype bfloat16 or float32") from error
    write_mp4(out, frames, fps)
    pitch, yaw, roll = (float(angle) for angle in face.euler)
    typer.echo(f"face at pitch {pitch:.0f}, yaw {yaw:.0f}, roll {roll:.0f} degrees; {reader.id}", err=True)
    typer.echo(str(out))


def _without_bars() -> None:
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _picture(path: Path) -> NDArray[uint8]:
    from ffbench.image import ImageError, read_image

    if not path.is_file():
        raise UserError(f"--image {path} is no file", "give a JPEG or PNG photograph")
    try:
        return read_image(path)
    except (ImageError, OSError) as error:
        raise UserError(f"--image {path} is no readable picture: {error}", "give a JPEG or PNG photograph") from error
