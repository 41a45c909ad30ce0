"""The learned estimator: what it predicts, when it says that it guesses, and files that are not to be trusted."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.cost.features import INPUTS, SIZES, TERMS
from graphopt.cost.learned import EXTRAPOLATED, UNITS, Learned
from graphopt.cost.learned_file import MAX_BYTES, packed, unpacked
from graphopt.cost.trees import Trees
from graphopt.errors import ConfigError
from graphopt.targets.target import load_target
from tests.cost.learner import learned, model, stumps, unit
from tests.cost.test_features import conv

NPU = load_target("npu-32")


def test_latency_is_roofline_times_trees() -> None:
    load = conv(16, np.array([8, 24]))
    (found,) = learned().predict([load], NPU)
    assert found is not None
    us = [5e-4 * 196 * 9 * 16 * o + 1e-4 * (196 * 16 + 196 * o + 9 * 16 * o) + 1 for o in (8, 24)]
    # log(1 + channels) is above 3 for 24 only; 144 rows fill tiles of 16; log(1 + 196) is above 5
    assert found.latency_us == pytest.approx([us[0] * np.exp(0.25), us[1] * np.exp(0.5)], rel=1e-6)
    assert found.uncertainty == pytest.approx([0.02, 0.02])
    assert not found.extrapolates.any()


def test_a_kernel_takes_as_long_as_its_slowest_unit() -> None:
    flat = unit(Trees.constant(0.0))
    always = replace(flat, coefficients=np.where(np.array(TERMS) == "one", 500.0, 0.0))
    several = model(compute=flat, off_chip=always)
    load = conv(16, np.array([8, 24, 400]))
    (found,) = Learned({"conv-kxk": several}).predict([load], NPU)
    (compute,) = Learned({"conv-kxk": model(compute=flat)}).predict([load], NPU)
    assert found is not None
    assert compute is not None
    assert compute.latency_us[1] < 500 < compute.latency_us[2]
    assert found.latency_us == pytest.approx([500, 500, compute.latency_us[2]])
    assert [UNITS[number] for number in found.unit] == ["off-chip", "off-chip", "compute"]
    back = unpacked(packed(Learned({"conv-kxk": several, "conv-1x1": model()})), "mine.npz")
    assert {name: list(one.units) for name, one in back.categories.items()} == {
        "conv-1x1": ["whole"], "conv-kxk": ["compute", "off-chip"],
    }  # fmt: skip
    assert back.predict([load], NPU)[0].latency_us.tolist() == found.latency_us.tolist()  # type: ignore[union-attr]


def test_beyond_what_was_measured_it_says_so() -> None:
    small = Learned({"conv-kxk": model(largest=float(np.log(1 + 196 * 9 * 16 * 16)))})
    (found,) = small.predict([conv(16, np.array([16, 17, 64]))], NPU)
    assert found is not None
    assert found.extrapolates.tolist() == [False, False, True]
    assert found.uncertainty == pytest.approx([0.02, 0.02, EXTRAPOLATED])


def test_many_at_once_are_each_alone_and_the_unlearned_are_left() -> None:
    loads = [conv(16, 24), replace(conv(8, 8), category="other"), conv(np.arange(3, 9), 8)]
    estimator = learned()
    found = estimator.predict(loads, NPU)
    assert found[1] is None
    for load, one in zip(loads[::2], found[::2], strict=True):
        (alone,) = estimator.predict([load], NPU)
        assert one is not None
        assert alone is not None
        assert one.latency_us == pytest.approx(alone.latency_us, rel=1e-12)
    assert found[0] is not None
    assert found[0].latency_us.shape == ()


def test_an_op_type_that_is_learned_apart_is_priced_apart() -> None:
    dear = model(compute=unit(times=3))
    estimator = Learned({"copy": model(), "copy:Pad": dear})
    pad = replace(conv(8, 8), category="copy", op_type="Pad")
    loads = [pad, replace(pad, op_type="Concat"), replace(pad, op_type="Concat", weight_elements=0)]
    padded, filled, joined = (one.latency_us for one in estimator.predict(loads, NPU) if one is not None)
    assert padded == filled == pytest.approx(3 * joined, rel=0.01)  # constants are filled in, as by a Pad
    assert unpacked(packed(estimator), "mine.npz").categories.keys() == {"copy", "copy:Pad"}


@pytest.mark.parametrize(
    ("correlation", "expected"), [(0.0, 0.05), (1.0, 0.07), (0.5, (0.5 * 25 + 0.5 * 49) ** 0.5 / 100)]
)
def test_the_uncertainty_of_a_sum(correlation: float, expected: float) -> None:
    estimator = learned(correlation=correlation)
    assert estimator.total_uncertainty(np.array([60.0, 40.0]), np.array([0.05, 0.1])) == pytest.approx(expected)
    assert estimator.total_uncertainty(np.zeros(0), np.zeros(0)) == 0


def test_a_file_comes_back_as_it_was_and_has_no_clock() -> None:
    content = packed(learned())
    back = unpacked(content, "mine.npz")
    assert packed(back) == content
    assert back.categories.keys() == learned().categories.keys()
    assert back.correlation == 0.25
    loads = [conv(16, 24)]
    assert back.predict(loads, NPU)[0].latency_us == learned().predict(loads, NPU)[0].latency_us  # type: ignore[union-attr]
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assert file["tiles"].tolist() == [[8, 8]] * 6
        assert file["owner"].tolist() == [0, 1, 2, 3, 4, 5]
        assert sorted(file["split_at"].tolist()) == [1.25, 3.0, 5.0]  # stored once


def two_units(change: Callable[[dict[str, Any]], Any]) -> bytes:
    return rewritten(change, Learned({"conv-1x1": model(compute=unit(), off_chip=unit())}))


def rewritten(change: Callable[[dict[str, Any]], Any], estimator: Learned | None = None) -> bytes:
    with np.load(io.BytesIO(packed(estimator or learned()))) as file:
        arrays = dict(file)
    change(arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def lying_header() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**6)})
    return zipped("correlation.npy", buffer.getvalue() + b"\0" * 64)


def cut(name: str, index: Any, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name][index] = value

    return change


def test_a_file_with_fewer_names_in_another_order_says_the_same() -> None:
    """As a file that was made before features were added."""
    unused = {"second bytes", "tiles", "share of second bytes", "output_width padded to 64", "log groups"}
    cheap = np.array([name not in unused for name in TERMS], np.float64)
    cheaper = replace(unit(), coefficients=unit().coefficients * cheap)
    whole = Learned({name: replace(one, units={"whole": cheaper}) for name, one in learned().categories.items()})
    generator = np.random.default_rng(1)

    def order(names: tuple[str, ...], first: int) -> np.ndarray:
        """Sizes stay in front, where their ranges say that they are."""
        kept = [[i for i in part if names[i] not in unused] for part in (range(first), range(first, len(names)))]
        return np.concatenate([generator.permutation(part) for part in kept]).astype(int)

    inputs, terms = order(INPUTS, SIZES), order(TERMS, 0)

    def change(arrays: dict[str, Any]) -> None:
        arrays["inputs"], arrays["terms"] = arrays["inputs"][inputs], arrays["terms"][terms]
        for name, array in arrays.items():
            if name == "coefficients":
                arrays[name] = np.ascontiguousarray((array * cheap)[:, terms])
            elif name in ("low", "high"):
                arrays[name] = np.ascontiguousarray(array[:, inputs[: SIZES - 1]])
            elif name == "split_feature":
                arrays[name] = np.array([inputs.tolist().index(place) for place in array], np.uint8)

    old = unpacked(rewritten(change), "old.npz")
    loads = [conv(16, np.arange(8, 80, 8)), conv(3, 24), conv(300, 7)]
    for one, other in zip(old.predict(loads, NPU), whole.predict(loads, NPU), strict=True):
        assert one is not None
        assert other is not None
        assert one.latency_us == pytest.approx(other.latency_us, rel=1e-12)
        assert (one.extrapolates == other.extrapolates).all()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an .npz"),
        (pickle.dumps({"a": 1}), "not an .npz"),
        (packed(learned())[:-200], "not an .npz"),
        (bytes(MAX_BYTES + 1), "at most"),
        (zipped("a.npy", bytes(5_000_000)), "unpacks to more"),
        (zipped("a.npy", b"\x93NUMPY\x01\x00" + b"\xff" * 40), "not an .npz"),
        (lying_header(), "not as its header says"),
        (rewritten(lambda a: a.pop("correlation")), "missing or unknown: correlation"),
        (rewritten(lambda a: a.update(more=a["mask"])), "missing or unknown: more"),
        (rewritten(cut("correlation", 0, np.nan)), "correlation: must be one number"),
        (rewritten(lambda a: a.update(terms=np.array(["macs"]))), "terms: made by another version"),
        (rewritten(cut("inputs", 0, "log x")), "inputs: made by another version"),
        (rewritten(cut("inputs", 0, "log groups")), "inputs: made by another version"),
        (rewritten(cut("categories", 0, "conv-9x9")), "conv-9x9: no category"),
        (rewritten(cut("categories", 0, "reduce")), "reduce: no category"),
        (rewritten(lambda a: a.update(categories=a["categories"][1:])), "do not fit together: low is float32.6, 11."),
        (rewritten(cut("units", 0, "gpu")), "gpu: no unit; known: whole, compute"),
        (rewritten(lambda a: a.update(units=a["units"][1:])), "do not fit together: tiles is int64.6, 2."),
        (rewritten(cut("owner", 0, 1)), "owner does not give each category its units"),
        (rewritten(cut("owner", 0, 9)), "owner does not give each category its units"),
        (two_units(cut("units", 1, "compute")), "a category has the same unit twice"),
        (rewritten(cut("coefficients", (4, 0), -1)), "matmul: .* not negative"),
        (rewritten(cut("coefficients", (4, 0), np.inf)), "matmul: whole: a number is not finite"),
        (rewritten(cut("tiles", (4, 0), 0)), "matmul: whole: tiles must be positive"),
        (rewritten(cut("base", 5, np.nan)), "reduce: whole: trees: a number is not finite"),
        (rewritten(cut("base", 11, np.nan)), "reduce: spread: a number is not finite"),
        (rewritten(cut("count", 5, 4)), "count does not add up to the 18 trees"),
        (rewritten(cut("count", slice(4, 6), (7, -1))), "count does not add up to the 18 trees"),
        (rewritten(cut("node", (15, 0), 77)), "do not fit together: .* out of bounds"),
        (rewritten(cut("mask", (15, 0), 0)), "reduce: whole: trees: mask leaves a row without a leaf"),
        (rewritten(cut("split_feature", 0, 200)), "do not fit together: .* out of bounds"),
        (rewritten(lambda a: a.update(split_feature=np.array([-1, 0, 1]))), "split_feature is int64"),
        (rewritten(lambda a: a.update(value=a["value"][1:])), "do not fit together: value is "),
        (rewritten(lambda a: a.update(low=np.ascontiguousarray(a["low"][:, 1:]))), "float32.11. for 10 names"),
        (rewritten(lambda a: a.update(low=a["low"][0])), "low is float32.11."),
        (rewritten(lambda a: a.update(correlation=np.array(["x"], dtype=object))), "not an .npz"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"evil\.npz: .*{message}|evil\.npz: {message}") as caught:
        unpacked(content, "evil.npz")
    assert "\n" not in str(caught.value)


def test_too_large_an_estimator_is_not_written() -> None:
    generator = np.random.default_rng(0)
    grown = stumps({"log pixels": 1.0}, 0.1)
    trees = replace(
        grown,
        node=np.repeat(grown.node, 4000, axis=0),
        mask=np.repeat(grown.mask, 4000, axis=0),
        value=generator.normal(0, 1e-5, (4000, 16)).astype(np.float32),
    )
    with pytest.raises(ConfigError, match="bytes of at most 200000"):
        packed(Learned({"conv-1x1": model(trees), "conv-kxk": model(Trees.constant(0.0))}))
