"""The other side of :mod:`graphopt.measure.vela_compiler`: a script that imports Arm's compiler and nothing of ours.

The compiler is native code that prints to the standard output and may crash, so it runs in a process of its own. The
arguments are a folder and the numbers of the files in it to compile: ``model-<i>.tflite`` as ``request.json`` says. It
leaves ``said-<i>.txt`` (what the compiler printed) and ``answer-<i>.json``, the latter by rename.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

TABLES = ("group", "perf", "source")


def main() -> None:
    """Compile the files that the arguments name."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text("utf-8"))
    for number in sys.argv[2:]:
        with open(folder / f"said-{number}.txt", "wb") as said:
            os.dup2(said.fileno(), 1)
        answer = compile_one(request, (folder / f"model-{number}.tflite").read_bytes())
        (folder / "answer.tmp").write_text(json.dumps(answer), "utf-8")
        os.replace(folder / "answer.tmp", folder / f"answer-{number}.json")


def compile_one(request: dict[str, str], content: bytes) -> dict[str, Any]:
    """Compile one file: its total cycles and tables, or ``error``, or ``missing`` for an unknown release."""
    try:
        from ethosu import regor

        made = regor.compile(
            request["architecture"], content, "TFLITE", request["config"], options=request["options"], verbose=False
        )
        tables = made.opt_database.tables
        found = {name: [list(tables[name].header), *(list(line) for line in tables[name].data)] for name in TABLES}
        return {"total_cycles": int(made.perf_report.totalCycles), "tables": found}
    except (ImportError, AttributeError, KeyError, TypeError) as error:
        return {"missing": str(error)}
    except Exception as error:  # whatever the compiler raises is the answer
        return {"error": str(error)}


if __name__ == "__main__":
    main()
