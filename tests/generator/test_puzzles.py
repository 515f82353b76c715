"""What is hidden, shown, asked for and weighed: what is known stays out of it."""

import pytest
import torch

from generator.conditioning import CONDITIONINGS
from generator.masked import masked_loss
from generator.puzzles import corrupt, draw_clean, draw_puzzle, random_masks, token_weights
from generator.schedules import Arccos, Cosine, Linear
from generator.weights import ELBO, Clamped, slope

MIXTURE = dict.fromkeys(CONDITIONINGS, 1.0)
EVERYTHING = {"mixture": MIXTURE, "frame_ratios": 0.5, "corruption": 0.2, "weight": Clamped()}


def clips(b=16, grid=(5, 4, 4), codes=125):
    return torch.randint(codes, (b, *grid), generator=torch.Generator().manual_seed(1))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_masks_hide_the_share_asked_of_what_is_not_known():
    known = torch.zeros(3, 2, 4, 4, dtype=torch.bool)
    known[1, 0] = known[2] = True
    known[2, 1, 3, 3] = False
    mask = random_masks((3, 2, 4, 4), torch.tensor([0.25, 0.5, 0.01]), seeded(0), known)
    assert mask.flatten(1).sum(1).tolist() == [8, 8, 1] and not (mask & known).any()
    by_frame = random_masks((1, 3, 4, 4), torch.tensor([[0.0, 0.5, 1.0]]), seeded(0))
    assert by_frame[0].flatten(1).sum(1).tolist() == [1, 8, 16]


@pytest.mark.parametrize("options", [{}, {"mixture": MIXTURE}, EVERYTHING], ids=["plain", "mixture", "everything"])
def test_hidden_cells_are_asked_for_and_known_ones_are_as_they_are(options):
    tokens = clips()
    for seed in range(20):
        puzzle = draw_puzzle(tokens, 125, seeded(seed), Cosine(), **options)
        hidden = puzzle.shown == 125
        assert (hidden <= puzzle.asked).all() and hidden.flatten(1).any(1).all()
        assert torch.equal(puzzle.shown[~puzzle.asked], tokens[~puzzle.asked])
        if not options.get("corruption"):
            assert torch.equal(hidden, puzzle.asked)
        again = draw_puzzle(tokens, 125, seeded(seed), Cosine(), **options)
        assert torch.equal(puzzle.shown, again.shown) and torch.equal(puzzle.asked, again.asked)


@pytest.mark.parametrize("name", ["first", "prefix", "suffix", "ends", "frames", "region"])
def test_known_cells_are_never_hidden_corrupted_or_in_the_loss(name, generator):
    tokens = clips()
    options = EVERYTHING | {"mixture": {name: 1.0}, "corruption": 1.0}
    # the same draws, on a conditioning that remembers what it drew
    drawn = []
    inner = CONDITIONINGS[name]
    CONDITIONINGS["remembered"] = lambda grid, rng: drawn.append(inner(grid, rng)) or drawn[-1]
    try:
        puzzle = draw_puzzle(tokens, 125, seeded(4), Cosine(), **options | {"mixture": {"remembered": 1.0}})
    finally:
        del CONDITIONINGS["remembered"]
    known = torch.stack(drawn) & ~torch.stack(drawn).flatten(1).all(1)[:, None, None, None]
    assert known.any() and torch.equal(puzzle.shown[known], tokens[known]) and not puzzle.asked[known].any()
    other = torch.where(known, (tokens + 1) % 125, tokens)  # were a known one a target, the loss would change
    text = generator.read([""] * len(tokens))
    losses = [
        masked_loss(generator, right, puzzle.asked, text, shown=puzzle.shown, weights=puzzle.weights)[0]
        for right in (tokens, other)
    ]
    assert torch.equal(*losses)


def test_the_default_is_the_plain_mask():
    tokens, rng = clips(), seeded(7)
    puzzle = draw_puzzle(tokens, 125, seeded(7), Cosine())
    u = (torch.rand((), generator=rng) + torch.arange(16) / 16) % 1
    mask = random_masks(tokens.shape, Cosine()(u), rng)
    assert torch.equal(puzzle.asked, mask) and torch.equal(puzzle.shown, tokens.masked_fill(mask, 125))
    assert puzzle.weights is None


def test_corruption_doubts_visible_tokens_of_which_half_are_others():
    tokens = torch.arange(64 * 80).view(64, 5, 4, 4)
    visible = torch.rand(tokens.shape, generator=seeded(0)) < 0.5
    shown, doubtful = corrupt(tokens, visible, 0.2, seeded(1))
    changed = shown != tokens
    assert not (doubtful & ~visible).any() and (changed <= doubtful).all()
    shares = (doubtful.flatten(1).sum(1) / visible.flatten(1).sum(1)).float()
    assert shares.mean() == pytest.approx(0.1, abs=0.02) and shares.max() < 0.4  # of up to 0.2 each, half on average
    assert changed[doubtful].float().mean() == pytest.approx(0.5, abs=0.1)
    puzzle = draw_puzzle(tokens, 10**6, seeded(1), Cosine(), corruption=0.2)
    asked_and_seen = puzzle.asked & (puzzle.shown != 10**6)
    assert asked_and_seen.any() and (puzzle.shown != tokens)[asked_and_seen].any()


def test_frames_may_have_ratios_of_their_own():
    tokens = clips(grid=(4, 8, 8))

    def ratios(share):
        puzzles = [draw_puzzle(tokens, 125, seeded(s), Linear(), frame_ratios=share) for s in range(8)]
        return torch.stack([p.asked.flatten(2).float().mean(2) for p in puzzles]).flatten(0, 1)  # samples frames

    assert ratios(0.0).std(1).mean() < 0.06  # counting noise of 64 cells
    assert ratios(1.0).std(1).mean() > 0.2 and ratios(1.0).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("schedule", [Cosine(), Arccos(), Linear()], ids=lambda s: type(s).__name__)
def test_the_bound_is_the_same_for_every_schedule(schedule):
    """Of a cross-entropy that depends on the ratio r alone, the bound is its integral over r in [0, 1]."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    ratio = schedule(u)
    cross_entropy = 1 + 3 * ratio**2  # integral 2
    bound = (ELBO()(slope(schedule, u), ratio) * ratio * cross_entropy).mean()
    assert bound.item() == pytest.approx(2.0, rel=0.02)
    assert torch.equal(Clamped(5.0)(slope(schedule, u), ratio), ELBO()(slope(schedule, u), ratio).clamp_max(5.0))


def test_weights_sum_up_to_nats_a_token():
    """Linear ratios and a loss of one nat everywhere: the bound is one nat for every token that is not known."""
    known = torch.zeros(256, 4, 8, 8, dtype=torch.bool)
    known[:, 0] = True
    u = (torch.arange(256) + 0.5) / 256
    for points in (u, torch.rand(256, 4, generator=seeded(0))):
        hidden = random_masks(known.shape, 1 - points, seeded(0), known)
        weights = token_weights(hidden, known, points, Linear(), ELBO())
        assert weights[hidden].sum().item() == pytest.approx(1.0, rel=0.01)
        assert torch.isfinite(weights).all()


def test_gradients_reach_every_parameter_and_the_wrong_answer_matters(generator):
    tokens = clips(b=4)
    text = generator.read(["a", "b", "c", "d"], drop=torch.tensor([True, False, False, False]))
    puzzle = draw_puzzle(tokens, 125, seeded(0), Cosine(), **EVERYTHING)
    loss, _ = masked_loss(generator, tokens, puzzle.asked, text, 0.1, puzzle.shown, puzzle.weights, middle=True)
    loss.backward()
    missing = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_known_ends_are_shown_and_never_asked_for():
    tokens = torch.randint(0, 125, (8, 5, 2, 3), generator=seeded(1))
    tails = torch.arange(5) >= 5 - torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])[:, None]
    before = torch.arange(5) == 4 - torch.tensor([-9, 1, 2, 3, 4, -9, 1, 2])[:, None]
    for mixture in (None, {"prefix": 0.5, "region": 0.5}):
        for seed in range(8):
            puzzle = draw_puzzle(tokens, 125, seeded(seed), Cosine(), mixture, tails=tails)
            assert torch.equal(puzzle.shown[tails], tokens[tails]) and not puzzle.asked[tails].any()
            assert puzzle.asked.flatten(1).any(1).all()  # something is left to tell
    clean = draw_clean(8, (5, 2, 3), seeded(0), Cosine(), 1.0, {"frames": 1.0}, tails=tails)
    assert clean[tails].all() and not clean[before].any() and not clean.flatten(1).all(1).any()
    nothing_else = draw_puzzle(tokens, 125, seeded(0), Cosine(), tails=torch.ones(8, 5, dtype=torch.bool))
    assert nothing_else.asked.flatten(1).any(1).all()  # a piece that is but a tail is made as any other
