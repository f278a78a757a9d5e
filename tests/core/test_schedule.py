"""Schedules: what they promise at their ends, outside their windows, and about the cost of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal_ext.core.schedule import SHAPES, AppearanceSteps, Progress, Schedule, lambda_schedule, nearest

STEPS = st.integers(1, 60)
SHARE = st.floats(0, 1)


def over(schedule, steps):
    """The values at all steps of a run."""
    return [schedule(Progress(step, steps)) for step in range(steps)]


def test_progress_runs_from_0_to_1():
    gammas = [Progress(step, 20).gamma for step in range(20)]
    assert gammas[0] == 0 and gammas[-1] == 1 and gammas == sorted(gammas)
    assert Progress(0, 1).gamma == 0


def test_progress_is_found_from_the_noise_level_even_between_steps_and_through_rounding():
    sigmas = [14.6, 7.0, 3.0, 1.0, 0.03]
    assert [Progress.at(sigma * (1 + 1e-5), sigmas).step for sigma in sigmas] == [0, 1, 2, 3, 4]
    assert Progress.at(2.0, sigmas) == Progress(2.5, 5)
    assert Progress.at(99.0, sigmas).step == 0 and Progress.at(0.0, sigmas).step == 4


@given(STEPS, SHARE, SHARE)
def test_a_window_never_holds_more_than_its_share_of_the_steps(steps, a, b):
    start, end = sorted((a, b))
    inside = sum(Progress(step, steps).within(start, end) for step in range(steps))
    assert inside <= max((end - start) * steps + 1e-6, 1) and (inside or (end - start) * steps < 2 - 1e-6)
    assert all(Progress(step, steps).within(0, 1) for step in range(steps))


@given(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from(SHAPES), STEPS)
def test_a_schedule_stays_between_its_ends_and_starts_at_early(early, late, shape, steps):
    values = over(Schedule(early, late, shape), steps)
    assert values[0] == early
    assert all(min(early, late) - 1e-9 <= value <= max(early, late) + 1e-9 for value in values)
    assert values in (sorted(values), sorted(values, reverse=True))
    if steps > 1 and shape != "constant":
        assert values[-1] == pytest.approx(late)


@given(STEPS, st.floats(0, 1), st.sampled_from(SHAPES))
def test_lambda_is_exactly_zero_outside_its_window(steps, end, shape):
    values = over(lambda_schedule(2.0, end, shape, 0.0), steps)
    assert sum(value > 0 for value in values) <= max(end * steps + 1e-6, 1)
    assert all(value == 0 for step, value in enumerate(values) if step and (step + 1) / steps > end + 1e-6)


def test_a_window_shorter_than_a_step_holds_the_one_it_begins_in():
    assert [step for step in range(4) if Progress(step, 4).within(0.0, 0.2)] == [0]
    assert [step for step in range(4) if Progress(step, 4).within(0.3, 0.4)] == [1]
    assert not any(Progress(step, 4).within(0.3, 0.3) for step in range(4))


def test_lambda_is_strong_first_and_costs_at_most_its_window():
    values = over(lambda_schedule(2.0, 0.4, "cosine", 0.0), 20)
    assert values[0] == 2 and values == sorted(values, reverse=True) and sum(value > 0 for value in values) == 8


def test_a_step_window_is_a_constant_with_ends():
    values = over(Schedule(1.5, 1.5, "constant", 0.25, 0.75), 20)
    assert values == [0.0] * 5 + [1.5] * 10 + [0.0] * 5


def test_t_app_reads_every_nth_step_all_of_them_or_those_named():
    timesteps = tuple(float(t) for t in range(950, -1, -50))
    assert AppearanceSteps.parse("all").select(timesteps) == timesteps
    assert len(AppearanceSteps.parse("every 4").select(timesteps)) == 5
    assert AppearanceSteps.parse("at 250, 500").select(timesteps) == (500.0, 250.0)
    assert AppearanceSteps.parse("every 50").select(timesteps[:3]) == (timesteps[1],)


@given(STEPS, st.sets(st.integers(0, 1999), min_size=1, max_size=60))
def test_there_are_never_more_readings_than_steps(steps, at):
    """Each step looks at the same one as if all were read."""
    timesteps, named = tuple(float(t) for t in range(999, 999 - steps, -1)), tuple(map(float, sorted(at, reverse=True)))
    read = AppearanceSteps.parse("at " + " ".join(map(str, named))).select(timesteps)
    assert len(read) <= steps and list(read) == sorted(read, reverse=True)
    assert all(nearest(t, read) == nearest(t, named) for t in timesteps)
    assert len(AppearanceSteps.parse("at " + " ".join(map(str, range(2000)))).select((999.0, 1.0))) == 2


@given(STEPS, st.integers(1, 12))
def test_the_nearest_step_read_is_at_most_half_an_interval_away(steps, every):
    timesteps = tuple(range(steps - 1, -1, -1))
    read = AppearanceSteps(every).select(timesteps)
    assert set(read) <= set(timesteps)
    assert all(abs(nearest(t, read) - t) <= max(every, 1) for t in timesteps) or steps <= every


def test_of_two_timesteps_as_near_the_cleaner_is_taken():
    assert nearest(50, (100, 0)) == 0


@pytest.mark.parametrize("text", ["", "every", "every 0", "every x", "at", "at -5", "at nan", "sometimes", "at 1 two"])
def test_a_t_app_that_does_not_read_says_so(text):
    with pytest.raises(ValueError, match="every 4"):
        AppearanceSteps.parse(text)


@pytest.mark.parametrize("wrong", [dict(shape="wavy"), dict(start=0.8, end=0.2), dict(end=1.5)])
def test_an_impossible_schedule_is_refused(wrong):
    with pytest.raises(ValueError):
        Schedule(0, 1, **{"shape": "linear"} | wrong)
