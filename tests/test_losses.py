"""The loss of MP2: missing targets, parts of a batch, and its value and gradient worked out by hand."""

from __future__ import annotations

import pytest
import torch

from mp3model.model.losses import masked_squared_error, mean_over_targets


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
