"""6DRepNet: RepVGG-B1g2 with a six-number rotation head (Hempel et al., ICIP 2022, arXiv:2202.12555).

The module has the state-dict keys and shapes of the published `6DRepNet_300W_LP_AFLW2000.pth`, whose RepVGG blocks
(Ding et al., CVPR 2021) are already fused to one 3x3 convolution each.

Shapes: B faces, C channels, H W px.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEM = 64
STAGES = ((128, 4), (256, 6), (512, 16), (2048, 1))
"""(channels, blocks) of the four stages of RepVGG-B1."""
LAST_GROUPED = 26
"""B1g2: every second block, counted from the stem as 0, has two groups, up to this one."""


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.rbr_reparam = nn.Conv2d(channels_in, channels, 3, stride, padding=1, groups=groups)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.relu(self.rbr_reparam(x_BCHW))


class SixDRepNet(nn.Module):
    """Faces to rotation matrices.

    Input float [B,3,224,224], RGB with ImageNet's normalisation; output [B,3,3], a proper rotation in the frame of
    300W-LP's labels (`ffbench.extract.pose` turns it into angles).
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = _Block(3, STEM, 2, 1)
        number, channels = 1, STEM
        stages: list[nn.Sequential] = []
        for width, depth in STAGES:
            blocks = []
            for i in range(depth):
                groups = 2 if number % 2 == 0 and number <= LAST_GROUPED else 1
                blocks.append(_Block(channels, width, 1 if i else 2, groups))
                number, channels = number + 1, width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear_reg = nn.Linear(channels, 6)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """See the class."""
        x_BCHW = self.layer0(x_BCHW)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x_BCHW = stage(x_BCHW)
        return rotation_from_six(self.linear_reg(x_BCHW.mean((2, 3))))


def rotation_from_six(six_B6: Tensor) -> Tensor:
    """[B,3,3] rotations whose first two columns are six numbers made orthonormal (Zhou et al., CVPR 2019, Eq. 6).

    The first column keeps the direction of the first three numbers; the third is normal to both; the second completes
    them, so it keeps the half-plane of the last three.
    """
    first = nn.functional.normalize(six_B6[:, :3], dim=1, eps=1e-8)
    third = nn.functional.normalize(torch.linalg.cross(first, six_B6[:, 3:]), dim=1, eps=1e-8)
    return torch.stack([first, torch.linalg.cross(third, first), third], dim=2)
