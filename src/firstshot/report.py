"""The plots of the report: pure functions from arrays to matplotlib figures.

Conventions
-----------
Every function returns a new `matplotlib.figure.Figure` (no global state, no display). Scores are anomaly scores:
higher is more anomalous. `anomalous` is a boolean array, `condition` one of "normal" / "anomalous" / "unknown" strings,
`domain` one of "source" / "target" / "" (unknown) strings, waveforms are float arrays in [-1, 1) with their sampling
rate in Hz. The colours are Okabe and Ito's, which stay apart for most colour-blind readers; domain is told by line
style or marker, never by colour alone. What numpy does in a few lines is not taken from scipy or scikit-learn, whose
import takes longer than drawing a page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from firstshot.metric import roc_area

matplotlib.rcParams.update(
    {
        "svg.hashsalt": "firstshot",  # same bytes for the same figure
        "svg.fonttype": "none",  # text stays text: small files that can be searched
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
        "font.size": 9.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10.0,
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "legend.fontsize": 8.0,
        "text.parse_math": False,  # names of files and classes may have dollar signs
    }
)

NORMAL, ANOMALY, TRAIN, ACCENT = "#0072B2", "#D55E00", "#999999", "#009E73"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
DOMAINS = ("source", "target")
CONDITION_COLOURS = {"normal": NORMAL, "anomalous": ANOMALY, "unknown": ACCENT}
FLOOR_DB = -80.0
RANKS = ("nearest", "second nearest")
SPECTROGRAM_MAP = "magma"


def svg(figure: Figure) -> str:
    """The figure as an SVG element (text), the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight", dpi=110)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight", dpi=dpi)
    return buffer.getvalue()


def roc(scores: np.ndarray, anomalous: np.ndarray, domain: np.ndarray, pauc_p: float) -> Figure:
    """ROC of all clips and of each domain, the region that counts for the pAUC shaded.

    As in the official score, a domain's curve sets the normal clips of that domain against the anomalous clips of BOTH.

    Parameters
    ----------
    scores, anomalous, domain : (N,) arrays of the test clips
    pauc_p : false positive rate up to which the pAUC counts (paper §3.1: 0.1)
    """
    figure = Figure(figsize=(4.2, 4.0))
    ax = figure.subplots()
    false_alarm, hit = _roc(scores, anomalous)
    region = false_alarm <= pauc_p
    edge = np.interp(pauc_p, false_alarm, hit)
    ax.fill_between(
        np.append(false_alarm[region], pauc_p), np.append(hit[region], edge), color=ACCENT, alpha=0.25, linewidth=0
    )
    partial = roc_area(scores, anomalous, pauc_p)[0]
    ax.plot(false_alarm, hit, color="black", linewidth=1.6, label=f"all clips, pAUC {partial:.3f}")
    for name, style in zip(DOMAINS, ("-", "--"), strict=True):
        chosen = anomalous | (domain == name)
        if (domain[~anomalous] == name).any():
            area = roc_area(scores[chosen], anomalous[chosen])[0]
            x, y = _roc(scores[chosen], anomalous[chosen])
            ax.plot(x, y, style, color=NORMAL, linewidth=1.2, label=f"{name} normals, AUC {area:.3f}")
    ax.plot([0, 1], [0, 1], ":", color=TRAIN, linewidth=1, label="chance")
    ax.axvline(pauc_p, color=ACCENT, linewidth=0.8)
    ax.text(pauc_p + 0.015, 0.02, f"pAUC counts up to {pauc_p:g}", color=ACCENT, fontsize=8)
    ax.set(
        xlim=(-0.01, 1),
        ylim=(0, 1.01),
        xlabel="normal clips called anomalous (rate)",
        ylabel="anomalous clips found (rate)",
    )
    ax.set_aspect("equal")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.06))
    return figure


def _roc(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates of false alarms and of hits as the threshold falls from one score to the next, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # clips of equal score are one step
    false_alarm, hit = (np.append(0, np.cumsum(kind[order])[last]) / kind.sum() for kind in (~anomalous, anomalous))
    return false_alarm, hit


def score_histogram(scores: np.ndarray, condition: np.ndarray, domain: np.ndarray, threshold: float | None) -> Figure:
    """Anomaly scores of normal and anomalous test clips, one panel per domain, with the decision threshold.

    Clips of unknown domain get a panel of their own, clips of unknown condition a colour of their own.
    """
    names = [name for name in (*DOMAINS, "") if (domain == name).any()]
    figure = Figure(figsize=(4.6, 1.0 + 1.7 * len(names)))
    axes = np.atleast_1d(figure.subplots(len(names), 1, sharex=True))
    low, high = float(scores.min()), float(scores.max())
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    edges = np.linspace(low, high if high > low else low + 1.0, 31)
    for ax, name in zip(axes, names, strict=True):
        for kind, colour in CONDITION_COLOURS.items():
            chosen = scores[(domain == name) & (condition == kind)]
            filled = kind != "anomalous"
            style = {"alpha": 0.45} if filled else {"histtype": "step", "linewidth": 1.8}
            if len(chosen):
                ax.hist(chosen, edges, color=colour, label=f"{len(chosen)} {kind}", **style)
        if threshold is not None:
            ax.axvline(threshold, color="black", linestyle="--", linewidth=1.0, label=f"threshold {threshold:.3g}")
        ax.set_title(name or "unknown domain", loc="left")
        ax.set_ylabel("clips")
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.legend(
            loc="lower right", bbox_to_anchor=(1.03, 0.97), ncols=4, fontsize=7, columnspacing=0.8, handlelength=1.2
        )
    axes[-1].set_xlabel(
        "anomaly score (left of the threshold: judged normal)" if threshold is not None else "anomaly score"
    )
    figure.subplots_adjust(hspace=0.4)
    return figure


def embedding_map(
    *,
    train: np.ndarray,
    train_domain: np.ndarray,
    train_class: np.ndarray,
    test: np.ndarray,
    condition: np.ndarray,
    test_domain: np.ndarray,
) -> Figure:
    """Two principal components of the length-normalised embeddings: training clips by class, test clips by condition.

    The components are fitted on the training clips alone, so that the test clips are shown as the backend meets them.

    Parameters
    ----------
    train : (N, D), test : (M, D) embeddings; train_domain, train_class : (N,) strings; condition, test_domain : (M,)
    """
    train, test = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test))
    mean = train.mean(axis=0)
    _, spread, components = np.linalg.svd(np.vstack([train - mean, np.zeros((2, train.shape[1]))]), full_matrices=False)
    points, others = ((rows - mean) @ components[:2].T for rows in (train, test))
    figure = Figure(figsize=(8.6, 3.8))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    classes = sorted(set(train_class))
    for i, name in enumerate(classes):
        _scatter(left, points[train_class == name], train_domain[train_class == name], PALETTE[i % len(PALETTE)], name)
    right.scatter(points[:, 0], points[:, 1], s=8, color=TRAIN, alpha=0.35, label="training clips", rasterized=True)
    for kind, colour in CONDITION_COLOURS.items():
        _scatter(right, others[condition == kind], test_domain[condition == kind], colour, kind)
    share = spread**2 / max(float(np.square(spread).sum()), 1e-30)
    for ax, title in ((left, "training clips by class"), (right, "test clips by condition")):
        ax.set(title=title, xlabel=f"component 1 ({share[0]:.0%} of the variance)")
    left.set_ylabel(f"component 2 ({share[1]:.0%})")
    if len(classes) <= 2 * len(PALETTE):
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7)
    return figure


def _scatter(ax: Axes, points: np.ndarray, domain: np.ndarray, colour: str, label: str) -> None:
    """Points of one colour: source (and unknown) as discs, target as triangles."""
    target = domain == "target"
    short = _legend(label if len(label) <= 34 else f"{label[:33]}…")
    for chosen, marker, size, suffix in ((~target, "o", 12, ""), (target, "^", 26, " (target)")):
        if chosen.any():
            named = short if suffix.strip(" ()") in short or not suffix else short + suffix
            ax.scatter(
                points[chosen, 0], points[chosen, 1], s=size, marker=marker, color=colour, alpha=0.75, linewidths=0,
                label=named, rasterized=True,
            )  # fmt: skip


def _legend(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def spectrogram_db(wave: np.ndarray, rate: int, n_fft: int = 1024) -> np.ndarray:
    """Log power spectrogram in dB, relative to a full-scale sine: (n_fft // 2 + 1, frames)."""
    if len(wave) < n_fft:
        wave = np.pad(wave, (0, n_fft - len(wave)))
    window = np.hanning(n_fft + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(wave, n_fft)[:: n_fft // 4]
    power = np.abs(np.fft.rfft(frames * window)).T
    return 20.0 * np.log10(np.maximum(power / (window.sum() / 2), 1e-10))


def draw_spectrogram(ax: Axes, wave: np.ndarray, rate: int, top_db: float | None = None) -> AxesImage:
    """Draw a spectrogram in dB into `ax`; `top_db` is the brightest colour's value (default: this clip's maximum)."""
    image = spectrogram_db(wave, rate)
    top = float(image.max()) if top_db is None else top_db
    drawn = ax.imshow(
        image, origin="lower", aspect="auto", cmap=SPECTROGRAM_MAP, vmin=top + FLOOR_DB, vmax=top,
        extent=(0.0, len(wave) / rate, 0.0, rate / 2000.0), interpolation="nearest",
    )  # fmt: skip
    ax.set(xlabel="time (s)", ylabel="frequency (kHz)")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return drawn


def spectrogram(wave: np.ndarray, rate: int, title: str = "") -> Figure:
    """One clip's spectrogram, with its scale in dB relative to full scale."""
    figure = Figure(figsize=(4.4, 2.4))
    ax = figure.subplots()
    figure.colorbar(draw_spectrogram(ax, wave, rate), ax=ax, label="dB of full scale", pad=0.02)
    ax.set_title(title, loc="left", fontsize=8, fontweight="normal")
    return figure


def enhancement(before: np.ndarray, after: np.ndarray, rate: int) -> Figure:
    """Spectrograms of a clip before enhancement, after it, and of what was removed, on one colour scale.

    Parameters
    ----------
    before, after : (N,) waveforms of the same clip; what was removed is their difference
    """
    removed = before - after
    figure = Figure(figsize=(9.6, 2.5))
    axes = figure.subplots(1, 3, sharey=True)
    top = float(spectrogram_db(before, rate).max())
    for ax, wave, title in zip(axes, (before, after, removed), ("before", "after", "removed"), strict=True):
        drawn = draw_spectrogram(ax, wave, rate, top)
        level = 10 * np.log10(max(float(np.mean(np.square(wave))), 1e-12))
        ax.set_title(f"{title} ({level:.0f} dB)", loc="left")
        if title != "before":
            ax.set_ylabel("")
    figure.colorbar(drawn, ax=axes, label="dB of full scale", pad=0.01)
    return figure


def bic_curve(components: np.ndarray, bic: Mapping[str, np.ndarray]) -> Figure:
    """BIC of the mixture model against its number of components, one curve per audio kind, the minimum marked."""
    figure = Figure(figsize=(4.2, 2.8))
    ax = figure.subplots()
    for (name, values), colour, style in zip(bic.items(), PALETTE, ("-o", "--s", "-.^"), strict=False):
        ax.plot(components, values, style, color=colour, markersize=4, label=name)
        best = int(np.argmin(values))
        ax.plot(components[best], values[best], "o", markersize=11, markerfacecolor="none", color=ANOMALY)
    ax.plot([], [], "o", markersize=9, markerfacecolor="none", color=ANOMALY, label="chosen")
    ax.set(xlabel="number of clusters", ylabel="BIC (lower is better)")
    ax.set_xticks(components)
    ax.legend()
    return figure


def cluster_composition(labels: np.ndarray, groups: np.ndarray, group_name: str) -> Figure:
    """How many clips of each known group (attribute or domain) a pseudo class holds: stacked bars.

    Parameters
    ----------
    labels, groups : (N,) strings, the pseudo class and the known group of each training clip
    """
    classes, kinds = sorted(set(labels)), sorted(set(groups))
    figure = Figure(figsize=(4.6, 0.9 + 0.3 * len(classes)))
    ax = figure.subplots()
    start = np.zeros(len(classes))
    for i, kind in enumerate(kinds):
        counts = np.array([np.sum((labels == name) & (groups == kind)) for name in classes])
        ax.barh(classes, counts, left=start, color=PALETTE[i % len(PALETTE)], label=_legend(kind or "unknown"))
        start += counts
    ax.invert_yaxis()
    ax.set(xlabel="training clips", ylabel="pseudo class")
    if len(kinds) <= 2 * len(PALETTE):
        ax.legend(title=group_name, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7)
    return figure


def training_curves(runs: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], columns: int = 3) -> Figure:
    """Loss against step of every training run: one panel per name, one line per seed.

    Parameters
    ----------
    runs : panel title -> name of each line, such as its seed -> (steps, loss)
    """
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(3.2 * min(columns, len(runs)), 2.1 * rows + 0.3))
    axes = np.atleast_1d(figure.subplots(rows, min(columns, len(runs)), squeeze=False)).ravel()
    for ax, (title, curves) in zip(axes, runs.items(), strict=False):
        for i, (name, (step, loss)) in enumerate(curves.items()):
            marker = "." if len(step) < 12 else ""
            ax.plot(step, loss, color=PALETTE[i % len(PALETTE)], linewidth=1.0, marker=marker, label=_legend(name))
        ax.set_title(title, loc="left", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax in axes[len(runs) :]:
        ax.set_visible(False)
    for ax in axes[: len(runs)]:
        ax.set_xlabel("step", fontsize=7)
    axes[0].set_ylabel("loss", fontsize=8)
    for ax, curves in zip(axes, runs.values(), strict=False):
        if len(curves) > 1:
            ax.legend(fontsize=6)
            break
    figure.tight_layout()
    return figure


def cost_bars(stages: Sequence[str], seconds: np.ndarray, peak_mb: np.ndarray, jobs: np.ndarray) -> Figure:
    """Wall-clock seconds summed over a rule's jobs, and the largest memory of one job, rule by rule."""
    figure = Figure(figsize=(9.0, 0.8 + 0.26 * len(stages)))
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(stages, seconds, color=NORMAL)
    right.barh(stages, peak_mb, color=ACCENT)
    for y, (took, memory, count) in enumerate(zip(seconds, peak_mb, jobs, strict=True)):
        _note(left, took, y, f"{duration(took)} in {count} {'job' if count == 1 else 'jobs'}")
        _note(right, memory, y, f"{memory:,.0f}")
    left.invert_yaxis()
    left.margins(x=0.4)
    right.margins(x=0.15)
    left.set_xticks([])
    left.set_xlabel("time, all jobs added")
    right.set_xlabel("largest resident memory of one job (MB)")
    figure.subplots_adjust(wspace=0.08)
    return figure


def published_ranking(names: Sequence[str], scores: np.ndarray, own: np.ndarray) -> Figure:
    """Official scores in percent as bars, in the order given, those of this run (`own`, booleans) in another colour."""
    figure = Figure(figsize=(7.0, 0.8 + 0.24 * len(names)))
    ax = figure.subplots()
    places = np.arange(len(names))
    ax.barh(places, scores, color=np.where(own, ANOMALY, NORMAL), height=0.7)
    ax.set_yticks(places, names)
    for place, score in enumerate(scores):
        _note(ax, score, place, f"{score:.2f}")
    ax.invert_yaxis()
    low = min(50.0, float(scores.min()) - 1)
    ax.set(xlim=(low, float(scores.max()) + 1), xlabel="official score of the evaluation set (%)")
    return figure


def member_bars(names: Sequence[str], shares: np.ndarray, ax: Axes | None = None) -> Figure | None:
    """Share of each ensemble member in a score (weight × member score), largest first."""
    figure = None
    if ax is None:
        figure = Figure(figsize=(5.0, 0.7 + 0.3 * len(names)))
        ax = figure.subplots()
    order = np.argsort(shares)
    ax.barh([names[i] for i in order], shares[order], color=ANOMALY, height=0.6)
    ax.set_ylim(min(-0.5, (len(names) - 4) / 2 - 0.5), max(len(names) - 0.5, (len(names) + 4) / 2 - 0.5))
    for y, i in enumerate(order):
        _note(ax, shares[i], y, f"{shares[i]:.4f}")
    ax.margins(x=0.25)
    ax.set_xlabel("weight × member score (adds up to the anomaly score)")
    return figure


def explanation(
    wave: np.ndarray,
    rate: int,
    *,
    neighbours: Sequence[tuple[str, np.ndarray]],
    shares: Mapping[str, float],
    title: str,
    caption: str,
) -> Figure:
    """Why a clip got its score: its spectrogram, its nearest normal clips, the difference, the members' shares.

    Parameters
    ----------
    wave : (N,) the clip; neighbours : (title, (M,) waveform) of the nearest normal clips, nearest first
    shares : member -> weight × member score
    """
    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(caption, fontsize=8, color="#5b6875", x=0.01, ha="left")
    axes = figure.subplots(2, 3)
    titles = ["this clip", *(f"{rank} normal clip\n{name}" for rank, (name, _) in zip(RANKS, neighbours, strict=False))]
    waves = [wave, *(other for _, other in neighbours)]
    top = max(float(spectrogram_db(one, rate).max()) for one in waves)
    for ax, one, name in zip(axes[0], waves, titles, strict=False):
        drawn = draw_spectrogram(ax, one, rate, top)
        ax.set_title(_shortened(name), loc="left", fontsize=8)
    figure.colorbar(drawn, ax=axes[0, :], label="dB of full scale", pad=0.01)
    difference, spectra, share = axes[1]
    ours, theirs = (np.maximum(spectrogram_db(one, rate), top + FLOOR_DB) for one in waves[:2])
    frames = min(ours.shape[1], theirs.shape[1])
    drawn = difference.imshow(
        ours[:, :frames] - theirs[:, :frames], origin="lower", aspect="auto", cmap="RdBu_r", vmin=-30, vmax=30,
        extent=(0.0, min(map(len, waves[:2])) / rate, 0.0, rate / 2000.0),
    )  # fmt: skip
    difference.set(xlabel="time (s)", ylabel="frequency (kHz)")
    difference.set_title("this clip minus the nearest (red: louder here)", loc="left", fontsize=8)
    figure.colorbar(drawn, ax=difference, label="dB", pad=0.01)
    frequency = np.linspace(0.0, rate / 2000.0, len(ours))
    spectra.plot(frequency, theirs.mean(axis=1), color=NORMAL, linewidth=1, label="nearest normal clip")
    spectra.plot(frequency, ours.mean(axis=1), color=ANOMALY, linewidth=1, label="this clip")
    spectra.set(xlabel="frequency (kHz)", ylabel="mean level (dB of full scale)")
    spectra.set_title("mean over time", loc="left", fontsize=8)
    spectra.legend()
    member_bars(list(shares), np.array(list(shares.values())), share)
    share.set_title("members of the system", loc="left", fontsize=8)
    return figure


def _shortened(text: str, width: int = 42) -> str:
    """Lines of at most `width` characters, long ones without their middle."""
    half = (width - 1) // 2
    return "\n".join(line if len(line) <= width else f"{line[:half]}…{line[-half:]}" for line in text.splitlines())


def _note(ax: Axes, x: float, y: float, text: str) -> None:
    """A small text to the right of a bar's end."""
    ax.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)


def duration(seconds: float) -> str:
    """`75.3` → `1 min 15 s`: short, for people."""
    seconds = round(seconds, 1) if seconds < 10 else round(seconds)
    if seconds < 120:
        return f"{seconds:g} s"
    if seconds < 7200:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 3600:.1f} h"
