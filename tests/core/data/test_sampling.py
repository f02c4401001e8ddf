import numpy as np
import pytest
import torch

from lib.core.augmentation.deformation import DeformationSettings
from lib.core.augmentation.grey_values import GreyValueSettings
from lib.core.augmentation.settings import AugmentationSettings
from lib.core.data.sampling import HeldVolume, TileSampler
from lib.core.errors import InputError
from lib.core.labels import IGNORED, LabelScheme
from lib.core.network.architectures import PAPER
from lib.core.plan.plan import Centres
from mirrored import mirrored

SCHEME = LabelScheme(("inside", "tubule"), "outside")
TILES, CONTEXT = PAPER.tiles, 44
TILE = (100, 108, 100)
NO_AUGMENTATION = AugmentationSettings(
    DeformationSettings(rotation=0, scaling=0, elastic_sd=0), GreyValueSettings(slope_sd=0, offset_sd=0)
)


def sparse_volume(seed: int, shape: tuple[int, ...] = (50, 40, 30)) -> HeldVolume:
    """A volume with one annotated slice: nearly all background, with a few voxels of the other classes."""
    generator = np.random.default_rng(seed)
    annotation = np.zeros(shape, dtype=np.uint8)
    annotation[:, :, 12] = 3
    annotation[10:14, 5:8, 12] = 2
    annotation[11, 6, 12] = 1
    image = generator.random((1, *shape)).astype(np.float32)
    return HeldVolume(torch.tensor(image), torch.tensor(annotation), (1.0, 1.0, 1.0))


def test_without_augmentation_a_tile_is_cut_out_of_the_mirrored_volume() -> None:
    volume = sparse_volume(0)
    sampler = TileSampler([volume], SCHEME, TILES, TILE, NO_AUGMENTATION, CONTEXT)
    padded = np.pad(volume.image[0].numpy(), 150, mode="reflect")
    targets_of = np.pad(SCHEME.targets(volume.annotation.numpy()), 150, constant_values=IGNORED)
    image, targets = sampler.draw(np.random.default_rng(0))
    # The first voxel's value tells where the tile may have been cut: at several places, since borders are mirrored.
    places = []
    for start in np.argwhere(np.abs(padded - image[0, 0, 0, 0].item()) < 5e-4):
        cut = padded[tuple(slice(s, s + n) for s, n in zip(start, TILE, strict=True))]
        # Compare one line first, since there are many places and few of them pass.
        matches = cut.shape == TILE and np.allclose(cut[:, 0, 0], image[0, :, 0, 0].numpy(), atol=5e-4)
        if matches and np.allclose(cut, image[0].numpy(), atol=5e-4):
            places.append(start + CONTEXT)
    cuts = [
        targets_of[tuple(slice(s, s + n) for s, n in zip(place, TILES.output_shape(TILE), strict=True))]
        for place in places
    ]
    assert any(np.array_equal(cut, targets.numpy()) for cut in cuts)


def test_without_augmentation_a_tile_that_covers_the_volume_is_all_of_it() -> None:
    """Along the axes that it covers; along the others it is cut out as usual."""
    generator = np.random.default_rng(0)
    image = torch.tensor(generator.random((2, 36, 100, 21)).astype(np.float32))
    annotation = torch.tensor(generator.integers(0, 4, (36, 100, 21)).astype(np.uint8))
    volume = HeldVolume(image, annotation, (1.0, 1.0, 1.0))
    sampler = TileSampler([volume], SCHEME, TILES, (132, 124, 156), NO_AUGMENTATION, CONTEXT)
    drawn, targets = sampler.draw(generator)
    assert drawn.shape == (2, 124, 124, 116)
    assert targets.shape == (36, 36, 28)
    padded = mirrored(image, 150)[:, 150 - CONTEXT : 274 - CONTEXT, :, 150 - CONTEXT : 266 - CONTEXT]
    starts = [
        start
        for start in range(150 - CONTEXT, 150 - CONTEXT + 65)
        if np.allclose(padded[:, :, start : start + 124], drawn, atol=5e-4)
    ]
    assert len(starts) == 1
    inside = starts[0] + CONTEXT - 150
    expected = SCHEME.targets(annotation[:, inside : inside + 36].numpy())
    np.testing.assert_array_equal(targets[:, :, :21], expected)
    assert (targets[:, :, 21:] == IGNORED).all()


@pytest.mark.parametrize("context", [14, 10])
def test_tiles_can_have_less_context(context: int) -> None:
    """Inside the volume along one axis, and mirrored along two axes that the output covers."""
    generator = np.random.default_rng(0)
    image = torch.tensor(generator.random((1, 60, 44, 10)).astype(np.float32))
    annotation = torch.ones((60, 44, 10), dtype=torch.uint8)
    annotation[31, 20, 5] = 2
    sampler = TileSampler(
        [HeldVolume(image, annotation, (1.0, 1.0, 1.0))], SCHEME, TILES, (116, 132, 100), NO_AUGMENTATION, context
    )
    given, targets = sampler.draw(generator)
    assert targets.shape == (28, 44, 12)
    assert given.shape == (1, *(size + 2 * context for size in targets.shape))
    padded = mirrored(image, 60)
    starts = [
        start
        for start in range(60 - context, 60 + 32)
        if np.allclose(
            padded[:, start : start + given.shape[1], 60 - context : 104 + context, 60 - context : 72 + context],
            given,
            atol=5e-4,
        )
    ]
    assert len(starts) == 1


def test_every_tile_has_labelled_voxels_and_classes_are_balanced() -> None:
    volumes = [sparse_volume(seed) for seed in range(2)]
    sampler = TileSampler(volumes, SCHEME, TILES, TILE, AugmentationSettings(), CONTEXT)
    with_inside = 0
    for seed in range(60):
        image, targets = sampler.draw(np.random.default_rng(seed))
        assert image.shape == (1, *TILE)
        assert targets.shape == TILES.output_shape(TILE)
        assert (targets != IGNORED).any()
        with_inside += int((targets == 1).any() or (targets == 2).any())
    # Of the labelled voxels 0.7 % are foreground; balanced draws centre two tiles in three on it.
    assert with_inside >= 30


def test_a_tile_without_labelled_voxels_is_drawn_again() -> None:
    """The deformation is so strong that the voxel in the middle often leaves the output."""
    volume = sparse_volume(0)
    volume.annotation.zero_()
    volume.annotation[25, 20, 15] = 1
    wild = AugmentationSettings(DeformationSettings(rotation=0, scaling=0, elastic_sd=12))
    sampler = TileSampler([volume], SCHEME, TILES, (100, 100, 100), wild, CONTEXT)
    for seed in range(20):
        _, targets = sampler.draw(np.random.default_rng(seed))
        assert (targets != IGNORED).any()


def test_a_seed_repeats_a_tile() -> None:
    sampler = TileSampler([sparse_volume(0)], SCHEME, TILES, TILE, AugmentationSettings(), CONTEXT)
    first, second, other = (sampler.draw(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_volumes_without_any_label_are_refused() -> None:
    volume = sparse_volume(0)
    volume.annotation.zero_()
    with pytest.raises(InputError, match="no voxel is labelled"):
        TileSampler([volume], SCHEME, TILES, TILE, AugmentationSettings(), CONTEXT)


def test_tiles_without_any_contrast_are_drawn_again() -> None:
    """Half of the volume is constant, and most labels lie there."""
    generator = np.random.default_rng(0)
    image, annotation = np.zeros((1, 200, 12, 12), np.float32), np.zeros((200, 12, 12), np.uint8)
    image[:, :60] = generator.random((1, 60, 12, 12))
    annotation[150], annotation[30] = 3, 1
    volume = HeldVolume(torch.tensor(image), torch.tensor(annotation), (1.0, 1.0, 1.0))
    sampler = TileSampler([volume], SCHEME, TILES, (92, 100, 100), AugmentationSettings(), 14)
    for seed in range(10):
        drawn, targets = sampler.draw(np.random.default_rng(seed))
        assert drawn.std() > 0.01
        assert (targets == 1).any()
    # If there is nothing else, a constant tile is drawn after all.
    constant = HeldVolume(torch.ones_like(volume.image), volume.annotation, volume.voxel_size)
    drawn, _ = TileSampler([constant], SCHEME, TILES, (92, 100, 100), AugmentationSettings(), 14).draw(generator)
    assert drawn.std() < 1e-6


@pytest.mark.parametrize(("centres", "expected"), [("classes", 1 / 3), ("voxels", 1 / 1200)])
def test_tiles_are_centred_on_each_class_or_each_voxel_equally_often(centres: Centres, expected: float) -> None:
    """Of 1200 voxels, one is ``inside`` and 12 are ``tubule``. Tiles that are centred on the one are counted."""
    volume = sparse_volume(0)
    sampler = TileSampler([volume], SCHEME, TILES, (92, 92, 92), NO_AUGMENTATION, CONTEXT, centres=centres)
    generator = np.random.default_rng(0)
    draws = 3000
    hits = sum(sampler._draw_place(generator)[1] == [11, 6, 12] for _ in range(draws))
    assert abs(hits / draws - expected) < 4 * np.sqrt(expected / draws)


def test_volumes_that_are_moved_to_the_host_give_the_same_tiles() -> None:
    sampler = TileSampler([sparse_volume(0)], SCHEME, TILES, TILE, AugmentationSettings(), CONTEXT)
    before = sampler.draw(np.random.default_rng(5))
    sampler.keep_on_host()
    for one, other in zip(before, sampler.draw(np.random.default_rng(5)), strict=True):
        assert torch.equal(one, other)
