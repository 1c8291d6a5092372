"""What a step of generation costs on VACE's shapes with random weights, and what makes it faster.

    python tests/benchmarks/gpu_generate.py --out DIR [--shapes 1.3b,14b] [--rounds 3]   a GPU
    python tests/benchmarks/gpu_generate.py --out DIR --shapes mini [--rounds 20]     the embedded base, any machine
    python tests/benchmarks/gpu_generate.py --out DIR --tiny                     a toy, numbers mean nothing

A step is one velocity with classifier-free guidance at the card's size (832x480x81; 64x64x9 for `mini`), as the product
takes it: two passes. Forms are timed in turns, so that a busy machine slows all alike:

    two passes           as it is
    batched guidance     prompt and negative prompt as a batch of two
    sdpa NAME            one back-end of PyTorch's attention alone
    compiled             torch.compile of the transformer

Each row has the median and least seconds, the operations by PyTorch's counter, the largest difference to `two passes`
relative to its largest value, on a GPU the peak of memory and the share of the bf16 peak. On a CPU seconds are those
of the process, one thread, and the share is that of the best matrix product in the run. `mini` also times a whole
video through the product's adapter, its parts, and what encoding the prompt and the photograph once saves; the others
decode latents, whole and tiled. DIR/gpu_generate.json is written after every row.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from faithfulfaces.recipes import TINY_ARCH, VACE_1_3B_ARCH
from faithfulfaces.training.flops import utilisation

Row = dict[str, Any]
VACE_14B_ARCH = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "ffn_dim": 13824,
    "num_layers": 40,
    "vace_layers": list(range(0, 40, 5)),
}
SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "1.3b": (VACE_1_3B_ARCH, (22, 60, 104)),
    "14b": (VACE_14B_ARCH, (22, 60, 104)),
    "tiny": (TINY_ARCH, (2, 4, 4)),
}
"""Architecture, and latent frames (with one for the reference), height and width."""
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def main() -> None:
    """Measure shape by shape, and write after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shapes", default="1.3b,14b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args()
    names = ["tiny"] if given.tiny else given.shapes.split(",")
    cuda = torch.cuda.is_available()
    if not cuda and not given.tiny and names != ["mini"]:
        sys.exit("no GPU here\nrun it with --tiny or --shapes mini, or on a machine with a GPU")
    device = torch.device("cuda" if cuda and names != ["mini"] else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "rows": []}

    def keep(row: Row) -> None:
        found["rows"].append(row)
        (given.out / "gpu_generate.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(json.dumps(row), flush=True)

    for shape in names:
        for row in steps(shape, device, given.rounds, compiled=not (given.tiny or given.no_compile)):
            keep(row)
        gc.collect()
        for row in videos(given.rounds) if shape == "mini" else decoding(shape, device):
            keep(row)


@torch.no_grad()
def steps(shape: str, device: torch.device, rounds: int, compiled: bool) -> list[Row]:
    """Time the forms of one guided step."""
    network, inputs = _network(shape, device)
    dtype = network.dtype
    # one scale a layer has no batch; the second prompt differs
    two = {key: value if key.endswith("_scale") else torch.cat([value, value]) for key, value in inputs.items()}
    two["encoder_hidden_states"][1] *= 0.5
    prompts = [{**inputs, "encoder_hidden_states": text} for text in two["encoder_hidden_states"].split(1)]

    def apart(net: Any = network) -> torch.Tensor:
        return torch.cat([net(**one, return_dict=False)[0] for one in prompts])

    forms: dict[str, Callable[[], torch.Tensor]] = {
        "two passes": apart,
        "batched guidance": lambda: network(**two, return_dict=False)[0],
    }
    for name, backend in BACKENDS.items():
        forms[f"sdpa {name}"] = lambda backend=backend: _with(backend, apart)
    if compiled:
        fast = torch.compile(network)
        forms["compiled"] = lambda: apart(fast)
    with FlopCounterMode(display=False) as counter:
        want = apart()
    work = counter.get_total_flops()
    rows, usable = {}, {}
    for name, form in forms.items():
        row: Row = {"shape": shape, "form": name, "dtype": str(dtype).removeprefix("torch."), "operations": work}
        try:
            made = form()
        except (RuntimeError, torch.OutOfMemoryError) as error:
            rows[name] = row | {"failed": str(error).strip().partition("\n")[0][:200]}
            continue
        difference = (made.float() - want.float()).abs().max() / want.float().abs().max()
        usable[name], rows[name] = form, row | {"relative_difference": float(difference)}
    times: dict[str, list[float]] = {name: [] for name in usable}
    for _ in range(rounds):
        for name, form in usable.items():
            _reset(device)
            times[name].append(_seconds(form, device))
            rows[name]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    rate = None if device.type == "cuda" else _rate()
    for name, spent in times.items():
        least = min(spent)
        share = work / least / rate if rate else utilisation(work / least, torch.cuda.get_device_name(device))
        rows[name] |= {"seconds": statistics.median(spent), "least_seconds": least, "share_of_floor": share}
    return list(rows.values())


def _network(shape: str, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """A transformer in evaluation mode, and the inputs of one pass."""
    from diffusers import WanVACETransformer3DModel

    if shape == "mini":
        from baselines.wan.loading import load_transformer
        from ffbench.embedded import folder_of

        network = load_transformer(Path(folder_of("mini", "base")), torch.float32, WanVACETransformer3DModel)
        size, tokens = (4, 8, 8), 48
    else:
        arch, size = SHAPES[shape]
        tokens = 512
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        # made on the device in its own type: 17 billion weights in float32 would not fit beside their copy
        torch.set_default_dtype(dtype)
        try:
            with device:
                network = WanVACETransformer3DModel.from_config(dict(arch)).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    config, dtype = network.config, network.dtype
    made = torch.Generator().manual_seed(1)

    def noise(*shape_: int) -> torch.Tensor:
        return torch.randn(*shape_, generator=made).to(device, dtype)

    inputs = {
        "hidden_states": noise(1, config.in_channels, *size),
        "timestep": torch.tensor([500.0], device=device),
        "encoder_hidden_states": noise(1, tokens, config.text_dim),
        "control_hidden_states": noise(1, config.vace_in_channels, *size),
    }
    inputs["control_hidden_states_scale"] = torch.ones(len(config.vace_layers), device=device, dtype=dtype)
    return network, inputs


def _with(backend: SDPBackend, form: Callable[[], torch.Tensor]) -> torch.Tensor:
    with sdpa_kernel(backend):
        return form()


@torch.no_grad()
def decoding(shape: str, device: torch.device) -> list[Row]:
    """Time the autoencoder of Wan on a video's latents, whole and tiled."""
    from diffusers import AutoencoderKLWan

    _, (frames, height, width) = SHAPES[shape]
    options = {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1} if shape == "tiny" else {}
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**options).eval().to(device)
    latents = torch.randn(1, 16, frames - 1, height, width, device=device)
    rows = []
    for form in ("whole", "tiled"):
        if form == "tiled":
            vae.enable_tiling()
        _reset(device)
        row: Row = {"shape": shape, "form": f"decode {form}", "dtype": "float32"}
        with contextlib.suppress(torch.OutOfMemoryError):
            vae.decode(latents)
            row["seconds"] = _seconds(lambda: vae.decode(latents), device)
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        rows.append(row)
    return rows


def videos(rounds: int) -> list[Row]:
    """Whole videos of the embedded base through the product's adapter: of a person, of that one again, of others."""
    from baselines.vace.adapter import Vace
    from ffbench.cards import for_suite, override
    from ffbench.contract import Request, Runtime
    from ffbench.methods import find
    from ffbench.suites import load_suite
    from ffbench.weights import weights_dir

    method = Vace(override(for_suite(find("vace"), "mini"), ()))
    loading = _seconds(lambda: method.load(Runtime("cpu", str(weights_dir()))), torch.device("cpu"))
    cases = load_suite("mini").cases
    first, same, other = [], [], []
    device = torch.device("cpu")
    list(method.generate([Request(cases[-1], 0, "")]))
    parts = _parts(method)
    for case in cases[:rounds]:
        for spent in (first, same):
            spent.append(_seconds(lambda case=case: list(method.generate([Request(case, 0, "")])), device))
    whole = sum(first) + sum(same)
    for case in cases[rounds : 2 * rounds]:
        other.append(_seconds(lambda case=case: list(method.generate([Request(case, 1, "")])), device))
    row: Row = {"shape": "mini", "form": "video", "rounds": rounds, "loading_seconds": loading}
    row |= {"new_person": statistics.median(first), "known_person": statistics.median(same)}
    row |= {"least_known_person": min(same), "other_new_people": statistics.median(other)}
    row["share_of_parts"] = {name: spent[0] / (whole + sum(other)) for name, spent in parts.items()}
    return [row]


def _parts(method: Any) -> dict[str, list[float]]:
    """Seconds that a method spends in its networks from now on."""
    pipe, found = method._pipe, {}

    def clock(owner: Any, attribute: str, name: str) -> None:
        work, spent = getattr(owner, attribute), found.setdefault(name, [0.0])

        def timed(*args: Any, **options: Any) -> Any:
            begun = time.process_time()
            try:
                return work(*args, **options)
            finally:
                spent[0] += time.process_time() - begun

        setattr(owner, attribute, timed)

    clock(pipe.transformer, "forward", "transformer")
    clock(pipe.vae, "decode", "decode")
    clock(pipe.vae, "encode", "encode photograph")
    clock(method._prompts.encoder, "forward", "encode prompt")
    return found


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of the clock on a GPU; of this process's CPU time elsewhere, which other work on the machine hardly changes."""
    if device.type != "cuda":
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _rate() -> float:
    """Operations a second of the best of many float32 products, short enough to run between two other processes."""
    a = torch.randn(384, 384)
    spent = []
    for _ in range(400):
        begun = time.perf_counter()
        a @ a
        spent.append(time.perf_counter() - begun)
    return 2 * 384**3 / min(spent)


if __name__ == "__main__":
    main()
