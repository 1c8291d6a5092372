"""`faithfulfaces analyse`: which dictionary elements know which pose, do people stay apart, did the loss settle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffbench.errors import UserError

if TYPE_CHECKING:
    from faithfulfaces.analysis.report import Analysis
    from faithfulfaces.data import Crops


def analyse(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run of faithfulfaces train, or a checkpoint.")],
    shards: Annotated[
        Path | None,
        typer.Option(help="Folder of shards (*.tar), best of people not trained on, or of `mini build`'s footage."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that pictures, JSON and CSV go to.")] = None,
    faces: Annotated[int, typer.Option(min=1, help="How many faces to look at, at most.")] = 20_000,
    people: Annotated[int, typer.Option(min=2, help="People on the map of identities.")] = 7,
    poses: Annotated[int, typer.Option(min=2, help="Faces of each of these people.")] = 8,
    permutations: Annotated[int, typer.Option(min=1, help="Shuffles of the poses, as a control.")] = 999,
    seed: Annotated[int, typer.Option(min=0, help="Seed of draws and shuffles.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Look into a trained aligner: dictionary by pose (Fig. 7), map of identities (Fig. 6), loss (Fig. 10).

    Without --shards and --out, DIR is a folder that this command wrote, and its pictures are drawn anew.
    """
    from faithfulfaces.analysis.report import Options, draw, to_json

    if shards is None and out is None:
        for path in draw(folder):
            typer.echo(str(path))
        return
    if shards is None or out is None:
        raise UserError("--shards and --out go together", "give both, or neither to draw the pictures of DIR anew")

    from faithfulfaces.analysis.study import study
    from faithfulfaces.runs import open_aligner

    options = Options(faces=faces, people=people, poses=poses, permutations=permutations, seed=seed)
    trained = open_aligner(folder)
    found = study(trained, _faces(shards, trained.aligner.config.image_size), out, options)
    typer.echo(json.dumps(to_json(found), indent=1) if as_json else _told(found))
    for picture, why in found.missing.items():
        typer.echo(f"no {picture}.png: {why}", err=True)
    typer.echo(f"aligner of {found.source}; pictures, JSON and CSV: {out}", err=True)


def _faces(folder: Path, size: int) -> Crops:
    from faithfulfaces.mini.crops import STRANGERS, strangers
    from faithfulfaces.shards import ShardClips

    return strangers(folder, size) if any(folder.glob(STRANGERS)) else ShardClips(folder, size)


def _told(found: Analysis) -> str:
    lines = []
    for group in found.dictionary.groups:
        often, apart = (
            "  ".join(f"{one.element} ({one.share:.0%})" for one in listed[:3])
            for listed in (group.elements, group.particular)
        )
        words = f"   most activated {often}   most particular {apart or '-'}" if group.faces else ""
        lines.append(f"{group.group:8} {group.faces:6} faces{words}")
    for what, pose in (
        ("strongest element", found.dictionary.winner_and_pose),
        ("ten strongest elements", found.dictionary.top_and_pose),
    ):
        lines.append(
            f"{what} and pose group: {pose.bits:.3f} bits over {pose.faces} faces of {pose.people} people; "
            f"shuffled within people {pose.shuffled_mean:.3f}, 95% below {pose.shuffled_q95:.3f}; p = {pose.p:.3g}"
            if not pose.reason
            else f"{what} and pose group: not measured, {pose.reason}"
        )
    for one in found.identities:
        count = len({point.identity for point in one.points})
        lines.append(
            f"{one.of}: silhouette of {count} people {one.silhouette:.3f} ({one.silhouette_in_plane:.3f} drawn)"
        )
    if found.loss is not None:
        lines.append(f"L_PIA {found.loss.settled_pia:.3f} over the last tenth of the log")
    return "\n".join(lines)
