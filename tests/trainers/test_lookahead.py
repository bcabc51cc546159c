"""LookaheadSGD against a numpy reference, and the learning rate's shape."""

import copy

import numpy as np
import pytest
import torch

from nnunet_difflung.trainers.lookahead import LookaheadSGD
from nnunet_difflung.trainers.schedule import IterationCyclicLR

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.01


def target_gradient(w, target):
    """Gradient of 0.5 |w - target|^2, for tensors and arrays."""
    return w - target


def reference(start, target, steps, k, alpha):
    """Algorithm 1 of the Lookahead paper around Nesterov SGD with weight decay, in float64 numpy."""
    fast, slow, velocity = start.copy(), start.copy(), np.zeros_like(start)
    for step in range(1, steps + 1):
        gradient = target_gradient(fast, target) + DECAY * fast
        velocity = gradient if step == 1 else MOMENTUM * velocity + gradient
        fast = fast - LR * (gradient + MOMENTUM * velocity)
        if step % k == 0:
            slow = slow + alpha * (fast - slow)
            fast = slow.copy()
    return fast, slow


def make(start, k=5, alpha=0.5):
    p = torch.nn.Parameter(torch.tensor(start))
    return p, LookaheadSGD([p], LR, k=k, alpha=alpha, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)


def run(p, optimizer, target, steps):
    for _ in range(steps):
        p.grad = target_gradient(p.detach(), torch.tensor(target))
        optimizer.step()


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3)), rng.normal(size=(4, 3))


@pytest.mark.parametrize(("k", "alpha", "steps"), [(5, 0.5, 53), (5, 0.5, 50), (1, 0.3, 7), (4, 1.0, 9)])
def test_agrees_with_numpy(problem, k, alpha, steps):
    start, target = problem
    p, optimizer = make(start, k, alpha)
    run(p, optimizer, target, steps)
    fast, slow = reference(start, target, steps, k, alpha)
    np.testing.assert_allclose(p.detach().numpy(), fast, atol=1e-12)
    np.testing.assert_allclose(optimizer.state[p]["slow"].numpy(), slow, atol=1e-12)


def test_weights_loaded_after_construction_are_the_slow_start(problem):
    start, target = problem
    p, optimizer = make(np.full_like(start, 100.0))
    with torch.no_grad():
        p.copy_(torch.tensor(start))  # as -pretrained_weights does, after configure_optimizers
    run(p, optimizer, target, 5)
    np.testing.assert_allclose(p.detach().numpy(), reference(start, target, 5, 5, 0.5)[0], atol=1e-12)


@pytest.mark.parametrize("before", [3, 5])
def test_state_dict_goes_on_bit_for_bit(problem, before):
    start, target = problem
    p, optimizer = make(start)
    run(p, optimizer, target, before)
    q, resumed = make(p.detach().numpy().copy())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(p, optimizer, target, 9)
    run(q, resumed, target, 9)
    assert torch.equal(p, q)
    assert torch.equal(optimizer.state[p]["slow"], resumed.state[q]["slow"])


def test_synchronise_makes_fast_equal_slow_once(problem):
    start, target = problem
    p, optimizer = make(start)
    optimizer.synchronise()  # nothing has been done yet
    assert torch.equal(p, torch.tensor(start))
    run(p, optimizer, target, 7)
    assert not torch.equal(p, optimizer.state[p]["slow"])
    optimizer.synchronise()
    once = p.detach().clone()
    assert torch.equal(once, optimizer.state[p]["slow"])
    optimizer.synchronise()
    assert torch.equal(p, once)
    run(p, optimizer, target, 4)
    assert optimizer.param_groups[0]["since_pull"] == 4  # the block began anew


def test_parameters_without_gradient_and_added_groups_stay_consistent(problem):
    start, target = problem
    p, optimizer = make(start)
    frozen = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [frozen]})
    run(p, optimizer, target, 5)
    assert torch.equal(frozen, torch.ones(3))
    np.testing.assert_allclose(p.detach().numpy(), reference(start, target, 5, 5, 0.5)[0], atol=1e-12)


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="before torch 2.3 GradScaler needs a GPU")
def test_a_step_that_amp_skips_does_not_count():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = LookaheadSGD([p], 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for gradient in (1.0, float("inf"), 1.0):
        p.grad = None
        scaler.scale((p * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.param_groups[0]["since_pull"] == 2
    assert torch.allclose(p, torch.full((2,), 0.8))


@pytest.mark.parametrize("wrong", [{"k": 0}, {"alpha": 0.0}, {"alpha": 1.5}])
def test_refuses_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match="Lookahead"):
        LookaheadSGD([torch.nn.Parameter(torch.ones(1))], 0.1, **wrong)


def rates(total, cycles, peak=0.01, trough=0.0001):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0, momentum=0.99)
    schedule = IterationCyclicLR(optimizer, peak=peak, trough=trough, total=total, cycles=cycles)
    values = [optimizer.param_groups[0]["lr"]]
    for _ in range(total):
        optimizer.step()
        schedule.step()
        values.append(optimizer.param_groups[0]["lr"])
    assert optimizer.param_groups[0]["momentum"] == 0.99
    return np.array(values)


@pytest.mark.parametrize(("total", "cycles"), [(100, 1), (1000, 5), (250, 3), (770, 7)])
def test_rate_rises_and_falls_cycles_times_and_ends_in_a_trough(total, cycles):
    values = rates(total, cycles)
    assert values[0] == pytest.approx(0.0001)
    assert values[-1] == pytest.approx(0.0001, rel=1e-3)
    assert values.min() == pytest.approx(0.0001)
    assert values.max() <= 0.01
    peaks = [i for i in range(1, total) if values[i - 1] < values[i] >= values[i + 1]]
    assert len(peaks) == cycles


def test_envelope_falls_exponentially_to_one_percent():
    total, cycles = 1000, 50
    values = rates(total, cycles, trough=0.0)
    middles = np.arange(10, total, 20)  # the iteration in the middle of each triangle
    np.testing.assert_allclose(values[middles], 0.01 * 0.01 ** (middles / total), rtol=1e-6)


def test_schedule_ignores_nnunets_call_per_epoch_and_restores_from_the_optimizer():
    def fresh():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0)
        return optimizer, IterationCyclicLR(optimizer, peak=0.01, trough=0.0001, total=60, cycles=2)

    optimizer, schedule = fresh()
    for _ in range(23):
        optimizer.step()
        schedule.step()
    rate = optimizer.param_groups[0]["lr"]
    schedule.step(7)
    assert optimizer.param_groups[0]["lr"] == rate
    assert schedule.last_epoch == 23

    resumed, resumed_schedule = fresh()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed_schedule.restore()
    for _ in range(30):
        for part in (optimizer, schedule, resumed, resumed_schedule):
            part.step()
        assert optimizer.param_groups[0]["lr"] == resumed.param_groups[0]["lr"]


def test_restore_refuses_a_foreign_checkpoint():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    schedule = IterationCyclicLR(optimizer, peak=0.01, trough=0.0001, total=60, cycles=2)
    optimizer.load_state_dict(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0).state_dict())
    with pytest.raises(RuntimeError, match="not written by nnUNetTrainerDiffLung"):
        schedule.restore()
