"""Writes configuration.md from the config's schema and the values of config/config.yaml.

python docs/configuration.py            # write it
python docs/configuration.py --check    # exit 1 where it is not current
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
INTRODUCTION = """# Configuration reference

Made from `workflow/schemas/config.schema.yaml` by `python docs/configuration.py`; do not edit by hand. The comments in
`config/config.yaml` say where the values come from.

The workflow reads `config/demo.yaml` over `config/config.yaml` unless told otherwise. Your own file, given by
`--configfile`, is laid over `config/config.yaml` and needs only the keys it changes: mappings are merged key by key,
lists are replaced as a whole. A key that is not listed here is an error, and the message names the nearest right one.
"""


def page() -> str:
    """The whole reference as Markdown."""
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    parts = [INTRODUCTION]
    general = {key: value for key, value in schema["properties"].items() if not value.get("properties")}
    parts.append("## General\n\n" + table(keys(general, values, "")))
    for key, value in schema["properties"].items():
        if value.get("properties"):
            rows = table(keys(value["properties"], values.get(key, {}), ""))
            parts.append(f"## `{key}`\n\n{sentence(value)}\n\n{rows}")
    return "\n".join(parts)


def keys(properties: Mapping[str, Any], values: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Rows key, default, form, meaning of a section and of the sections inside it."""
    for key, form in properties.items():
        value = values.get(key) if isinstance(values, Mapping) else None
        name = f"{prefix}{key}"
        if form.get("properties"):
            yield f"`{name}`", "", "section", sentence(form)
            yield from keys(form["properties"], value, f"{name}.")
        else:
            yield f"`{name}`", "" if "[]" in name else shown(value), accepted(form), sentence(form)
            yield from keys(form.get("items", {}).get("properties", {}), None, f"{name}[].")


def sentence(form: Mapping[str, Any]) -> str:
    text = form.get("description", "")
    return text[:1].upper() + text[1:]


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if len(text) <= 60 else "see `config/config.yaml`"


def accepted(form: Mapping[str, Any]) -> str:
    """In words what a value may be."""
    if "enum" in form:
        return ", ".join(f"`{json.dumps(value)}`" if value is None else f"`{value}`" for value in form["enum"])
    for choice in ("oneOf", "anyOf"):
        if choice in form:
            return " or ".join(accepted(option) for option in form[choice])
    kinds = form.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if text == "array" and "items" in form:
        text = f"list of {accepted(form['items'])}"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {form[limit]:g}" for limit, sign in limits.items() if limit in form]
    return ", ".join([text, *bounds])


def table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| key | value in `config/config.yaml` | form | meaning |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        current = PAGE.is_file() and PAGE.read_text() == page()
        sys.exit(None if current else f"{PAGE} is not current; run: python docs/configuration.py")
    PAGE.write_text(page())
