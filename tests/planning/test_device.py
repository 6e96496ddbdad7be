"""What is asked of NVML, against a machine made of dictionaries: no driver is needed, and none is asked."""

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

import medvl.planning.device
from medvl.planning.device import another_card, find_device

GIB = 2**30


@dataclass
class Card:
    uuid: str
    name: str
    free_bytes: int = 20 * GIB
    capability: tuple[int, int] = (9, 0)
    mig: bool = False
    parts: dict[int, "Card"] = field(default_factory=dict)


class NVMLError(Exception):
    pass


class NotFound(NVMLError):
    pass


class FakeDriver:
    """The part of pynvml that is used, over a list of cards."""

    NVMLError = NVMLError
    NVMLError_NotFound = NotFound
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_ERROR_NOT_FOUND = 6

    def __init__(self, *cards: Card, loads: bool = True) -> None:
        self.cards, self.loads, self.opened = cards, loads, 0

    def nvmlInit(self):
        if not self.loads:
            raise NVMLError("driver not loaded")
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for card in self.cards:
            for part in card.parts.values():
                if part.uuid == uuid:
                    return part
        raise NotFound(uuid)

    def nvmlDeviceGetUUID(self, card):
        return card.uuid

    def nvmlDeviceGetMigMode(self, card):
        if not card.parts and not card.mig:
            raise NVMLError("not supported")
        return int(card.mig), int(card.mig)

    def nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):
        if index not in card.parts:
            raise NotFound(index)
        return card.parts[index]

    def nvmlDeviceGetMemoryInfo(self, card):
        return SimpleNamespace(free=card.free_bytes, total=24 * GIB)

    def nvmlDeviceGetName(self, card):
        return card.name

    def nvmlDeviceGetCudaComputeCapability(self, card):
        if card.uuid.startswith("MIG-"):
            raise NVMLError("not supported")
        return card.capability


FIRST, SECOND = Card("GPU-aa11", "first"), Card("GPU-ab22", "second")
PART = Card("MIG-cc33", "third MIG 1g.10gb", free_bytes=9 * GIB)
CUT = Card("GPU-cc00", "third", mig=True, parts={2: PART})


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that makes a machine with these cards, and with a torch built for CUDA and Triton."""

    def make(*cards: Card, cuda: str = "'13.0'", triton: bool = True, loads: bool = True) -> FakeDriver:
        driver = FakeDriver(*cards, loads=loads)
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        (tmp_path / "version.py").write_text(f"__version__ = '2.11.0'\ncuda: Optional[str] = {cuda}\nhip = None\n")
        specs = {"torch": SimpleNamespace(origin=str(tmp_path / "__init__.py")), "triton": triton or None}
        monkeypatch.setattr(medvl.planning.device.importlib.util, "find_spec", specs.get)
        return driver

    return make


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        (None, "first"),
        ("0", "first"),
        ("1,0", "second"),
        (" 1 ", "second"),
        ("GPU-ab22", "second"),
        ("GPU-ab", "second"),
        ("MIG-cc33", "third MIG 1g.10gb"),
        ("2", "third MIG 1g.10gb"),  # a partitioned card is used by its first instance
        ("GPU-cc", "third MIG 1g.10gb"),
    ],
)
def test_the_first_card_that_cuda_may_see_is_taken(machine, visible, name):
    driver = machine(FIRST, SECOND, CUT)
    device = find_device({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert (device.kind, device.name) == ("cuda", name)
    assert driver.opened == 0


@pytest.mark.parametrize(
    "visible", ["", "-1", "3", "none", "-1,0", "0,0", "GPU-a", "GPU-zz", "MIG-zz", "MIG-zz,MIG-cc33"]
)
def test_a_list_that_begins_with_no_card_hides_them_all(machine, visible):
    machine(FIRST, SECOND, CUT)
    assert find_device({"CUDA_VISIBLE_DEVICES": visible}).kind == "cpu"


def test_its_free_memory_is_what_the_driver_says(machine):
    machine(FIRST)
    device = find_device({})
    assert (device.free_bytes, device.total_bytes, device.runs_engine) == (20 * GIB, 24 * GIB, True)


def test_a_card_partitioned_into_nothing_cannot_be_used(machine):
    machine(Card("GPU-dd", "empty", mig=True))
    assert find_device({}).kind == "cpu"


@pytest.mark.parametrize("cards", [(), (FIRST,)])
def test_without_a_card_or_a_driver_the_host_reads(machine, cards):
    machine(*cards, loads=not cards)
    device = find_device({})
    assert (device.kind, device.name, device.runs_engine) == ("cpu", "host memory", False)


def test_a_torch_without_cuda_reads_on_the_host_and_says_why(machine):
    machine(FIRST, cuda="None")
    device = find_device({})
    assert device.kind == "cpu"
    assert device.name == "host memory (this torch is built without CUDA and cannot use the first)"


@pytest.mark.parametrize(
    ("card", "triton", "runs"),
    [
        (Card("GPU-1", "T4", capability=(7, 5)), True, False),  # no bf16
        (Card("GPU-1", "A100", capability=(8, 0)), True, True),
        (Card("GPU-1", "A100", capability=(8, 0)), False, False),
        (CUT, True, True),
    ],
)
def test_the_engine_runs_on_cards_with_bf16_where_triton_is(machine, card, triton, runs):
    machine(card, triton=triton)
    assert find_device({}).runs_engine is runs


def test_a_card_that_is_not_here_is_all_free():
    elsewhere = another_card(24 * GIB)
    assert (elsewhere.name, elsewhere.free_bytes, elsewhere.runs_engine) == ("a card with 24 GiB", 24 * GIB, True)
