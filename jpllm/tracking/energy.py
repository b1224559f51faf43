"""Measure the energy that a run takes, by codecarbon."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from jpllm.runtime import InputError

if TYPE_CHECKING:
    from codecarbon import OfflineEmissionsTracker

_SECONDS_BETWEEN_MEASUREMENTS = 15
_ANY_COUNTRY = "JPN"  # decides the carbon dioxide, which is not asked for here, and spares a call over the network


class EnergyMeter:
    """Count the kilowatt hours of this machine since `start`: measured for GPUs and some CPUs, else estimated.

    On several machines it counts the one of the main process. What is measured how: https://mlco2.github.io/codecarbon.

    Raises:
        InputError: codecarbon is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("codecarbon") is None:
            raise InputError("measure_energy: needs the package codecarbon: pip install 'jpllm[energy]'")
        self._kwh: float | None = None
        self._tracker: OfflineEmissionsTracker

    def start(self) -> None:
        """Begin to count."""
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.output import BaseOutput

        meter = self

        class Reader(BaseOutput):
            def out(self, total, delta) -> None:
                meter._kwh = total.energy_consumed

        self._tracker = OfflineEmissionsTracker(
            country_iso_code=_ANY_COUNTRY,
            measure_power_secs=_SECONDS_BETWEEN_MEASUREMENTS,
            save_to_file=False,
            allow_multiple_runs=True,
            log_level="error",
            output_handlers=[Reader()],
        )
        self._tracker.start()

    def kwh(self) -> float | None:
        """Return the kilowatt hours so far; None where nothing could be measured."""
        self._tracker.flush()
        return self._kwh

    def stop(self) -> None:
        """Stop counting."""
        self._tracker.stop()
