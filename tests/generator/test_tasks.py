"""Tasks: what each of them knows, keeps and makes, on tiny models."""

from itertools import pairwise

import pytest
import torch
from conftest import CLIP

from generator import editing, jobs, tasks
from generator.pipeline import VideoGenerator, reach

K = 125
GRID = (4, 2, 3)


@pytest.fixture
def model(tokenizer, generator):
    return VideoGenerator(tokenizer, generator, CLIP)


def clip(frames=9, seed=0, height=16, width=24):
    return torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tokens_of(model, task, inputs=(), texts=("a",), seeds=(0,), prompts=None, **given):
    job = model.job(task, list(texts) if prompts is None else prompts, inputs, **given)
    return model.make(job, list(texts), list(seeds), steps=2, revisions=2)


def seen_by(model):
    """Grids and whether they are middle pieces, of every call of the network from here on."""
    calls, cells = [], model.generator.cells

    def spy(tokens, where, text, middle=False, *told):
        calls.append((tuple(tokens.shape[1:]), middle))
        return cells(tokens, where, text, middle, *told)

    model.generator.cells = spy
    return calls


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize(("length", "size"), [(9, 3), (10, 4), (3, 3), (2, 5), (7, 1), (7, 2), (16, 5), (6, None)])
def test_windows_cover_everything_and_overlap_by_half(length, size, middle):
    for backwards in (False, True):
        spans = tasks.windows(length, size, backwards, middle)
        assert {i for span in spans for i in range(*span)} == set(range(length))
        if size is None or length <= (max(3, size - 1) if middle else size):
            assert spans == [(0, length)]
            continue
        inner = size - 1 if size > 2 else size  # as many latent frames as a training clip has without its first one
        assert {stop - start for start, stop in spans} <= {inner, inner if middle else size}
        forward = sorted(spans)
        assert spans == (forward[::-1] if backwards else forward)
        assert all(before[1] - after[0] >= inner // 2 for before, after in pairwise(forward))


@pytest.mark.parametrize(("frames", "grid"), [(65, 17), (9, 3)])
def test_extend_keeps_integers_at_a_constant_window(model, frames, grid):
    given = clip(5)
    calls = seen_by(model)
    made = tokens_of(model, "extend", [given], frames=frames)
    assert made.shape == (1, grid, 2, 3) and torch.equal(made[:, :2], model.encode(given[None]))
    assert made.max() < K and {shape for shape, _ in calls} == ({(3, 2, 3), (2, 2, 3)} if frames > 9 else {(3, 2, 3)})
    assert calls[0][1] is False and calls[-1][1] is (frames > 9)  # later windows are pieces from the middle
    reconstruction = model.decode(model.encode(given[None]))
    torch.testing.assert_close(model.decode(made)[:, :, :5], reconstruction, rtol=0, atol=1e-5)


def test_windows_after_the_first_know_the_integers_of_the_one_before(model):
    short = tokens_of(model, "extend", [clip(5)], frames=17)
    long = tokens_of(model, "extend", [clip(5)], frames=33)
    assert torch.equal(short, long[:, :5])


@pytest.mark.parametrize("frames", [13, 41])
def test_extend_back_ends_with_a_piece_of_the_middle(model, frames):
    given = clip(9)
    calls = seen_by(model)
    made = tokens_of(model, "extend-back", [given], frames=frames)
    assert torch.equal(made[:, -2:], model.encode(given[None])[:, 1:]) and made.max() < K
    assert model.decode(made).shape[2] == frames
    assert {shape for shape, _ in calls} == {(2, 2, 3), (3, 2, 3)} and calls[-1][1] is False  # the beginning comes last


def test_a_still_in_the_middle_is_several_copies_of_it(model):
    still = clip(1)
    middle = model.encode_middle(still[None])
    assert middle.shape == (1, 1, 2, 3)
    assert torch.equal(middle, model.encode(still[None].expand(-1, -1, 9, -1, -1))[:, 1:2])


def test_a_ring_is_decoded_without_a_beginning(model):
    ring = torch.randint(K, (1, 5, 2, 3), generator=torch.Generator().manual_seed(0))
    video = model.decode(ring, ring=True)
    assert video.shape == (1, 3, 20, 16, 24)
    turned = model.decode(ring.roll(2, dims=1), ring=True)
    torch.testing.assert_close(turned, video.roll(8, dims=2), rtol=0, atol=1e-5)
    assert (turned - model.decode(ring.roll(2, dims=1)).repeat(1, 1, 2, 1, 1)[:, :, :20]).abs().max() > 1e-3


def test_long_videos_are_decoded_in_pieces_and_short_ones_at_once(model):
    tokens = torch.randint(K, (1, 21, 2, 3), generator=torch.Generator().manual_seed(0))
    assert [piece.shape[1] for piece in model.pieces(tokens[0], size=8)] == [29, 32, 20]
    torch.testing.assert_close(model.decode(tokens), model.tokenizer.decode(tokens), rtol=0, atol=1e-5)
    assert torch.equal(model.decode(tokens[:, :5]), model.tokenizer.decode(tokens[:, :5]))


def test_nothing_beyond_the_reach_of_the_decoder_matters(model):
    n = reach(model.tokenizer)
    tokens = torch.randint(K, (1, n + 4, 2, 3), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, :2] = (other[:, :2] + 1) % K
    a, b = model.decode(tokens), model.decode(other)
    assert not torch.equal(a, b)
    torch.testing.assert_close(a[:, :, -4:], b[:, :, -4:], rtol=0, atol=1e-6)


def test_loop_makes_its_seam_anew_and_keeps_the_rest(model):
    ring = torch.arange(7 * 6).view(1, 7, 2, 3)
    canvas = tasks.seam(ring, 4, K)
    assert canvas.middle and canvas.known.flatten(2).all(2)[0].tolist() == [True, False, False, True, True, True, True]
    assert torch.equal(canvas.tokens[:, 0], ring[:, 5]) and torch.equal(canvas.tokens[:, 3], ring[:, 1])
    video = model("a", task="loop", frames=24, steps=2)
    assert video.shape == (1, 3, 24, 16, 24)
    calls = seen_by(model)
    tokens_of(model, "loop", frames=24)
    assert {middle for _, middle in calls} == {True}


@pytest.mark.parametrize(("first", "last"), [(1, 1), (5, 9), (1, 5)])
def test_interpolate_keeps_both_ends(model, first, last):
    a, b = clip(first, 1), clip(last, 2)
    made = tokens_of(model, "interpolate", [a, b], frames=21)
    start, end = model.encode(a[None]), model.encode_middle(b[None])
    assert torch.equal(made[:, : start.shape[1]], start) and torch.equal(made[:, -end.shape[1] :], end)
    assert made.shape[1] == 6 and made.max() < K


def test_connect_goes_from_one_to_the_other():
    a, b = torch.zeros(1, 9, 16, 16, dtype=torch.long), torch.ones(1, 8, 16, 16, dtype=torch.long)
    canvas = tasks.connect(a, b, (12, 16, 16), K)
    assert (canvas.tokens[:, :4] == 0).all() and (canvas.tokens[:, 9:] == 1).all()
    shares = [((canvas.tokens[0, 4:9] == value) & canvas.known[0, 4:9]).float().mean((1, 2)) for value in (0, 1)]
    assert (shares[0].diff() < 0).all() and (shares[1].diff() > 0).all()
    assert canvas.known.shape == canvas.tokens.shape == (1, 12, 16, 16)
    columns = torch.where(canvas.known, canvas.tokens, 0.5)[0, 4:9].diff(dim=2)
    assert (columns >= 0).all()  # a's, then what reconciles the two, then b's
    assert not canvas.known[0, 4:9].all() and canvas.known[0, :4].all() and canvas.known[0, 9:].all()
    apart = tasks.connect(a[:, :3], b[:, :3], (12, 16, 16), K)
    assert apart.known[0].flatten(1).all(1).tolist() == [True] * 3 + [False] * 6 + [True] * 3
    with pytest.raises(ValueError, match=r"cannot be connected in 8: .* ask for 10 to 16 of them"):
        tasks.connect(a, b, (8, 16, 16), K)


def test_connect_of_two_clips_overlaps_by_half_of_the_shorter(model):
    a, b = clip(9, 1), clip(9, 2)
    made = tokens_of(model, "connect", [a, b])
    assert made.shape[1] == 4 and made.max() < K  # 3 + 2 - 1
    assert torch.equal(made[:, :2], model.encode(a[None])[:, :2])
    assert torch.equal(made[:, -1:], model.encode_middle(b[None])[:, -1:])


def test_a_model_that_has_seen_transitions_makes_one_where_both_clips_last(model):
    a, b = torch.zeros(1, 9, 16, 16, dtype=torch.long), torch.ones(1, 8, 16, 16, dtype=torch.long)
    apart = a[:, :3], b[:, :3], [0] * 3 + [None] * 6 + [1] * 3
    for one, other, known in ((a, b, [0] * 4 + [None] * 5 + [1] * 3), apart):
        canvas = tasks.connect(one, other, (12, 16, 16), K, wipe=False)
        for frame, value in enumerate(known):
            assert (canvas.tokens[0, frame] == (K if value is None else value)).all()
            assert canvas.known[0, frame].all() if value is not None else not canvas.known[0, frame].any()
    filled, fill = [], model.fill
    model.fill = lambda canvas, *told, **named: filled.append(canvas) or fill(canvas, *told, **named)
    for trained in (("ends",), ("ends", "transitions")):
        model.generator.trained_for = trained
        tokens_of(model, "connect", [clip(9, 1), clip(9, 2)], frames=13)
    assert [canvas.known[0].flatten(1).any(1).all().item() for canvas in filled] == [True, False]


@pytest.mark.parametrize(("frames", "window"), [(33, 9), (33, 17), (33, 33), (45, 9), (29, 17)])
def test_a_transition_is_made_with_something_of_both_clips_in_sight(model, frames, window):
    """And nothing else changes, a sample or several."""
    model.generator.trained_for, a, b = ("ends", "transitions"), clip(25, 1), clip(25, 2)
    filled, fill = [], model.fill
    model.fill = lambda canvas, *told, **named: filled.append(canvas) or fill(canvas, *told, **named)
    for seeds in ((0,), (0, 1)):
        job = {"texts": ["a"] * len(seeds), "seeds": seeds, "prompts": ["a"]}
        made = tokens_of(model, "connect", [a, b], frames=frames, window=window, **job)
        start, end = model.encode(a[None]), model.encode_middle(b[None])
        first, last = made.shape[1] - end.shape[1], start.shape[1]
        first, last = min(first, last), max(first, last)
        assert torch.equal(made[:1, :first], start[:, :first]) and torch.equal(
            made[:1, last:], end[:, last - made.shape[1] :]
        )
        assert len(made) == len(seeds) and made.max() < K
        (canvas,) = filled[len(seeds) - 1 :]
        open_frames = (~canvas.known[0]).flatten(1).any(1)
        assert canvas.known[0, 0].all() and canvas.known[0, -1].all() and open_frames.sum() == last - first
        assert canvas.tokens.shape[1] == min(made.shape[1], max((window - 1) // 4 + 1, last - first + 2))


def moving_mask():
    mask = torch.zeros(9, 16, 24, dtype=torch.bool)
    for i in range(9):
        mask[i, :8, 2 * i : 2 * i + 4] = True
    return mask


@pytest.mark.parametrize("mask", [moving_mask(), moving_mask()[:1]])
def test_no_known_token_carries_pixels_under_the_mask(model, mask):
    given, wide = clip(9), mask.expand(9, 16, 24)
    other = torch.where(wide, clip(9, seed=1), given)
    made = [tokens_of(model, "inpaint", [x], mask=mask) for x in (given, other)]
    assert torch.equal(*made)  # the encoder sees 3x3 neighbours and the past, but never what is masked
    region = tasks.cells(wide, 4, 8)
    painted = model.encode(editing.paint_over(given, wide)[None])
    assert torch.equal(made[0][0][~region], painted[0][~region]) and region.any() and not region.all()
    if mask.shape[0] > 1:
        assert region[:, 0].tolist() == [[True, False, False], [True, True, False], [False, True, True]]


def test_painting_over_changes_nothing_else_and_spreads_what_is_near():
    given, mask = clip(2), torch.zeros(2, 16, 24, dtype=torch.bool)
    mask[0, 4:10, 4:10], mask[1] = True, True
    painted = editing.paint_over(given, mask)
    assert torch.equal(painted[:, ~mask], given[:, ~mask]) and (painted[:, 1] == 0).all()
    flat = editing.paint_over(torch.full_like(given, 0.5), mask)
    torch.testing.assert_close(flat[:, 0], torch.full_like(flat[:, 0], 0.5))


def test_the_first_frames_know_nothing_of_later_ones(model):
    given, other = clip(9), clip(9)
    other[:, 5:] = clip(4, seed=1)
    assert torch.equal(model.encode(given[None])[:, :2], model.encode(other[None])[:, :2])


def test_outpaint_puts_the_clip_in_the_middle(model):
    given = clip(9)
    made = tokens_of(model, "outpaint", [given], height=32, width=40)
    assert made.shape == (1, 3, 4, 5) and torch.equal(made[:, :, 1:3, 1:4], model.encode(given[None]))
    with pytest.raises(ValueError, match="has no border in"):
        tokens_of(model, "outpaint", [given])


@pytest.mark.parametrize("forget", jobs.FORGET)
def test_edit_forgets_its_share(model, forget):
    given = clip(9)
    before = model.encode(given[None])
    for strength, least in ((0.0, 1.0), (0.5, 0.5)):
        made = tokens_of(model, "edit", [given], strength=strength, forget=forget)
        kept = (made == before).float().mean().item()
        assert kept >= least and (kept == 1 or strength)
    scores = torch.arange(18).view(1, 3, 2, 3)
    assert (~tasks.edit(before, 0.5, K, scores).known).flatten().nonzero().flatten().tolist() == list(range(9))


def test_an_empty_prompt_is_no_text_to_the_likelihood_either(model):
    tokens = model.encode(clip(9)[None])
    with torch.no_grad():
        model.generator.null_text.normal_()
        empty = model.likelihood(tokens, "")
        model.generator.null_text.zero_()
        assert not torch.equal(empty, model.likelihood(tokens, ""))


def test_what_goes_on_is_as_large_as_what_it_goes_on_from(model):
    assert tokens_of(model, "extend", [clip(9, height=24, width=32)]).shape == (1, 5, 3, 4)
    with pytest.raises(ValueError, match=r"cannot be the beginning of .* give it the size of the output"):
        tokens_of(model, "extend", [clip(9, height=24, width=32)], height=16, width=24)


def test_likelihood_tells_tokens_that_fit_from_those_that_do_not(model):
    class Dummy(torch.nn.Module):
        digits, mask_id, codebook_size, patch_size = (5, 25), K, K, 1

        def read(self, texts, drop=None):
            return None

        def forward(self, tokens, where, text, middle=False, fps=None):
            assert (tokens[where] == K).all() and 0 < where.sum() < where.numel()
            likely = torch.eye(25)[7].expand(int(where.sum()), -1) * 10
            return [lambda before: torch.zeros(len(before), 5), lambda before: likely * (before[:, :1] == 3)]

    model.generator = Dummy()
    tokens = torch.randint(K, (1, *GRID), generator=torch.Generator().manual_seed(0))
    tokens[0, 0, 0, 0] = 7 * 5 + 3
    scores = model.likelihood(tokens, "a")
    assert scores.argmax() == 0 and scores[0, 0, 0, 0] == pytest.approx(-torch.log(torch.tensor(5.0)).item(), abs=0.01)


def test_a_story_is_told_prompt_by_prompt_at_a_constant_window(model):
    calls, told, read = seen_by(model), [], model.generator.read
    model.generator.read = lambda texts, *more, **named: told.append(texts[0]) or read(texts, *more, **named)
    made = tokens_of(model, "story", prompts=["a", "b", "c"], texts=("",), frames=33)
    assert made.shape[1] == 9 and made.max() < K
    assert list(dict.fromkeys(told)) == ["a", "b", "c"] and {shape for shape, _ in calls} == {(2, 2, 3), (3, 2, 3)}
    begins = tokens_of(model, "story", prompts=["a", "b", "x"], texts=("",), frames=33)
    assert torch.equal(begins[:, :6], made[:, :6])
    model.generator.trained_for = ("text", "prefix", "transitions")
    for frames, window, seen in (
        (33, 9, ["a", "a, then b", "b", "b, then c", "c"]),
        (33, 33, ["a", "a, then b", "b, then c"]),
        (49, 17, ["a", "a, then b", "b", "b, then c", "c"]),
    ):
        told.clear(), calls.clear()
        made = tokens_of(model, "story", prompts=["a", "b", "c"], texts=("",), frames=frames, window=window)
        assert [text for text in dict.fromkeys(told) if text] == seen and made.max() < K
        assert max(shape[0] for shape, _ in calls) <= (window - 1) // 4 + 1
    assert model(["a", "b"], task="story", num=2, steps=2).shape == (2, 3, 17, 16, 24)


def test_a_loop_closes_with_a_transition(model):
    told, read = [], model.generator.read
    model.generator.read = lambda texts, *more, **named: told.append(texts[0]) or read(texts, *more, **named)
    for trained, seen in ((), ["a"]), (("transitions",), ["a", "a, then a"]):
        told.clear()
        model.generator.trained_for = ("text", "ends", "middle", *trained)
        tokens_of(model, "loop", prompts=["a"], frames=12)
        assert [text for text in dict.fromkeys(told) if text] == seen


def test_a_transition_between_clips_is_guided_more(model):
    scales, fill = [], model.fill
    model.fill = lambda *given, **named: scales.append(named["guidance"]) or fill(*given, **named)
    plain, trained = ("text", "ends"), ("text", "ends", "transitions")
    for model.generator.trained_for, asked, scale in (
        (plain, {}, 2.0),
        (trained, {}, 7.0),
        (trained, {"guidance": 3.0}, 3.0),
    ):
        scales.clear()
        model("a, then b", task="connect", inputs=[clip(9), clip(9)], steps=2, **asked)
        assert scales == [scale]
    model.generator.backbone.most_guidance = 4.0
    assert model.sampling(editing.TASKS["connect"]) == {"steps": 16, "revisions": 12, "guidance": 4.0}
    assert model.sampling(editing.TASKS["extend"]) == {"guidance": 2.0}
    assert model.sampling(editing.TASKS["upscale"]) == {"steps": 8, "guidance": 1.0, "temperature": 0.0, "remask": 0.0}


EVERY = {
    "text2video": {},
    "text2image": {},
    "image2video": {"inputs": [clip(1)]},
    "extend": {"inputs": [clip(5)], "frames": 21},
    "extend-back": {"inputs": [clip(5)], "frames": 21},
    "loop": {"frames": 20},
    "interpolate": {"inputs": [clip(1), clip(5, 1)]},
    "connect": {"inputs": [clip(9), clip(9, 1)]},
    "inpaint": {"inputs": [clip(9)], "mask": moving_mask()},
    "outpaint": {"inputs": [clip(9)], "height": 32, "width": 24},
    "edit": {"inputs": [clip(9)]},
    "story": {"prompts": ["a", "b"]},
    "upscale": {"inputs": [clip(9, height=8, width=12)]},
}


@pytest.mark.parametrize("task", EVERY)
def test_seeds_belong_to_the_sample_in_every_task(tokenizer, generator, upscaler, task):
    model = VideoGenerator(tokenizer, upscaler if task == "upscale" else generator, CLIP)
    together = tokens_of(model, task, texts="abc", seeds=(3, 4, 5), **EVERY[task])
    alone = tokens_of(model, task, texts="b", seeds=(4,), **EVERY[task])
    assert torch.equal(together[1:2], alone)


def test_edit_in_windows_is_batch_invariant_too(model):
    given = {"inputs": [clip(9)], "forget": "random", "window": 5}
    together = tokens_of(model, "edit", texts="abc", seeds=(3, 4, 5), **given)
    assert torch.equal(together[1:2], tokens_of(model, "edit", texts="b", seeds=(4,), **given))


def test_every_task_is_tried_here_and_tells_what_it_needs(model):
    assert set(EVERY) == set(editing.TASKS)
    job = model.job("extend", ["a"], [clip(5)], frames=33)
    assert job.needs == ("prefix", "middle") and model.job("extend", ["a"], [clip(5)]).needs == ("prefix",)
    model.generator.trained_for = ("text", "prefix")
    assert model.untrained(job) == ["middle"] and model.untrained(model.job("text2video", ["a"])) == []


def test_what_is_made_in_place_is_as_long_as_its_input(model):
    given, mask = clip(18), moving_mask().repeat(2, 1, 1)  # 18 frames, of which 17 are whole latent frames
    with pytest.warns(UserWarning, match="of 18 frames the first 17 are used"):
        assert tokens_of(model, "edit", [given]).shape[1] == 5
    with pytest.warns(UserWarning, match="of 18 frames the first 17 are used"):
        long = tokens_of(model, "inpaint", [given], mask=mask)
    short = tokens_of(model, "inpaint", [given], mask=mask, frames=9)
    assert long.shape[1] == 5 and short.shape[1] == 3


@pytest.mark.parametrize(
    ("task", "given", "words"),
    [
        ("loop", {"frames": 17}, "a loop of 17 frames does not fit 4x compression: use 16 or 20"),
        ("loop", {"frames": 8}, "use 12"),
        ("extend", {"inputs": [clip(9)], "frames": 9}, "of 9 frames with this --input: use 13 or more"),
        ("extend-back", {"inputs": [clip(13)], "frames": 13, "window": 10}, "10 frames do not fit"),
        ("extend", {"inputs": [clip(9)], "frames": 5}, "nothing to make of 5 frames with this --input: use 13 or more"),
        ("connect", {"inputs": [clip(9), clip(9)], "frames": 17}, "in 17: use 13 or more, but not 17, where they only"),
        (
            "interpolate",
            {"inputs": [clip(9), clip(9)], "frames": 13},
            "of 13 frames with this --input: use 21 or more",
        ),
        ("interpolate", {"inputs": [clip(9)]}, "interpolate needs two --input, got 1"),
        ("story", {"prompts": ["a", "b", "c"], "frames": 5}, "too few for a story of 3 prompts: use 9 or more"),
        ("story", {"prompts": ["a"]}, "story needs several --prompt"),
        ("edit", {"inputs": [clip(9)], "forget": "some"}, "--forget is 'some', expected unlikely or random"),
        ("edit", {"inputs": [clip(9)], "mask": moving_mask()}, "edit takes no --mask"),
        ("edit", {"inputs": [clip(9)], "frames": 13}, "edit makes 9 frames of an --input of 9, not 13: use 9 or fewer"),
        ("edit", {"inputs": [clip(9)], "height": 32}, "edit keeps the size of its --input, 16x24"),
        ("inpaint", {"inputs": [clip(9)], "mask": moving_mask()[:5]}, "the mask is 5x16x24, expected 1 or 9 frames"),
        ("extend", {"inputs": [clip(9)], "forget": "random"}, "extend forgets no tokens: leave out --strength"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(model, task, given, words):
    with pytest.raises(ValueError, match=words) as caught:
        tokens_of(model, task, **given)
    assert "\n" not in str(caught.value)
