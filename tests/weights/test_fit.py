"""The solver's promises: exact where a linear answer exists, and never worse than what was there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.rewrites.activations import Activation
from graphopt.weights.fit import Problem, fit
from graphopt.weights.least_squares import Ridge
from graphopt.weights.majorise import Fitted, apply, error, majorise, slope, targets

RELU6 = Activation("relu6", (), "", 0.0, 6.0)
RELU = Activation("relu", (), "", 0.0, np.inf)
HARD_SWISH = Activation("hard-swish", (), "")
SILU = Activation("silu", (), "")
ACTIVATIONS = [None, RELU6, RELU, HARD_SWISH, SILU]


def problem(groups=1, n=400, columns=9, outputs=5, seed=0, activation=None, scale=1.0, hidden=0) -> Problem:
    """Rows, and answers of a linear map with other weights than the present ones (``hidden``: of columns that are not
    among the rows, too)."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((groups, n, columns + hidden)) + rng.standard_normal((groups, 1, columns + hidden))
    truth = rng.standard_normal((groups, columns + hidden, outputs)) * scale / np.sqrt(columns)
    bias = rng.standard_normal((groups, 1, outputs))
    present = truth[:, :columns] + 0.3 * scale * rng.standard_normal((groups, columns, outputs))
    return Problem(
        rows[:, :, :columns].astype(np.float32),
        n * 3 // 4,
        (rows @ truth + bias).astype(np.float32),
        None,
        present,
        bias + 0.5,
        activation,
    )


def copied(one: Problem) -> Problem:
    return replace(one, rows=one.rows.copy())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("groups", "columns", "outputs"), [(1, 9, 5), (12, 9, 1), (3, 6, 4)])
def test_a_linear_answer_is_found(groups: int, columns: int, outputs: int, activation: Activation | None) -> None:
    given = problem(groups, columns=columns, outputs=outputs, activation=activation)
    done = fit(copied(given))
    assert done.before > 0.1
    assert done.after < 1e-3
    made = given.rows @ done.weights + done.bias
    assert error(None, made.astype(np.float32), given.wanted) < 1e-3


def test_a_residual_target_is_met_with_what_is_added_to_it() -> None:
    plain = problem(seed=3)
    added = np.random.default_rng(8).standard_normal(plain.wanted.shape).astype(np.float32)
    done = fit(replace(copied(plain), wanted=plain.wanted + added, offset=added))
    assert done.after < 1e-3
    assert error(None, (plain.rows @ done.weights + done.bias).astype(np.float32), plain.wanted) < 1e-3


def test_an_op_without_bias_is_fitted_without_one() -> None:
    given = problem(seed=4)
    bare = replace(
        given, wanted=given.wanted - given.wanted.mean(1, keepdims=True), intercept=False, bias=given.bias * 0
    )
    done = fit(copied(bare))
    np.testing.assert_array_equal(done.bias, 0)
    best, *_ = np.linalg.lstsq(given.rows[0, : given.train], bare.wanted[0, : given.train], rcond=None)
    there = error(None, (given.rows @ best).astype(np.float32)[:, given.train :], bare.wanted[:, given.train :])
    assert done.after <= there * 1.05


def test_dead_columns_keep_their_weights() -> None:
    given = problem()
    given.rows[:, :, 2] = 7.0
    given = replace(given, weights=given.weights.copy())
    done = fit(copied(given))
    assert done.method == "least-squares"
    rescaled = done.weights[0, 2] / given.weights[0, 2]
    assert np.isfinite(done.weights).all()
    assert (np.abs(rescaled) < 3).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    activation=st.sampled_from(ACTIVATIONS),
    groups=st.sampled_from([1, 4]),
    n=st.sampled_from([12, 40, 200]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    hidden=st.sampled_from([0, 1, 20]),
)
def test_never_worse(seed, activation, groups, n, scale, hidden) -> None:
    given = problem(groups, n=n, seed=seed, activation=activation, scale=scale, hidden=hidden)
    done = fit(copied(given))
    assert done.after <= done.before
    made = (given.rows[:, given.train :].astype(np.float64) @ done.weights + done.bias).astype(np.float32)
    assert error(activation, made, given.wanted[:, given.train :]) == pytest.approx(done.after, rel=1e-2, abs=1e-4)


def test_what_cannot_be_better_stays() -> None:
    given = problem()
    exact = fit(copied(given))
    kept = replace(given, weights=exact.weights, bias=exact.bias)
    again = fit(copied(kept), tolerance=1e-3)
    assert again.method == "unchanged"
    np.testing.assert_array_equal(again.weights, exact.weights)
    np.testing.assert_array_equal(again.bias, exact.bias)


def test_pure_noise_is_not_learnt() -> None:
    given = problem(n=24, columns=16)
    rng = np.random.default_rng(1)
    noisy = replace(given, wanted=rng.standard_normal(given.wanted.shape).astype(np.float32))
    done = fit(replace(copied(noisy), weights=given.weights * 0, bias=given.bias * 0))
    assert done.after <= done.before


def test_without_a_gram_matrix_outputs_are_scaled_and_shifted() -> None:
    given = problem()
    double = replace(given, weights=given.weights * 2.0, wanted=(given.rows @ given.weights + 3).astype(np.float32))
    done = fit(copied(double), effort="scale")
    assert done.method == "rescaled"
    np.testing.assert_allclose(done.weights, given.weights, rtol=1e-3)
    assert done.after < 1e-3


def test_with_little_to_go_by_only_the_bias_moves() -> None:
    given = problem()
    done = fit(copied(given), effort="shift")
    assert done.method == "shifted"
    assert done.after < done.before
    np.testing.assert_array_equal(done.weights, given.weights)
    train = slice(0, given.train)
    made = given.rows[:, train].astype(np.float64) @ done.weights + done.bias
    np.testing.assert_allclose(made.mean(1), given.wanted[:, train].mean(1), atol=1e-4)


@pytest.mark.parametrize("activation", [RELU6, RELU, HARD_SWISH, SILU])
def test_what_knows_the_activation_beats_plain_least_squares(activation: Activation) -> None:
    """Answers of a map that the rows cannot express: where the activation is flat, the error is free."""
    given = problem(n=2000, columns=8, outputs=6, hidden=8, scale=3.0, activation=activation, seed=2)
    plain = fit(copied(replace(given, activation=None)))
    knowing = fit(copied(given))
    held = slice(given.train, None)
    made = (given.rows[:, held].astype(np.float64) @ plain.weights + plain.bias).astype(np.float32)
    before = error(activation, made, given.wanted[:, held])
    assert knowing.method == "majorise-minimise"
    assert knowing.after < 0.99 * before


@pytest.mark.parametrize("activation", [RELU6, RELU, HARD_SWISH, SILU])
def test_an_activation_behind_a_residual_sum_is_known_too(activation: Activation) -> None:
    """Whether five comes from the skip or from the bias is all the same."""
    given = problem(n=2000, columns=8, outputs=6, hidden=8, scale=3.0, seed=2, activation=activation)
    moved = replace(given, bias=given.bias - 5.0, offset=np.full_like(given.wanted, 5.0))
    one, other = fit(copied(given)), fit(copied(moved))
    assert one.method == other.method == "majorise-minimise"
    assert other.after == pytest.approx(one.after, rel=1e-3)
    np.testing.assert_allclose(other.weights, one.weights, atol=0.02)


@pytest.mark.parametrize("activation", [RELU6, RELU, HARD_SWISH, SILU])
def test_one_step_lowers_the_loss_or_leaves_the_start(activation: Activation) -> None:
    given = problem(n=800, hidden=6, scale=2.0, activation=activation, seed=6)
    ridge = Ridge(given.rows.copy(), given.train)
    centre = ridge.centre(given.weights, given.bias)
    start = Fitted(given.weights, centre, given.held_out(ridge.predict(given.weights, centre, held_out=True)), "start")
    inverse = np.linalg.inv(ridge.penalised(1e-3))
    done = majorise(ridge, activation, start, given.wanted, None, inverse)
    assert done.error < 0.9 * start.error


@pytest.mark.parametrize("kind", ["hard-swish", "silu"])
def test_slopes_are_derivatives(kind: str) -> None:
    x = np.linspace(-5.013, 5.013, 200).astype(np.float64)
    activation = Activation(kind, (), "")
    step = 1e-5
    numeric = (apply(activation, x + step) - apply(activation, x - step)) / (2 * step)
    np.testing.assert_allclose(slope(kind, x), numeric, atol=1e-3)


def test_targets_are_one_sided_where_the_original_was_clipped() -> None:
    wanted = np.array([[[-2.0, -2.0, 3.0, 9.0, 9.0]]], np.float32)
    predicted = np.array([[[-5.0, 1.0, 8.0, 7.0, 2.0]]], np.float32)
    np.testing.assert_array_equal(targets(RELU6, predicted, wanted, 1.0), [[[-5.0, 0.0, 3.0, 7.0, 6.0]]])


def test_a_right_answer_is_a_fixed_point_of_the_smooth_targets() -> None:
    wanted = np.linspace(-6, 6, 50, dtype=np.float32).reshape(1, 50, 1)
    for activation in (HARD_SWISH, SILU):
        np.testing.assert_allclose(targets(activation, wanted, wanted, 1.25), wanted)
