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


def sample(
    checkpoint: Annotated[str, typer.Option(help="Folder of a finished run or of save_pretrained, or a Hub name.")],
    image: Annotated[Path, typer.Option(help="Photograph; its largest face counts.")],
    prompt: Annotated[str, typer.Option(help="What happens.")],
    out: Annotated[Path, typer.Option(help="The video, FILE.mp4.")],
    base: Annotated[str, typer.Option(help="VACE folder in diffusers' layout; default: the checkpoint's.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Of the sampler.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="4 k + 1.")] = None,
    guidance: Annotated[float | None, typer.Option(help="On the text.")] = None,
    flow_shift: Annotated[float | None, typer.Option(help="Timestep shift of the sampler.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What is to be avoided.")] = None,
    scale: Annotated[float | None, typer.Option(help="Factor on the prior.")] = None,
    no_aligner: Annotated[bool, typer.Option("--no-aligner", help="Leave the prior S out.")] = False,
    no_euler: Annotated[bool, typer.Option("--no-euler", help="Leave the Euler embedding out.")] = False,
    euler_noise_degrees: Annotated[float | None, typer.Option(help="Spoil each angle by up to this.")] = None,
    faces: Annotated[FaceChoice, typer.Option(help="How faces are read.")] = FaceChoice.checkpoint,
    fps: Annotated[float, typer.Option(min=0.01, max=1000, help="Frames a second of the file.")] = 16.0,
    dtype: Annotated[Precision, typer.Option(help="Of the base.")] = Precision.bfloat16,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Make one video of the person of a photograph. What is not given is as the checkpoint says."""
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
        raise UserError(f"--image {path} is not there", "give a JPEG or PNG photograph")
    try:
        return read_image(path)
    except (ImageError, OSError) as error:
        raise UserError(f"--image {path} is no readable picture: {error}", "give a JPEG or PNG photograph") from error
