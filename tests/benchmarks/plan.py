"""GPU-hours and cost of a whole suite, by method: counted work, assumed speed.

    python tests/benchmarks/plan.py [--videos 600] [--utilisation 0.4] [--price A100=1.8 ...] [--count] [--write]

Work is counted by PyTorch's own counter on the real diffusers classes at their real widths, on the meta device (no
weights, no memory): networks of one and two layers are counted and the rest follows, since layers are alike. Sizes,
steps and frames are those of the method cards. `--count` counts anew and writes ffbench/work.json (a minute), which
`ffbench generate --dry-run` reads too; without it that file is read. `--write` puts the table into docs/performance.md.

What is not counted: text encoders (once a prompt, below 0.1% of a video), reference encoders, LoRA branches, norms and
activations. No GPU was measured: hours are work over peak times utilisation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ffbench.methods import find

ROOT = Path(__file__).parents[2]
COUNTS, PAGE = ROOT / "ffbench" / "work.json", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- plan: tests/benchmarks/plan.py --write -->", "<!-- end of plan -->"
PEAKS = {"A100": (312e12, 156e12), "H100": (989e12, 495e12), "H200": (989e12, 495e12)}
"""Dense bf16 and TF32 operations a second, NVIDIA's data sheets (SXM)."""
PRICES = {"A100": 1.8, "H100": 2.8, "H200": 3.6}
"""US dollars an hour; an assumption, give your own with --price."""


@dataclass(frozen=True)
class Plan:
    """How a method uses its network."""

    method: str
    network: str
    passes: int
    """Forward passes a step, guidance included."""
    extra: int
    """Latent frames of references beside the video's."""
    remark: str = ""


PLANS = (
    Plan("vace", "VACE-14B", 2, 1),
    Plan("vace@1.3b", "VACE-1.3B", 2, 1),
    Plan("faithfulfaces", "VACE-14B", 2, 1, "LoRA merged, without the prior"),
    Plan("phantom", "Wan-T2V-14B", 3, 1),
    Plan("standin", "Wan-T2V-14B", 2, 1, "reference tokens as one frame that all tokens see: an upper bound"),
    Plan("concat_id", "Wan-T2V-1.3B", 2, 1, "as Stand-In"),
    Plan("skyreels_a2", "Wan-I2V-14B", 2, 0),
    Plan("magref", "Wan-I2V-14B", 2, 0),
    Plan("consisid", "ConsisID-5B", 2, 0, "without face layers and autoencoder"),
    Plan("hunyuancustom", "HunyuanVideo-13B", 2, 1, "without DeepCache, which saves, and the autoencoder"),
)


def main() -> None:
    """Parse, count or read, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=600)
    parser.add_argument("--utilisation", type=float, default=0.4)
    parser.add_argument("--price", action="append", default=[], metavar="GPU=USD", help="US dollars an hour")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.count:
        COUNTS.write_text(json.dumps([count(one) for one in PLANS], indent=1) + "\n")
    prices = PRICES | {name: float(usd) for name, _, usd in (one.partition("=") for one in given.price)}
    text = table(json.loads(COUNTS.read_text()), given.videos, given.utilisation, prices)
    if given.write:
        page = PAGE.read_text("utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{text}\n{page[end:]}", "utf-8")
    else:
        print(text)


def count(plan: Plan) -> dict[str, Any]:
    """Operations of one video of a method at its card's settings."""
    settings = find(plan.method).settings
    width, height, frames, steps = (int(settings[key] or 0) for key in ("width", "height", "num_frames", "steps"))
    latent = ((frames - 1) // 4 + 1 + plan.extra, height // 8, width // 8)
    work, layers = NETWORKS[plan.network]
    one_pass = work(latent, *layers)
    # the first two latent frames of the causal decoder are unlike the others, which are alike
    decoder = _wan_decoder(latent[0] - plan.extra, *latent[1:]) if plan.network[:4] in ("Wan-", "VACE") else 0
    return {
        "method": plan.method,
        "network": plan.network,
        "size": f"{width}x{height}x{frames}",
        "tokens": latent[0] * latent[1] * latent[2] // 4,
        "steps": steps,
        "passes": plan.passes,
        "flop_a_pass": one_pass,
        "flop_decoder": decoder,
        "flop_a_video": one_pass * plan.passes * steps + decoder,
        "remark": plan.remark,
    }


def table(counts: list[dict[str, Any]], videos: int, utilisation: float, prices: Mapping[str, float]) -> str:
    """Markdown of the planning table."""
    gpus = list(PEAKS)
    heads = ["method", "network", "frames", "tokens", "steps x passes", "PFLOP a video"]
    heads += [f"{gpu} h ($)" for gpu in gpus]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    notes: list[str] = []
    for one in counts:
        mark = ""
        if one["remark"]:
            if one["remark"] not in notes:
                notes.append(one["remark"])
            mark = f" [{notes.index(one['remark']) + 1}]"
        cells = [one["method"] + mark, one["network"], one["size"], f"{one['tokens']:,}"]
        cells += [f"{one['steps']} x {one['passes']}", f"{one['flop_a_video'] / 1e15:,.0f}"]
        for gpu in gpus:
            hours = videos * seconds(one, gpu, utilisation) / 3600
            cells.append(f"{hours:,.0f} ({hours * prices[gpu]:,.0f})")
        lines.append("| " + " | ".join(cells) + " |")
    priced = ", ".join(f"{gpu} ${prices[gpu]:g}" for gpu in gpus)
    lines += ["", " ".join(f"[{number}] {note}." for number, note in enumerate(notes, 1)), ""]
    lines += [
        "Columns to the left of the GPUs are **counted** (PyTorch's counter on the real classes, settings of the",
        f"cards). Hours and dollars for {videos} videos are **extrapolated**: counted work over the data sheet's dense",
        f"bf16 rate (the float32 autoencoder: TF32) times {utilisation:.0%} utilisation, which is an **assumption**,",
        f"as are the prices an hour ({priced}). H100 and H200 have equal peaks;",
        "memory traffic is not modelled. Nothing of it was **measured** on a GPU.",
    ]
    return "\n".join(lines)


def seconds(one: Mapping[str, Any], gpu: str, utilisation: float) -> float:
    """Seconds of one video on one GPU."""
    bf16, tf32 = PEAKS[gpu]
    return ((one["flop_a_video"] - one["flop_decoder"]) / bf16 + one["flop_decoder"] / tf32) / utilisation


def counted(work: Callable[[], Any]) -> int:
    """Operations (2 a multiply-add) of a call, by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        work()
    return int(counter.get_total_flops())


Latent = tuple[int, int, int]
_WAN = {"patch_size": (1, 2, 2), "attention_head_dim": 128, "text_dim": 4096, "qk_norm": "rms_norm_across_heads"}


def wan(latent: Latent, heads: int, ffn: int, layers: int, image: bool = False) -> int:
    """One pass of `WanTransformer3DModel`; with `image` the image-to-video form with CLIP's 257 tokens."""
    from diffusers import WanTransformer3DModel

    channels = 36 if image else 16
    more = {"image_dim": 1280, "added_kv_proj_dim": heads * 128} if image else {}

    def at(depth: int) -> int:
        with torch.device("meta"):
            net = WanTransformer3DModel(
                **_WAN, **more, num_attention_heads=heads, ffn_dim=ffn, num_layers=depth, in_channels=channels
            )
        return counted(lambda: net(**_inputs(channels, latent, image)))

    return _deeper(at(1), at(2), layers)


def vace(latent: Latent, heads: int, ffn: int, layers: int, control: int) -> int:
    """One pass of `WanVACETransformer3DModel` with `control` layers of its control branch."""
    from diffusers import WanVACETransformer3DModel

    def at(depth: int, places: list[int]) -> int:
        with torch.device("meta"):
            net = WanVACETransformer3DModel(
                **_WAN, num_attention_heads=heads, ffn_dim=ffn, num_layers=depth, vace_layers=places, in_channels=16
            )
            hint = torch.empty(1, 96, *latent)
            scale = torch.ones(len(places), device="cpu")
        return counted(
            lambda: net(**_inputs(16, latent), control_hidden_states=hint, control_hidden_states_scale=scale)
        )

    base, deeper, wider = at(2, [0]), at(3, [0]), at(2, [0, 1])
    return base + (layers - 2) * (deeper - base) + (control - 1) * (wider - base)


def _inputs(channels: int, latent: Latent, image: bool = False) -> dict[str, Any]:
    with torch.device("meta"):
        given = {
            "hidden_states": torch.empty(1, channels, *latent),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, 512, 4096),
            "return_dict": False,
        }
        return given | ({"encoder_hidden_states_image": torch.empty(1, 257, 1280)} if image else {})


def _deeper(one: int, two: int, layers: int) -> int:
    return one + (layers - 1) * (two - one)


def consisid(latent: Latent, layers: int) -> int:
    """One pass of `ConsisIDTransformer3DModel` without its face layers."""
    from diffusers import ConsisIDTransformer3DModel

    frames, height, width = latent

    def at(depth: int) -> int:
        with torch.device("meta"):
            net = ConsisIDTransformer3DModel(
                num_attention_heads=48, in_channels=32, num_layers=depth, use_rotary_positional_embeddings=True
            )
            tokens = frames * height * width // 4
            rotary = (torch.empty(tokens, 64), torch.empty(tokens, 64))
            given = (torch.empty(1, frames, 32, height, width), torch.empty(1, 226, 4096), torch.empty(1))
        return counted(lambda: net(*given, image_rotary_emb=rotary))

    return _deeper(at(1), at(2), layers)


def hunyuan(latent: Latent, double: int, single: int) -> int:
    """One pass through the blocks of `HunyuanVideoTransformer3DModel`, 256 text tokens."""
    from diffusers import HunyuanVideoTransformer3DModel

    tokens = latent[0] * latent[1] * latent[2] // 4
    with torch.device("meta"):
        net = HunyuanVideoTransformer3DModel(num_layers=1, num_single_layers=1, num_refiner_layers=1)
        video, text, time = torch.empty(1, tokens, 3072), torch.empty(1, 256, 3072), torch.empty(1, 3072)
        rotary = (torch.empty(tokens, 128), torch.empty(tokens, 128))
    both = counted(lambda: net.transformer_blocks[0](video, text, time, None, rotary))
    alone = counted(lambda: net.single_transformer_blocks[0](video, text, time, None, rotary))
    return double * both + single * alone


def _wan_decoder(frames: int, height: int, width: int) -> int:
    """Decoding of a video's latents by `AutoencoderKLWan`."""
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        net = AutoencoderKLWan()

    def at(count: int) -> int:
        with torch.device("meta"):
            latents = torch.empty(1, 16, count, height, width)
        return counted(lambda: net.decode(latents))

    three, four = at(3), at(4)
    return three + (frames - 3) * (four - three)


NETWORKS: Mapping[str, tuple[Callable[..., int], tuple[Any, ...]]] = {
    "Wan-T2V-14B": (wan, (40, 13824, 40)),
    "Wan-T2V-1.3B": (wan, (12, 8960, 30)),
    "Wan-I2V-14B": (wan, (40, 13824, 40, True)),
    "VACE-14B": (vace, (40, 13824, 40, 8)),
    "VACE-1.3B": (vace, (12, 8960, 30, 15)),
    "ConsisID-5B": (consisid, (42,)),
    "HunyuanVideo-13B": (hunyuan, (20, 40)),
}
"""Name -> what counts it; heads, width of the feed-forward layer and layers are those of the published networks."""


if __name__ == "__main__":
    main()
