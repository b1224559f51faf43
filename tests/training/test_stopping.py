"""Stopping in time where no signal can be taken."""

import signal
from concurrent.futures import ThreadPoolExecutor

from jpllm.training.callbacks import StopInTime


def test_in_a_thread_the_handlers_stay_as_they_are():
    """Python lets only the main thread set them, and the launcher for TPUs calls a recipe in another one."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop = StopInTime(max_hours=1.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stop.on_train_begin, None, None, None).result()
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
        pool.submit(stop.on_train_end, None, None, None).result()
    assert stop.reason is None
