"""`graphopt finetune`: train what `optimize` rewrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli import options as o


@click.command(
    "finetune",
    epilog=o.notes(
        example="graphopt finetune small.onnx --teacher model.onnx --calibration images.npz -o tuned.onnx",
        codes="0 done (also where training made nothing better, and the model comes out as it went in); 2 bad input",
        keys=(
            "model, teacher, output, loss, samples, held_out, steps, kept, before, after: {value, drift}, evaluation, "
            "notes (what does not apply is null)"
        ),
    ),
)
@click.argument("model", type=click.Path(), metavar="MODEL")
@click.option(
    "--teacher",
    type=click.Path(),
    metavar="ORIGINAL",
    help="The model that MODEL was made from: its outputs are to be met, without labels; where its images are of "
    "another size, it sees the same ones at its own [default: learn from labels].",
)
@click.option(
    "--calibration",
    type=click.Path(),
    metavar="PATH",
    required=True,
    help="Real inputs: .npz or .npy by input name, or a folder of images. A quarter of them is held out.",
)
@click.option(
    "--labels",
    is_flag=True,
    help="Beside a teacher, learn from class labels, too: 'label' or 'labels' in the .npz [default: teacher alone].",
)
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="[default: <model>.tuned.onnx, here]")
@o.force_option
@click.option("--epochs", type=o.PositiveNumber(), default=20.0, show_default=True, help="Passes over the samples.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Samples of a step, where the model leaves it open.",
)
@click.option(
    "--learning-rate",
    type=o.PositiveNumber(),
    default=3e-4,
    show_default=True,
    help="The highest, of Adam. Made for a few hundred samples; with many more, 1e-3 may reach further.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the samples held out, and their order.")
@click.option(
    "--preprocess",
    metavar="NAME|FILE.toml",
    help="How images become inputs: a preset or your own file.",
)
@click.option(
    "--memory-limit",
    "memory_limit_bytes",
    type=o.Amount(),
    metavar="SIZE",
    help="Bound for the samples, as 512MiB [default: 3GiB].",
)
@click.option(
    "--evaluate",
    metavar="DATA.npz|MODULE:FUNCTION",
    help="Accuracy before and after: inputs with 'label', or a function of yours, as in `graphopt optimize`.",
)
@o.answer_options
def command(
    model: str, output: str | None, force: bool, teacher: str | None, calibration: str, as_json: bool, **values: Any
) -> int:
    """Train the weights of MODEL on real inputs, and write it where that made it better.

    For models that `graphopt optimize` rewrote. Samples that are held out judge: by the drift from the teacher, or by
    the loss where there are labels. Needs PyTorch: pip install 'graphopt[train]'.
    """  # fmt: skip
    from graphopt.cli.jobs import prepare_outputs
    from graphopt.cli.output import print_json, show
    from graphopt.cli.progress import progress_bar
    from graphopt.cli.tuned import tuned
    from graphopt.finetuning import FinetuneOptions, finetune_model
    from graphopt.report.values import finetune_values

    out = Path(output) if output else Path(f"{Path(model).stem}.tuned.onnx")
    prepare_outputs(model, out, None, None, force=force, with_plan=False)
    with progress_bar(visible=not as_json) as progress:
        result = finetune_model(
            model, calibration, out, teacher=teacher, options=FinetuneOptions(**values), progress=progress
        )
    if as_json:
        print_json(finetune_values(result))
    else:
        show(*tuned(result))
    return 0
