"""FVD: the network against its reference, the distance against Gaussians that are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation.features import I3D, pool, same
from evaluation.frechet import frechet_at_infinity, frechet_distance

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"


@pytest.mark.parametrize("kernel, stride", [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))])
def test_pooling_an_axis_after_the_other_is_pooling(kernel, stride):
    x = torch.randn(2, 3, 9, 14, 7)
    assert torch.equal(pool(x, kernel, stride), F.max_pool3d(same(x, kernel, stride), kernel, stride))


def test_i3d_gives_the_logits_of_the_original():
    if not (WEIGHTS / "i3d_kinetics400.safetensors").is_file():
        pytest.skip("the pretrained weights of I3D are not at hand")
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 16, 224, 224, 3)).astype("float32")
    logits = I3D(str(WEIGHTS / "i3d_kinetics400.safetensors"))(torch.from_numpy(clip).permute(0, 4, 1, 2, 3))
    reference = torch.from_numpy(np.load(WEIGHTS / "i3d_reference.npz")["logits"])
    assert (logits - reference).abs().max() < 1e-3 * reference.abs().max()
    with pytest.raises(ValueError, match="at least 9 frames, got 5"):
        I3D(str(WEIGHTS / "i3d_kinetics400.safetensors"))(torch.zeros(1, 3, 5, 32, 32))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no I3D weights can be read"):
        I3D(str(tmp_path / "nothing.safetensors"))


def test_the_distance_of_known_gaussians():
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=draw, dtype=torch.float64)
    a = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(a.T.cov())).T  # exactly standard
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + torch.tensor([3.0, 0, 4.0])) == pytest.approx(25)
    assert frechet_distance(a, a * torch.tensor([1.0, 2.0, 4.0])) == pytest.approx(1 + 9)  # (2-1)^2 + (4-1)^2
    turned = a * torch.tensor([1.0, 2.0, 4.0]) @ torch.linalg.qr(torch.randn(3, 3, generator=draw).double())[0]
    assert frechet_distance(a, turned) == pytest.approx(1 + 9)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="needs more than 5 samples a side, got 5"):
        frechet_distance(torch.randn(5, 5), torch.randn(9, 5))


def test_the_distance_at_infinity_is_that_of_the_gaussians_themselves():
    draw = torch.Generator().manual_seed(3)
    scale = torch.arange(1, 21, dtype=torch.float64) ** -0.5
    truth = ((0.3 * scale).square() + (0.2 * scale).square()).sum().item()  # of means and of standard deviations
    found, plain = [], []
    for _ in range(20):
        a, b = (torch.randn(400, 20, generator=draw, dtype=torch.float64) * scale for _ in range(2))
        found.append(frechet_at_infinity(a, 1.2 * b + 0.3 * scale))
        plain.append(frechet_distance(a, 1.2 * b + 0.3 * scale))
    values, errors = torch.tensor(found).unbind(1)
    assert values.mean() == pytest.approx(truth, abs=3 * values.std().item() / 20**0.5)
    assert sum(plain) / 20 > 1.2 * truth  # what a finite number adds
    assert errors.mean() == pytest.approx(values.std().item(), rel=0.5)


def test_infinity_needs_many_samples():
    with pytest.raises(ValueError, match="at infinity needs 20 samples a side, got 19"):
        frechet_at_infinity(torch.randn(19, 5), torch.randn(19, 5))
