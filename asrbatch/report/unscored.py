"""What a page says of predictions of which none can be scored: how many, why, how long they took. Knows nothing of HTML."""

from collections.abc import Callable
from pathlib import Path

from .. import __version__
from ..error_rates import Tally, percentiles_s, rates
from ..errors import EXIT_COMPLETE, EXIT_ROWS_FAILED
from ..predictions import Predictions
from ..run_facts import RunFacts
from ..score import Scored, ScoreOptions, Scoring, count_all, described
from ..scored_references import resolve
from ..scored_texts import TextRules


def unscored_rows(path: Path, options: ScoreOptions, say: Callable[[str], None]) -> Scored | None:
    """What `score.score_rows` returns, with rates that are null. None where rows can be scored, and something else is wrong.

    Raises:
        UsageError, ManifestError, OutputError: as `score.score_rows`.
    """
    rules = TextRules(options.normalizer)
    predictions = Predictions(path, options.pred_field, options.text_field)
    facts = RunFacts(path)
    references, fate, is_partial = resolve(options.references, options.split, facts, len(predictions))
    work = Scoring(predictions, references, rules, options.language or facts.language or "en", options)
    tally = count_all(work, Tally(), options, say)
    if tally.total.rows:
        return None
    figures = {
        "asrbatch": __version__,
        "predictions": str(path),
        "pred_field": predictions.pred_field,
        "references": None if references is None else references.source,
        "partial": is_partial,
        **described(rules, tally.normalizers, tally.fell_back, options),
        "total": rates(tally.total, options.resamples, options.seed)[0],
        "excluded": dict(tally.excluded),
        "by": {},
        "speed": facts.speed(len(predictions)),
        "latency_s": percentiles_s(tally.stages_s),
        "notes": facts.notes(len(predictions), predictions.torn, fate),
        "exit_code": EXIT_ROWS_FAILED if is_partial else EXIT_COMPLETE,
    }
    return Scored(figures, tally, work)
