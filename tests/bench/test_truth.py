"""Ground truth: where a surface point went, and which facts a picture shows."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bench.world.anatomy import FEATURE
from bench.world.background import sample_settings
from bench.world.identity import sample_identities
from bench.world.pose import sample_poses
from bench.world.raster import pixel_grid, rasterise
from bench.world.render import Camera, body, render
from bench.world.scene import sample_pairs, sample_subjects
from bench.world.texture import shade
from bench.world.truth import ATTRIBUTE, SHOWN_ON, attributes, correspondence
from bench.world.words import COLOUR, KIND, PATTERN, TOP

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 64


@pytest.fixture(scope="module")
def pair():
    return sample_pairs(torch.arange(24))


def flat_colours(identities, parts, size):
    """The texture's own colours, without the roundness that depends on where the camera stands."""
    surface = rasterise(parts, size, size)
    return shade(identities, parts, surface)[0] / (1 - 0.34 * surface.across**4)[:, None], surface.slot >= 0


def centres(size):
    y, x = pixel_grid(size, size)
    return torch.stack([x.expand(size, size), y.expand(size, size)], -1) * size


def test_the_reference_warped_by_the_correspondence_is_the_target(pair):
    a, b = (body(pair.identities, poses) for poses in pair.poses)
    found = correspondence(a, b, SIZE, SIZE)
    source, _ = flat_colours(pair.identities, a, 4 * SIZE)
    target, subject = flat_colours(pair.identities, b, SIZE)
    warped = F.grid_sample(source, found.point / SIZE * 2 - 1, mode="nearest", align_corners=False)
    wrong = (warped - target).abs().amax(1) > 0.1
    assert found.visible.sum() > 0.5 * subject.sum()
    assert not (found.visible & ~subject).any()
    assert wrong[found.visible].float().mean() < 0.02
    # What the reference does not show is not right by chance.
    assert wrong[subject & ~found.visible].float().mean() > 0.2


def test_a_pose_maps_to_itself(pair):
    parts = body(pair.identities, pair.poses[0])
    found = correspondence(parts, parts, SIZE, SIZE)
    subject = rasterise(parts, SIZE, SIZE).slot >= 0
    assert found.visible[subject].float().mean() > 0.995
    assert torch.allclose(found.point[found.visible], centres(SIZE).expand_as(found.point)[found.visible], atol=1e-3)


def test_a_camera_moves_every_point_alike(pair):
    poses = pair.poses[0]
    count = len(pair.identities)
    camera = Camera(torch.full((count,), 0.75), torch.tensor([[0.1, 0.2]]).expand(count, 2))
    found = correspondence(body(pair.identities, poses, camera), body(pair.identities, poses), SIZE, SIZE)
    expected = centres(SIZE) * 0.75 + torch.tensor([0.1, 0.2]) * SIZE
    assert torch.allclose(found.point[found.visible], expected.expand_as(found.point)[found.visible], atol=1e-2)


def test_a_mirrored_pose_does_not_mirror_the_chest():
    seeds = torch.arange(40)
    who = sample_identities(seeds, person=True)
    ahead = torch.zeros(40, dtype=torch.float64)
    poses = replace(sample_poses(seeds, who), yaw=ahead, lean=ahead)
    a, b = body(who, poses), body(who, poses.mirrored())
    found = correspondence(a, b, SIZE, SIZE)
    surface = rasterise(b, SIZE, SIZE)
    chest = (surface.gather(b.feature) == FEATURE.index("chest")) & found.visible
    middle_a, middle_b = (parts.keypoints[:, 1, :1].float() * SIZE for parts in (a, b))
    aside_a = found.point[..., 0] - middle_a[..., None]
    aside_b = centres(SIZE)[..., 0] - middle_b[..., None]
    assert chest.sum() > 1000
    assert (aside_a - aside_b)[chest].abs().median() < 0.01 * SIZE


def test_tokens_can_be_asked_for_as_well_as_pixels(pair):
    a, b = (body(pair.identities, poses) for poses in pair.poses)
    tokens, pixels = correspondence(a, b, 16, 16), correspondence(a, b, 48, 48)
    # A token's centre is the centre of the middle one of its nine pixels.
    assert torch.allclose(tokens.point[tokens.visible] * 3, pixels.point[:, 1::3, 1::3][tokens.visible], atol=0.05)


@pytest.fixture(scope="module")
def pictures():
    s = sample_subjects(torch.arange(96))
    picture = render(s.identities, s.poses, s.settings)
    return s, picture, attributes(s.identities, s.poses, s.settings, picture)


def test_every_attribute_has_a_value_from_its_words(pictures):
    s, _, facts = pictures
    assert list(facts) == list(ATTRIBUTE)
    assert set(SHOWN_ON) < set(ATTRIBUTE)
    for name, fact in facts.items():
        assert len(fact.value) == len(fact.judgeable) == len(s.identities)
        assert fact.judgeable.dtype == torch.bool
        assert int(fact.value.min()) >= 0 and int(fact.value.max()) < len(ATTRIBUTE[name])


def test_people_are_not_asked_for_coats_nor_animals_for_shoes(pictures):
    s, _, facts = pictures
    person = s.identities.person
    assert not (facts["coat"].judgeable & person).any()
    assert not (facts["shoes colour"].judgeable & ~person).any()
    dress = s.identities.top == TOP.index("dress")
    assert not (facts["bottom colour"].judgeable & dress).any()
    assert facts["kind"].judgeable.all() and facts["background"].judgeable.all()


def test_most_of_what_is_worn_can_be_judged(pictures):
    s, _, facts = pictures
    person = s.identities.person
    for name in ("hair colour", "top colour", "shoes colour"):
        assert facts[name].judgeable[person].float().mean() > 0.9, name
    assert facts["coat colour"].judgeable[~person].float().mean() > 0.75


def test_what_is_hidden_cannot_be_judged(pictures):
    s, picture, _ = pictures
    hidden = replace(picture, region=torch.zeros_like(picture.region))
    facts = attributes(s.identities, s.poses, s.settings, hidden)
    for name in ("top colour", "top pattern", "shoes colour", "hair colour", "coat colour"):
        assert not facts[name].judgeable.any(), name


def test_stripes_of_two_colours_are_of_either_colour_and_dots_are_not():
    seeds = torch.arange(8)
    who = sample_identities(seeds, person=True)
    fill = torch.full_like(who.kind, 0)
    who = replace(who, kind=fill + KIND.index("woman"), top=fill + TOP.index("tank top"), emblem=fill, hair=fill, top_width=fill + 0.2)
    who = replace(who, top_colour=fill + COLOUR.index("red"), top_second=fill + COLOUR.index("white"))
    poses, settings = sample_poses(seeds, who), sample_settings(seeds)
    for pattern, both in (("banded", True), ("dotted", False), ("plain", False)):
        dressed = replace(who, top_pattern=fill + PATTERN.index(pattern))
        fact = attributes(dressed, poses, settings, render(dressed, poses, settings))["top colour"]
        assert fact.judgeable.sum() >= 6
        assert ((fact.also == COLOUR.index("white")) == both)[fact.judgeable].all(), pattern
