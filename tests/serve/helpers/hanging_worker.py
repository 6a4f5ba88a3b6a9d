"""Plans of worker processes in which one function never returns."""

import threading
from dataclasses import dataclass, fields

from vlm_serve.engine.worker_process import WorkerPlan


@dataclass(frozen=True)
class HangingPlan(WorkerPlan):
    """A prompt with "hang in prepare" or "hang in step" is never answered; without `load`, the model is never loaded.

    It takes effect in the process that unpickles the plan.
    """

    load: bool = True

    def __reduce__(self):
        return _changed, tuple(getattr(self, field.name) for field in fields(self))


def _changed(*values):
    from vlm_serve.engine.batching.scheduler import Scheduler
    from vlm_serve.engine.local import LocalEngine
    from vlm_serve.engine.prepare import Preparer

    plan = HangingPlan(*values)
    if not plan.load:
        LocalEngine.load = _for_ever
    prepare, step = Preparer.__call__, Scheduler.step

    def hanging_prepare(self, request):
        if "hang in prepare" in str(request.prompt):
            _for_ever()
        return prepare(self, request)

    def hanging_step(self):
        if any("hang in step" in str(answer.prepared.request.prompt) for answer in self.waiting):
            _for_ever()
        return step(self)

    Preparer.__call__, Scheduler.step = hanging_prepare, hanging_step
    return plan


def _for_ever(*_, **__):
    threading.Event().wait()
