"""Does FaceSim measure identity? ROC of same against different people on real frontal and profile photographs.

    python tests/benchmarks/verification.py [--out docs]

Every photograph of CFP in the shared assets (20 people, 10 frontal and 4 profile each) goes through the product's own
detector, alignment and embedders. All pairs count: frontal-frontal and frontal-profile. Writes `verification.png` and
`verification.json`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import matplotlib as mpl
import numpy as np

from ffbench.extract.extractor import Extractor
from ffbench.image import read_image
from ffbench.protocols import get_protocol, with_networks

ASSETS = Path(os.environ.get("FFBENCH_TEST_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))
ENCODERS = {
    "MobileFaceNet-y1 (MS1M)": ("small_y1", "y1"),
    "MobileFaceNet-foamliu (MS-Celeb)": ("small_apache", "foamliu"),
}
COLOURS = ("#0072b2", "#d55e00")
RATES = (0.1, 0.01, 0.001)


def main() -> None:
    """Embed, pair, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    out = parser.parse_args().out
    facts = {}
    curves = {}
    for name, (pack, file) in ENCODERS.items():
        embedded, missed = embed(pack, file, out)
        facts[name] = {"photographs": len(embedded), "without_face": missed}
        for kind, pairs in pair(embedded).items():
            same, other = (np.array([c for c, is_same in pairs if is_same == wanted]) for wanted in (True, False))
            curves[name, kind] = roc(same, other)
            facts[name][kind] = {
                "same_pairs": len(same),
                "different_pairs": len(other),
                "auc": auc(same, other),
                "mean_cosine_same": float(same.mean()),
                "mean_cosine_different": float(other.mean()),
                "true_accept_at": {str(rate): float((same > np.quantile(other, 1 - rate)).mean()) for rate in RATES},
            }
    (out / "verification.json").write_text(json.dumps(facts, indent=2) + "\n")
    draw(curves, facts, out / "verification.png")
    print(json.dumps(facts, indent=2))


def embed(pack: str, file: str, out: Path) -> tuple[list[tuple[str, str, np.ndarray]], int]:
    """(person, view, unit embedding) of each photograph with a face, and how many had none."""
    root = ASSETS / "models" / "insightface" / "models" / pack
    networks = out / ".networks.toml"
    networks.write_text(
        f'[detector]\nkind = "scrfd"\nfile = "{root}/det_scrfd_2.5g.onnx"\nthreshold = 0.5\n'
        f'[arc]\nkind = "arcface-onnx"\nfile = "{root}/rec_mobilefacenet_{file}.onnx"\n'
    )
    extractor = Extractor(with_networks(get_protocol("standard"), networks))
    networks.unlink()
    rows, missed = [], 0
    for path in sorted((ASSETS / "images" / "cfp").glob("*/*/*.jpg")):
        track = extractor.reference(read_image(path))
        if track.found[0]:
            rows.append((path.parts[-3], path.parts[-2], track.embeddings["arc"][0].astype(np.float64)))
        else:
            missed += 1
    return rows, missed


def pair(rows: list[tuple[str, str, np.ndarray]]) -> dict[str, list[tuple[float, bool]]]:
    """Cosines of all pairs by kind."""
    pairs: dict[str, list[tuple[float, bool]]] = {"frontal-frontal": [], "frontal-profile": []}
    for i, (person, view, unit) in enumerate(rows):
        for other_person, other_view, other in rows[i + 1 :]:
            kind = "-".join(sorted((view, other_view)))
            if kind in pairs:
                pairs[kind].append((float(unit @ other), person == other_person))
    return pairs


def auc(same: np.ndarray, other: np.ndarray) -> float:
    """Probability that a same-person cosine exceeds a different-person one (Mann-Whitney, ties by half)."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, same, "left") + np.searchsorted(ordered, same, "right")
    return float(below.mean() / 2 / len(other))


def roc(same: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates over all thresholds."""
    thresholds = np.sort(np.concatenate([same, other]))[::-1]
    false = 1 - np.searchsorted(np.sort(other), thresholds, "left") / len(other)
    true = 1 - np.searchsorted(np.sort(same), thresholds, "left") / len(same)
    return false, true


def draw(curves: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]], facts: dict[str, dict], path: Path) -> None:  # type: ignore[type-arg]
    """Two panels, one a kind of pair."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for axis, kind in zip(axes, ("frontal-frontal", "frontal-profile"), strict=True):
        for colour, name in zip(COLOURS, ENCODERS, strict=True):
            false, true = curves[name, kind]
            label = f"{name}: AUC {facts[name][kind]['auc']:.3f}"
            axis.semilogx(np.maximum(false, 1e-5), true, color=colour, label=label, lw=2)
        counts = facts[next(iter(ENCODERS))][kind]
        axis.set_title(f"{kind}\n{counts['same_pairs']} same, {counts['different_pairs']} different pairs", fontsize=10)
        axis.set_xlabel("false accept rate")
        axis.set_xlim(1e-4, 1)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3, which="both")
        axis.legend(loc="lower right", fontsize=8)
    axes[0].set_ylabel("true accept rate")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
