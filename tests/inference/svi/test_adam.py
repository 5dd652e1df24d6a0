"""Adam's operations are torch's own optimiser, and so is their state."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_gen.inference.svi.adam import RecordableAdam

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Adam": (torch.optim.Adam, {"betas": (0.8, 0.99)}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
}


def parameters(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 2, dtype=dtype).requires_grad_(), torch.randn((), dtype=dtype).requires_grad_()]


def gradients(i: int, of: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(i)
    return [10.0 ** torch.randint(-6, 3, p.shape) * torch.randn_like(p) for p in of]


def run(name: str, ways: str, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Any]:
    """Steps by torch (t), by our operations (o), or after a resume (r) by our operations."""
    make, options = OPTIMIZERS[name]
    moved = parameters(dtype)
    optimizer = make(moved, lr=0.01, fused=True, **options)
    adam = RecordableAdam(optimizer)
    for i, way in enumerate(ways):
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + i)
        found = gradients(i, moved)
        if way == "r":
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if way == "t":
            for p, g in zip(moved, found, strict=True):
                p.grad = g
            adam.step()
        else:
            adam.set_rate()
            with torch.no_grad():
                adam.move(moved, adam.state, found, torch.tensor(True))
    return [p.detach() for p in moved], optimizer.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_is_torchs_own_to_rounding(name: str, dtype: torch.dtype, rtol: float) -> None:
    expected = run(name, 12 * "t", dtype)
    for ways in (12 * "o", "ooottoottooo", "ootorottrooo"):
        torch.testing.assert_close(run(name, ways, dtype), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("defect", ["count", "betas", "eps"])
def test_twin_other_operations_are_found_out(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    move = RecordableAdam.move

    def wrong(self: RecordableAdam, moved: Any, state: Any, *rest: Any) -> None:
        *moments, count, lr = state
        if defect == "count":  # no correction of moments that start at zero
            return move(self, moved, [*moments, count + 1e9, lr], *rest)
        group = self.group
        self.group = group | {"betas": (0.79, 0.99)} if defect == "betas" else group | {"eps": 1e-5}
        move(self, moved, state, *rest)
        self.group = group
        return None

    expected = run("Adam", 5 * "t")[0]
    torch.testing.assert_close(run("Adam", 5 * "o")[0], expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(RecordableAdam, "move", wrong)
    assert not torch.allclose(run("Adam", 5 * "o")[0][0], expected[0], rtol=1e-5, atol=1e-5)


def test_nothing_moves_where_it_must_not() -> None:
    moved = parameters(torch.float32)
    adam = RecordableAdam(torch.optim.Adam(moved, lr=0.1))
    adam.set_rate()
    tensors = [*moved, *adam.state]
    before = [t.detach().clone() for t in tensors]
    with torch.no_grad():
        adam.move(moved, adam.state, [torch.full_like(p, torch.nan) for p in moved], torch.tensor(False))
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


def test_the_state_is_what_torch_writes() -> None:
    (_, ours), (_, torchs) = run("Adam", "ooo"), run("Adam", "ttt")
    plain = torch.optim.Adam(parameters(torch.float64), lr=0.01, betas=(0.8, 0.99), fused=True)
    for i in range(3):
        for p, g in zip(plain.param_groups[0]["params"], gradients(i, plain.param_groups[0]["params"]), strict=True):
            p.grad = g
        plain.step()
    for state in (ours, torchs):
        for index, kept in plain.state_dict()["state"].items():
            assert state["state"][index].keys() == kept.keys()
            assert state["state"][index]["step"] == kept["step"] == 3
            assert state["state"][index]["step"].dtype == kept["step"].dtype
