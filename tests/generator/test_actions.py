"""A generator that is told actions: where they matter, where not, and that without them nothing has changed."""

import pytest
import torch

from generator import tasks
from generator.actions import Actions
from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator
from generator.filling import Piece, predictor
from generator.guidance import Guidance
from generator.masked import MaskedGenerator, masked_loss
from generator.pipeline import VideoGenerator
from generator.text import ByteText
from vq import pretrained

NAMES = ("noop", "left", "right")
GRID = (3, 2, 3)  # 9 frames of 16x24 at 4x8x8
CLIP = {"frames": 9, "height": 16, "width": 24, "fps": 8.0}


def parts():
    return VideoTransformer(dim=32, depth=2, heads=2, text_dim=16), ByteText(dim=16, depth=1)


def randomised(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if model.actions:
        model.actions.table.weight.data[0] = 0
        model.actions.join.weight.data *= 10  # few cells of an untrained model show little
    return model.eval()


@pytest.fixture
def told():
    return randomised(MaskedGenerator(*parts(), 125, actions=Actions(NAMES, frames=4, dim=32)))


@pytest.fixture
def twin():
    return randomised(DiffusionGenerator(*parts(), channels=3, actions=Actions(NAMES, frames=4, dim=32)))


def logits(model, actions, middle=False):
    t = GRID[0] - middle
    tokens = torch.full((2, t, *GRID[1:]), model.mask_id)
    text = model.read(["a", "b"], actions=actions, middle=middle)
    cells = model.cells(tokens, torch.ones_like(tokens, dtype=torch.bool), text, middle)
    return cells.view(2, t, -1)


def test_a_vector_a_latent_frame_of_its_own_frames_alone():
    actions = Actions(NAMES, frames=4, dim=8)
    done = torch.tensor([[0, 1, 2, 1, 2, 0, 0, 1, 1]])
    vectors = actions(done)
    assert vectors.shape == (1, 3, 8) and not vectors[:, 0].any()
    assert torch.equal(actions(done[:, 1:], middle=True), vectors[:, 1:])
    for frame in range(1, 9):
        other = done.clone()
        other[0, frame] = (other[0, frame] + 1) % 3
        changed = (actions(other) != vectors).any(2)[0]
        assert changed.tolist() == [latent == 1 + (frame - 1) // 4 for latent in range(3)]
    swapped = done[:, [0, 2, 1, 3, 4, 5, 6, 7, 8]]
    assert not torch.equal(actions(swapped)[:, 1], vectors[:, 1])  # the order counts
    assert not actions(torch.zeros(1, 9, dtype=torch.long)).any()


def test_all_actions_but_noop_are_learnt(told):
    done, where = torch.tensor([[0, 1, 2, 1, 2, 0, 0, 1, 1]]), torch.ones(1, *GRID, dtype=torch.bool)
    tokens = torch.randint(125, (1, *GRID), generator=torch.Generator().manual_seed(0))
    masked_loss(told, tokens, where, told.read(["a"], actions=done))[0].backward()
    assert told.actions.join.weight.grad.any()
    assert told.actions.table.weight.grad.any(1).tolist() == [False, True, True]


def test_spans_of_latent_frames_in_frames():
    actions = Actions(NAMES, frames=4, dim=8)
    assert [actions.span(*s) for s in ((0, 1), (0, 3), (1, 3), (2, 4))] == [
        slice(0, 1), slice(0, 9), slice(1, 9), slice(5, 13)
    ]  # fmt: skip
    assert actions.span(0, 2, middle=True) == slice(0, 8) and actions.span(1, 2, middle=True) == slice(4, 8)


@pytest.mark.parametrize("middle", [False, True])
def test_actions_change_the_logits(told, middle):
    frames = 8 if middle else 9
    nothing = logits(told, torch.zeros(2, frames, dtype=torch.long), middle)
    assert torch.equal(nothing, logits(told, None, middle))
    done = torch.zeros(2, frames, dtype=torch.long)
    done[0, -1] = 1
    something = logits(told, done, middle)
    assert (something[0] - nothing[0]).abs().max() > 1e-3 and torch.equal(something[1], nothing[1])


def test_without_actions_nothing_has_changed(generator, told):
    """The same weights without actions give the same bits, and no weights for them are kept."""
    assert not any("actions" in name for name in generator.state_dict())
    plain = MaskedGenerator(*parts(), 125)
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("actions.")})
    still = torch.zeros(2, 9, dtype=torch.long)
    assert torch.equal(logits(plain.eval(), None), logits(told, still))
    torch.manual_seed(3)
    before = MaskedGenerator(*parts(), 125).state_dict()
    torch.manual_seed(3)
    after = MaskedGenerator(*parts(), 125, actions=None).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_twin_is_told_by_the_same_means(twin):
    latents, known = torch.randn(1, 3, *GRID), torch.zeros(1, *GRID, dtype=torch.bool)
    done = torch.tensor([[0, 1, 2, 1, 2, 0, 0, 1, 1]])

    def velocity(actions):
        return twin(latents, known, torch.ones(1), twin.read(["a"], actions=actions))

    assert torch.equal(velocity(None), velocity(torch.zeros_like(done)))
    assert (velocity(done) - velocity(None)).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_generation_is_told_the_actions_of_each_window(tokenizer, told, twin, guidance):
    done = torch.randint(3, (1, 25), generator=torch.Generator().manual_seed(1))
    done[:, 0] = 0
    other = done.clone()
    other[:, -1] = (other[:, -1] + 1) % 3
    for arm in (told, twin):
        model = VideoGenerator(tokenizer, arm, CLIP)
        canvas = tasks.text2video((7, 2, 3), model.mask_id)

        def make(actions, window=3, model=model, canvas=canvas):
            how = {"steps": 2, "guidance": guidance, "window": window}
            tokens = model.fill(canvas, ["a"], [0], actions=actions, **how)
            return model.code.lookup(tokens)

        first, second = make(done), make(other)
        assert torch.equal(first, make(done[0]))
        assert torch.equal(first[:, :, :6], second[:, :, :6])  # the windows before the last know nothing of it
        assert not torch.equal(first[:, :, 6:], second[:, :, 6:])
        assert torch.equal(make(None, None), make(torch.zeros(1, 25, dtype=torch.long), None))


def test_both_passes_of_guidance_at_once(told):
    tokens = torch.full((2, *GRID), 125)
    where, done = tokens == 125, torch.tensor([[0, 1, 1, 1, 1, 2, 2, 2, 2], [0] * 9])
    none = torch.empty(int(where.sum()), 0, dtype=torch.long)
    canvas = tasks.text2video(GRID, 125).repeat(2)
    pieces = (Piece(canvas, ["a", "b"], torch.tensor([8.0]), done, as_one_batch=one) for one in (True, False))
    once, twice = (predictor(told, piece, Guidance(3.0))(tokens, where, 0.0)[0](none) for piece in pieces)
    torch.testing.assert_close(once, twice)


def test_actions_are_kept_with_the_model(tokenizer, told, tmp_path):
    folder = VideoGenerator(tokenizer, told, CLIP).save_pretrained(tmp_path / "model")
    loaded = pretrained.load(folder, "generator")
    assert loaded.actions.names == NAMES and loaded.actions.frames == 4
    done = torch.tensor([[0, 1, 2, 1, 2, 0, 0, 1, 1]] * 2)
    assert torch.equal(logits(loaded, done), logits(told, done))


def test_what_does_not_fit_is_one_sentence(tokenizer, generator, told):
    with pytest.raises(ValueError, match="unknown action 'jump': expected some of noop, left, right"):
        told.actions.numbers(["left", "jump"])
    with pytest.raises(ValueError, match="expected two or more, each once"):
        Actions(["noop", "noop"], 4, 8)
    with pytest.raises(ValueError, match="got 8 actions for 9 frames: give one a frame, first noop"):
        VideoGenerator(tokenizer, told, CLIP)("a", steps=1, actions=torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match="this model was trained without"):
        VideoGenerator(tokenizer, generator, CLIP)("a", steps=1, actions=torch.zeros(9, dtype=torch.long))
