"""Every metric on cases whose answer is known beforehand."""

import pytest
import torch

from bench.judge.accuracy import mark
from bench.judge.reading import Reading
from bench.metrics import bootstrap
from bench.metrics.colour import delta_e, lab, masked_mean
from bench.metrics.identity import identity_error
from bench.metrics.leak import background_distance, background_leaked
from bench.metrics.match import chance, matched
from bench.metrics.pattern import pattern_error
from bench.metrics.structure import mean_iou, part_overlap, silhouette_iou
from bench.metrics.text import facts_found
from bench.world.anatomy import REGION
from bench.world.raster import rasterise
from bench.world.render import body
from bench.world.scene import sample_pairs
from bench.world.truth import ATTRIBUTE, Fact, correspondence
from bench.world.words import BACKGROUND, COLOUR, KIND

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 64


def painted(*rgb):
    return torch.tensor(rgb).reshape(1, 3, 1, 1).expand(1, 3, SIZE, SIZE).clone()


def square(low=16, high=48):
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, low:high, low:high] = True
    return mask


def stripes(period, phase=0, along="x", one=(0.8, 0.15, 0.15), two=(0.95, 0.95, 0.95)):
    position = (torch.arange(SIZE) + phase) % period < period // 2
    grid = position.expand(SIZE, SIZE) if along == "x" else position[:, None].expand(SIZE, SIZE)
    return torch.where(grid, torch.tensor(one).reshape(1, 3, 1, 1), torch.tensor(two).reshape(1, 3, 1, 1))


def on_grey(texture, mask):
    return torch.where(mask[:, None], texture, painted(0.5, 0.5, 0.5))


def test_lab_has_the_textbook_values():
    white, black, red = (lab(painted(*rgb))[0, :, 0, 0] for rgb in ((1.0, 1, 1), (0.0, 0, 0), (1.0, 0, 0)))
    assert torch.allclose(white, torch.tensor([100.0, 0, 0]), atol=0.02)
    assert torch.allclose(black, torch.zeros(3), atol=1e-3)
    assert torch.allclose(red, torch.tensor([53.24, 80.09, 67.20]), atol=0.05)
    assert delta_e(lab(painted(1.0, 1, 1)), lab(painted(0.0, 0, 0))).mean() == pytest.approx(100, abs=0.02)


def test_a_masked_mean_of_nothing_is_nothing():
    assert masked_mean(torch.ones(2, 4, 4), torch.zeros(2, 4, 4)).tolist() == [0, 0]


def test_identity_is_the_colour_error_on_the_subject_alone():
    truth, subject = painted(1.0, 1, 1), square()
    grey = painted(0.2, 0.2, 0.2)
    expected = float(delta_e(lab(grey), lab(truth)).mean())
    assert identity_error(on_grey(truth, subject), truth, subject).item() == pytest.approx(0, abs=1e-3)
    assert identity_error(grey, truth, subject).item() == pytest.approx(expected, rel=1e-3)


def test_identity_forgives_a_small_displacement_and_nothing_else():
    subject = square()
    truth = on_grey(stripes(16), subject)
    error = {step: identity_error(truth.roll(step, 3), truth, subject).item() for step in (1, 2, 8)}
    assert error[1] < 0.5 and error[2] < 0.5
    assert error[8] > 40
    # A tenth of the pixels speckled, a stripe left out: no shift helps.
    speckled = torch.where(torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.1, 0.0, truth)
    plain = identity_error(speckled, truth, subject, slack=0).item()
    assert identity_error(speckled, truth, subject).item() > 0.9 * plain > 3
    flat = on_grey(painted(0.875, 0.55, 0.55), subject)
    assert identity_error(flat, truth, subject).item() > 0.9 * identity_error(flat, truth, subject, slack=0).item() > 15


def test_pattern_tells_exact_displaced_wrong_and_flat():
    subject = square(8, 56)
    region = subject.long()
    truth = on_grey(stripes(16), subject)

    def error(texture):
        return pattern_error(on_grey(texture, subject), truth, region).item()

    exact, displaced, across = error(stripes(16)), error(stripes(16, phase=8)), error(stripes(16, along="y"))
    assert exact < 0.02
    assert 0.4 < displaced < 0.6
    assert displaced < error(stripes(16, phase=2)) + 0.5
    assert across > 0.6
    assert across > error(stripes(16, phase=4)) > exact
    for colour in ((0.8, 0.15, 0.15), (0.95, 0.95, 0.95), (0.875, 0.55, 0.55)):
        assert error(painted(*colour)) == pytest.approx(1, abs=1e-3)


def test_pattern_sees_the_second_colour_and_the_period_but_not_the_part_s_mean():
    subject = square(8, 56)
    region = subject.long()
    truth = on_grey(stripes(16), subject)

    def error(texture):
        return pattern_error(on_grey(texture, subject), truth, region).item()

    assert error(stripes(16, two=(0.1, 0.7, 0.1))) > 0.1
    assert error(stripes(8)) > error(stripes(12)) > 0.1
    # As L*a*b* sees it, the same stripes darker: only the deviations count.
    paler = error(stripes(16, one=(0.72, 0.13, 0.13), two=(0.86, 0.86, 0.86)))
    assert paler < 0.1


def test_overlap_of_known_squares():
    a, b = square(0, 32), square(16, 48)
    assert silhouette_iou(a, a).item() == 1
    assert silhouette_iou(a, b).item() == pytest.approx(16 * 16 / (2 * 32 * 32 - 16 * 16))
    assert silhouette_iou(a, torch.zeros_like(a)).item() == 0
    assert silhouette_iou(torch.zeros_like(a), torch.zeros_like(a)).item() == 1


def test_mean_iou_is_pooled_over_pictures_and_skips_parts_that_never_occur():
    truth = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    found = torch.tensor([[[0, 0, 1, 0]], [[0, 0, 0, 0]]])
    both, either = part_overlap(found, truth, 3)
    assert mean_iou(both, either).item() == pytest.approx((6 / 7 + 1 / 2) / 2)
    assert mean_iou(both.expand(5, 2, 3), either.expand(5, 2, 3)).shape == (5,)


def reading_of(**answers):
    """One picture of which the judge is certain; unnamed attributes are their first word."""
    values = {name: torch.tensor([answers.get(name.replace(" ", "_"), 0)]) for name in ATTRIBUTE}
    shares = {name: torch.nn.functional.one_hot(value, len(ATTRIBUTE[name])).float() for name, value in values.items()}
    return Reading(torch.zeros(1, 4, 4, dtype=torch.long), values, shares)


def test_text_counts_the_named_facts_that_are_found():
    reading = reading_of(kind=KIND.index("dog"), coat_colour=COLOUR.index("brown"), background=BACKGROUND.index("snow"))
    facts = {"kind": "dog", "coat colour": "white", "background": "snow", "hair": "curly"}
    found, asked = facts_found(reading, [facts])
    assert (found.item(), asked.item()) == (2, 3)
    truth = {name: Fact(v, torch.tensor([name != "coat colour"]), v) for name, v in reading.attributes.items()}
    found, asked = facts_found(reading, [facts], truth)
    assert (found.item(), asked.item()) == (2, 2)


def test_text_finds_both_colours_of_stripes():
    reading = reading_of()
    share = torch.zeros(1, len(COLOUR))
    share[0, COLOUR.index("red")], share[0, COLOUR.index("white")] = 0.55, 0.45
    reading = Reading(reading.region, reading.attributes, reading.shares | {"top colour": share})
    found, asked = facts_found(reading, [{"top colour": "white"}])
    assert (found.item(), asked.item()) == (1, 1)
    assert facts_found(reading, [{"top colour": "green"}])[0].item() == 0


def test_marks_accept_either_of_two_right_answers():
    reading = reading_of(top_colour=3)
    nothing = torch.tensor([False])
    truth = {name: Fact(value, nothing, value) for name, value in reading.attributes.items()}
    truth["top colour"] = Fact(torch.tensor([5]), ~nothing, torch.tensor([3]))
    truth["pose"] = Fact(torch.tensor([1]), ~nothing, torch.tensor([1]))
    marks = mark(reading, truth, torch.zeros(1, 4, 4, dtype=torch.long))
    assert marks.right.sum() / marks.asked.sum() == 0.5
    assert marks.by_attribute()["top colour"] == 1
    assert mean_iou(marks.both, marks.either).item() == 1
    assert marks.both.shape == (1, len(REGION))


def test_leak_asks_only_where_reference_and_prompt_differ():
    read, wanted, reference = (torch.tensor(v) for v in ([1, 2, 3, 4], [1, 1, 3, 5], [2, 2, 3, 6]))
    leaked, asked = background_leaked(read, wanted, reference)
    assert leaked.tolist() == [False, True, False, False]
    assert asked.tolist() == [True, True, False, True]


def test_leak_distance_looks_beside_the_subject():
    image = torch.where(square()[:, None], painted(0.0, 0, 0), painted(1.0, 1, 1))
    assert background_distance(image, painted(1.0, 1, 1), square()).item() == pytest.approx(0, abs=1e-3)
    assert background_distance(image, painted(0.0, 0, 0), square()).item() == pytest.approx(100, abs=0.05)


def test_match_counts_tokens_within_one():
    point = torch.tensor([[[[0.5, 0.5], [2.5, 0.5]], [[0.5, 1.5], [3.5, 3.5]]]])
    point = torch.nn.functional.pad(point, (0, 0, 0, 2, 0, 2))
    visible = torch.zeros(1, 4, 4, dtype=torch.bool)
    visible[0, :2, :2] = True
    visible[0, 1, 0] = False
    index = torch.zeros(1, 16, dtype=torch.long)
    index[0, 1] = 3  # one column too far to the right of (2, 0)
    index[0, 5] = 5  # two too far from (3, 3)
    assert [n.item() for n in matched(index, point, visible)] == [2, 3]
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    # Within one token of a corner lie 4 of the 16 tokens, of an edge 6.
    assert chance(point, visible, everywhere).item() == pytest.approx((4 + 6 + 4) / 16)


def test_the_true_correspondence_matches_everywhere_and_chance_is_low():
    pair = sample_pairs(torch.arange(8))
    a, b = (body(pair.identities, poses) for poses in pair.poses)
    found = correspondence(a, b, 16, 16)
    x, y = found.point.floor().long().clamp(0, 15).unbind(-1)
    right, asked = matched((y * 16 + x).flatten(1), found.point, found.visible)
    assert torch.equal(right, asked) and (asked > 10).any()
    blind = chance(found.point, found.visible, rasterise(a, 16, 16).slot >= 0)
    assert 0.03 < float(blind.sum() / asked.sum()) < 0.3


def test_bootstrap_intervals_are_seeded_and_hold_the_value():
    values = torch.arange(100.0)
    one, two = bootstrap.mean(values), bootstrap.mean(values)
    assert one == two and set(one) == {"value", "low", "high"}
    assert one["value"] == pytest.approx(49.5)
    # The mean's standard error is 2.89: 1.96 of it to either side.
    assert one["low"] == pytest.approx(49.5 - 5.66, abs=0.6) and one["high"] == pytest.approx(49.5 + 5.66, abs=0.6)
    assert bootstrap.mean(torch.full((5,), 3.0)) == {"value": 3, "low": 3, "high": 3}


def test_shares_are_pooled_over_cases():
    share = bootstrap.ratio(torch.tensor([1.0, 9]), torch.tensor([1.0, 19]))
    assert share["value"] == pytest.approx(0.5)
    assert share["low"] == pytest.approx(9 / 19) and share["high"] == 1


def test_recovered_runs_from_no_reference_to_the_ceiling():
    none, ceiling = torch.tensor([30.0, 20, 40]), torch.tensor([10.0, 10, 20])
    assert bootstrap.recovered(none, none, ceiling)["value"] == 0
    assert bootstrap.recovered(none, ceiling, ceiling)["value"] == 100
    assert bootstrap.recovered(none, (none + ceiling) / 2, ceiling)["value"] == pytest.approx(50)
    assert bootstrap.recovered(none, none + 5, ceiling)["value"] < 0


def test_comparisons_are_paired():
    hard = torch.linspace(0, 100, 50)
    none, ceiling = hard + 50, hard
    better = bootstrap.recovered_difference(none, none - 20, none - 10, ceiling)
    assert better["value"] == pytest.approx(20) and better["low"] == pytest.approx(20)


def test_bootstrap_refuses_columns_that_do_not_belong_together():
    with pytest.raises(ValueError, match="same number"):
        bootstrap.ratio(torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match="at least one"):
        bootstrap.mean(torch.ones(0))
