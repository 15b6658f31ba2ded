from __future__ import annotations

from distill_ray.events.records import Notice, PriorStepMetrics


def _step(number: int) -> PriorStepMetrics:
    return PriorStepMetrics(
        step=number,
        epoch=1,
        epoch_step=number,
        steps_per_epoch=100,
        fraction=0.0,
        loss=1.0,
        lr=1e-3,
        grad_norm=1.0,
        skipped_steps=0,
        steps_per_second=1.0,
        codes_per_second=1.0,
        eta_s=None,
    )


def test_steps_are_thinned_out_and_nothing_else() -> None:
    from distill_ray.runtime.ray_worker import StepThrottle

    throttle = StepThrottle(apart_s=0.2)
    passed = [number for number in range(100) if throttle.passes(_step(number), now=number * 0.03)]
    assert passed == list(range(0, 100, 7))  # 7 steps of 0.03 s are the first 0.2 s or more
    notice = Notice(level="info", message="x")
    assert all(throttle.passes(notice, now=3.0) for _ in range(10))
