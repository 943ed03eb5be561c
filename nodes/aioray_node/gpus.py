"""Which GPUs this machine has, and which of them are ours to give away."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import msgspec

from aioray.exceptions import InvalidOptionError
from aioray.labels import ACCELERATOR_TYPE, check_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SMI_TIMEOUT_S = 5.0
_KIND = re.compile(r"\b([ABHKLPTV]\d{1,4}[A-Z]?)\b")


class Gpu(msgspec.Struct, frozen=True):
    """`device_id` is what CUDA_VISIBLE_DEVICES takes; `model` is as the driver calls it, "" where that is unknown."""

    device_id: str
    model: str = ""

    @property
    def kind(self) -> str:
        """Such as "A100" for an NVIDIA A100-SXM4-40GB: what `accelerator_type` asks for; "" where it is unknown."""
        found = _KIND.search(self.model)
        if found is not None:
            return found[1]
        return "-".join(word for word in self.model.split() if word not in ("NVIDIA", "GeForce", "Tesla"))


def device_files(root: pathlib.Path = pathlib.Path("/")) -> list[str] | None:
    """By /dev/nvidia0 and so on; their models by /proc/driver/nvidia/gpus."""
    minors = sorted(
        int(path.name.removeprefix("nvidia"))
        for path in (root / "dev").glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdecimal()
    )
    models: dict[int, str] = {}
    for information in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            lines = (line.partition(":") for line in information.read_text().splitlines())
            facts = {name.strip(): value.strip() for name, _, value in lines}
            models[int(facts["Device Minor"])] = facts["Model"]
    if minors:
        return [models.get(minor, "") for minor in minors]
    return list(models.values()) or None


def nvidia_smi(command: str = "nvidia-smi") -> list[str] | None:
    """By NVIDIA's own tool, where it is installed and answers."""
    path = shutil.which(command)
    if path is None:
        return None
    try:
        told = subprocess.run(
            [path, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.strip() for line in told.stdout.splitlines() if line.strip()] or None


# Each gives the models of all GPUs, in the order of their numbers; None when it cannot tell.
DETECTORS: tuple[Callable[[], Sequence[str] | None], ...] = (device_files, nvidia_smi)


def find(
    num_gpus: float | None,
    environ: Mapping[str, str],
    detectors: Sequence[Callable[[], Sequence[str] | None]] = DETECTORS,
) -> list[Gpu]:
    """The GPUs of a node: those that CUDA_VISIBLE_DEVICES leaves, at most `num_gpus`, or as many as that says.

    Raises InvalidOptionError when `num_gpus` is more than CUDA_VISIBLE_DEVICES has.
    """
    if num_gpus == 0:
        return []
    models: Sequence[str] = ()
    for detector in detectors:
        if (found := detector()) is not None:
            models = found
            break
    ids = [str(index) for index in range(len(models))]
    if VISIBLE in environ:
        ids = _visible(environ[VISIBLE])
        if num_gpus is not None and num_gpus > len(ids):
            allowed = f"at most {len(ids)}, as {VISIBLE}={environ[VISIBLE]!r} says"
            raise InvalidOptionError("num_gpus", num_gpus, allowed)
        if not models and num_gpus is None:
            return []  # it names devices that nobody can see
    if num_gpus is not None:
        ids = ids[: int(num_gpus)] + [str(index) for index in range(len(ids), int(num_gpus))]
    return [Gpu(device_id, _model_of(device_id, models)) for device_id in ids]


def _visible(text: str) -> list[str]:
    ids = [part.strip() for part in text.split(",") if part.strip()]
    for at, device_id in enumerate(ids):
        if device_id in ("-1", "NoDevFiles"):  # CUDA stops there
            return ids[:at]
    return list(dict.fromkeys(ids))


def _model_of(device_id: str, models: Sequence[str]) -> str:
    if device_id.isdecimal():
        return models[int(device_id)] if int(device_id) < len(models) else ""
    return models[0] if len(set(models)) == 1 else ""  # an id of letters says which one only to the driver


def kinds(gpus: Sequence[Gpu]) -> dict[str, float]:
    """The resources that say what kinds of GPU a node has: one of each."""
    return {f"accelerator_type:{gpu.kind}": 1.0 for gpu in gpus if gpu.kind}


def accelerator_label(gpus: Sequence[Gpu]) -> dict[str, str]:
    """What kind its GPUs are; nothing where that is not known, or no value of a label."""
    kind = next((gpu.kind for gpu in gpus if gpu.kind), "")
    with contextlib.suppress(ValueError):
        check_value(kind)
        return {ACCELERATOR_TYPE: kind} if kind else {}
    return {}


def visible_environ(gpus: Sequence[str], *, hide_at_zero: bool, given: Mapping[str, str]) -> dict[str, str]:
    """What a worker with these devices has in its environment; `given`: what its user wants there."""
    if gpus:
        return {VISIBLE: ",".join(gpus)}
    return {VISIBLE: ""} if hide_at_zero and VISIBLE not in given else {}
