from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from faithfulfaces.mini.codec import PAIR, PATCH, PatchCodec, fit
from faithfulfaces.mini.footage import Footage


@pytest.fixture(scope="module")
def codec(clips: Footage) -> PatchCodec:
    return fit(torch.from_numpy(clips.pixels), z_dim=24)


def unit(clips: Footage) -> torch.Tensor:
    return torch.from_numpy(clips.pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def test_latents_are_the_principal_components(codec: PatchCodec, clips: Footage) -> None:
    """Against scikit-learn's eigenvectors of the first frames' patches, up to sign and the channel's scale."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    first = clips.pixels[:, 0].astype(np.float64) / 127.5 - 1
    rows = first.reshape(6, 8, PATCH, 8, PATCH, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3 * PATCH**2)
    oracle = decomposition.PCA(8).fit(rows)
    wanted = oracle.transform(rows).reshape(6, 8, 8, 8)
    found = codec.encode(unit(clips)).latent_dist.mode()[:, :8, 0].permute(0, 2, 3, 1).numpy()
    for k in range(8):
        correlation = np.corrcoef(wanted[..., k].ravel(), found[..., k].ravel())[0, 1]
        assert abs(correlation) > 0.999, k


def test_channels_have_mean_zero_and_falling_variance_of_one_on_average(codec: PatchCodec, clips: Footage) -> None:
    latents = codec.encode(unit(clips)).latent_dist.mode()
    for part in (latents[:, :, :1], latents[:, :, 1:]):
        variance = part.transpose(0, 1).flatten(1).var(1, correction=0)
        assert part.mean((0, 2, 3, 4)).abs().max() < 1e-4
        assert variance.mean() == pytest.approx(1, rel=1e-3)
        assert (variance[:-1] >= variance[1:] - 1e-5).all()


def test_neighbours_help_the_decoder(codec: PatchCodec, clips: Footage) -> None:
    """Never worse than the components alone on what it was fitted to, which the transposed encoder would give."""
    x = unit(clips)
    z = codec.encode(x).latent_dist.mode()
    made = codec.decode(z)[0]
    assert made.shape == x.shape
    part = codec.first
    alone = torch.linalg.pinv(part.encoder) @ z[:, :, 0].permute(1, 0, 2, 3).flatten(1) + part.mean[:, None]
    patches = x[:, :, 0].reshape(6, 3, 8, PATCH, 8, PATCH).permute(1, 3, 5, 0, 2, 4).reshape(3 * PATCH**2, -1)
    assert (made[:, :, 0] - x[:, :, 0]).square().mean() < (alone - patches).square().mean()


def test_a_still_image_is_one_latent_frame_and_the_middle_of_a_video_its_own(codec: PatchCodec, clips: Footage) -> None:
    x = unit(clips)
    whole = codec.encode(x).latent_dist.mode()
    assert whole.shape == (6, 24, 5, 8, 8)
    assert torch.equal(codec.encode(x[:, :, :1]).latent_dist.mode(), whole[:, :, :1])
    torch.testing.assert_close(codec.encode(x[:, :, : 1 + PAIR]).latent_dist.sample(), whole[:, :, :2])


def test_saved_and_loaded(codec: PatchCodec, clips: Footage, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    again = PatchCodec.from_pretrained(tmp_path)
    z = codec.encode(unit(clips)).latent_dist.mode()
    assert torch.equal(again.decode(z)[0], codec.decode(z)[0])
    assert again.config.latents_std == [1.0] * 24


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16)])
def test_sizes_that_do_not_fit_are_refused(codec: PatchCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[B,3,2k\+1,8i,8j\]"):
        codec.encode(torch.zeros(shape))
