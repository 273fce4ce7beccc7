"""Hypothesis strategies, derived from the questions so that they never go stale."""

from __future__ import annotations

from hypothesis import strategies as st

from advisor.case import Case
from advisor.questions import MAX_NUMBER, MAX_TEXT_CHARS, Answer, Question, questions

# Where rules change their mind, and the ends of the range.
THRESHOLDS = sorted(
    {0, 1, 2, 20, 49, 50, 51, 99, 100, 101, 499, 500, 999, 1000, 1001, 4999, 5000, 9999, 10_000}
    | {99_999, 100_000, 10**6, 10**7, 10**8, 10**9, 10**10, 10**11, 10**12, MAX_NUMBER}
)
SCORES = [0.0, 0.01, 0.1, 0.48, 0.5, 0.6, 0.75, 0.9, 0.99, 1.0, 20.5, 48.0, 75.0, 100.0, 1e-07, 1e17]
TEXTS = ["support-bot", "RTX-4090", "H100", "meta-llama/Llama-3.1-8B-Instruct", "accuracy"]
# ruff: noqa: E501 (lists of samples)
# Words and shapes that some YAML reader takes for something else than text.
AWKWARD = [
    "null", "~", "unknown", "yes", "no", "On", "y", "1", "2e6", "0x10", "1:30", "2026-01-01", ".inf",
    "a: b", "a #b", "#a", "- a", "*a", "&a", "!a", "@a", "%a", "`a`", "'a'", '"a"', "\\", "{a}", "[a]",
    "<<", "=", "?", "|", ">", ",", "é ü", "日本語", "🙂", "a\u00a0b", "\ufeffa", "x" * MAX_TEXT_CHARS,
]  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    """Texts a case file accepts, the awkward ones often."""
    any_text = st.text(
        st.characters(
            exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufffe\uffff"
        ),
        min_size=1,
        max_size=MAX_TEXT_CHARS,
    )
    stripped = any_text.map(str.strip).filter(bool)
    return st.sampled_from(TEXTS) | st.sampled_from(AWKWARD) | stripped


def answers(question: Question, *, awkward_text: bool = True) -> st.SearchStrategy[Answer]:
    """Every legal answer to a question, None included."""
    least = question.minimum or 0
    known: st.SearchStrategy[Answer]
    if question.kind == "choice":
        known = st.sampled_from(question.values)
    elif question.kind == "boolean":
        known = st.booleans()
    elif question.kind == "integer":
        points = st.sampled_from([point for point in THRESHOLDS if point >= least])
        known = points | st.integers(least, MAX_NUMBER)
    elif question.kind == "number":
        known = st.sampled_from(SCORES) | st.floats(least, float(MAX_NUMBER))
    else:
        known = texts() if awkward_text else st.sampled_from(TEXTS)
    return st.none() | known


def cases(*, awkward_text: bool = True) -> st.SearchStrategy[Case]:
    """Random cases: any keys missing, any answered with None, numbers at the thresholds."""
    rows = questions().values()
    optional = {row.key: answers(row, awkward_text=awkward_text) for row in rows}
    return st.fixed_dictionaries({}, optional=optional).map(Case)
