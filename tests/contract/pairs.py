"""Which method runs on which form of backbone: what the table in docs/backbones.md says.

``python tests/contract/pairs.py`` writes the table into the docs. Every tick in it is a pair that
``test_pairs.py`` runs on a tiny random checkpoint.
"""

from pathlib import Path

from offbeat import registry
from offbeat.protocols import TextBackbone
from offbeat.protocols.capabilities import CAPABILITIES, capabilities_of, offers

FORMS = {
    "unCLIP": ("kandinsky-2.2", "2.2"),
    "SD": ("sd-1.5", "sd"),
    "SDXL": ("sdxl", "xl"),
    "one step": ("hyper-sd", "one-step"),
    "SD3": ("sd3", "sd3"),
    "FLUX": ("flux", "flux"),
    "Chroma": ("chroma", "chroma"),
    "Z-Image": ("z-image", "z-image"),
    "Qwen-Image": ("qwen-image", "qwen-image"),
    "SANA": ("sana", "sana"),
}
"""Each form by the name of a backbone and the kind of its tiny checkpoint."""

DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"
BEGIN, END = "<!-- table: {} -->", "<!-- end -->"


def class_of(form):
    return registry.find("backbone", FORMS[form][0])


def needs_of(method):
    return getattr(registry.find("method", method), "needs", TextBackbone)


def runs_on(method, form):
    """Return whether a form's class offers all that a method asks for."""
    return offers(class_of(form), needs_of(method))


def pairs():
    """Return every pair of method and form that the capabilities allow."""
    methods = sorted(registry.BUILT_IN["method"])
    return [(method, form) for method in methods for form in FORMS if runs_on(method, form)]


def capability_table():
    rows = {
        f"`{'`, `'.join(names)}`": [names in capabilities_of(class_of(form)) for form in FORMS]
        for names in CAPABILITIES
    }
    return _table("what it can", rows)


def method_table():
    rows = {
        f"`{method}`": [runs_on(method, form) for form in FORMS]
        for method in sorted(registry.BUILT_IN["method"])
    }
    return _table("method", rows)


def _table(corner, rows):
    lines = [f"| {corner} | {' | '.join(FORMS)} |", "| --- |" + " :-: |" * len(FORMS)]
    for name, ticks in rows.items():
        lines.append(f"| {name} | {' | '.join('yes' if tick else '' for tick in ticks)} |")
    return "\n".join(line.replace("  ", " ") for line in lines)


def with_tables(text):
    """Return a document with both tables as they are now."""
    for name, table in (("methods", method_table()), ("capabilities", capability_table())):
        begin = BEGIN.format(name)
        head, found, rest = text.partition(begin)
        if not found:
            raise ValueError(f"{DOCS}: expected the line {begin}")
        text = f"{head}{begin}\n{table}\n{END}{rest.partition(END)[2]}"
    return text


if __name__ == "__main__":
    DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
