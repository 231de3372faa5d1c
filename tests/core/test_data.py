"""Calibration data from every kind of source, and one clear line for everything that is wrong with it."""

from __future__ import annotations

import itertools
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from optkit.data import InputSpec, open_calibration
from optkit.errors import DataError, UsageError

F32 = np.dtype(np.float32)
IMAGE = [InputSpec("x", F32, ("batch", 3, 8, 8))]
TWO = [InputSpec("a", F32, ("n", 4)), InputSpec("b", np.dtype(np.int64), ("n", 2))]


def rows(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def test_graph_inputs_of_a_model_serve_as_specs() -> None:
    value = ir.Value(name="x", shape=ir.Shape(["batch", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    data = rows(3, 4)
    samples = list(open_calibration(data, [value])())
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in samples]), data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_yields_rows(tmp_path: Path, save: object, order: str) -> None:
    a, b = np.asarray(rows(5, 4), order=order), np.arange(10).reshape(5, 2)
    save(tmp_path / "d.npz", a=a, b=b)  # type: ignore[operator]
    opened = open_calibration(tmp_path / "d.npz", TWO)
    for _ in range(2):
        got = list(opened())
        assert [s["a"].shape for s in got] == [(1, 4)] * 5
        np.testing.assert_array_equal(np.concatenate([s["a"] for s in got]), a)
        np.testing.assert_array_equal(np.concatenate([s["b"] for s in got]), b)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_samples_are_spread_evenly(tmp_path: Path, save: object) -> None:
    save(tmp_path / "d.npz", x=np.repeat(np.arange(9, dtype=np.float32)[:, None], 2, 1))  # type: ignore[operator]
    got = open_calibration(tmp_path / "d.npz", [InputSpec("x", F32, ("n", 2))], samples=3)()
    assert [float(s["x"][0, 0]) for s in got] == [0, 3, 6]


def test_fixed_batch_takes_groups_and_leaves_out_the_rest() -> None:
    got = list(open_calibration(rows(7, 4), [InputSpec("x", F32, (3, 4))])())
    assert [s["x"].shape for s in got] == [(3, 4), (3, 4)]


def test_one_more_axis_means_whole_calls() -> None:
    got = list(open_calibration(rows(2, 3, 4), [InputSpec("x", F32, (3, 4))])())
    assert [s["x"].shape for s in got] == [(3, 4), (3, 4)]


def test_npy_is_cast_to_the_inputs_type(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", rows(3, 4).astype(np.float64))
    got = list(open_calibration(tmp_path / "d.npy", [InputSpec("x", F32, ("n", 4))])())
    assert {s["x"].dtype for s in got} == {F32}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_is_flat(tmp_path: Path, save: object) -> None:
    save(tmp_path / "d.npz", x=np.zeros((400, 1 << 14), np.float32))  # type: ignore[operator]  # 26 MB
    opened = open_calibration(tmp_path / "d.npz", [InputSpec("x", F32, ("n", 1 << 14))])
    tracemalloc.start()
    count = sum(1 for _ in opened())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < 3e6


def folder(path: Path, count: int = 3, size: tuple[int, int] = (8, 8), suffix: str = "png") -> Path:
    for i in range(count):
        (path / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10 * i, 100, 255)).save(path / f"c{i % 2}" / f"{i}.{suffix}")
    return path


def test_folder_is_sorted_and_scaled(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    got = list(open_calibration(folder(tmp_path), IMAGE)())
    assert [s["x"].shape for s in got] == [(1, 3, 8, 8)] * 3
    np.testing.assert_allclose([s["x"][0, 0, 0, 0] for s in got], np.array([0, 20, 10]) / 255, atol=1e-6)


def test_zip_of_images_reads_like_its_folder(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(root))
    for ours, theirs in itertools.zip_longest(
        open_calibration(tmp_path / "i.zip", IMAGE)(), open_calibration(root, IMAGE)()
    ):
        np.testing.assert_array_equal(ours["x"], theirs["x"])


def test_preprocess_by_hand(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    text = "scale=1,mean=[1,2,3],std=[4,5,6],color=bgr"
    (got,) = open_calibration(tmp_path, IMAGE, preprocess=text)()
    expected = ((pixels[:, :, ::-1].astype(np.float32) - [1, 2, 3]) / [4, 5, 6]).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(got["x"], expected, rtol=1e-6)


def test_resize_is_the_shorter_side_and_crop_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    (got,) = open_calibration(tmp_path, IMAGE, preprocess="resize=8,crop=8")()
    assert got["x"].shape == (1, 3, 8, 8)
    assert got["x"][..., 1:-1].min() == pytest.approx(1)


def test_images_of_another_size_are_covered_and_cropped(tmp_path: Path) -> None:
    got = list(open_calibration(folder(tmp_path, size=(20, 13)), IMAGE)())
    assert {s["x"].shape for s in got} == {(1, 3, 8, 8)}


def test_gray_follows_the_model(tmp_path: Path) -> None:
    got = list(open_calibration(folder(tmp_path), [InputSpec("x", F32, (1, 1, 8, 8))])())
    assert {s["x"].shape for s in got} == {(1, 1, 8, 8)}


class Loader:
    """What torch's DataLoader looks like from outside: re-iterable, (data, label) batches with detach()."""

    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def detach(self) -> Loader.Tensor:
            return self

        def cpu(self) -> Loader.Tensor:
            return self

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return self.array

    def __iter__(self) -> object:
        for start in range(0, 4, 2):
            data = np.full((2, 3, 8, 8), start, np.float32)
            yield self.Tensor(data), self.Tensor(np.zeros(2))


def test_loader_batches_pass_or_are_cut() -> None:
    assert [s["x"].shape[0] for s in open_calibration(Loader(), IMAGE)()] == [2, 2]
    cut = open_calibration(Loader(), [InputSpec("x", F32, (1, 3, 8, 8))])
    assert [float(s["x"].mean()) for s in cut()] == [0, 0, 2, 2]


def test_dicts_and_tuples_of_torchs_loader_with_an_odd_last_batch() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset

    a, b, label = torch.arange(40.0).reshape(10, 4), torch.arange(20).reshape(10, 2), torch.zeros(10)
    named = [{"a": x, "b": y, "labels": z} for x, y, z in zip(a, b, label, strict=True)]
    pairs = [((x, y), z) for x, y, z in zip(a, b, label, strict=True)]
    dicts = [({"b": y, "a": x}, z) for x, y, z in zip(a, b, label, strict=True)]
    loaders = [
        DataLoader(d, batch_size=4) for d in (TensorDataset(a, b), TensorDataset(a, b, label), named, pairs, dicts)
    ]
    for loader in loaders:
        got = list(open_calibration(loader, TWO)())
        assert [len(s["a"]) for s in got] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate([s["a"] for s in got]), a.numpy())
        np.testing.assert_array_equal(np.concatenate([s["b"] for s in got]), b.numpy())
        for fixed, count in ((1, 10), (3, 3), (5, 2), (10, 1)):  # of batches that are cut, joined, and left over
            specs = [InputSpec("a", F32, (fixed, 4)), InputSpec("b", np.dtype(np.int64), (fixed, 2))]
            got = list(open_calibration(loader, specs)())
            assert {s["a"].shape for s in got} == {(fixed, 4)} and len(got) == count
            np.testing.assert_array_equal(np.concatenate([s["a"] for s in got]), a.numpy()[: fixed * count])
    assert "has 10 rows, the model's batch is fixed at 11" in bad(
        loaders[0], [InputSpec("a", F32, (11, 4)), InputSpec("b", np.dtype(np.int64), (11, 2))]
    )
    assert "nothing for input 'b'" in bad([{"a": a}], TWO)
    assert "has 4 arrays, the model takes 2" in bad([(a, b, label, label)], TWO)


def test_augmentation_varies_images_and_repeats_with_the_seed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")

    def read(text: str, seed: int = 0) -> np.ndarray:
        return np.concatenate([s["x"] for s in open_calibration(tmp_path, IMAGE, preprocess=text, seed=seed)()])

    whole, flipped = read("resize=8x8"), read("resize=8x8,augment=flip")
    turned = [not np.array_equal(a, b) for a, b in zip(whole, flipped, strict=True)]
    assert 0 < sum(turned) < len(turned)
    for a, b, turn in zip(whole, flipped, turned, strict=True):
        np.testing.assert_array_equal(a[..., ::-1] if turn else a, b)
    both = "resize=8x8,augment=[flip,crop:0.5]"
    np.testing.assert_array_equal(read(both), read(both))
    assert (read(both) != read(both, 1)).any() and (read(both) != flipped).any()
    np.testing.assert_array_equal(read("resize=8x8,augment=crop:1"), whole)


def test_module_and_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_calibration.py").write_text(
        "import numpy as np\n"
        "def samples():\n    for i in range(3):\n        yield {'x': np.full((3, 8, 8), i, np.float32)}\n"
        "def broken():\n    raise KeyError('no such disk')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    opened = open_calibration("my_calibration:samples", IMAGE, samples=2)
    assert [float(s["x"].mean()) for s in opened()] == [0, 1] == [float(s["x"].mean()) for s in opened()]
    with pytest.raises(DataError, match="no such disk"):
        next(open_calibration("my_calibration:broken", IMAGE)())
    with pytest.raises(DataError, match="did you mean 'samples'"):
        open_calibration("my_calibration:sample", IMAGE)
    with pytest.raises(DataError, match="cannot import"):
        open_calibration("no_such_module:f", IMAGE)


def bad(spec: object, specs: list[InputSpec], **options: object) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        list(open_calibration(spec, specs, **options)())  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_wrong_arrays_are_named() -> None:
    assert "no input 'y'; known: x" in bad({"y": rows(2, 4)}, [InputSpec("x", F32, ("n", 4))])
    assert "nothing for input 'b'" in bad({"a": rows(2, 4)}, TWO)
    assert "[1, 5], the model takes [n, 4]" in bad(rows(2, 5), [InputSpec("x", F32, ("n", 4))])
    assert "has shape [1]" in bad(rows(2), [InputSpec("x", F32, ("n", 4))])
    assert "float32, the model takes int64" in bad({"a": rows(2, 4), "b": rows(2, 2)}, TWO)
    assert "is empty" in bad(rows(0, 4), [InputSpec("x", F32, ("n", 4))])
    assert "is empty" in bad([], [InputSpec("x", F32, ("n", 4))])
    assert "differ in the number" in bad({"a": rows(2, 4), "b": np.zeros((3, 2), np.int64)}, TWO)
    assert "2 inputs" in bad(rows(2, 4), TWO)
    assert "batch is fixed at 4" in bad(rows(3, 4), [InputSpec("x", F32, (4, 4))])
    assert "only once" in bad(iter([rows(1, 4)]), [InputSpec("x", F32, ("n", 4))])


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "Inf")])
def test_nan_names_sample_and_input(value: float, word: str) -> None:
    data = rows(5, 4)
    data[3, 1] = value
    assert f"sample 3, input 'x': holds {word}" in bad(data, [InputSpec("x", F32, ("n", 4))])
    assert f"sample 3, input 'x': holds {word}" in bad(list(data), [InputSpec("x", F32, ("n", 4))])


def test_wrong_files_are_named(tmp_path: Path) -> None:
    assert "no such file" in bad(tmp_path / "none.npz", IMAGE)
    (tmp_path / "text.npz").write_text("hello")
    assert "not a readable .npz" in bad(tmp_path / "text.npz", IMAGE)
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    assert "Python objects" in bad(tmp_path / "object.npz", IMAGE)
    (tmp_path / "empty").mkdir()
    assert "holds no image" in bad(tmp_path / "empty", IMAGE)
    (tmp_path / "text.csv").write_text("1,2")
    assert "give .npz" in bad(tmp_path / "text.csv", IMAGE)


def test_cut_off_npz_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=rows(64, 3, 8, 8))
    data = bytearray((tmp_path / "d.npz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "d.npz").write_bytes(data)
    assert "d.npz" in bad(tmp_path / "d.npz", IMAGE)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, suffix="jpg")
    whole = (root / "c1" / "1.jpg").read_bytes()
    (root / "c1" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    assert "c1/1.jpg" in bad(root, IMAGE)
    (root / "c1" / "1.jpg").write_bytes(b"hello")
    assert "c1/1.jpg: is not an image" in bad(root, IMAGE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resise=3", "did you mean 'resize'"),
        ("mean=[a]", "not a number"),
        ("std=[0]", "std holds a zero"),
        ("resize=0", "a size is"),
        ("color=red", "color=red"),
        ("crop", "needs a value"),
        ("crop=4,crop=5", "twice"),
        ("color=gray", "1 channels, the model wants 3"),
        ("mean=[1,2]", "mean has 2 values"),
        ("augment=flop", "did you mean 'flip'"),
        ("augment=crop:2", "a share above 0"),
        ("augment=[crop]", "a share above 0"),
        ("augment=flip:3", "flip takes no value"),
        ("resize=4,crop=8", "smaller than 8x8"),
        ("crop=4", "[1, 3, 4, 4], the model takes [batch, 3, 8, 8]"),
    ],
)
def test_wrong_preprocess_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in bad(folder(tmp_path), IMAGE, preprocess=text)


def test_preprocess_without_images_is_an_error() -> None:
    assert "preprocess is for folders" in bad(rows(2, 4), [InputSpec("x", F32, ("n", 4))], preprocess="crop=4")
