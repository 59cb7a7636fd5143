"""The commands on runs: the whole pipeline, its stages, and what there is of them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprune.cli.arguments import Parser, option, parse, stoppable, without_accelerator


def run(arguments: Sequence[str]) -> None:
    """`jaxprune run CONFIG ...`: the whole pipeline, then its summary as a table."""
    source, arguments = option(arguments, "--from")
    config = parse(arguments)
    from jaxprune import pipeline
    from jaxprune.report import table

    with stoppable():
        if source is not None:
            pipeline.share_training(pipeline.open_run(config), source)
        table.show(pipeline.run(config))


def stage(name: str, arguments: Sequence[str]) -> None:
    """`jaxprune train RUN` and the like: one stage, then where the run is."""
    source, arguments = option(arguments, "--from") if name == "train" else (None, arguments)
    parts = [a for a in ("--heldout", "--behaviour") if name == "evaluate" and a in arguments]
    config = parse([a for a in arguments if a not in parts], name)
    from jaxprune import pipeline
    from jaxprune.files import plain
    from jaxprune.report import behaviour, overview, paired, table

    with stoppable():
        opened = pipeline.open_run(config)
        if source is not None:
            pipeline.share_training(opened, source)
        if "--behaviour" in parts:
            return behaviour.show({str(opened.folder): pipeline.behave(opened)})
        if "--heldout" in parts:
            answers = pipeline.evaluate_heldout(opened)
            return paired.show(paired.Pairs({str(opened.folder): answers}, {}))
        result = getattr(pipeline, name)(opened)
        if name == "finetune":
            pipeline.control(opened)
    if name == "evaluate":
        table.show(result)
    else:
        overview.show(plain(pipeline.status(opened.folder)))
    if name == "prune":
        table.show_groups(pipeline.pruned_groups(opened))


def status(arguments: Sequence[str]) -> None:
    """`jaxprune status RUN`: where a run is."""
    parser = Parser("status", "Where a run is: reads its folder alone, at any time.")
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    folder = parser.parse_args(arguments).run
    without_accelerator()
    from jaxprune import pipeline
    from jaxprune.files import plain
    from jaxprune.report import overview

    overview.show(plain(pipeline.status(folder)))


def compare(arguments: Sequence[str]) -> None:
    """`jaxprune compare RUN RUN ...`: runs side by side."""
    parser = Parser("compare", "Runs side by side: what their configs differ in, and the results.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs")
    parser.add_argument("--json", metavar="FILE", help="write the comparison as JSON too")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="draw accuracy against cost as a PNG; with --behaviour: what pruning changes",
    )
    parser.add_argument(
        "--paired",
        action="store_true",
        help="the differences between networks over the same test images, with intervals; of one "
        "run or more",
    )
    parser.add_argument(
        "--heldout", action="store_true", help="with --paired: over the held-out images instead"
    )
    parser.add_argument(
        "--behaviour",
        action="store_true",
        help="classes, calibration, corruptions, agreement, supervisors and watermark, as "
        "`jaxprune evaluate RUN --behaviour` found them; of one run or more",
    )
    given = parser.parse_args(arguments)
    if given.heldout and not given.paired:
        raise ValueError("--heldout says over which images --paired compares; give --paired, too")
    without_accelerator()
    from jaxprune.files import write_json
    from jaxprune.report import behaviour, behaviour_plot
    from jaxprune.report import compare as comparison

    runs = comparison.read(given.runs)
    part = "heldout" if given.heldout else "test"
    pairs = comparison.pairs(runs, part) if given.paired else None
    behaves = {run.label: behaviour.read(run.folder) for run in runs if given.behaviour}
    if given.json:
        record = comparison.record(runs, pairs)
        write_json(given.json, record | ({"behaviour": behaves} if behaves else {}))
    if given.plot and behaves:
        behaviour_plot.changes(given.plot, behaves)
    elif given.plot:
        comparison.plot(given.plot, runs)
    comparison.show(runs, pairs)
    if behaves:
        behaviour.show(behaves)


def supervise(arguments: Sequence[str]) -> None:
    """`jaxprune supervise RUN`: supervisors on the networks of a run."""
    parser = Parser(
        "supervise",
        "How well supervisors tell unknown inputs from test images, for the unpruned and the "
        "pruned network of a run; in supervision.json and plots/supervise_*.png.",
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="the folder of a run")
    parser.add_argument(
        "--case", metavar="NAME", nargs="+", default=[], help="these alone, of those in --list"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=int,
        help="test images, and as many outliers and training images to fit to; 1000 by default",
    )
    parser.add_argument(
        "--list", action="store_true", help="the cases, and those of the paper with their data"
    )
    given = parser.parse_args(arguments)
    from jaxprune.report import supervision as report
    from jaxprune.supervisors import cases

    if given.list:
        report.show_cases(cases.WORDS, cases.PAPER)
        return
    if given.run is None:
        raise ValueError("name the folder of a run: jaxprune supervise RUN; or see --list")
    from jaxprune import pipeline

    opened = pipeline.open_run(given.run)
    images = pipeline.SUPERVISED if given.images is None else given.images
    report.show(pipeline.supervise(opened, given.case, images), cases.WORDS)
