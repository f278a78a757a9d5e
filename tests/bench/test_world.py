"""The world: the same from the same seed, honest about what is held out, and truthful about what it shows."""

import pytest
import torch

from bench.world.anatomy import REGION
from bench.world.background import sample_settings
from bench.world.captions import write_captions, write_pair_captions
from bench.world.chance import Chance
from bench.world.identity import garment_is_held_out, sample_identities
from bench.world.pose import sample_poses
from bench.world.render import Camera, body, render
from bench.world.scene import sample_pairs, sample_subjects
from bench.world.structure import STRUCTURE, draw_structure
from bench.world.words import BACKGROUND, COLOUR, EMBLEM, HELD_OUT_EMBLEM, HELD_OUT_PATTERN, LIGHT, PATTERN, PEOPLE, POSE, held_out_pairs

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


FIRST = {"kind": [3, 2, 3, 3, 1, 0], "top_colour": [4, 5, 6, 2, 6, 1], "top_pattern": [1, 3, 4, 3, 1, 5]}


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
