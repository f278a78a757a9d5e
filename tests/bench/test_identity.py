"""The identity measurement: its cases mean what they say, and every method draws from the same things."""

import numpy as np
import pytest
import torch

from bench import drawing
from bench.cases import SIZE
from bench.cli import UserError, run
from bench.drawing import open_model
from bench.identity import known, methods, report
from bench.identity.ceiling import TrueGuide, true_guides
from bench.identity.measurement import figures
from bench.identity.scores import score
from bench.identity.tasks import TASKS, after
from bench.judge.network import Network
from bench.judge.reading import Judge
from bench.world.identity import garment_is_held_out
from bench.world.render import Camera, body
from bench.world.truth import correspondence
from bench.world.words import BACKGROUND, KIND, LIGHT, PEOPLE, POSE
from seal_ext.core.guide import NOTHING_KNOWN, Guide
from seal_ext.studio.checkpoint import EMBEDDED

SEEDS = torch.arange(16)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(drawing, "STEPS", 4)


def test_every_case_shows_one_subject_twice_in_different_places():
    for make in TASKS.values():
        task = make(SEEDS)
        assert len(task.prompts) == len(SEEDS)
        assert (task.settings.background != task.reference.settings.background).all()
        assert task.reference_mask().flatten(1).any(1).all()


def test_a_case_does_not_depend_on_its_batch():
    for make in TASKS.values():
        many, one = make(SEEDS[:6]), make(SEEDS[4:5])
        assert torch.equal(many.structure()[4], one.structure()[0])
        assert torch.equal(many.reference.picture.image[4], one.reference.picture.image[0])
        assert many.prompts[4] == one.prompts[0]


def test_pose_changes_the_family_and_aligned_does_not():
    pose, aligned = TASKS["pose"](SEEDS), TASKS["aligned"](SEEDS)
    assert (pose.poses.family != pose.reference.poses.family).all()
    assert (aligned.poses.family == aligned.reference.poses.family).all()
    assert torch.equal(aligned.poses.scale, aligned.reference.poses.scale)


def test_a_conflict_changes_one_colour_and_says_so():
    task = TASKS["conflict"](SEEDS)
    people = task.identities.person
    assert (task.identities.top_colour != task.shown.top_colour)[people].float().mean() > 0.95
    assert (task.identities.coat_colour != task.shown.coat_colour)[~people].all()
    assert torch.equal(task.identities.bottom_colour, task.shown.bottom_colour)
    assert not garment_is_held_out(task.identities.top_colour, task.identities.top_pattern)[people].any()
    differ = [prompt.text != other for prompt, other in zip(task.prompts, task.told("word"), strict=True)]
    assert sum(differ) >= 0.95 * len(differ)
    assert all(TASKS[name](SEEDS[:2]).told("word") is None for name in TASKS if name not in ("conflict", "two"))


def test_reference_prompts_say_more_and_more_of_the_reference():
    for make in (TASKS["pose"], TASKS["conflict"]):
        task = make(SEEDS)
        light, place, caption = (task.told(kind) for kind in ("light", "place", "caption"))
        theirs = task.reference
        for row in range(len(task)):
            assert LIGHT[int(theirs.settings.light[row])] in " ".join((light[row], place[row]))
            assert BACKGROUND[int(theirs.settings.background[row])] in place[row] and POSE[int(theirs.poses.family[row])] in caption[row]
            assert BACKGROUND[int(task.settings.background[row])] in light[row]


def test_families_and_held_out_things():
    assert (TASKS["people"](SEEDS).identities.kind < PEOPLE).all()
    assert (TASKS["animals"](SEEDS).identities.kind >= PEOPLE).all()
    unseen = TASKS["unseen"](SEEDS).identities
    assert garment_is_held_out(unseen.top_colour, unseen.top_pattern).all()
    busy = {BACKGROUND[i] for i in TASKS["background"](SEEDS).settings.background.tolist()}
    assert not busy & {"studio", "beach", "snow", "desert", "room"}


def test_two_asks_for_the_reference_s_character_beside_another():
    task = TASKS["two"](SEEDS)
    first, second = task.duo.identities
    assert torch.equal(first.kind, task.shown.kind) and (first.kind != second.kind).all()
    assert (task.poses.family != task.reference.poses.family).all()
    truth, whole = task.truth(), task.duo.picture(SIZE)
    assert torch.equal(truth.region > 0, (whole.figure == 1) & (whole.region > 0)) and torch.equal(truth.image, whole.image)
    structure = task.structure().amax(1) > 0.2
    for row, prompt in enumerate(task.prompts):
        assert KIND[int(first.kind[row])] in prompt.text and KIND[int(second.kind[row])] in prompt.text
        assert all((structure & (whole.figure == k))[row].any() for k in (1, 2))
    # Where the first one's points lie in its reference is known, as in every other case.
    found = correspondence(task.reference.parts, body(task.identities, task.poses, task.camera), SIZE, SIZE)
    seen = found.visible & (truth.region > 0)
    assert (seen.flatten(1).sum(1) > 100).float().mean() > 0.8
    x, y = found.point.floor().long().clamp(0, SIZE - 1).unbind(-1)
    there = task.reference_mask().flatten(1).gather(1, (y * SIZE + x).flatten(1)).reshape(seen.shape)
    assert there[seen].float().mean() > 0.97
    emptied = task.without_second(whole.image)
    assert torch.equal(emptied[:, 0][truth.region > 0], whole.image[:, 0][truth.region > 0])


def test_a_camera_moves_both_of_two():
    task = TASKS["two"](SEEDS[:4])
    half = Camera(torch.full((4,), 0.5), torch.full((4, 2), 0.25))
    before, now = task.duo.picture(SIZE), task.duo.picture(SIZE, half)
    for figure in (1, 2):
        ratio = (now.figure == figure).sum((1, 2)) / (before.figure == figure).sum((1, 2))
        assert torch.allclose(ratio, torch.tensor(0.25), atol=0.04)
    assert torch.equal(task.truth(half).image, now.image)


def test_free_gives_the_pose_in_words_alone():
    task = TASKS["free"](SEEDS)
    assert not task.structure().any()
    assert all("pose" in prompt.facts for prompt in task.prompts)


def test_without_a_structure_nothing_is_aligned_and_the_figure_may_be_anywhere():
    task = TASKS["free"](SEEDS)
    there = known.placed(task, known.GIVEN, methods.TUNED)
    assert not there.hints.any() and bool((there.figure == 1).all()) and not any(structure.moves for structure in there.structures)
    assert torch.equal(there.moved.scale, torch.ones(len(SEEDS))) and not there.moved.shift.any()


def test_animals_have_no_skeleton_to_go_by():
    maps = TASKS["animals"](SEEDS).structure()
    assert torch.equal(maps[:, 0], maps[:, 1]) and torch.equal(maps[:, 0], maps[:, 2])
    assert len({round(float(m.mean()), 2) for m in maps}) > 3


def test_two_cameras_in_turn_are_one():
    half = Camera(torch.tensor([0.5]), torch.tensor([[0.1, 0.2]]))
    shifted = Camera(torch.tensor([2.0]), torch.tensor([[-0.3, 0.0]]))
    both = after(half, shifted)
    assert torch.allclose(both.scale, torch.tensor([1.0])) and torch.allclose(both.shift, torch.tensor([[-0.1, 0.4]]))
    assert after(None, half) is half and after(half, None) is half


def test_anchor_align_brings_a_misaligned_structure_to_its_reference():
    task = TASKS["misaligned"](SEEDS[:8])
    moved = known.placed(task, known.GIVEN, methods.TUNED).moved
    before, now = task.truth().alpha.sum((1, 2)), task.truth(moved).alpha.sum((1, 2))
    wanted = task.reference.picture.alpha.sum((1, 2))
    assert ((now / wanted).log().abs() < (before / wanted).log().abs()).float().mean() >= 0.8


@pytest.mark.parametrize("name", list(methods.table()))
def test_every_method_draws_and_leaves_the_pipeline_as_it_was(model, few_steps, name):
    task = TASKS["pose"](SEEDS[:2])
    row = methods.table()[name]
    none = methods.row(methods.beside("none", row.stands))
    before = none.draw(model, task).latents
    drawn = row.draw(model, task)
    assert drawn.latents.shape == before.shape and torch.isfinite(drawn.latents).all() and (drawn.rows >= 16 or name == "transport")
    assert torch.equal(none.draw(model, task).latents, before)
    if name not in ("none", "seal_no_infusion"):
        assert not torch.equal(drawn.latents, before)


def test_what_is_known_grows_from_found_to_given():
    task = TASKS["people"](SEEDS[:8])
    found, detected, given = (known.references_of(task, name) for name in known.KNOWN)
    assert all(reference.skeleton is None for reference in found)
    assert all(
        torch.equal(torch.from_numpy(reference.seen.mask), mask) for reference, mask in zip(given, task.reference_mask(), strict=True)
    )
    true = task.reference.parts.keypoints * SIZE
    seen = torch.stack([torch.from_numpy(reference.skeleton.points) for reference in detected])
    missing = seen.isnan().any(2)
    assert 0.05 < missing.float().mean() < 0.25
    off, extent = (seen - true).norm(dim=2)[~missing], (true.amax(1) - true.amin(1)).amax(1).mean()
    assert 0.02 < off.mean() / extent < 0.06
    again = known.references_of(task, known.DETECTED)
    assert all(np.array_equal(a.skeleton.points, b.skeleton.points, equal_nan=True) for a, b in zip(detected, again, strict=True))


def test_a_row_stands_where_its_knowledge_puts_it_and_so_does_its_baseline():
    task = TASKS["misaligned"](SEEDS[:4])
    unmoved, given = (known.placed(task, stands, methods.TUNED) for stands in (known.UNMOVED, known.GIVEN))
    assert torch.allclose(unmoved.hints, task.structure(), atol=1 / 255) and (unmoved.moved.scale == 1).all()
    assert (given.moved.scale > 1.3).all()
    assert methods.row("none@unmoved").stands == methods.row("seal_no_align").stands == known.UNMOVED
    assert methods.row("seal").stands == known.FOUND and methods.row("seal_given").stands == methods.row("ceiling").stands == known.GIVEN
    assert report.wanted(["seal", "reference_only"]) == ["none", "seal", "reference_only", "none@found", "reference_only@found"]
    assert report.wanted(["seal_detected", "reference_only"]) == [
        "none", "seal_detected", "reference_only", "none@detected", "reference_only@detected"]  # fmt: skip


def test_the_ceiling_s_guide_is_half_a_cell_and_weighs_what_an_open_one_does():
    task = TASKS["pose"](SEEDS[:4])
    moved = known.placed(task, known.GIVEN, methods.TUNED).moved
    kept = torch.arange(0, 256, 2)
    for row, guide in enumerate(true_guides(task, moved)):
        assert isinstance(guide.body, TrueGuide)
        told = Guide(guide, [(NOTHING_KNOWN, kept)], (16, 16))[:]
        truth = correspondence(task.reference.parts[[row]], body(task.identities, task.poses, moved)[[row]], 16, 16)
        visible = truth.visible.flatten()
        assert visible.any() and not visible.all() and (told[~visible] == 0).all()
        assert torch.allclose(told.exp().sum(1), torch.full((256,), float(len(kept))), rtol=1e-4)
        cell = truth.point[0].flatten(0, 1)[visible].floor().long().clamp(0, 15)
        place = kept[told[visible].argmax(1)]
        assert ((place % 16 - cell[:, 0]).abs() <= 1).float().mean() > 0.95
        # One cell beside the right one is e² times less likely.
        middle = (truth.point[0].flatten(0, 1)[visible] - truth.point[0].flatten(0, 1)[visible].floor() - 0.5).abs().amax(1).argmin()
        token = visible.nonzero()[middle, 0]
        every = Guide(guide, [(NOTHING_KNOWN, torch.arange(256))], (16, 16))[:][token]
        assert 1.3 < float(every.max() - every[every.argmax() + 1]) < 2.7


def test_scores_have_a_row_an_image(model, few_steps):
    task = TASKS["conflict"](SEEDS[:2])
    columns = score(model, Judge(Network()), task, methods.table()["seal"].draw(model, task))
    assert {len(column) for column in columns.values()} == {2}
    assert {"identity", "pattern", "structure", "matched", "conflict_success", "others"} <= set(columns)


@pytest.mark.skipif(not (EMBEDDED / "manifest.json").exists(), reason="the weights are not in this tree")
def test_the_truth_scores_full_marks_and_wrong_pictures_do_not():
    task, judge = TASKS["pose"](SEEDS[:8]), Judge.load()
    model = open_model()
    truth = task.truth().image

    def scored(image):
        columns = score(model, judge, task, methods.Drawn(model.encode(image), None, 1.0, 16))
        return {name: torch.tensor(column) for name, column in columns.items()}

    stranger = scored(truth.roll(1, 0))  # other characters in other places
    right, half, reference = (
        {name: figure["value"] for name, figure in figures(scored(image), stranger).items()}
        for image in (truth, torch.lerp(truth.roll(1, 0), truth, 0.5), task.reference.picture.image)
    )
    assert right["identity"] == pytest.approx(100) and right["pattern"] == pytest.approx(100) and right["sharpness"] == pytest.approx(1)
    assert right["structure"] > 0.9 and right["text"] > 0.9 and right["leak"] == 0
    assert 10 < half["identity"] < 90 and 0 < half["pattern"] < 90
    assert reference["identity"] < 90 and reference["structure"] < 0.8 and reference["leak"] > 0.9
    assert figures(stranger, stranger)["identity"]["value"] == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--cases", "aligned,zebra"], "unknown case 'zebra'"),
        (["--methods", ","], "no method is named"),
        (["--seeds", "1:0"], "empty range"),
    ],
)
def test_wrong_usage_is_one_sentence(argv, said, capsys):
    assert run(report.main, argv) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(UserError):
        report.main(argv)
