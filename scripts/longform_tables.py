"""The Markdown tables of longform.py, made from results that are there; runs nothing.

A result is a dict: `system`, `versions` and `rows`, one per recording: `id`, `text`, `segments`, of asrbatch `windows`,
and `wall_s` (of asrbatch one of all rows together, under the result's own `wall_s`).
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from longform_score import Scored, difference, near, normaliser, reference_words, score, seams, start_errors

Result = dict[str, Any]
Recording = dict[str, Any]  # a row of longform_data.py's manifests
QUARTERS = 4
LEAST_ERRORS = 5  # so few starts in a quarter say nothing


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


class Tables:
    """All tables of one model.

    Args:
        recordings: by id, in the order of the columns.
        results: in the order of the rows; `ours` names among them asrbatch's, and `alone` those that heard every
            utterance alone, the first of which is the baseline.
    """

    def __init__(
        self, recordings: dict[str, Recording], results: Sequence[Result], ours: Sequence[str], alone: Sequence[str]
    ):
        self._recordings = recordings
        self._results = {result["system"]: result for result in results}
        self._ours = [name for name in self._results if name in ours]
        self._peers = [name for name in self._results if name not in ours]
        self._alone = alone
        self._baseline = alone[0]
        self._rows = {(result["system"], row["id"]): row for result in results for row in result["rows"]}

    @functools.cache  # noqa: B019 one object per model
    def scored(self, system: str, id: str) -> Scored | None:
        """None where the system did not transcribe the recording."""
        if (row := self._rows.get((system, id))) is None:
            return None
        recording = self._recordings[id]
        normalise = normaliser(recording["lang"])
        return score(reference_words(recording["utterances"], normalise), normalise(row["text"]))

    # --- errors -----------------------------------------------------------------------------------------------------

    def errors(self, ids: Sequence[str]) -> list[str]:
        ids = [id for id in ids if id in self._recordings]
        headings = ["system", *ids, "RTFx"]
        return table(
            headings, ([name, *(self._cell(name, id) for id in ids), self._rtfx(name)] for name in self._results)
        )

    def _cell(self, system: str, id: str) -> str:
        if (scored := self.scored(system, id)) is None:
            return ""
        rates = scored.rates()
        return f"**{rates['wer']:.1f}** ({rates['sub']:.1f} {rates['del']:.1f} {rates['ins']:.1f})"

    def _rtfx(self, system: str) -> str:
        result = self._results[system]
        wall_s = result.get("wall_s") or sum(row["wall_s"] for row in result["rows"])
        if system in self._alone:  # it did not hear the pauses
            return ""
        return f"{sum(self._recordings[row['id']]['duration'] for row in result['rows']) / wall_s:.0f}"

    def against_best(self, system: str, ids: Sequence[str], alike: Sequence[str]) -> list[str]:
        """For each recording, WER of `system` less that of the peer with the fewest errors, and of the best of those
        `alike`.
        """
        rows = []
        for id in ids:
            ours = self.scored(system, id)
            theirs = {name: s for name in self._peers if (s := self.scored(name, id))}
            if ours is None or not theirs:
                continue
            cells = []
            for names in (list(theirs), [name for name in theirs if name in alike]):
                best = min(names, key=lambda name: theirs[name].rates()["wer"], default=None)
                cells += [best or "", spread(*difference([ours], [theirs[best]])) if best else ""]
            rows.append([id, *cells])
        return table([system, "best of all", "difference", "best greedy", "difference"], rows) if rows else []

    def backgrounds(self, id: str) -> list[str]:
        """WER by what is behind the speech and before it."""
        behind = [utterance["background"] for utterance in self._recordings[id]["utterances"]]
        kinds = sorted(set(behind))
        rows = []
        for name in self._results:
            if scored := self.scored(name, id):
                of = np.array([behind[word.utterance] for word in scored.words])
                rows.append([name, *(f"{scored.rates(of == kind)['wer']:.1f}" for kind in kinds)])
        return table(["system", *kinds], rows)

    # --- seams ------------------------------------------------------------------------------------------------------

    def seams(self, ids: Sequence[str]) -> list[str]:
        """Errors near window boundaries and elsewhere, of a mode and of the same words heard utterance by utterance."""
        headings = ["mode", "boundaries", "words near", "near: sub del ins", "same words alone", "elsewhere: sub "
            "del ins",
                    "same words alone", "excess near", "excess elsewhere"]  # fmt: skip
        rows = (self._seam_row(name, ids) for name in self._ours if name not in self._alone)
        return table(headings, [row for row in rows if row])

    def _seam_row(self, system: str, ids: Sequence[str]) -> list[str] | None:
        found = [(self._rows[system, id], self.scored(system, id), self.scored(self._baseline, id))
                 for id in ids if (system, id) in self._rows]  # fmt: skip
        found = [(row, mine, alone) for row, mine, alone in found if alone and len(row.get("windows", ())) > 1]
        if not found:
            return None
        boundaries = [seams(row["windows"]) for row, _, _ in found]
        masks = [near(mine.words, at) for at, (_, mine, _) in zip(boundaries, found, strict=True)]
        mine, alone = joined([mine for _, mine, _ in found]), joined([alone for _, _, alone in found])
        mask = np.concatenate(masks)
        cells, excess = [], []
        for part in (mask, ~mask):
            cells += [three(mine.rates(part)), three(alone.rates(part))]
            excess.append(f"{mine.rates(part)['wer'] - alone.rates(part)['wer']:+.1f}")
        return [system, str(sum(map(len, boundaries))), str(int(mask.sum())), *cells, *excess]

    # --- drift ------------------------------------------------------------------------------------------------------

    def drift(self, id: str) -> list[str]:
        """Error of segments' starts by quarter of a recording: median, and what 95 % stay under in size."""
        recording = self._recordings[id]
        quarter_s = recording["duration"] / QUARTERS
        rows = []
        for name in self._results:
            if name in self._alone or (name, id) not in self._rows:
                continue
            found = start_errors(
                recording["utterances"], self._rows[name, id]["segments"], normaliser(recording["lang"])
            )
            cells = []
            for quarter in range(QUARTERS):
                errors = [error for where, error in found if int(where // quarter_s) == quarter]
                cells.append(
                    f"{np.median(errors):+.2f} / {np.percentile(np.abs(errors), 95):.2f} ({len(errors)})"
                    if len(errors) >= LEAST_ERRORS
                    else f"({len(errors)})"
                )
            rows.append([name, *cells])
        return table(["system", *(f"quarter {i + 1}" for i in range(QUARTERS))], rows)


def spread(value: float, low: float, high: float) -> str:
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})" if low != high else f"{value:+.2f}"


def three(rates: dict[str, float]) -> str:
    return f"{rates['sub']:.1f} {rates['del']:.1f} {rates['ins']:.1f}"


def joined(parts: Sequence[Scored]) -> Scored:
    """Several recordings as one; utterance numbers and partners of the parts no longer mean anything."""
    arrays = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("substituted", "deleted", "inserted", "partner")
    )
    return Scored([word for part in parts for word in part.words], *arrays)
