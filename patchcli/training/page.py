"""The training page: losses, criterion and choice of a run, as HTML."""

from pathlib import Path

import numpy as np

from patchcli import files
from patchcli.reporting.charts import Chart, Line
from patchcli.reporting.page import page
from patchcli.training.checkpoint import History
from patchcli.training.progress import not_aligned

TITLES = {
    "ssl": "Position loss (chance: ln 8 = 2.08)",
    "nce": "Contrast loss",
    "sep": "Separation loss (chance: ln 2 = 0.69)",
    "var": "Spread loss (0: every component varies enough)",
    "svdd": "SVDD' loss",
}
SMOOTH = 10  # steps of a running mean


def write_page(history: History, path: Path) -> None:
    """Write the page of the run that the store's encoder comes from."""
    charts = [*_criterion(history), *_losses(history)]
    files.write_text(path, page(f"Training on {history.category}", _sentences(history), charts))


def _sentences(history: History) -> list[str]:
    """What the run was, what it was judged by, and which step was chosen."""
    attributes = history.attributes
    recipe = ", ".join(f"{name} {value}" for name, value in (attributes.recipe or {}).items())
    sentences = [
        f"{attributes.steps} steps in {attributes.seconds or 0:.0f} s on {history.images} good images of {history.root}; "
        f"encoder {attributes.sha256[:12]}.",
        f"Recipe: {recipe}.",
    ]
    if len(history.judged):
        sentences.append(
            "The criterion is the pixel AUROC over synthetic defects in good images that the encoder did not learn from. "
            "No test image takes part."
        )
    else:
        sentences.append("There were too few images to validate with some of them.")
    how = "the last"
    if attributes.criterion is not None:
        how += f" whose criterion, {attributes.criterion:.3f}, is as good as the best after step 0 but for chance"
    sentences.append(f"The encoder is that of step {attributes.chosen}: {how}.")
    if attributes.separation:
        reason = not_aligned(attributes.alignment).capitalize()
        sentences.append(f"{reason}, so the encoder learned to separate patches with synthetic defects from good ones.")
    return sentences


def _criterion(history: History) -> list[Chart]:
    if not len(history.judged):
        return []
    attributes = history.attributes
    line = [(step, criterion) for step, criterion, *_ in history.judged.tolist()]
    chosen = attributes.chosen or 0
    if attributes.criterion is not None and chosen not in (step for step, _ in line):
        line.append((chosen, attributes.criterion))
    return [Chart("Criterion: separation of synthetic defects", {"pixel AUROC": line}, {"encoder": chosen})]


def _losses(history: History) -> list[Chart]:
    """A chart per kind of loss, a line per scale."""
    columns = dict(zip(history.attributes.losses, history.losses.T, strict=True)) if len(history.losses) else {}
    charts = []
    for kind, title in TITLES.items():
        lines = {name: _smooth(values.tolist()) for name, values in columns.items() if name.startswith(kind)}
        if lines:
            title = f"{title}, running mean over {SMOOTH} steps"
            charts.append(Chart(title, lines, {"encoder": history.attributes.chosen or 0}))
    return charts


def _smooth(values: list[float]) -> Line:
    """Each step, and the mean of its value and up to nine before it."""
    parts = [values[max(0, index + 1 - SMOOTH) : index + 1] for index in range(len(values))]
    return [(step, float(np.mean(part))) for step, part in enumerate(parts, 1)]
