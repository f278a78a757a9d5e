"""The world: the same from the same seed, honest about what is held out, and truthful about what it shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.train.pool import BOTH_NAMED
from bench.world.anatomy import REGION
from bench.world.background import sample_settings
from bench.world.captions import write_captions, write_duo_captions, write_pair_captions
from bench.world.chance import Chance
from bench.world.identity import garment_is_held_out, sample_identities
from bench.world.pose import sample_poses
from bench.world.raster import rasterise
from bench.world.render import Camera, body, compose, render
from bench.world.scene import sample_duos, sample_pairs, sample_subjects
from bench.world.structure import GIVEN, STRUCTURE, draw_structure, draw_structures, usual_structure
from bench.world.texture import MARKING, Look
from bench.world.widths import CELL, measure_widths, table, width_of
from bench.world.words import (
    BACKGROUND,
    COLOUR,
    EMBLEM,
    HELD_OUT_EMBLEM,
    HELD_OUT_PATTERN,
    KIND,
    LIGHT,
    PATTERN,
    PEOPLE,
    POSE,
    TOP,
    held_out_pairs,
)

SEEDS = torch.arange(12)


def picture(seeds, size=64):
    subjects = sample_subjects(seeds)
    return render(subjects.identities, subjects.poses, subjects.settings, size)


def test_numbers_depend_on_seed_and_name_only():
    together, alone = Chance(SEEDS, "a")("x", 3), Chance(SEEDS[5:6], "a")("x", 3)
    assert torch.equal(together[5:6], alone)
    assert not torch.equal(Chance(SEEDS, "b")("x", 3), together)
    assert not torch.equal(Chance(SEEDS, "a")("y", 3), together)
    many = Chance(torch.arange(20000), "flat")("x")
    assert abs(float(many.mean()) - 0.5) < 0.01 and float(many.min()) >= 0 and float(many.max()) < 1


def test_the_first_identities_stay_what_they_were():
    # The committed weights were trained on this world: its seeds must go on meaning the same.
    who = sample_identities(torch.arange(6))
    assert who.kind.tolist() == FIRST["kind"]
    assert who.top_colour.tolist() == FIRST["top_colour"]
    assert who.top_pattern.tolist() == FIRST["top_pattern"]


FIRST = {"kind": [3, 2, 3, 3, 1, 0], "top_colour": [4, 5, 6, 2, 6, 1], "top_pattern": [0, 3, 4, 3, 0, 5]}


def test_pictures_are_reproducible_and_independent_of_their_batch():
    all_at_once = picture(SEEDS)
    again = picture(SEEDS)
    one = picture(SEEDS[7:8])
    assert torch.equal(all_at_once.image, again.image)
    assert torch.equal(all_at_once.image[7:8], one.image) and torch.equal(all_at_once.region[7:8], one.region)


@pytest.mark.parametrize("size", [32, 72, 128, (64, 96)])
def test_any_size(size):
    subjects = sample_subjects(SEEDS[:3])
    result = render(subjects.identities, subjects.poses, subjects.settings, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert result.image.shape == (3, 3, height, width) and result.region.shape == (3, height, width)
    assert float(result.image.min()) >= 0 and float(result.image.max()) <= 1


def test_images_are_eight_bit():
    values = picture(SEEDS[:2]).image * 255
    assert torch.allclose(values, values.round(), atol=1e-4)


def test_everyone_is_fully_in_the_frame_and_large():
    result = picture(torch.arange(64), 128)
    cover = result.alpha > 0
    assert not cover[:, 0].any() and not cover[:, -1].any() and not cover[:, :, 0].any() and not cover[:, :, -1].any()
    assert float(result.alpha.mean((1, 2)).median()) > 0.15


def test_training_never_sees_what_is_held_out():
    who = sample_identities(torch.arange(1_000_000, 1_004_000))
    for garment in ("top", "bottom"):
        colour, pattern = getattr(who, f"{garment}_colour"), getattr(who, f"{garment}_pattern")
        assert not garment_is_held_out(colour, pattern).any()
        assert not (pattern == HELD_OUT_PATTERN).any()
    assert not (who.emblem == HELD_OUT_EMBLEM).any()
    assert set(who.emblem.tolist()) == set(range(len(EMBLEM) - 1))


def test_unseen_identities_are_all_held_out():
    who = sample_identities(torch.arange(500), unseen=True)
    assert garment_is_held_out(who.top_colour, who.top_pattern).all()
    assert 0.3 < float((who.emblem == HELD_OUT_EMBLEM).double().mean()) < 0.7


def test_a_fifth_of_the_pairs_is_held_out():
    pairs = held_out_pairs()[:, :HELD_OUT_PATTERN]
    assert pairs.sum() * 5 == pairs.numel()
    assert pairs.shape == (len(COLOUR), len(PATTERN) - 1)


def test_a_second_colour_always_shows():
    who = sample_identities(torch.arange(2000))
    assert (who.top_colour != who.top_second).all() and (who.coat_colour != who.coat_second).all()
    assert ((who.emblem_colour != who.top_colour) & (who.emblem_colour != who.top_second)).all()


def test_poses_suit_the_body():
    subjects = sample_subjects(torch.arange(300))
    people = subjects.identities.kind < PEOPLE
    animal_only, person_only = {"walking", "sitting", "leaping"}, {"arms raised", "waving", "running", "kneeling", "jumping"}
    assert not {POSE[f] for f in subjects.poses.family[people].tolist()} & animal_only
    assert not {POSE[f] for f in subjects.poses.family[~people].tolist()} & person_only


def test_a_pose_mirrored_twice_is_itself():
    who = sample_identities(SEEDS)
    poses = sample_poses(SEEDS, who)
    twice = poses.mirrored().mirrored()
    assert torch.equal(twice.bones, poses.bones) and torch.allclose(twice.yaw, poses.yaw) and torch.allclose(twice.x, poses.x)


def test_two_thirds_of_what_is_drawn_on_characters_spans_two_latent_cells_and_some_stays_fine():
    widths = measure_widths(torch.arange(300))
    assert widths.share() >= 2 / 3
    assert widths.share("emblem") > 0.9
    assert (widths.width < 1.5 * CELL).mean() > 0.05
    assert set(widths.name) == set(MARKING) and len(widths.name) > 400


def test_a_width_is_that_of_the_largest_disc_and_a_sign_is_as_wide_as_its_outline():
    picture = np.zeros((80, 80), np.uint8)
    picture[10:30, 5:75] = 1
    assert width_of(picture, whole=False) == pytest.approx(20, abs=1)
    picture[50:53, 5:75] = 1  # a thin line holds less than half of the area
    assert width_of(picture, whole=False) == pytest.approx(20, abs=1)
    picture[34:80, 0:80:4] = picture[34:80, 1:80:4] = 1
    assert width_of(picture, whole=False) < 4
    cross = np.zeros((80, 80), np.uint8)
    cross[20:60, 38:42] = cross[38:42, 15:65] = 1
    assert width_of(cross, whole=True) == 40 and width_of(cross, whole=False) < 8


def test_the_table_of_widths_has_a_line_a_marking():
    lines = table(measure_widths(torch.arange(24))).splitlines()
    assert [line[:18].strip() for line in lines[1:-1]] == [name for name in MARKING if name in "".join(lines)]
    assert lines[-1].startswith("all")


def test_a_garment_s_sleeves_have_one_colour():
    who = sample_identities(torch.arange(60), person=True)
    poses, fill = sample_poses(torch.arange(60), who), torch.zeros_like(who.kind)
    who = replace(who, top=fill + TOP.index("sweater"), top_pattern=fill + PATTERN.index("banded"), emblem=fill)
    parts = body(who, poses)
    look = Look(who, parts, rasterise(parts, 64, 64))
    second, sleeve = look.markings()["top"], look.on("sleeve") & look.of("top")
    for row in range(60):
        on = second[sleeve & (look.row == row)]
        assert on.all() or not on.any()
    assert second[sleeve].any() and not second[sleeve].all()


def test_markings_move_with_the_limb():
    """The colours of the top region stay when only the pose changes: its texture belongs to the body."""
    who = sample_identities(torch.arange(40), person=True)
    settings = sample_settings(torch.zeros(40, dtype=torch.long), light=torch.zeros(40, dtype=torch.long))
    a, b = (render(who, sample_poses(torch.arange(40) + k, who), settings, 64) for k in (0, 1000))
    top = REGION.index("top")
    means = [torch.stack([p.image[i][:, p.region[i] == top].mean(1) for i in range(40)]) for p in (a, b)]
    strangers = means[1].roll(1, 0)
    assert (means[0] - means[1]).abs().mean() < 0.4 * (means[0] - strangers).abs().mean()


def test_backgrounds_and_lights_differ():
    who = sample_identities(torch.zeros(1, dtype=torch.long)).repeat(len(BACKGROUND))
    poses = sample_poses(torch.zeros(len(BACKGROUND), dtype=torch.long), who)
    seeds, zero = torch.zeros(len(BACKGROUND), dtype=torch.long), torch.zeros(len(BACKGROUND), dtype=torch.long)
    settings = sample_settings(seeds, background=torch.arange(len(BACKGROUND)), light=zero)
    colours = render(who, poses, settings, 32).image[:, :, :8].mean((2, 3))
    assert torch.pdist(colours).min() > 0.02
    lights = sample_settings(zero[: len(LIGHT)], background=zero[: len(LIGHT)], light=torch.arange(len(LIGHT)))
    shades = render(who[: len(LIGHT)], poses[: len(LIGHT)], lights, 32).image.mean((2, 3))
    assert torch.pdist(shades).min() > 0.05


def test_captions_name_only_facts_and_what_they_say_is_true():
    seeds = torch.arange(200)
    s = sample_subjects(seeds)
    for row, caption in enumerate(write_captions(seeds, s.identities, s.poses, s.settings)):
        if "top colour" in caption.facts:
            assert caption.facts["top colour"] == COLOUR[int(s.identities.top_colour[row])]
            assert caption.facts["top colour"] in caption.text
        if "background" in caption.facts:
            assert caption.facts["background"] == BACKGROUND[int(s.settings.background[row])]
        assert caption.facts["kind"] in caption.text
        for hidden in ("top_second", "emblem", "period", "phase"):
            assert hidden not in caption.facts


def test_captions_have_many_phrasings_and_can_say_nothing():
    seeds = torch.arange(30)
    one = sample_subjects(torch.full((30,), 4))
    assert len({c.text for c in write_captions(seeds, one.identities, one.poses, one.settings, 0.9)}) > 20
    silent = write_captions(seeds, one.identities, one.poses, one.settings, 0.0)
    assert all(set(c.facts) == {"kind"} for c in silent)


def test_a_sentence_never_exceeds_the_text_encoder():
    seeds = torch.arange(300)
    pair = sample_pairs(seeds)
    texts = [c.text for c in write_pair_captions(seeds, pair.identities, pair.poses, pair.settings, pair.openings, 1.0)]
    texts += [c.text for c in write_duo_captions(seeds, sample_duos(seeds), BOTH_NAMED)]
    assert max(len(t.replace(",", " ,").replace(":", " :").replace(";", " ;").replace("-", " - ").split()) for t in texts) <= 75


def test_the_two_pictures_of_a_pair_show_one_subject_in_two_poses():
    pair = sample_pairs(torch.arange(100))
    assert len(pair.openings) == 100 and all("{}" in o for o in pair.openings)
    assert not torch.equal(pair.poses[0].bones, pair.poses[1].bones)


@pytest.mark.parametrize("kind", STRUCTURE)
def test_structures_lie_on_the_subject(kind):
    s = sample_subjects(SEEDS)
    drawn = draw_structure(kind, s.identities, body(s.identities, s.poses), 64)
    alpha = render(s.identities, s.poses, s.settings, 64).alpha
    assert drawn.shape == (12, 3, 64, 64) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    inked = drawn.amax(1) > 0.2
    assert float((inked & (torch.nn.functional.max_pool2d(alpha[:, None], 5, 1, 2)[:, 0] > 0)).sum() / inked.sum()) > 0.97


def test_animals_are_given_by_outlines_and_people_by_skeletons():
    seeds = torch.arange(600)
    person = sample_identities(seeds).person
    usual, given = usual_structure(seeds, person), usual_structure(seeds, person, GIVEN)
    skeleton = STRUCTURE.index("skeleton")
    assert (usual[person] == skeleton).float().mean() > 0.45 and (usual[~person] == skeleton).float().mean() < 0.15
    assert (given[person] == skeleton).all() and not (given[~person] == skeleton).any()
    assert {STRUCTURE[i] for i in given[~person].tolist()} == {"silhouette", "edges", "depth"}


def test_every_picture_has_its_own_kind_of_structure():
    s = sample_subjects(SEEDS)
    figures = [(s.identities, body(s.identities, s.poses))]
    kinds = usual_structure(SEEDS, s.identities.person)
    drawn = draw_structures(kinds, figures, 64)
    for row in range(len(SEEDS)):
        alone = draw_structure(STRUCTURE[int(kinds[row])], *(x[row : row + 1] for x in figures[0]), 64)
        assert torch.equal(drawn[row : row + 1], alone)


@pytest.fixture(scope="module")
def duos():
    duo = sample_duos(torch.arange(40))
    return duo, duo.picture(64)


def test_two_characters_are_both_there_and_whole(duos):
    duo, picture = duos
    for number, (who, parts) in enumerate(duo.figures(), 1):
        alone = compose([(who, parts)], duo.settings, 64)
        cover = alone.alpha > 0
        assert not cover[:, 0].any() and not cover[:, -1].any() and not cover[:, :, 0].any() and not cover[:, :, -1].any()
        shown = (picture.figure == number).float().sum((1, 2)) / (alone.region > 0).float().sum((1, 2))
        assert shown.min() > 0.4 and (number == 1 or (shown == 1).all())
        assert torch.equal(picture.of(number).region > 0, (picture.figure == number) & (picture.region > 0))
    assert float((picture.figure > 0).float().mean((1, 2)).median()) > 0.25


def test_the_first_of_two_stands_on_the_side_that_is_said(duos):
    duo, picture = duos
    column = torch.arange(64).float()
    places = [((picture.figure == k).float() * column).sum((1, 2)) / (picture.figure == k).float().sum((1, 2)) for k in (1, 2)]
    assert ((places[0] < places[1]) == duo.left).all() and 0.2 < duo.left.float().mean() < 0.8


def test_a_scene_of_two_does_not_depend_on_its_batch(duos):
    _, picture = duos
    one = sample_duos(torch.arange(7, 8)).picture(64)
    assert torch.equal(picture.image[7:8], one.image) and torch.equal(picture.figure[7:8], one.figure)


@pytest.mark.parametrize("kind", ["skeleton", "silhouette", "edges", "depth"])
def test_a_structure_of_two_shows_both_and_hides_what_is_behind(duos, kind):
    duo, picture = duos
    kinds = torch.full((40,), STRUCTURE.index(kind))
    figures = duo.figures()
    both, front = draw_structures(kinds, figures, 64), draw_structures(kinds, figures[1:], 64)
    for number in (1, 2):
        assert ((both.amax(1) > 0.2) & (picture.figure == number)).flatten(1).any(1).all()
    if kind in ("edges", "depth"):  # the others have nothing inside
        hidden = rasterise(figures[1][1], 64, 64).slot >= 0
        hidden = F.max_pool2d((~hidden).float(), 3, 1, 1) == 0  # not the outline, where the two mix
        assert torch.equal(both.amax(1)[hidden], front.amax(1)[hidden])


def test_captions_of_two_tell_who_does_what_and_where(duos):
    duo, _ = duos
    for row, caption in enumerate(write_duo_captions(torch.arange(40), duo, 1.0)):
        assert " left" in caption.text and " right" in caption.text
        for number, (who, poses) in enumerate(zip(duo.identities, duo.poses, strict=True)):
            mark = " 2" if number else ""
            assert caption.facts["kind" + mark] == KIND[int(who.kind[row])] and caption.facts["kind" + mark] in caption.text
            assert caption.facts["pose" + mark] == POSE[int(poses.family[row])]
        assert caption.facts["background"] == BACKGROUND[int(duo.settings.background[row])] and "background 2" not in caption.facts


def test_an_unknown_structure_is_named():
    s = sample_subjects(SEEDS[:1])
    with pytest.raises(ValueError, match="unknown structure 'scribble'; one of skeleton"):
        draw_structure("scribble", s.identities, body(s.identities, s.poses), 64)


def test_a_camera_moves_the_subject_and_nothing_else():
    s = sample_subjects(SEEDS[:4])
    half = Camera(torch.full((4,), 0.5), torch.full((4, 2), 0.25))
    plain, moved = (render(s.identities, s.poses, s.settings, 64, camera) for camera in (None, half))
    assert torch.allclose(moved.alpha.sum((1, 2)) / plain.alpha.sum((1, 2)), torch.tensor(0.25), atol=0.03)
    assert torch.equal(moved.image[:, :, 0], plain.image[:, :, 0])
