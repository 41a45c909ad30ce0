"""`graphopt verify`: two models, the same inputs."""

from __future__ import annotations

from typing import Any

import click

from graphopt.cli import options as o
from graphopt.cli.app import EXIT_NO


@click.command(
    "verify",
    epilog=o.notes(
        example="graphopt verify original.onnx rewritten.onnx --inputs images.npz",
        codes="0 equal; 1 differs or inconclusive; 2 bad input",
        keys=(
            "original, rewritten, verdict, reason, samples, inputs, seed, outputs: [{name, max_abs, relative_l2, "
            "cosine, noise_max_abs, noise_relative_l2, top1_agreement, verdict, reason}]"
        ),
    ),
)
@click.argument("original", type=click.Path(), metavar="A")
@click.argument("rewritten", type=click.Path(), metavar="B")
@click.option("--inputs", type=click.Path(), metavar="FILE.npz", help="Real inputs by input name (else made up).")
@click.option("--samples", type=click.IntRange(min=2), help="Runs of each model [default: 6, or 2 over 8 MB].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of made-up inputs.")
@o.shape_option
@o.answer_options
def command(original: str, rewritten: str, as_json: bool, **values: Any) -> int:
    """Compare the outputs of A (the reference) and B in onnxruntime.

    Equal means: as close as A is to itself with and without onnxruntime's optimisations (8 times that at most).
    Outputs that do not react to the inputs prove nothing: they are inconclusive.
    """
    from graphopt.cli.output import print_json, show
    from graphopt.cli.summary import outputs_table, proof
    from graphopt.report.values import verification_values
    from graphopt.verification import verify

    shapes = dict(values["input_shapes"])
    found = verify(
        original,
        rewritten,
        inputs=values["inputs"],
        seed=values["seed"],
        samples=values["samples"],
        input_shapes=shapes,
    )
    if as_json:
        print_json({"original": original, "rewritten": rewritten} | verification_values(found))
    elif found.verdict == "equal":
        show(*proof(found, exact=True), outputs_table(found))
    else:
        show(*proof(found, exact=True))
    return 0 if found.verdict == "equal" else EXIT_NO
