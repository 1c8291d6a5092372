"""`faithfulfaces data caption | review | labels`: what models and people say of clips."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffbench.errors import UserError

Root = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the build: --out of `data build`.")]


class Show(StrEnum):
    """Which clips are reviewed."""

    qualified = "qualified"
    all = "all"


def caption(
    root: Root,
    model: Annotated[str, typer.Option(help="Name of the model at --endpoint, or a folder of Qwen2.5-VL.")],
    endpoint: Annotated[
        str, typer.Option(help="Address of a server with OpenAI's chat interface, up to /v1.", show_default="none")
    ] = "",
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip that the model sees.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Clips at a time; a model on this machine takes one.")] = 8,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again about clips that failed.")] = False,
) -> None:
    """Describe every qualified clip that has no caption yet; the same command goes on after a kill."""
    from faithfulfaces.dataset.build import settings_of
    from faithfulfaces.dataset.caption import Asked, Captioning, Clip, caption_clips
    from faithfulfaces.dataset.combine import assigned
    from faithfulfaces.dataset.folder import Folder
    from faithfulfaces.dataset.staging import VIDEO
    from ffbench.chat import Chat

    folder = Folder(root)
    # not of the manifest: one person may caption while another builds
    rows = assigned(folder, settings_of(folder))
    clips = [Clip(row.record.key, folder.clip(row.record.key) / VIDEO) for row in rows if row.shard]
    if not clips:
        raise UserError(f"{root} holds no qualified clip", "run `faithfulfaces data build` first")
    if endpoint:
        with Chat(endpoint, model) as chat:
            how = Captioning(chat, Asked(model, frames), folder.captions, workers, retry_failed=retry)
            made = caption_clips(clips, how)
    else:
        from faithfulfaces.dataset.qwen import Qwen

        how = Captioning(Qwen(Path(model)), Asked(model, frames), folder.captions, 1, retry_failed=retry)
        made = caption_clips(clips, how)
    failed = [one for one in made.values() if one.status != "ok"]
    typer.echo(f"{len(made) - len(failed)} of {len(made)} clips have a caption: {folder.captions}", err=True)
    for one in failed[:5]:
        typer.echo(f"{one.key}: {one.error}", err=True)
    if failed:
        typer.echo("--retry asks about these again; `faithfulfaces data review` writes them by hand", err=True)


def review(
    root: Root,
    show: Annotated[
        Show, typer.Option(help="all: also clips that the pose rejected; needs --videos.")
    ] = Show.qualified,
    videos: Annotated[Path | None, typer.Option(help="Videos of the build, to cut rejected clips from.")] = None,
    clips: Annotated[
        Path | None, typer.Option(help="Only the clips of this CSV of `data sample`; needs --videos.")
    ] = None,
    blind: Annotated[bool, typer.Option("--blind", help="Hide angles and verdict, for labels of calibration.")] = False,
    port: Annotated[int, typer.Option(help="Port of this machine; 0 for any.", min=0, max=65535)] = 8765,
) -> None:
    """Label, mend and judge clips in the browser: a page for this machine alone, until Ctrl-C."""
    try:
        from faithfulfaces.dataset.review import serve
    except ModuleNotFoundError as error:
        raise UserError(
            f"the review page needs {error.name}, which is not installed", "pip install 'ffbench[data]'"
        ) from error
    from faithfulfaces.dataset.clips import Clips

    serve(Clips(root, show.value, videos, clips), blind=blind, port=port, ready=typer.echo)


def labels(
    root: Root,
    out: Annotated[Path, typer.Option(help="CSV that `data calibrate --labels` reads.")],
) -> None:
    """Write the labels that reviewers gave, and print how far they agree."""
    from faithfulfaces.dataset import answers
    from faithfulfaces.dataset.folder import Folder

    said = answers.read(Folder(root).reviews)
    if not answers.standing(said, "pose"):
        raise UserError(f"{root} holds no label", "give some on the page: faithfulfaces data review " + str(root))
    try:
        out.write_text(answers.labels_csv(said), "utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: {error}", "name a file that can be written") from error
    for one in answers.agreements(said):
        names = " and ".join(one.reviewers)
        typer.echo(f"{one.question}  {names}: {one.clips} clips, {one.same:.1%} the same, kappa {one.kappa:.3f}")
