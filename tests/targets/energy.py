"""A target that says what work and traffic take."""

from __future__ import annotations

from pathlib import Path

from graphopt.resources import targets_dir


def telling(folder: Path, *, per_mac: float = 0.3, per_byte: float = 160.0) -> Path:
    """`npu-32` with energies, picojoules (8-bit work at 45 nm: Horowitz, ISSCC 2014), as a file in ``folder``."""
    keys = {"energy_pj_per_mac": per_mac, "energy_pj_per_dram_byte": per_byte}
    numbers = "".join(f"{key} = {value}\n" for key, value in keys.items())
    sources = "".join(f'{key} = "for tests"\n' for key in keys)
    text = (targets_dir() / "npu-32.toml").read_text("utf-8").replace("clock_mhz", f"{numbers}clock_mhz", 1)
    file = folder / "telling.toml"
    file.write_text(text + sources, "utf-8")
    return file
