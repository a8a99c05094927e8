"""The loss of MP2: missing targets, parts of a batch, and its value and gradient worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mp3model.model.losses import contrastive_loss, masked_squared_error, mean_over_targets


def test_missing_targets_count_nowhere():
    predictions = torch.tensor([[[1.0, 5.0]], [[3.0, 7.0]]], requires_grad=True)
    targets = torch.tensor([[[0.0, float("nan")]], [[1.0, 4.0]]])
    sums, counts = masked_squared_error(predictions, targets)
    assert sums.tolist() == [5.0, 9.0]
    assert counts.tolist() == [2, 1]
    loss = mean_over_targets(sums, counts)
    assert loss.item() == pytest.approx((2.5 + 9.0) / 2)
    loss.backward()
    assert predictions.grad is not None
    assert predictions.grad.isfinite().all()
    assert predictions.grad[0, 0, 1] == 0


def test_a_batch_without_any_target_has_loss_zero_and_finite_gradients():
    predictions = torch.ones(2, 1, 2, requires_grad=True)
    loss = mean_over_targets(*masked_squared_error(predictions, torch.full((2, 1, 2), float("nan"))))
    loss.backward()
    assert loss.item() == 0
    assert predictions.grad is not None
    assert not predictions.grad.any()


def test_the_loss_over_parts_equals_the_loss_over_the_whole():
    generator = torch.Generator().manual_seed(3)
    predictions, targets = torch.randn(8, 4, 2, generator=generator), torch.randn(8, 4, 2, generator=generator)
    targets[torch.rand(8, 4, 2, generator=generator) < 0.4] = float("nan")
    whole = mean_over_targets(*masked_squared_error(predictions, targets))
    counts = masked_squared_error(predictions, targets)[1]
    parts = [
        mean_over_targets(masked_squared_error(predictions[rows], targets[rows])[0], counts)
        for rows in (slice(0, 3), slice(3, 8))
    ]
    assert torch.allclose(whole, torch.stack(parts).sum())


def test_the_gradient_is_twice_the_error_over_the_count_of_its_target():
    # Target 0 has two values, target 1 one; the mean over the two targets halves both.
    predictions = torch.tensor([[3.0, 1.0], [5.0, 8.0]], requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [6.0, 5.0]])
    mean_over_targets(*masked_squared_error(predictions, targets)).backward()
    assert predictions.grad is not None
    assert predictions.grad.tolist() == [[2 * 2 / 2 / 2, 0], [2 * -1 / 2 / 2, 2 * 3 / 1 / 2]]


def correlated_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions, and targets of which two in five are missing."""
    generator = torch.Generator().manual_seed(5)
    predictions = torch.randn(7, 4, 2, generator=generator, dtype=torch.float64)
    targets = torch.randn(7, 4, 2, generator=generator, dtype=torch.float64)
    targets[torch.rand(7, 4, 2, generator=generator) < 0.4] = float("nan")
    return predictions, targets


def test_with_a_correlation_the_sum_is_that_of_generalised_least_squares_over_the_known_regions():
    predictions, targets = correlated_case()
    expected = np.zeros(2)
    for song in range(7):
        for target in range(2):
            known = ~targets[song, :, target].isnan().numpy()
            error = (predictions - targets)[song, :, target].numpy()[known]
            matrix = np.full((len(error), len(error)), 0.6) + (1 - 0.6) * np.eye(len(error))
            expected[target] += error @ np.linalg.inv(matrix) @ error
    sums, counts = masked_squared_error(predictions, targets, 0.6)
    assert np.allclose(sums.numpy(), expected)
    assert torch.equal(counts, masked_squared_error(predictions, targets)[1])


def test_a_missing_target_has_no_gradient_beside_correlated_ones():
    predictions, targets = correlated_case()
    predictions.requires_grad_()
    masked_squared_error(predictions, targets, 0.6)[0].sum().backward()
    assert predictions.grad is not None
    assert not predictions.grad[targets.isnan()].any()
    assert predictions.grad[~targets.isnan()].all()


def test_what_a_song_does_in_one_region_alone_counts_for_more_than_what_it_does_in_all():
    targets = torch.zeros(1, 2, 1)
    apart, together = torch.tensor([[[1.0], [-1.0]]]), torch.ones(1, 2, 1)
    sums = [float(masked_squared_error(error, targets, 0.6)[0]) for error in (apart, together)]
    assert sums == pytest.approx([2 / (1 - 0.6), 2 / (1 + 0.6)])


def unit(*rows: list[float]) -> torch.Tensor:
    """Rows of length 1."""
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


def test_the_contrastive_loss_is_the_mean_surprise_at_each_clips_other_half():
    generator = torch.Generator().manual_seed(11)
    first, second = (unit(*torch.randn(5, 3, generator=generator).tolist()) for _ in range(2))
    clips = [*first, *second]
    surprises = []
    for row, clip in enumerate(clips):
        weights = {other: torch.exp(clip @ clips[other] / 0.3) for other in range(10) if other != row}
        surprises.append(-torch.log(weights[(row + 5) % 10] / sum(weights.values())))
    assert contrastive_loss(first, second, 0.3).item() == pytest.approx(float(torch.stack(surprises).mean()))


def test_songs_that_are_told_apart_have_less_contrastive_loss_than_songs_that_are_mistaken():
    one, other = [1.0, 0.0], [0.0, 1.0]
    apart, mistaken = (contrastive_loss(unit(one, other), unit(*rows)) for rows in ([one, other], [other, one]))
    assert apart < np.log(3) < mistaken


def test_a_song_alone_has_nothing_to_be_told_from():
    assert contrastive_loss(unit([3.0, 4.0]), unit([1.0, 0.0])).item() == 0
