"""The calibration cache: used where all fits, made again where it does not, refused where it is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from optkit.api import transform
from optkit.calibration_cache import graph_sha256
from optkit.errors import DataError, OptkitError
from optkit.model import to_proto
from optkit.plan import choose_pipeline
from tests.graphs import build, weights

DATA = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)


def network(seed: int = 0) -> ir.Model:
    return build(
        "a = Conv(x, w) b = Relu(a) y = Conv(b, v)",
        "float[n,3,8,8] x",
        w=weights(4, 3, 1, 1, seed=seed),
        v=weights(4, 4, 1, 1, seed=1),
    )


def quantized(
    cache: Path | None,
    data: object = DATA,
    passes: str = "fold,quantize",
    model: ir.Model | None = None,
    **options: object,
) -> tuple[bytes, list[str]]:
    """Bytes of the model, and what was said of the cache."""
    result = transform(
        model or network(),
        choose_pipeline(passes),
        calib_data=data,
        calib_cache=cache,
        **options,  # type: ignore[arg-type]
    )
    said = [f"{f.action}: {f.reason}" for f in result.findings if "calibration cache" in f.reason]
    return to_proto(result.model).SerializeToString(deterministic=True), said


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    said = quantized(path, passes="fold,quantize{method=entropy}")[1]
    assert said == [f"note: statistics written to the calibration cache {path}"]
    return path


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse", "auto"])
@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_a_cached_histogram_answers_every_method_that_asks_one(cache: Path, method: str, symmetric: str) -> None:
    passes = f"fold,quantize{{method={method},symmetric_activations={symmetric}}}"
    before = cache.read_bytes()
    expected, none = quantized(None, passes=passes)
    assert none == []
    assert quantized(cache, passes=passes) == (expected, [f"note: statistics from the calibration cache {cache}"])
    # with no data at all
    assert quantized(cache, None, passes)[0] == expected
    assert cache.read_bytes() == before


def test_a_hit_runs_no_sample(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_args: object, **_options: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("optkit_passes.quantize.quantize.collect", run)
    quantized(cache)
    with pytest.raises(OptkitError, match="the model was run"):
        quantized(cache, DATA + 1)


def test_moving_averages_are_kept(tmp_path: Path) -> None:
    cache, passes = tmp_path / "c.json", "fold,quantize{method=moving_average}"
    first, second = (quantized(cache, passes=passes) for _ in range(2))
    assert first[0] == second[0] and second[1][0].startswith("note: statistics from")
    said = quantized(cache, passes="fold,quantize{method=moving_average,momentum=0.5}")[1]
    assert "was of another momentum (0.9, now 0.5)" in said[0]
    assert "another method ('moving_average', now 'mse')" in quantized(cache, passes="fold,quantize{method=mse}")[1][0]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"data": DATA + 1}, "other calibration data"),
        ({"data": DATA[:5]}, "other calibration data"),
        ({"calib_samples": 3}, "another number of samples to use (None, now 3)"),
        ({"passes": "fold,quantize{samples=3}"}, "another number of samples to use (None, now 3)"),
        ({"passes": "quantize"}, "other passes before quantization ('fold', now '')"),
        ({"model": network(5)}, "another source model"),
        ({"input_shapes": {"x": (1, 3, 8, 8)}}, "another graph after those passes"),
    ],
)
def test_what_does_not_fit_is_named_and_measured_again(cache: Path, changed: dict[str, object], word: str) -> None:
    model, said = quantized(cache, **changed)  # type: ignore[arg-type]
    assert said == [f"warning: the calibration cache {cache} was of {word}: measured again, and the file replaced"]
    assert quantized(None, **changed)[0] == model  # type: ignore[arg-type]
    assert quantized(cache, **changed)[1] == [f"note: statistics from the calibration cache {cache}"]  # type: ignore[arg-type]
    if "data" not in changed and "calib_samples" not in changed and "samples" not in str(changed):
        with pytest.raises(
            DataError, match=r"no calibration data, and the calibration cache .* is of .*; give the data"
        ):
            quantized(cache, None)


def test_other_nodes_may_be_excluded_but_no_unknown_tensor_is_made_up(cache: Path) -> None:
    fewer = "fold,quantize{exclude=[Conv_1]}"
    assert quantized(cache, passes=fewer) == (
        quantized(None, passes=fewer)[0],
        [f"note: statistics from the calibration cache {cache}"],
    )
    cache.unlink()
    quantized(cache, passes=fewer)
    assert "other tensors ('b' is not among them)" in quantized(cache)[1][0]


def test_without_data_and_without_a_file_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no calibration data, and the calibration cache .* does not exist"):
        quantized(tmp_path / "none.json", None)


def test_a_damaged_file_is_an_error_and_stays(cache: Path) -> None:
    whole = cache.read_text()
    spoiled = [
        whole[: len(whole) // 2],
        whole.replace('"first": ', '"first": 1'),
        whole.replace('"count": 6', '"count": 7'),
        "[]",
        json.dumps({"format": "something else"}),
        "",
    ]
    for text in spoiled:
        cache.write_text(text)
        with pytest.raises(DataError, match=r"damaged .*delete it|is no calibration cache") as caught:
            quantized(cache)
        assert "\n" not in str(caught.value)
        assert cache.read_text() == text


def test_an_interrupted_calibration_leaves_what_was_there(cache: Path, tmp_path: Path) -> None:
    before = cache.read_bytes()

    def data() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": DATA[:1]}
        yield {"x": DATA[1:2]}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantized(cache, data)
    assert cache.read_bytes() == before
    assert list(tmp_path.iterdir()) == [cache]


def test_the_graphs_hash_knows_weights_attributes_and_names() -> None:
    one = graph_sha256(network())
    assert one == graph_sha256(network())
    other = network()
    next(n for n in other.graph if n.op_type == "Conv").attributes["group"] = ir.AttrInt64("group", 1)
    assert len({one, graph_sha256(network(1)), graph_sha256(other)}) == 3


def test_images_are_known_by_their_contents(tmp_path: Path) -> None:
    from PIL import Image

    folder, cache = tmp_path / "images", tmp_path / "c.json"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (40 * i, 9, 200)).save(folder / f"{i}.png")
    quantized(cache, folder)
    assert quantized(cache, folder)[1][0].startswith("note: statistics from")
    assert "another preprocessing" in quantized(cache, folder, preprocess="scale=1")[1][0]
    quantized(cache, folder)
    Image.new("RGB", (8, 8), (1, 9, 200)).save(folder / "0.png")
    assert "other calibration data" in quantized(cache, folder)[1][0]
    assert "another preprocessing" in quantized(cache, folder, preprocess="augment=flip")[1][0]
    said = quantized(cache, folder, preprocess="augment=flip", seed=1)[1]
    assert "another seed of the images' augmentation (0, now 1)" in said[0]
