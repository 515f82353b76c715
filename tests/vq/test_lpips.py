"""LPIPS against the published network's own numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vq.lpips import LPIPS

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"


@pytest.mark.parametrize(("net", "distance"), [("vgg16", 0.6283), ("alex", 0.2544)])
def test_the_published_distance(net, distance):
    file = WEIGHTS / f"lpips_{net}.safetensors"
    if not file.is_file():
        pytest.skip("the pretrained weights of LPIPS are not at hand")
    draw = np.random.default_rng(0)
    a, b = (torch.from_numpy(draw.uniform(-1, 1, (1, 3, 8, 8))).float() for _ in range(2))
    a, b = (F.interpolate(x, size=64, mode="bilinear", align_corners=False) for x in (a, b))
    lpips = LPIPS(str(file), net)
    assert lpips(a, b).item() == pytest.approx(distance, abs=1e-3)
    assert lpips(a, a).item() == 0
    videos = torch.stack([a, b], dim=2), torch.stack([b, b], dim=2)  # n c t h w
    assert lpips(*videos).item() == pytest.approx(distance / 2, abs=1e-3)


def test_distances_of_samples_do_not_depend_on_the_batch_and_the_network_is_frozen(lpips_weights):
    lpips = LPIPS(lpips_weights, "alex")
    a, b = torch.rand(2, 3, 3, 2, 64, 64) * 2 - 1
    together = lpips(a, b)
    assert together.shape == (3,) and (together > 0).all()
    assert torch.allclose(together[1], lpips(a[1:2], b[1:2])[0], rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    a.requires_grad_()
    lpips(a, b).sum().backward()
    assert a.grad.abs().sum() > 0


def test_other_files_are_refused(lpips_weights, tmp_path):
    with pytest.raises(ValueError, match=r"does not hold LPIPS of vgg16: expected features\.N\.weight"):
        LPIPS(lpips_weights, "vgg16")
    with pytest.raises(ValueError, match="no LPIPS weights can be read"):
        LPIPS(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no net 'resnet': expected vgg16 or alex"):
        LPIPS(lpips_weights, "resnet")


def test_weights_may_lie_on_the_hub(lpips_weights, monkeypatch):
    asked = []
    monkeypatch.setattr("vq.pretrained.hf_hub_download", lambda *args: asked.append(args) or lpips_weights)
    LPIPS("hf://someone/metrics/nets/lpips.safetensors", "alex")
    LPIPS(lpips_weights, "alex")
    assert asked == [("someone/metrics", "nets/lpips.safetensors")]
