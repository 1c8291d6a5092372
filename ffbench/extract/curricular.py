"""CurricularFace's backbone (Huang et al., CVPR 2020): an improved residual network for faces of 112 px.

The modules carry the state-dict keys and shapes of the published `glint360k_curricular_face_r101_backbone.bin`, those
of Tencent/TFace's IR networks: `input_layer`, `body.<n>.res_layer`, `body.<n>.shortcut_layer`, `output_layer`.

Shapes: N faces, C channels, H W px, D = 512.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Arch = Literal["ir18", "ir101"]
WIDTHS = (64, 128, 256, 512)
BLOCKS: dict[str, tuple[int, int, int, int]] = {"ir18": (2, 2, 2, 2), "ir101": (3, 13, 30, 3)}
"""Blocks a stage; each stage halves the side of its input."""
SIDE = 112


class _Residual(nn.Module):
    """BN, 3x3, BN, PReLU, strided 3x3, BN, beside a shortcut that only subsamples where the width stays."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if channels_in != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        else:
            self.shortcut_layer = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out_NCHW: Tensor = self.res_layer(x_NCHW) + self.shortcut_layer(x_NCHW)
        return out_NCHW


class CurricularBackbone(nn.Module):
    """Faces to embeddings: [N,3,112,112] float RGB in -1..1 -> [N,512], not normalised.

    Args:
        arch: `ir18` or `ir101`; the latter is what TFace calls 100 layers deep.
    """

    def __init__(self, arch: Arch = "ir101") -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.PReLU(WIDTHS[0])
        )
        side = SIDE // 2 ** len(WIDTHS)
        # the dropout holds no tensor, but the numbers of the published keys count it
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(WIDTHS[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(WIDTHS[-1] * side * side, 512),
            nn.BatchNorm1d(512, affine=False),
        )
        body: list[nn.Module] = []
        channels = WIDTHS[0]
        for width, blocks in zip(WIDTHS, BLOCKS[arch], strict=True):
            for block in range(blocks):
                body.append(_Residual(channels, width, 1 if block else 2))
                channels = width
        self.body = nn.Sequential(*body)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """See the class."""
        emb_ND: Tensor = self.output_layer(self.body(self.input_layer(x_N3HW)))
        return emb_ND
