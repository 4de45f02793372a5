import pytest
import torch

from matvit.errors import DeviceError
from matvit.runtime.device import autocast, pick_device, pick_dtype

CPU = torch.device("cpu")


def test_auto_is_a_device_that_is_there():
    device = pick_device()
    assert device == pick_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2
    assert device.type == "cuda" or not torch.cuda.is_available()


def test_cpu_is_always_there():
    assert pick_device("cpu") == CPU


@pytest.mark.gpu
def test_cuda_is_taken_by_name_and_number():
    assert pick_device("cuda").type == pick_device("cuda:0").type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_an_absent_gpu_is_an_error(name):
    with pytest.raises(DeviceError, match=f"device {name} was asked for, but this machine has none"):
        pick_device(name)


def test_a_gpu_beyond_the_last_is_an_error():
    with pytest.raises(DeviceError, match="cuda:99"):
        pick_device("cuda:99")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has an MPS device")
def test_absent_mps_is_an_error():
    with pytest.raises(DeviceError, match="mps"):
        pick_device("mps")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:one", "cuda:-1", "CPU ", "meta", "cuda:0:1"])
def test_nonsense_names_are_errors(name):
    with pytest.raises(DeviceError) as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


def test_dtypes():
    assert pick_dtype("fp32", CPU) is torch.float32
    assert pick_dtype("bf16", CPU) is torch.bfloat16


@pytest.mark.parametrize(
    "capabilities, native",
    [({}, False), ({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"bf16": True}, True)],
    ids=["unknown", "AVX-512 alone", "x86", "ARM"],
)
def test_auto_is_bf16_where_the_processor_has_it(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert pick_dtype("auto", CPU) is (torch.bfloat16 if native else torch.float32)
    assert pick_dtype("auto", CPU, training=True) is torch.float32


def test_auto_is_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert pick_dtype("auto", CPU) is torch.float32


@pytest.mark.parametrize("name", ["", "fp16", "float32", "BF16"])
def test_other_dtypes_are_errors(name):
    with pytest.raises(DeviceError, match=f"'{name}' is no number format: write auto, fp32 or bf16"):
        pick_dtype(name, CPU)


@pytest.mark.gpu
def test_auto_is_bf16_where_the_gpu_has_it():
    device = torch.device("cuda")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert pick_dtype("auto", device) is (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_products_in_the_format_asked_for(dtype):
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32
