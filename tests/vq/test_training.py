from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vq.callbacks import CodebookUsage, SkippedFiles, filmstrips, parts_in_use
from vq.hardware import check_convolutions
from vq.losses import psnr, reconstruction_loss
from vq.optimizer import Muon, orthogonal
from vq.quantizers import FSQ, VQ
from vq.training import begin_with


def test_orthogonal_keeps_the_directions_and_levels_the_singular_values():
    torch.manual_seed(0)
    matrix = torch.randn(20, 50) @ torch.diag(torch.logspace(0, -1, 50))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    for m, exact in ((matrix, u @ v), (matrix.T, (u @ v).T)):
        values = torch.linalg.svdvals(orthogonal(m[None]))
        assert values.min() > 0.6 and values.max() < 1.3
        assert nn.functional.cosine_similarity(orthogonal(m[None]).flatten(), exact.flatten(), dim=0) > 0.97


def test_muon_takes_matrices_and_kernels_and_adamw_the_rest():
    model = nn.ModuleDict({"stem": nn.Conv3d(3, 4, 1), "hidden": nn.Conv3d(4, 4, 3), "norm": nn.GroupNorm(1, 4)})
    groups = Muon(model.named_parameters(), adamw=("stem",)).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    assert [[names[id(p)] for p in g["params"]] for g in groups] == [
        ["hidden.weight"],
        ["stem.weight"],
        ["stem.bias", "hidden.bias", "norm.weight", "norm.bias"],
    ]


def test_the_half_for_vectors_is_torchs_adamw():
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    muon = Muon([("bias", ours)], lr=0.1)
    adamw = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0)
    for _ in range(5):
        gradient = torch.randn(5)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step(), adamw.step()
    torch.testing.assert_close(ours, theirs)


def test_losses_and_psnr_have_known_values():
    video = torch.zeros(2, 3, 5, 4, 4)
    loss, logs = reconstruction_loss(video, video)
    assert loss == 0 and set(logs) == {"l1", "mse", "temporal"}
    loss, logs = reconstruction_loss(video + 0.1, video, temporal_weight=7.0, squared_weight=10.0)
    assert loss.item() == pytest.approx(0.1 + 10 * 0.01)  # a constant offset has no temporal error
    assert psnr(video + 0.2, video).tolist() == pytest.approx([20.0, 20.0])  # 10 log10(4 / 0.04)
    assert reconstruction_loss(video[:, :, :1], video[:, :, :1])[0] == 0


def test_filmstrips_put_clips_below_each_other_and_frames_side_by_side():
    videos = torch.arange(2 * 3).view(2, 1, 3, 1, 1).expand(2, 3, 3, 4, 5) / 6.0
    picture = filmstrips(videos)
    assert picture.shape == (3, 8, 15)
    assert picture[0, 5, 12].item() == pytest.approx((5 / 6 + 1) / 2)
    assert picture[0, 0, 6].item() == pytest.approx((1 / 6 + 1) / 2)


def test_parts_in_use_is_one_where_all_levels_are_equally_common():
    assert parts_in_use(torch.arange(40).repeat(3), (8, 5)) == pytest.approx(1)
    assert parts_in_use(torch.zeros(9, dtype=torch.long), (8, 5)) == pytest.approx((1 / 8 + 1 / 5) / 2)
    assert parts_in_use(torch.arange(8), (8, 5)) == pytest.approx((1 + 1 / 5) / 2)


def test_builds_with_wrong_convolutions_are_refused(monkeypatch):
    check_convolutions.cache_clear()
    check_convolutions(torch.device("cpu"))
    right = nn.functional.conv3d

    def wrong_in_single_precision(x, weight):
        return right(x, weight) * (0.9 if x.dtype == torch.float32 else 1)

    check_convolutions.cache_clear()
    monkeypatch.setattr("vq.hardware.F.conv3d", wrong_in_single_precision)
    with pytest.raises(ValueError, match="wrong on cpu, by 10% in float32: install another build"):
        check_convolutions(torch.device("cpu"))
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: 91002)
    with pytest.raises(ValueError, match=r"cuDNN 9\.10 computes wrong .* pip install -U nvidia-cudnn-cu13"):
        check_convolutions(torch.device("cuda"))


@pytest.mark.parametrize(
    ("quantizer", "codes", "advice"),
    [
        (FSQ((8, 5, 5, 5)), 49, "in use. Lower the learning rate"),
        (VQ(1000, 4), 49, "in use. Use vq.quantizers.FSQ."),
        (VQ(1000, 4), 50, None),
    ],
)
def test_a_collapsed_codebook_raises_an_alarm_with_what_to_do(quantizer, codes, advice, recwarn):
    callback, tokens = CodebookUsage(), torch.arange(codes).repeat(40)
    tokenizer = SimpleNamespace(codebook_size=1000, quantizer=quantizer, encode=lambda video: tokens)
    training, trainer = SimpleNamespace(tokenizer=tokenizer, log=lambda *a, **k: None), SimpleNamespace(global_step=501)
    callback.on_validation_epoch_start(trainer, training)
    callback.on_validation_batch_end(trainer, training, None, SimpleNamespace(video=torch.zeros(1, 3, 1, 8, 8)), 0)
    callback.on_validation_epoch_end(trainer, training)
    said = "".join(str(warning.message) for warning in recwarn)
    assert said == "" if advice is None else f"collapsed: {codes} of 1000 codes are {advice}" in said


@pytest.mark.parametrize("end", ["on_fit_end", "on_exception"])
def test_skipped_files_are_listed_however_a_run_ends(end, recwarn):
    callback = SkippedFiles()
    callback.on_train_batch_end(None, None, None, SimpleNamespace(skipped=("a.mp4: broken",)), 0)
    callback.on_validation_batch_end(None, None, None, SimpleNamespace(skipped=("b.mp4: empty", "a.mp4: broken")), 0)
    getattr(callback, end)(None, None, *([KeyboardInterrupt()] if end == "on_exception" else []))
    (warning,) = recwarn
    assert str(warning.message) == "2 files were skipped:\n  a.mp4: broken\n  b.mp4: empty"


def test_a_continuous_tokenizer_has_no_codebook_to_count(tokenizer):
    callback = CodebookUsage()
    training = SimpleNamespace(tokenizer=SimpleNamespace(codebook_size=0))
    callback.on_validation_epoch_start(None, training)
    callback.on_validation_batch_end(None, training, None, SimpleNamespace(video=torch.zeros(1, 3, 1, 8, 8)), 0)
    callback.on_validation_epoch_end(None, training)


def test_a_start_that_has_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match=r"no weight of .*showcase has the shape of one of this tokenizer"):
        begin_with(nn.Linear(3, 5), str(Path(__file__).parents[2] / "models/showcase"), "tokenizer")
