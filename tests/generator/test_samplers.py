from itertools import pairwise

import pytest
import torch

from generator import tasks
from generator.draws import Draws
from generator.orders import ORDERS, Cells, Confidence, Entropy, Margin, Threshold, halton_ranks
from generator.samplers import _pick, _unlikely, sample, third
from generator.schedules import Arccos, Cosine, Exponential, Linear

GRID, K = (3, 4, 5), 20
OPTIONS = [
    {},
    {"lean": False},
    {"remask": 0.3},
    {"remask": 0.3, "lean": False},
    {"top_k": 15, "top_p": 0.95, "temperature": (2.0, 1.0)},
]


def oracle(truth):
    """Predicts the true tokens with certainty, and checks that only masked cells are asked for."""

    def predict(tokens, where, progress):
        assert (tokens[where] == K).all() and 0 <= progress <= 1
        return [lambda before: torch.nn.functional.one_hot(truth[where], K) * 1000.0]

    return predict


def noisy(tokens, where, progress):
    """Logits that depend on a cell's own surroundings only, so that samples of a batch cannot influence each other."""
    torch.manual_seed(0)
    table = torch.randn(K + 1, K)
    around = torch.roll(tokens, 1, dims=3)
    return [lambda before: table[around[where]]]


def empty(b):
    return tasks.text2video(GRID, K).repeat(b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 7, 60, 100])
@pytest.mark.parametrize("options", OPTIONS)
def test_an_oracle_is_a_fixed_point_and_no_mask_is_left(order, steps, options):
    truth = torch.randint(K, (2, *GRID))
    filled = sample(oracle(truth), empty(2), [0, 1], ORDERS[order](), steps, revisions=3, **options)
    assert torch.equal(filled, truth)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lean", [False, True])
def test_every_position_is_committed_exactly_once(order, lean):
    seen = []

    def predict(tokens, where, progress):
        seen.append(tokens.clone())
        return noisy(tokens, where, progress)

    seen.append(sample(predict, empty(2), [0, 1], ORDERS[order](), steps=8, lean=lean))
    assert len(seen) == 9 or order == "threshold"
    for before, after in pairwise(seen):
        committed = before != K
        assert torch.equal(before[committed], after[committed])  # never changed again
        assert ((after != K) & (before == K)).flatten(1).sum(1).max() > 0  # always some progress
    assert (seen[-1] != K).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_known_tokens_come_back_untouched(order, options):
    clip = torch.randint(K, (1, *GRID))
    region = torch.zeros(GRID[1:], dtype=torch.bool)
    region[1:3, 1:4] = True
    canvas = tasks.inpaint(clip, region, K)

    def predict(tokens, where, progress):
        assert torch.equal(tokens[canvas3.known], canvas3.tokens[canvas3.known]) and not (where & canvas3.known).any()
        return noisy(tokens, where, progress)

    canvas3 = canvas.repeat(3)
    filled = sample(predict, canvas3, [0, 1, 2], ORDERS[order](), steps=5, revisions=4, **options)
    assert torch.equal(filled[canvas3.known], canvas3.tokens[canvas3.known])
    assert (filled < K).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_seed_belongs_to_the_sample(order, options):
    def run(seeds):
        return sample(noisy, empty(len(seeds)), seeds, ORDERS[order](), steps=6, revisions=3, **options)

    alone, together = run([7]), run([3, 7, 5])
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together, run([3, 7, 5]))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_samples_of_one_batch_may_know_different_amounts(order, options):
    truth = torch.randint(K, (3, *GRID), generator=torch.Generator().manual_seed(0))
    known = torch.arange(60).view(GRID) < torch.tensor([40, 1, 58]).view(3, 1, 1, 1)
    canvas = tasks.Canvas(truth, known, K)
    assert torch.equal(sample(oracle(truth), canvas, [0, 1, 2], ORDERS[order](), 4, revisions=2, **options), truth)
    together = sample(noisy, canvas, [0, 1, 2], ORDERS[order](), 9, revisions=2, **options)
    for i in range(3):  # one is done before the other, and does not wait
        alone = sample(noisy, canvas[i : i + 1], [i], ORDERS[order](), 9, revisions=2, **options)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("order", ORDERS)
def test_remasking_forgets_some_and_takes_no_more_steps(order):
    seen = []

    def predict(tokens, where, progress):
        seen.append(tokens)
        return noisy(tokens, where, progress)

    filled = sample(predict, empty(2), [0, 1], ORDERS[order](), steps=8, remask=0.25)
    assert len(seen) <= 8 and (filled < K).all()
    changed = [(before != K) & (before != after) for before, after in pairwise([*seen, filled])]
    assert sum(c.flatten(1).sum(1) for c in changed).min() > 0
    done = [(tokens != K).sum().item() for tokens in seen]
    assert done[0] == 0 and (order == "threshold" or done == sorted(done))


@pytest.mark.parametrize("known", [0, 7, 59])
def test_revisions_make_every_cell_anew_told_all_the_others(known):
    truth, asked = torch.randint(K, (2, *GRID)), []
    canvas = tasks.Canvas(truth, (torch.arange(60) < known).view(GRID).expand(2, *GRID), K)

    def predict(tokens, where, progress):
        asked.append(where)
        return oracle(truth)(tokens, where, progress)

    sample(predict, canvas, [0, 1], ORDERS["halton"](), steps=1)
    assert len(asked) == 1
    sample(predict, canvas, [0, 1], ORDERS["halton"](), steps=1, revisions=6)
    visits = torch.stack(asked[2:]).sum(0)
    assert (visits[~canvas.known] == 2).all() and (visits[canvas.known] == 0).all()


@pytest.mark.parametrize("grid", [(3, 4, 4), (7, 2, 2), (2, 3, 3), (1, 4, 5), (1, 1, 1)])
def test_three_turns_cover_the_grid_once_and_leave_neighbours_to_be_told(grid):
    turns = torch.stack([third(grid, turn) for turn in range(3)])
    assert (turns.sum(0) == 1).all() and torch.equal(turns[0], third(grid, 3))
    for turn in turns:
        pairs = turn[1:] & turn[:-1] if grid[0] > 1 else turn[:, :, 1:] & turn[:, :, :-1]
        assert not pairs.any()


def test_revisions_mend_what_early_steps_got_wrong():
    """Frames that must be equal, and all of them drawn at once: most cells change over time until revised."""

    def predict(tokens, where, progress):
        counts = torch.nn.functional.one_hot(tokens.clamp_max(K - 1), K).float() * (tokens < K)[..., None]
        return [lambda before: (2 * counts.sum(1, keepdim=True).expand(*tokens.shape, K))[where]]

    def agreeing(revisions):
        tokens = sample(predict, empty(20), range(20), ORDERS["halton"](), steps=1, revisions=revisions)
        return (tokens == tokens.mode(1, keepdim=True).values).float().mean()

    assert agreeing(10) > agreeing(0) + 0.3


def test_a_canvas_without_unknowns_needs_no_network():
    clip = torch.randint(K, (1, *GRID))
    canvas = tasks.Canvas(clip, torch.ones_like(clip, dtype=torch.bool), K)
    assert torch.equal(sample(None, canvas, [0], ORDERS["halton"](), steps=4, revisions=2), clip)


def test_temperature_zero_is_greedy_and_one_follows_the_distribution():
    def predict(tokens, where, progress):
        return [lambda before: torch.tensor([0.7, 0.3]).log().expand(int(where.sum()), 2)]

    canvas = tasks.text2video((1, 50, 40), 2)
    assert (sample(predict, canvas, [0], ORDERS["random"](), steps=2, temperature=0) == 0).all()
    assert (sample(predict, canvas, [0], ORDERS["random"](), steps=2, temperature=1e-40, top_p=0.9) == 0).all()
    share = sample(predict, canvas, [0], ORDERS["random"](), steps=2).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.04)  # four standard deviations


@pytest.mark.parametrize("k", [2, 7, 1000])
def test_values_are_picked_by_their_odds(k):
    """Of values that are ruled out none is, not even at the edges; the others come as often as they should."""
    odds = torch.rand(1, k).masked_fill(torch.arange(k) % 3 == 1, 0)
    odds = odds / odds.sum()
    shares = torch.arange(1, 2**16) / 2**16
    counts = _pick(odds.expand(len(shares), -1), shares).flatten().bincount(minlength=k)
    assert (counts[odds[0] == 0] == 0).all() and len(counts) == k
    assert (counts / len(shares) - odds[0]).abs().max() < 2 / 2**15
    edges = torch.tensor([2.0**-24, 1 - 2.0**-24])
    assert (_pick(odds.expand(2, -1), edges).flatten() == torch.tensor([0, odds[0].nonzero().max()])).all()


def test_remasking_forgets_the_unlikely_rather_than_others():
    committed = torch.rand(2, 2, 50, 40) < 0.9
    likely = torch.randint(2, committed.shape).float()  # forgotten with odds of 1 to e
    count = torch.tensor([350, 361])
    forgotten = _unlikely(likely, committed, count, Draws(range(2)))
    assert not (forgotten & ~committed).any() and forgotten.flatten(1).sum(1).equal(count)
    assert likely[forgotten].mean().item() == pytest.approx(1 / (1 + torch.e), abs=0.07)  # four standard deviations


@pytest.mark.parametrize(("threshold", "calls"), [(0.0, 1), (0.99, 2), (1.0, 20)])
def test_a_threshold_takes_as_many_calls_as_it_must(threshold, calls):
    """The upper half of the grid is certain and the lower half a coin's throw, certain once the upper is known."""
    asked = []

    def predict(tokens, where, progress):
        asked.append(where)
        sure = (tokens[:, :, :2] != 2).flatten(1).all(1)[:, None, None, None] | (torch.arange(4) < 2)[:, None]
        bias = torch.where(sure.expand_as(tokens), 50.0, 0.0)[where]
        return [lambda before: torch.stack([bias, torch.zeros_like(bias)], dim=1)]

    canvas = tasks.text2video((1, 4, 5), 2)
    filled = sample(predict, canvas, [0], Threshold(threshold, temperature=0), steps=20, schedule=Linear())
    assert len(asked) == calls and (filled[:, :, :2] == 0).all()


def test_a_threshold_of_one_is_confidence():
    assert torch.equal(
        sample(noisy, empty(2), [3, 4], Threshold(1.0), steps=7),
        sample(noisy, empty(2), [3, 4], Confidence(), steps=7),
    )


def test_margin_and_entropy_of_several_digits():
    """Two independent digits: the margin to the second best token, and the entropy of all, computed over all tokens."""
    told = []

    class Spy(Confidence):
        def scores(self, cells):
            told.append(cells)
            return super().scores(cells)

    torch.manual_seed(0)
    first, second = torch.randn(6, 4), torch.randn(6, 5)
    canvas = tasks.text2video((1, 2, 3), 20)
    drawn = sample(lambda *_: [lambda before: first, lambda before: second], canvas, [0], Spy(), steps=1)
    joint = (first.log_softmax(1)[:, None] + second.log_softmax(1)[:, :, None]).flatten(1)  # least significant first
    best = joint.topk(2).values
    (cells,) = told
    torch.testing.assert_close(cells.margin[0], best[:, 0] - best[:, 1])
    torch.testing.assert_close(cells.entropy[0], -(joint.exp() * joint).sum(1))
    torch.testing.assert_close(cells.confidence[0], joint.gather(1, drawn.flatten()[:, None])[:, 0])
    for order, values in ((Margin(0), cells.margin), (Entropy(0), -cells.entropy), (Confidence(0), cells.confidence)):
        assert torch.equal(order.scores(cells), values)
    assert isinstance(cells, Cells)


@pytest.mark.parametrize("order", ORDERS)
def test_the_likeliest_alone_is_greedy(order):
    greedy = sample(noisy, empty(2), [0, 1], Confidence(0), steps=1, temperature=0)
    assert torch.equal(sample(noisy, empty(2), [2, 3], ORDERS[order](), steps=1, top_k=1), greedy)
    assert torch.equal(sample(noisy, empty(2), [2, 3], ORDERS[order](), steps=1, top_p=0.0), greedy)
    everything = sample(noisy, empty(2), [2, 3], ORDERS[order](), steps=5)
    assert torch.equal(sample(noisy, empty(2), [2, 3], ORDERS[order](), steps=5, top_k=K, top_p=1.0), everything)


def test_top_k_and_top_p_draw_from_the_likeliest_in_proportion():
    def predict(tokens, where, progress):
        return [lambda before: torch.tensor([0.1, 0.5, 0.3, 0.1]).log().expand(int(where.sum()), 4)]

    canvas = tasks.text2video((1, 50, 40), 4)
    for options in ({"top_k": 2}, {"top_p": 0.6}, {"top_p": 0.79}):
        drawn = sample(predict, canvas, [0], ORDERS["halton"](), steps=1, **options)
        assert set(drawn.unique().tolist()) == {1, 2}
        assert (drawn == 1).float().mean().item() == pytest.approx(0.625, abs=0.045)  # four standard deviations
    hot = sample(predict, canvas, [0], ORDERS["halton"](), steps=1, top_p=0.6, temperature=10.0)
    assert set(hot.unique().tolist()) != {1, 2}  # at that temperature two values are not 60% of all
    (cold,) = sample(predict, canvas, [0], ORDERS["halton"](), steps=1, top_p=0.6, temperature=0.1).unique()
    assert cold == 1


def test_a_ramp_of_temperatures_goes_from_the_first_step_to_the_last():
    shares = []

    def predict(tokens, where, progress):
        done = tokens[tokens < 2].float()
        shares.append((done.sum().item(), len(done)))
        return [lambda before: torch.tensor([0.9, 0.1]).log().expand(int(where.sum()), 2)]

    canvas = tasks.text2video((1, 90, 60), 2)
    filled = sample(predict, canvas, [0], ORDERS["halton"](), 3, Linear(), temperature=(3.0, 0.0))
    shares.append((filled.float().sum().item(), filled.numel()))
    drawn = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(shares)]
    expected = [1 / (1 + 9 ** (1 / t)) for t in (3.0, 1.5)] + [0]
    assert drawn == pytest.approx(expected, abs=0.045)
    same = sample(predict, canvas, [0], ORDERS["halton"](), 3, temperature=(0.7, 0.7), revisions=2)
    assert torch.equal(same, sample(predict, canvas, [0], ORDERS["halton"](), 3, temperature=0.7, revisions=2))


def test_lean_asks_only_for_what_is_committed():
    """Of a blind order, and in that very order; the distribution is the same."""

    def run(order, lean):
        asked = []

        def predict(tokens, where, progress):
            asked.append(int(where.sum()))
            return noisy(tokens, where, progress)

        sample(predict, empty(1), [0], ORDERS[order](), steps=6, lean=lean)
        return asked

    assert sum(run("halton", True)) == sum(run("random", True)) == 60
    assert sum(run("halton", False)) > 150 and run("confidence", True) == run("confidence", False)
    truth = torch.randint(K, (1, *GRID))
    steps = []
    sample(lambda t, w, p: steps.append(w) or oracle(truth)(t, w, p), empty(1), [0], ORDERS["halton"](), 6, lean=True)
    ranks = [halton_ranks(GRID)[where.flatten()] for where in steps]
    assert torch.equal(torch.cat([r.sort().values for r in ranks]), torch.arange(60))


@pytest.mark.parametrize("grid", [(1, 4, 4), (3, 4, 4), (5, 8, 8), (2, 3, 7)])
def test_halton_is_a_permutation_that_spreads_out(grid):
    ranks = halton_ranks(grid)
    assert sorted(ranks.tolist()) == list(range(len(ranks)))
    first = (ranks.view(grid) < len(ranks) // 4).float()
    halves = first[:, : grid[1] // 2].mean(), first[:, grid[1] - grid[1] // 2 :].mean()
    assert abs(halves[0] - halves[1]) < 0.35  # the first quarter is in both halves of the picture


@pytest.mark.parametrize("schedule", [Cosine(), Arccos(), Linear(), Exponential()])
def test_schedules_fall_from_one_to_zero(schedule):
    values = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert values[0] == pytest.approx(1) and values[-1] == pytest.approx(0, abs=1e-12)
    assert (values.diff() < 0).all()


def test_wrong_seeds_and_clips_are_refused():
    with pytest.raises(ValueError, match="got 1 seeds for 2 samples"):
        sample(noisy, empty(2), [0], ORDERS["halton"]())
    with pytest.raises(ValueError, match="cannot be the beginning"):
        tasks.extend(torch.zeros(1, *GRID, dtype=torch.long), GRID, K)
