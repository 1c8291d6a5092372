"""ONNX sessions: results, threads, refused files and devices."""

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ffbench.errors import UserError
from ffbench.extract.sessions import SIDE_BY_SIDE, callers, onnx_session, side_by_side

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def save(path: Path, graph: onnx.GraphProto, **options: object) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path), **options)
    return path


def product(weight: onnx.TensorProto) -> onnx.GraphProto:
    """Y = X W."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    return helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return save(tmp_path / "net.onnx", product(numpy_helper.from_array(WEIGHT, "w")))


def test_a_network_runs_on_the_cpu(network: Path) -> None:
    session = onnx_session(network, "cpu", threads=1)
    x = np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x @ WEIGHT)
    assert session.get_providers() == ["CPUExecutionProvider"]
    options = session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_threads_default_to_the_share_of_this_process(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert onnx_session(network, "cpu").get_session_options().intra_op_num_threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert onnx_session(network, "cpu").get_session_options().intra_op_num_threads == 2


def test_calls_side_by_side_keep_their_order() -> None:
    """Two calls meet at a barrier, so neither ends before the other has begun; later pieces end earlier."""
    both = threading.Barrier(2, timeout=20)

    def run(piece: int) -> int:
        if piece < 2:
            both.wait()
        return piece * 10

    assert side_by_side(run, range(9), 2) == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert side_by_side(str, [], 2) == []


def test_one_caller_stays_in_its_thread() -> None:
    here = threading.get_ident()
    assert side_by_side(lambda _: threading.get_ident(), range(3), 1) == [here] * 3
    assert side_by_side(lambda _: threading.get_ident(), range(1), 4) == [here]


def test_the_first_error_of_calls_side_by_side_is_raised() -> None:
    def run(piece: int) -> int:
        raise UserError(f"piece {piece}", "mend it")

    with pytest.raises(UserError, match="piece 0"):
        side_by_side(run, range(4), 2)


def test_callers_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {3, 5}, raising=False)
    assert callers("cpu") == 2
    assert callers("cuda:0") == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    assert callers("cpu") == SIDE_BY_SIDE


def test_no_fall_back_to_the_cpu_in_silence(network: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime may have a GPU")
    with pytest.raises(UserError, match="cannot use cuda:0") as caught:
        onnx_session(network, "cuda:0")
    assert "onnxruntime-gpu" in caught.value.fix


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "", "cpu:0", "cudax"])
def test_unknown_devices(network: Path, device: str) -> None:
    with pytest.raises(UserError, match="no device"):
        onnx_session(network, device)


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x08garbage" * 40])
def test_files_that_are_no_network(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.onnx is no ONNX network"):
        onnx_session(path, "cpu")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file"):
        onnx_session(tmp_path / "none.onnx", "cpu")


def test_a_network_that_onnx_runtime_refuses(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("NoSuchOperator", ["x"], ["y"])], "g", [x], [y])
    with pytest.raises(UserError, match="cannot run it") as caught:
        onnx_session(save(tmp_path / "odd.onnx", graph), "cpu")
    assert "\n" not in caught.value.what


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((2, 3), np.float32), "w")
    path = save(
        tmp_path / "split.onnx",
        product(weight),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / "weights.bin").is_file()
    with pytest.raises(UserError, match=r"another file \(weights\.bin\)"):
        onnx_session(path, "cpu")


def test_weights_outside_the_folder_inside_a_branch_are_refused(tmp_path: Path) -> None:
    secret = numpy_helper.from_array(np.zeros(1, np.float32), "c")
    secret.ClearField("raw_data")
    secret.data_location = TensorProto.EXTERNAL
    secret.external_data.add(key="location", value="../../etc/secret")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=secret)], "b", [], [y])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(UserError, match=r"\.\./\.\./etc/secret"):
        onnx_session(save(tmp_path / "branch.onnx", helper.make_graph([node], "g", [flag], [y])), "cpu")
