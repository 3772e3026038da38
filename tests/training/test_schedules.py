import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.training.schedules import Schedule


def rates(steps, **options):
    schedule = Schedule(learning_rate=0.1, steps=steps, **options)
    return np.array([float(schedule(step)) for step in range(steps)])


def test_step_is_the_papers():
    # Divided by 10 at 32k and at 48k of 64k iterations (He et al. 2015, section 4.2).
    schedule = Schedule(name="step", learning_rate=0.1, steps=64_000)
    at = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    for step, rate in at.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)


def test_cosine_with_warmup():
    values = rates(110, name="cosine", warmup_steps=10)
    np.testing.assert_allclose(values[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-6)
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(100) / 100))
    np.testing.assert_allclose(values[10:], expected, rtol=1e-5, atol=1e-8)  # float32 cosine
    assert values[-1] > 0


def test_constant():
    np.testing.assert_allclose(rates(5, name="constant"), 0.1, rtol=1e-6)


def test_a_schedule_is_rebuilt_from_its_config():
    schedule = Schedule(name="cosine", learning_rate=0.3, steps=50, warmup_steps=5)
    again = Schedule.from_config(schedule.get_config())
    assert [float(again(step)) for step in range(50)] == [float(schedule(step)) for step in range(50)]


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="Closest: 'cosine'"):
        Schedule(name="cosin", learning_rate=0.1, steps=1)


def test_milestones_and_final_rate():
    step = Schedule(name="step", learning_rate=1.0, steps=100, milestones=(0.3, 0.6, 0.8), decay_factor=0.2)
    np.testing.assert_allclose(
        [float(step(at)) for at in (0, 29, 30, 59, 60, 79, 80, 99)],
        [1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008],
        rtol=1e-6,
    )
    cosine = Schedule(name="cosine", learning_rate=0.5, steps=100, final_learning_rate=0.1)
    assert float(cosine(0)) == pytest.approx(0.5)
    assert float(cosine(50)) == pytest.approx(0.3)
    assert float(cosine(100)) == pytest.approx(0.1)
    assert Schedule.from_config(step.get_config()).milestones == (0.3, 0.6, 0.8)
