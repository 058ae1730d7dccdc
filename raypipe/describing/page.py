"""Write a description as HTML: a page with its figures, and tables for notebooks."""

from __future__ import annotations

from pathlib import Path

from raypipe._version import __version__
from raypipe.describing.description import Description, Descriptions
from raypipe.describing.figures import panel_figures
from raypipe.describing.table import cells_of, headers, numeric_columns
from raypipe.describing.text import (
    MODEL_NAMES,
    band_title,
    best_covered_flux,
    duration,
    flux_words,
    fold_sentence,
    instrument_of,
    interval_words,
    likely_classes,
    neighbors_sentence,
    neighbors_title,
    parameter_title,
    physical_parameters,
    separation,
    share_words,
    shown,
)
from raypipe.display.table import summary_table
from raypipe.html.page import (
    Html,
    cards,
    escape,
    figure,
    grid,
    heading,
    join,
    number_cell,
    page,
    paragraph,
    section,
    svg,
    table,
    text_cell,
    word_cell,
)
from raypipe.spectra.band_counts import BANDS_KEV

_CAPTIONS = (
    "Crosses: counts with 68% Poisson limits, grouped for the figure. Red: counts expected from "
    "the latents, folded through the spectrum's own response. Dashed: expected background. Below: "
    "counts minus fold in units of the root of the fold.",
    "Unfolded: E² F(E) before the telescope, at its resolution. The red band holds 68% of the "
    "posterior draws of the latents at each energy; where the background is gray, the telescope "
    "sees no photons and the flux is extrapolated.",
    "Regions of 68% and 95% of the posterior, its amplitude at the best value. Priors are flat on "
    "both axes: in a photon index, in the logarithm of a temperature, and in that of N_H + 10²¹ "
    "cm⁻². The axes hold 99.5% of each parameter. The cross is the best fit.",
)


def description_page(found: Description) -> Html:
    """Write the page of a description; everything that comes from files is escaped."""
    name = shown(Path(found.file).name)
    best = found.best_fit
    physics = "Posterior of the physics" if best is None else f"Posterior: {MODEL_NAMES[best]}"
    titles = ("Counts and fold of the latents", "Flux at the telescope", physics)
    figures = (
        figure(drawing, caption, title=title)
        for drawing, caption, title in zip(
            panel_figures(found, titled=False), _CAPTIONS, titles, strict=True
        )
    )
    body = [
        ("warnings", "Warnings", join([_cards(found), _warnings(found)])),
        ("figures", "Figures", section("figures", "Figures", grid(figures))),
        ("numbers", "Fluxes and fits", _numbers(found)),
        ("kind", "Kind of source", _kind(found)),
    ]
    lead = f"{instrument_of(found)}, {duration(found.exposure_s)}"
    footer = f"raypipe {__version__} describe, model {found.model_id}"
    return page(name, lead, body, footer)


def description_fragment(found: Description) -> Html:
    """Write a description for a notebook: a table and the figure's panels."""
    rows: dict[str, object] = {
        "instrument": instrument_of(found),
        "exposure": duration(found.exposure_s),
        "counts": f"{found.total_counts:,}, background {share_words(found.background_share)}",
    }
    for band, flux in found.fluxes.items():
        rows[f"flux {band_title(band)}, erg/cm2/s"] = flux_words(flux)
    best = found.best_fit
    if best is not None:
        rows["best physical fit"] = MODEL_NAMES.get(best, best)
        for name, interval in physical_parameters(found.fits[best]).items():
            title, unit = parameter_title(name)
            rows[title] = interval_words(interval, unit)
    rows["fold of the latents"] = fold_sentence(found)
    rows["class"] = ", ".join(f"{name} {share:.2f}" for name, share in likely_classes(found))
    rows["classes are"] = found.classes_from
    if found.neighbors:
        rows["nearest"] = neighbors_sentence(found)
    for place, warning in enumerate(found.warnings, start=1):
        rows[f"warning {place}"] = warning
    drawn = "\n".join(
        f'<div style="flex: 1 1 22em; max-width: 36em">{svg(each)}</div>'
        for each in panel_figures(found)
    )
    flex = "display: flex; flex-wrap: wrap; gap: 1em; background: white; color: black"
    title = shown(Path(found.file).name)
    return Html(f'{summary_table(title, rows)}\n<div style="{flex}">{drawn}</div>')


def descriptions_fragment(found: Descriptions) -> Html:
    """Write descriptions as a table for a notebook, with the errors of those that failed."""
    parts = []
    if found.described:
        heads = [f"{title} ({unit})" if unit else title for title, unit in headers()]
        rows = [[word_cell(cell) for cell in cells_of(each)] for each in found.described]
        parts.append(table(heads, rows, numeric_columns()))
    parts += [paragraph(f"not described: {shown(str(each))}") for each in found.undescribed]
    return join(parts)


def _cards(found: Description) -> Html:
    items = [
        (
            "counts",
            f"{found.total_counts:,}",
            f"{share_words(found.background_share)} of them expected background",
        )
    ]
    covered = best_covered_flux(found)
    if covered is not None:
        band, flux = covered
        low, high = BANDS_KEV[band]
        items.append((f"flux, {low:g}-{high:g} keV, erg/cm2/s", *_value_and_rest(flux_words(flux))))
    best = found.best_fit
    if best is not None:
        for name, interval in physical_parameters(found.fits[best]).items():
            title, unit = parameter_title(name)
            value, rest = _value_and_rest(interval_words(interval))
            note = ", ".join(filter(None, [rest, MODEL_NAMES.get(best, best)]))
            items.append((f"{title}, {unit.lstrip('× ')}" if unit else title, value, note))
    zscore = f"{found.fit_zscore:+.1f}"
    items.append(("goodness of fit, z-score", zscore, "near 0 if the fold describes the counts"))
    likely = found.likely_class
    if likely is not None:
        share = f"{found.classes[likely]:.2f} in the population of the training"
        items.append(("most probable class", shown(likely), share))
    return cards(items)


def _value_and_rest(words: str) -> tuple[str, str]:
    """Divide formatted words into the value and what follows: its interval, and remarks."""
    value, space, rest = words.partition(" (")
    inside, _, after = rest.partition(")")
    return value, f"{inside}{after}" if space else ""


def _numbers(found: Description) -> Html:
    fluxes = [
        [word_cell(band_title(band)), text_cell(flux_words(flux), wide=True)]
        for band, flux in found.fluxes.items()
    ]
    fits = []
    for name, fit in sorted(found.fits.items(), key=lambda item: item[1].stat):
        parameters = (
            f"{title} {interval_words(interval, unit)}"
            for (title, unit), interval in (
                (parameter_title(each), interval)
                for each, interval in physical_parameters(fit).items()
            )
        )
        fits.append(
            [
                word_cell(MODEL_NAMES.get(name, name)),
                text_cell("; ".join(parameters), wide=True),
                number_cell(fit.stat, ".1f", best=name == found.best_fit),
            ]
        )
    return section(
        "numbers",
        "Fluxes and fits",
        heading("Energy flux before the telescope, with 68% intervals"),
        table(["band", "flux (erg/cm2/s)"], fluxes),
        heading("Physical fits, with 68% intervals"),
        table(["model", "parameters", "Cash"], fits, numbers=[2]),
        heading("Fold of the latents"),
        paragraph(fold_sentence(found)),
    )


def _kind(found: Description) -> Html:
    classes = [
        [word_cell(shown(name)), number_cell(share, ".2f")] for name, share in found.classes.items()
    ]
    neighbors = [
        [
            word_cell(shown(each.name or each.source)),
            word_cell(shown(each.label)),
            number_cell(each.distance, ".2f"),
            word_cell(separation(each), right=True),
        ]
        for each in found.neighbors
    ]
    parts = [
        heading("Class"),
        paragraph(f"{found.classes_from[:1].upper()}{found.classes_from[1:]}."),
    ]
    if classes:
        parts.append(table(["class", "probability"], classes, numbers=[1]))
    if neighbors:
        parts += [
            heading("Nearest training spectra"),
            paragraph(f"{neighbors_title(found).capitalize()}."),
            paragraph(f"{neighbors_sentence(found)}."),
            table(
                ["source", "class", "distance (errors)", "distance of the latents"],
                neighbors,
                numbers=[2, 3],
            ),
        ]
    return section("kind", "Kind of source", *parts)


def _warnings(found: Description) -> Html:
    items = "".join(f"<li>{escape(shown(each))}</li>" for each in found.warnings)
    body = Html(f"<ul>{items}</ul>") if items else paragraph("There are none.")
    return section("warnings", "Warnings", body)
