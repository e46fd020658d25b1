"""What measurements depend on: the machine and the versions."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version


def environment() -> dict[str, str]:
    """What the speeds depend on."""
    import torch  # here, since `python -m lm check` looks at machines without it

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton,
        "on": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, {_cpu_name()}",
    }


def versions() -> dict[str, str]:
    """What the numbers of a run depend on besides the code."""
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "platform": platform.platform()}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of this machine; None where the system does not say."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
