"""One look for every figure: sizes, fonts, colours. Nothing else sets any of these."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Widths of a paper's column and page, and the height of a row of panels, in inches.
COLUMN, PAGE, ROW = 3.4, 7.0, 1.85

GREY, LIGHT_GREY = "#555555", "#bbbbbb"
# A window has the colour of the method that trains with it.
FIXED_COLOUR, ADAPTIVE_COLOUR = "#009E73", "#D55E00"
SQUARE_ROOT_COLOUR, POWER_LAW_COLOUR = "#0072B2", "#CC79A7"


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every figure."""

    label: str
    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]


# Okabe and Ito's colours for the paper's methods, Tol's muted ones for the others: told apart by readers with any
# colour vision; no two methods share marker and dash and colour, so that print in grey works as well.
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (6, 2)),
)
_SOLID, _DASHED, _DOTTED, _DASH_DOT, _DASH_DOT_DOT, _LONG = _DASHES
_LOOKS = {
    "grpo": Look("GRPO", "#0072B2", "s", _DASHED),
    "gspo": Look("GSPO", "#E69F00", "^", _DOTTED),
    "ctpo": Look("CTPO", "#D55E00", "o", _SOLID),
    "ctpo_fixed": Look("CTPO, fixed clip", "#009E73", "D", _DASH_DOT),
    "ctpo_released": Look("CTPO, released code", "#CC79A7", "v", _DASH_DOT_DOT),
    "full_sequence": Look("Full sequence", "#56B4E9", "P", _LONG),
    "ctpo_geomean": Look("CTPO, geometric mean", "#882255", "o", _DASHED),
    "ctpo_calibrated": Look("CTPO, calibrated", "#332288", "o", _DASH_DOT),
    "ctpo_cispo": Look("CTPO-CISPO", "#AA4499", "o", _DOTTED),
    "dapo": Look("DAPO", "#332288", "s", _DOTTED),
    "dr_grpo": Look("Dr. GRPO", "#44AA99", "s", _LONG),
    "gmpo": Look("GMPO", "#999933", "^", _DASHED),
    "cispo": Look("CISPO", "#AA4499", "X", _SOLID),
    "sapo": Look("SAPO", "#117733", "v", _LONG),
    "dppo_tv": Look("DPPO (TV)", "#882255", "D", _DOTTED),
    "dppo_kl": Look("DPPO (KL)", "#661100", "D", _LONG),
    "minpro": Look("MinPRO", "#6699CC", "<", _DASH_DOT),
    "cppo": Look("CPPO", "#888888", ">", _DASH_DOT_DOT),
}
_OTHER_COLOURS = ("#332288", "#882255", "#44AA99", "#999933", "#AA4499", "#117733", "#661100", "#6699CC")
_OTHER_MARKERS = "X<>hpd*8"
#: Order of methods in legends and tables; others follow by name.
METHOD_ORDER = tuple(_LOOKS)

_SETTINGS = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "grid.color": "#e4e4e4",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.2,
    "ytick.minor.size": 1.2,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.bottom": True,
    "ytick.left": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.wspace": 0.05,
    "figure.dpi": 250,
    "pdf.fonttype": 42,
    "axes.formatter.use_mathtext": True,
    # Equal input must give equal bytes.
    "svg.hashsalt": "ctpo",
}


def panels(rows: int, columns: int, height: float, **shared: Any) -> tuple[Figure, Any]:
    """A figure of page width and an array `[rows, columns]` of its axes; no state outside of it."""
    figure = Figure(figsize=(PAGE, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


@FuncFormatter
def percent(share: float, _: int | None = None) -> str:
    """Tick labels of shares: 0.001 as 0.1%."""
    return f"{100 * share:.4g}%"


def plain_log(axis: Any, formatter: Any = None) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5, so that less than a decade has several labels too."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
    axis.set_major_formatter(formatter or FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_columns(labels: Sequence[str]) -> int:
    """How many columns of a legend below a figure of page width hold these labels."""
    # Characters are about 0.06 inches wide, and a label's line takes 0.45 inches.
    return max(1, min(len(labels), int(PAGE / (0.45 + 0.06 * max(map(len, labels), default=1)))))


def wrapped(label: str, width: int = 30) -> str:
    """A label in lines of at most `width` characters; names without blanks break as well."""
    return "\n".join(textwrap.wrap(label, width))


@contextmanager
def applied() -> Iterator[None]:
    """Draw with this style, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        sns.set_theme(style="ticks", rc=_SETTINGS)
        yield


def look(method: str) -> Look:
    """The method's look. One that has none here, such as a variant `ctpo-p0.25` of a sweep, gets one from its name:
    the same in every figure of every sweep."""
    if method in _LOOKS:
        return _LOOKS[method]
    base, dash, variant = method.partition("-")
    label = f"{_LOOKS[base].label}, {variant}" if dash and base in _LOOKS else method
    number = zlib.crc32(method.encode())
    colour, rest = number % len(_OTHER_COLOURS), number // len(_OTHER_COLOURS)
    marker, rest = rest % len(_OTHER_MARKERS), rest // len(_OTHER_MARKERS)
    return Look(label, _OTHER_COLOURS[colour], _OTHER_MARKERS[marker], _DASHES[rest % len(_DASHES)])
