"""Run by test_maxpool in a process of its own, where TRITON_INTERPRET=1 is set before triton is imported."""

import torch

from faithfulfaces.maxpool_triton import forward

count = 0
for B, L, C, D in [(1, 1, 1, 1), (2, 7, 5, 11), (2, 70, 130, 65), (1, 196, 129, 32)]:
    g = torch.Generator().manual_seed(B + L)
    e, d = torch.randn(B, L, D, generator=g), torch.randn(C, D, generator=g)
    scores = torch.einsum("bld,cd->blc", e.double(), d.double())
    values, winners = forward(e, d)
    torch.testing.assert_close(values.double(), scores.amax(1), rtol=1e-5, atol=1e-5)
    assert (winners == scores.argmax(1)).all()
    count += 1
# ties: the first token wins, also across blocks of tokens
values, winners = forward(torch.ones(1, 100, 4), torch.ones(3, 4))
assert (winners == 0).all()
count += 1
# NaN wins over numbers
e = torch.zeros(1, 80, 4)
e[0, 70, 0] = torch.nan
values, winners = forward(e, torch.ones(3, 4))
assert values.isnan().all()
assert (winners == 70).all()
count += 1
# bfloat16 inputs, float32 accumulation
g = torch.Generator().manual_seed(9)
e, d = torch.randn(2, 33, 64, generator=g).bfloat16(), torch.randn(40, 64, generator=g).bfloat16()
values, _ = forward(e, d)
assert values.dtype == torch.bfloat16
torch.testing.assert_close(values.float(), (e.float() @ d.float().T).amax(1), rtol=2**-7, atol=2**-4)
count += 1
print("checked", count)
